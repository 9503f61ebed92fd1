"""Compose a version: a base version in which some components are replaced by those of other versions. No I/O.

What a component requires (`Component.requires`) must be true in the composed version too: its backbone is the base's,
and all other digests, for example of the preprocessing, are what the version offers that gives the `config`. `labels`
concern one component only, so they are not compared.
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
"""Components that do not run on a backbone."""
_OWN = (BACKBONE, "labels")
"""Requirements that are not compared with what the `config` offers."""
_MARK_DIGITS = 8


@dataclass(frozen=True)
class ComponentFiles:
    """A component to put into a version, with its files and its source.

    Attributes:
        name: e.g. `adapters/tomato`.
        files: its files, with their paths in a version.
        source: where it comes from, for people: a version or a folder.
        origin: the same, for the manifest's provenance.
        backbone: digest of the backbone that it ran on in its source; None if it is not known.
        offers: digests that its source offers to components.
    """

    name: str
    component: Component
    files: tuple[FileEntry, ...]
    source: str
    origin: Mapping[str, Any]
    backbone: str | None = None
    offers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, manifest: Manifest, name: str) -> ComponentFiles:
        """A component of a version.

        Raises:
            BadInput: the version has no component of this name, or it is the backbone.
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
            component_files(manifest, name),
            source=manifest.version,
            origin=origin(manifest),
            backbone=manifest.backbone.sha256 if manifest.backbone else None,
            offers=offers(manifest.components.values()),
        )


@dataclass(frozen=True)
class Composition:
    """A base version and the components that replace its own.

    Attributes:
        components, files: those of the composed version.
    """

    base: Manifest
    replacements: tuple[ComponentFiles, ...]
    components: Mapping[str, Component]
    files: tuple[FileEntry, ...]

    @property
    def provenance(self) -> dict[str, Any]:
        """The value of `provenance.composed` in the manifest."""
        return {
            "live": origin(self.base),
            "components": {replacement.name: dict(replacement.origin) for replacement in self.replacements},
        }

    @property
    def sentence(self) -> str:
        """Its parts, for people."""
        names = "; ".join(f"{replacement.name} of {replacement.source}" for replacement in self.replacements)
        return f"{self.base.version} with {names}"

    def manifest(self, timestamp: str) -> Manifest:
        """The manifest. Its name follows from the base's name and the content, so two people get the same version.

        Raises:
            BadInput: the paths of two components collide.
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
            raise BadInput(f"{self.sentence} can't be composed: {error}") from error


def compose(base: Manifest, replacements: Iterable[ComponentFiles]) -> Composition:
    """Replace components of a version, or add new ones.

    Raises:
        BadInput: a component does not fit: it was made for another backbone, or requires something that the composed
            version does not offer. The message names both sides.
    """
    replacements = tuple(sorted(replacements, key=lambda replacement: replacement.name))
    for replacement in replacements:
        check_name(replacement.name)
        _check_backbone(base, replacement)
    replaced = {replacement.name for replacement in replacements}
    kept = [file for file in base.files if not any(_is_inside(file, name) for name in replaced)]
    files = sorted(
        [*kept, *(file for replacement in replacements for file in replacement.files)], key=lambda file: file.path
    )
    components = {**base.components, **{replacement.name: replacement.component for replacement in replacements}}
    _check_requirements(base, {replacement.name: replacement for replacement in replacements}, components)
    return Composition(base, replacements, dict(sorted(components.items())), tuple(files))


def has_all(manifest: Manifest, replacements: Iterable[ComponentFiles]) -> bool:
    """Whether a version already has exactly these components."""
    return all(
        manifest.components.get(replacement.name) == replacement.component
        and component_files(manifest, replacement.name) == replacement.files
        for replacement in replacements
    )


def taken_from(manifest: Manifest, component: str) -> str | None:
    """The version from which a composed version has a component; None if it is its base's or from a local folder."""
    composed = manifest.provenance.get("composed")
    parts = composed.get("components") if isinstance(composed, dict) else None
    origin = parts.get(component) if isinstance(parts, dict) else None
    version = origin.get("version") if isinstance(origin, dict) else None
    return version if isinstance(version, str) else None


def component_files(manifest: Manifest, component: str) -> tuple[FileEntry, ...]:
    """A component's files."""
    return tuple(file for file in manifest.files if _is_inside(file, component))


def origin(manifest: Manifest) -> dict[str, str]:
    """A version, as provenance refers to it."""
    return {"version": manifest.version, "content_sha256": manifest.content_sha256}


def offers(components: Iterable[Component]) -> dict[str, str]:
    """What a version offers to its components: all that they require, except their own backbone and labels."""
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
            "the backbone can't be replaced alone: all other components were made for it",
            hint="take a whole version instead",
        )


def composed_name(base: VersionName, content_sha256: str) -> VersionName:
    """The name of a version composed from `base`: its name, `.p` and the start of the digest. A long suffix is cut."""
    mark = f"p{content_sha256[:_MARK_DIGITS]}"
    kept = base.suffix[: MAX_SUFFIX - len(mark) - 1].rstrip(".-")
    return replace(base, suffix=f"{kept}.{mark}" if kept else mark)


def _check_backbone(base: Manifest, replacement: ComponentFiles) -> None:
    wanted = replacement.component.requires.get(BACKBONE) or (
        None if replacement.name in _NO_BACKBONE else replacement.backbone
    )
    if wanted is None:
        return
    there = base.backbone.sha256 if base.backbone else "none"
    if wanted != there:
        runs_on = f"{base.backbone.name} ({there[:12]})" if base.backbone else "none"
        raise BadInput(
            f"{replacement.name} of {replacement.source} was made for another backbone ({wanted[:12]}): "
            f"{base.version} runs on {runs_on}",
            hint="take one that was made for it, or a whole version instead",
        )


def _check_requirements(
    base: Manifest, replacements: Mapping[str, ComponentFiles], components: Mapping[str, Component]
) -> None:
    config = replacements.get(CONFIG)
    offered = config.offers if config else offers(base.components.values())
    for name, component in sorted(components.items()):
        for what, digest in sorted(component.requires.items()):
            if what in offered and offered[what] != digest:
                side = replacements[name].source if name in replacements else base.version
                raise BadInput(
                    f"{name} of {side} requires another {what} ({digest[:12]}) than "
                    f"{config.source if config else base.version} has ({offered[what][:12]})",
                    hint="take both from the same version, or a whole version instead",
                )


def _is_inside(file: FileEntry, component: str) -> bool:
    return file.path.startswith(f"{component}/")
