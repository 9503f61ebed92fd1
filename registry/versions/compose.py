"""A version composed of others: one version, but for some components that come from elsewhere. No I/O.

What a component requires of the version around it (`Component.requires`) must hold in the new one too: its backbone is
the base's, and all other digests (a preprocessing's, say) are what the version offers whose `config` it has. `labels`
are a component's own: they are no bond between components.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from registry.errors import BadInput, BadManifest
from registry.names import MAX_SUFFIX, VersionName
from registry.versions.manifest import Component, FileEntry, Manifest, Parent

BACKBONE = "backbone"
CONFIG = "config"
_NO_BACKBONE = ("project",)
"""Components that run on no backbone."""
_OWN = (BACKBONE, "labels")
"""Requirements that no other component of a version offers."""
_MARK_DIGITS = 8


@dataclass(frozen=True)
class Piece:
    """A component that goes into a version.

    Attributes:
        name: e.g. `adapters/tomato`.
        files: its files by their paths in a version.
        source: where it comes from, in words: a version, or a folder.
        origin: the same for the manifest's provenance.
        backbone: digest of the backbone that it ran on there; None where that is not known.
        offers: digests that the version it comes from offers to components.
    """

    name: str
    component: Component
    files: tuple[FileEntry, ...]
    source: str
    origin: Mapping[str, Any]
    backbone: str | None = None
    offers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, manifest: Manifest, name: str) -> Piece:
        """A version's component.

        Raises:
            BadInput: the version has none of this name, or it is the backbone.
        """
        check_name(name)
        if name not in manifest.components:
            near = f"adapters/{name}"
            known = ", ".join(sorted(set(manifest.components) - {BACKBONE})[:20])
            raise BadInput(
                f"{manifest.version} has no component {name[:120]!r}",
                hint=f"did you mean {near}?" if near in manifest.components else f"it has {known or 'none'}",
            )
        return cls(
            name,
            manifest.components[name],
            files_of(manifest, name),
            source=manifest.version,
            origin=origin(manifest),
            backbone=manifest.backbone.sha256 if manifest.backbone else None,
            offers=offers(manifest.components.values()),
        )


@dataclass(frozen=True)
class Composition:
    """A version and what is put into it in the place of its own.

    Attributes:
        components, files: of the whole.
    """

    base: Manifest
    pieces: tuple[Piece, ...]
    components: Mapping[str, Component]
    files: tuple[FileEntry, ...]

    @property
    def provenance(self) -> dict[str, Any]:
        """What a manifest says under `provenance.composed`."""
        return {"live": origin(self.base), "components": {piece.name: dict(piece.origin) for piece in self.pieces}}

    @property
    def sentence(self) -> str:
        """What it consists of, for people."""
        names = "; ".join(f"{piece.name} of {piece.source}" for piece in self.pieces)
        return f"{self.base.version} with {names}"

    def manifest(self, timestamp: str) -> Manifest:
        """As a version whose name follows from the base's and from the content, so that two people get the same one.

        Raises:
            BadInput: the parts can't be one version: their paths collide.
        """
        before = {file.path: file for file in self.base.files}
        now = {file.path: file for file in self.files}
        fields = dict(
            model=self.base.model, version=self.base.version, flavor=self.base.flavor, backbone=self.base.backbone,
            components=self.components, files=self.files, timestamp=timestamp, description=self.sentence,
            parent=Parent(version=self.base.version, content_sha256=self.base.content_sha256),
            files_added=sorted(now.keys() - before.keys()),
            files_modified=[path for path in now if path in before and now[path] != before[path]],
            files_removed=sorted(before.keys() - now.keys()),
            provenance={"composed": self.provenance},
        )  # fmt: skip
        try:
            content = Manifest.make(**fields).content_sha256
            return Manifest.make(**{**fields, "version": str(composed_name(self.base.name, content))})
        except BadManifest as error:
            raise BadInput(f"{self.sentence} can't be one version: {error}") from error


def compose(base: Manifest, pieces: Iterable[Piece]) -> Composition:
    """Put components into a version in the place of its own, or beside them.

    Raises:
        BadInput: one does not fit: it was made for another backbone, or for something else that the whole does not
            offer. The message names both sides.
    """
    pieces = tuple(sorted(pieces, key=lambda piece: piece.name))
    for piece in pieces:
        check_name(piece.name)
        _check_backbone(base, piece)
    replaced = {piece.name for piece in pieces}
    kept = [file for file in base.files if not any(_is_inside(file, name) for name in replaced)]
    files = sorted([*kept, *(file for piece in pieces for file in piece.files)], key=lambda file: file.path)
    components = {**base.components, **{piece.name: piece.component for piece in pieces}}
    _check_requirements(base, {piece.name: piece for piece in pieces}, components)
    return Composition(base, pieces, dict(sorted(components.items())), tuple(files))


def has_all(manifest: Manifest, pieces: Iterable[Piece]) -> bool:
    """Whether a version holds these very components already."""
    return all(
        manifest.components.get(piece.name) == piece.component and files_of(manifest, piece.name) == piece.files
        for piece in pieces
    )


def taken_from(manifest: Manifest, component: str) -> str | None:
    """The version that a composed version took a component from; None if it is its own, or from a disk."""
    composed = manifest.provenance.get("composed")
    parts = composed.get("components") if isinstance(composed, dict) else None
    origin = parts.get(component) if isinstance(parts, dict) else None
    version = origin.get("version") if isinstance(origin, dict) else None
    return version if isinstance(version, str) else None


def files_of(manifest: Manifest, component: str) -> tuple[FileEntry, ...]:
    """A component's files."""
    return tuple(file for file in manifest.files if _is_inside(file, component))


