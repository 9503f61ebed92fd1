"""What `create` may be given instead of a bundle: adapters of other layouts, old version folders, models of MLflow.

Whatever it is becomes a bundle in a temporary folder, and from there on is created as any other. How other layouts
look belongs to the torch side and is found through the entry point group `ulora.importers`: the name is a flavor, the
value a function that writes a bundle (`Importer`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from registry.errors import BadBundle, BadInput, BadManifest, CorruptBlob, MissingDependency, disk_errors
from registry.formats import canonical
from registry.machine.scratch import scratch
from registry.plugins import plugin
from registry.progress import Say, say_nothing
from registry.versions.backbones import BackboneMirror
from registry.versions.bundle import ReleaseNotes, read_bundle
from registry.versions.manifest import BackboneRef, Manifest, check_path

GROUP = "ulora.importers"
MODELS = "models:/"
MANIFEST = "version.json"
_EXTRA = "pip install 'ulora-registry[dino]'"
_DIGESTS = {64: "sha256", 40: "sha1", 32: "md5"}
"""By the length of a digest in hex, the algorithm that old version folders may have used."""
_SHOWN = 20

Download = Callable[[str, Path], Path]
"""Gets a `models:/…` into a folder and returns where it lies."""


class ImportedAdapter(Protocol):
    """One adapter that was taken in; `head` and `detector` are their kinds, None where the source has none."""

    @property
    def target(self) -> str: ...
    @property
    def head(self) -> str | None: ...
    @property
    def labels(self) -> int: ...
    @property
    def detector(self) -> str | None: ...
    @property
    def notes(self) -> tuple[str, ...]: ...


class Imported(Protocol):
    """What an importer made; `left_out` are paths in the source, `version` the content of an old `version.json`."""

    @property
    def backbone(self) -> str: ...
    @property
    def adapters(self) -> Sequence[ImportedAdapter]: ...
    @property
    def left_out(self) -> tuple[str, ...]: ...
    @property
    def version(self) -> Mapping[str, Any] | None: ...


class Importer(Protocol):
    """What an entry point names: writes what a folder of another layout holds as a bundle, or refuses it."""

    def __call__(
        self,
        source: Path,
        bundle: Path,
        *,
        target: str | None,
        backbone: str | None,
        known: Sequence[BackboneRef],
        say: Say,
    ) -> Imported: ...


@dataclass(frozen=True)
class Opened:
    """A bundle on disk, ready to be read, and what its source says about the version."""

    folder: Path
    said: ReleaseNotes

    def release_notes(self, given: ReleaseNotes) -> ReleaseNotes:
        """What people say now, and for what they leave out what the source says. Of changes, both: fields add up."""
        return ReleaseNotes(
            description=given.description or self.said.description,
            changes=_merged(self.said.changes, given.changes),
            breaking_changes=given.breaking_changes or self.said.breaking_changes,
            backward_compatibility=given.backward_compatibility or self.said.backward_compatibility,
            testing_instructions=given.testing_instructions or self.said.testing_instructions,
        )


@dataclass(frozen=True)
class Importing:
    """What taking in another layout needs.

    Attributes:
        flavor: of the versions to be made; its importer is used.
        mirror: the backbones in the store.
        download: gets a model out of MLflow.
        target: which target the source is for, where its files do not tell.
        backbone: a folder, a hub id or a name, instead of what the source calls its backbone.
        say: told what is found and made, a line at a time.
    """

    flavor: str
    mirror: BackboneMirror
    download: Download
    target: str | None = None
    backbone: str | None = None
    say: Say = say_nothing


@contextmanager
def opened(source: Path | str, importing: Importing) -> Iterator[Opened]:
    """A source as a bundle; one that is none yet is converted into a temporary folder.

    Args:
        source: a bundle, a folder of another layout, or `models:/NAME/7`, `models:/NAME@alias`.

    Raises:
        BadBundle: nothing that is understood lies there; the hint says what is.
        BadInput: it is a bundle, and a target or a backbone was named, which a bundle says itself.
        BadInput, BadWeights, CorruptBlob, BackboneNotFound: it can't be taken in. Nothing was created.
        VersionNotFound, CatalogUnreachable, CatalogRefused: MLflow has no such model, or does not give it.
        MissingDependency: nothing installed takes in other layouts.
    """
    is_model = str(source).startswith(MODELS)
    if not is_model and _is_meant_as_bundle(Path(source)):
        refuse_wishes(importing, str(source))
        yield Opened(Path(source), ReleaseNotes())
        return
    with scratch("ulora-import-") as place:
        with disk_errors(place):
            make = _fetched if is_model else _converted
            found = make(source, place, importing)
        yield found


def _fetched(uri: Path | str, place: Path, importing: Importing) -> Opened:
    importing.say(f"downloading {uri}")
    folder = importing.download(str(uri), place / "model")
    ours = _our_bundle(folder)
    if ours is None:
        return _converted(folder, place, importing)
    refuse_wishes(importing, str(uri))
    return _check_ours(ours, str(uri))


def refuse_wishes(importing: Importing, source: str) -> None:
    """A bundle says for which targets and which backbone it is: what people say besides would be ignored."""
    for option, value in (("--target", importing.target), ("--backbone", importing.backbone)):
        if value is not None:
            raise BadInput(
                f"{source} is a bundle, and says itself what {option} {value[:80]} would say",
                hint=f"leave {option} out, or change the bundle",
            )


def _converted(folder: Path | str, place: Path, importing: Importing) -> Opened:
    bundle, say = place / "bundle", importing.say
    bundle.mkdir()
    known = [each.backbone for each in importing.mirror.all()]
    wishes = {"target": importing.target, "backbone": importing.backbone}
    try:
        convert: Importer = plugin(GROUP, importing.flavor)
        imported = convert(Path(folder), bundle, **wishes, known=known, say=say)
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"taking in {folder} needs {error.name}, which is not installed", hint=_EXTRA
        ) from error
    _describe(imported, bundle, say)
    if imported.version is None:
        return Opened(bundle, ReleaseNotes())
    _check_digests(Path(folder), imported.version, say)
    return Opened(bundle, _story_of(imported.version))


def _describe(imported: Imported, bundle: Path, say: Say) -> None:
    """Tell people what became of the source."""
    say(f"backbone {imported.backbone}")
    for adapter in imported.adapters:
        head = f"a {adapter.head} head of {adapter.labels} labels" if adapter.head else "no head"
        detector = f"a detector of kind {adapter.detector}" if adapter.detector else "no detector"
        files = sorted(path for path in (bundle / "adapters" / adapter.target).rglob("*") if path.is_file())
        names = ", ".join(path.relative_to(bundle / "adapters" / adapter.target).as_posix() for path in files)
        say(f"{adapter.target}: {head}, {detector}; {names}")
        for note in adapter.notes:
            say(f"{adapter.target}: {note}")
    if imported.left_out:
        more = f" and {len(imported.left_out) - _SHOWN} more" if len(imported.left_out) > _SHOWN else ""
        say(f"left out: {', '.join(imported.left_out[:_SHOWN])}{more}")


def _is_meant_as_bundle(folder: Path) -> bool:
    """Whether a source is a bundle, perhaps a damaged or missing one; of that `read_bundle` says what is wrong."""
    if (folder / "backbone.json").exists() or not folder.is_dir():
        return True
    return any(any(folder.glob(f"adapters/*/{name}.json")) for name in ("component", "head"))


def _our_bundle(folder: Path) -> Path | None:
    """The bundle in a model that this package logged in MLflow."""
    places = (folder / "artifacts" / "bundle", folder / "bundle", folder)
    return next((place for place in places if (place / "backbone.json").is_file()), None)


def _check_ours(folder: Path, source: str) -> Opened:
    """A downloaded bundle, checked against the manifest that was logged beside it."""
    path = folder / MANIFEST
    if not path.is_file():
        return Opened(folder, ReleaseNotes())
    try:
        what = f"{MANIFEST} of {source}"
        manifest = Manifest.parse(canonical.read_file(path, what), what)
    except BadManifest as error:
        raise CorruptBlob(str(error), hint="the model in MLflow is damaged; nothing was created") from error
    path.unlink()
    stated = {file.path: file.sha256 for file in manifest.files}
    actual = {file.path: file.sha256 for file in read_bundle(folder).files}
    wrong = sorted(name for name in stated.keys() | actual.keys() if stated.get(name) != actual.get(name))
    if wrong:
        raise CorruptBlob(
            f"{source} is not {manifest.version} any more: {', '.join(wrong[:3])} differ from its manifest",
            hint="the model in MLflow was changed or is damaged; nothing was created",
        )
    release_notes = ReleaseNotes(
        manifest.description,
        manifest.changes,
        manifest.breaking_changes,
        manifest.backward_compatibility,
        manifest.testing_instructions,
    )
    return Opened(folder, release_notes)


def _story_of(document: Mapping[str, Any]) -> ReleaseNotes:
    """What an old `version.json` says. Fields that have no place in a story are kept among its changes."""
    rest = dict(document)
    changes, breaking = rest.pop("changes", None), rest.pop("breaking_changes", None)
    texts = {
        name: _text(rest.pop(name, ""))
        for name in ("description", "backward_compatibility", "testing_instructions")
    }  # fmt: skip
    kept = dict(changes) if isinstance(changes, Mapping) else {"changes": changes} if changes else {}
    lines = breaking if isinstance(breaking, list) else [breaking] if breaking else []
    return ReleaseNotes(changes=_merged({"imported": rest}, kept), breaking_changes=tuple(map(_text, lines)), **texts)


def _merged(said: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of both; where both say something, what is given counts."""
    merged = dict(said)
    for name, value in given.items():
        before = merged.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            merged[name] = _merged(before, value)
        else:
            merged[name] = value
    return merged


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _check_digests(folder: Path, document: Mapping[str, Any], say: Say) -> None:
    """Check files that an old `version.json` lists with their digests: {path: {hash, size}}.

    Raises:
        BadBundle: one is not what it was.
    """
    listed = document.get("files")
    absent = 0
    for path, entry in listed.items() if isinstance(listed, Mapping) else ():
        digest = entry.get("hash") if isinstance(entry, Mapping) else None
        if not isinstance(digest, str) or len(digest) not in _DIGESTS:
            continue
        file = _file_at(folder, path)
        if file is None:
            absent += 1
            continue
        with file.open("rb") as opened_file:
            actual = hashlib.file_digest(opened_file, _digest(len(digest))).hexdigest()
        if actual != digest.lower():
            raise BadBundle(
                f"{file} is damaged: {MANIFEST} says that its digest is {digest[:12]}, but it is {actual[:12]}",
                hint="nothing was created; get the backup again",
            )
    if absent:
        say(f"{absent} files that {MANIFEST} lists are not there")


def _file_at(folder: Path, path: str) -> Path | None:
    """The file that a path means, which may have been written on Windows; None if there is none in the folder."""
    try:
        file = folder / check_path(path.replace("\\", "/"))
    except ValueError:
        return None
    return file if file.is_file() else None


def _digest(length: int) -> Callable[[], Any]:
    return lambda: hashlib.new(_DIGESTS[length], usedforsecurity=False)