def origin(manifest: Manifest) -> dict[str, str]:
    """A version as provenance names it."""
    return {"version": manifest.version, "content_sha256": manifest.content_sha256}


def offers(components: Iterable[Component]) -> dict[str, str]:
    """What a version offers to its components: all that they require of it, as it was made to have it."""
    return {
        what: digest
        for component in components
        for what, digest in component.requires.items()
        if what not in _OWN
    }  # fmt: skip


def check_name(name: str) -> None:
    """Check that a component can be taken out of a version alone.

    Raises:
        BadInput: it is the backbone, on which all others stand.
    """
    if name == BACKBONE:
        raise BadInput(
            "the backbone can't be taken from elsewhere alone: everything else was made for it",
            hint="take a whole version instead",
        )


def composed_name(base: VersionName, content_sha256: str) -> VersionName:
    """What a version is called that was composed from `base`: its name, `.p` and the content; a long name is cut."""
    mark = f"p{content_sha256[:_MARK_DIGITS]}"
    kept = base.suffix[: MAX_SUFFIX - len(mark) - 1].rstrip(".-")
    return replace(base, suffix=f"{kept}.{mark}" if kept else mark)


def _check_backbone(base: Manifest, piece: Piece) -> None:
    wanted = piece.component.requires.get(BACKBONE) or (None if piece.name in _NO_BACKBONE else piece.backbone)
    if wanted is None:
        return
    there = base.backbone.sha256 if base.backbone else "none"
    if wanted != there:
        runs_on = f"{base.backbone.name} ({there[:12]})" if base.backbone else "none"
        raise BadInput(
            f"{piece.name} of {piece.source} was made for another backbone ({wanted[:12]}): "
            f"{base.version} runs on {runs_on}",
            hint="take one that was made for it, or a whole version instead",
        )


def _check_requirements(base: Manifest, pieces: Mapping[str, Piece], components: Mapping[str, Component]) -> None:
    giver = pieces.get(CONFIG)
    offered = giver.offers if giver else offers(base.components.values())
    for name, component in sorted(components.items()):
        for what, digest in sorted(component.requires.items()):
            if what in offered and offered[what] != digest:
                side = pieces[name].source if name in pieces else base.version
                raise BadInput(
                    f"{name} of {side} requires another {what} ({digest[:12]}) than "
                    f"{giver.source if giver else base.version} has ({offered[what][:12]})",
                    hint="take both from one place, or a whole version instead",
                )


def _is_inside(file: FileEntry, component: str) -> bool:
    return file.path.startswith(f"{component}/")
