"""Sources for `create` that are not bundles: adapters in other layouts, old version folders, MLflow models.

The source is converted to a bundle in a temporary folder, and then created like any other bundle. The code that
converts other layouts needs torch, and is found through the entry point group `ulora.importers`: the name is a flavor,
the value a function that writes a bundle (`Importer`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from registry.errors import (
    BadBundle,
    BadInput,
    BadManifest,
    CorruptBlob,
    MissingDependency,
    disk_errors,
    install_hint,
    no_folder,
)
from registry.formats import canonical
from registry.formats.counts import counted
from registry.formats.local_file import LocalFile
from registry.machine.scratch import scratch
from registry.machine.source_folder import unchanged
from registry.plugins import BUNDLES, IMPORTERS, installed, not_installed, plugin
from registry.progress import Say, say_nothing
from registry.versions.backbones import BackboneMirror
from registry.versions.bundle import ReleaseNotes, read_bundle
from registry.versions.manifest import MAX_FILES, BackboneRef, Manifest, check_path

MODELS = "models:/"
MANIFEST = "version.json"
_LOGGED = "artifacts"
"""The folder of the bundle in a model that ulora logged."""
_EXTRA = install_hint("dino")
_DIGESTS = {64: "sha256", 40: "sha1", 32: "md5"}
"""The hash algorithm of an old version folder, by the length of its hex digests."""
_SHOWN = 20
_NOT_READ = (".git", ".venv", "__pycache__")
"""Folders that no importer looks into."""

Download = Callable[[str, Path], Path]
"""Downloads a `models:/…` into a folder and returns the folder of the model."""


class ImportedAdapter(Protocol):
    """One imported adapter; `head` and `detector` are their kinds, None if the source has none."""

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
    """The result of an importer: `left_out` are paths in the source, `assumed` what no file of it states, in words,
    `version` the content of an old `version.json`.
    """

    @property
    def backbone(self) -> str: ...
    @property
    def adapters(self) -> Sequence[ImportedAdapter]: ...
    @property
    def left_out(self) -> tuple[str, ...]: ...
    @property
    def assumed(self) -> tuple[str, ...]: ...
    @property
    def version(self) -> Mapping[str, Any] | None: ...


class Importer(Protocol):
    """The type of an entry point: it converts a folder of another layout to a bundle, or raises BadInput."""

    def __call__(
        self,
        source: Path,
        bundle: Path,
        *,
        target: str | None,
        backbone: str | None,
        known: Sequence[BackboneRef],
        fetch: Callable[[str], Path | None],
        say: Say,
    ) -> Imported: ...


@dataclass(frozen=True)
class PreparedBundle:
    """A bundle on disk, ready to be read.

    Attributes:
        source_notes: the release notes of its source.
        assumed: what no file of the source states and the import assumed, in words.
    """

    folder: Path
    source_notes: ReleaseNotes
    assumed: tuple[str, ...] = ()

    def release_notes(self, given: ReleaseNotes) -> ReleaseNotes:
        """The given release notes; fields that are not given come from the source. `changes` of both are merged."""
        return ReleaseNotes(
            description=given.description or self.source_notes.description,
            changes=_merged(self.source_notes.changes, given.changes),
            breaking_changes=given.breaking_changes or self.source_notes.breaking_changes,
            backward_compatibility=given.backward_compatibility or self.source_notes.backward_compatibility,
            testing_instructions=given.testing_instructions or self.source_notes.testing_instructions,
        )


@dataclass(frozen=True)
class Importing:
    """The options of an import.

    Attributes:
        flavor: the flavor of the version to create; selects the importer.
        mirror: the backbones in the store.
        download: downloads a model from MLflow.
        target: the target of the adapter, if its files do not name it.
        backbone: a folder, a hub id or a name, used instead of the backbone that the source names.
        say: gets each line about what was found and converted.
    """

    flavor: str
    mirror: BackboneMirror
    download: Download
    target: str | None = None
    backbone: str | None = None
    say: Say = say_nothing


def check_is_there(source: Path | str) -> None:
    """Check that a source is a folder, or names a model in MLflow.

    Raises:
        BadBundle: it is neither.
    """
    if not str(source).startswith(MODELS) and not Path(source).is_dir():
        raise BadBundle(no_folder(source), hint="give a bundle, a PEFT folder or another layout: see docs/importing.md")


@contextmanager
def prepare_bundle(source: Path | str, importing: Importing) -> Iterator[PreparedBundle]:
    """A source as a bundle; any other layout is converted into a temporary folder.

    Args:
        source: a bundle, a folder of another layout, or `models:/NAME/7`, `models:/NAME@alias`.

    Raises:
        BadBundle: there is no such folder, or its layout is unknown; the hint says which are supported.
        BadInput: it can't be imported, or it is a bundle and a target or a backbone was given.
        BadWeights: its weights are damaged.
        SelfTestFailed: what was converted does not answer as the source does.
        CorruptBlob: the model in MLflow is damaged.
        BackboneNotFound: its backbone was not found.
        VersionNotFound: MLflow has no such model.
        CatalogUnreachable: MLflow does not answer.
        CatalogRefused: MLflow refuses the download.
        MissingDependency: no installed package converts other layouts.
    """
    check_is_there(source)
    is_model = str(source).startswith(MODELS)
    if not is_model and _is_bundle(Path(source)):
        refuse_import_options(importing, str(source))
        yield PreparedBundle(Path(source), ReleaseNotes())
        return
    with scratch("ulora-import-") as folder:
        with disk_errors(folder):
            prepare = _download if is_model else _convert
            bundle = prepare(source, folder, importing)
        yield bundle


@contextmanager
def replaced_files(
    flavor: str, files: Mapping[str, LocalFile], backbone: BackboneRef | None, say: Say
) -> Iterator[dict[str, Path]]:
    """The files to store in place of a bundle's own, by path: what the entry point group `ulora.bundles` has for the
    flavor returns their bytes; it gets the files as `LocalFile`, and the backbone. They lie in a temporary folder.

    Raises:
        BadWeights, BadManifest, MissingBlob: the flavor refuses a file.
        MissingDependency: a package that the flavor needs is not installed.
    """
    if flavor not in installed(BUNDLES):
        yield {}
        return
    try:
        documents: Mapping[str, bytes] = plugin(BUNDLES, flavor)(files, backbone)
    except ModuleNotFoundError as error:
        raise not_installed(BUNDLES, flavor, error) from error
    if not documents:
        yield {}
        return
    with scratch("ulora-import-") as folder:
        with disk_errors(folder):
            for path, data in documents.items():
                say(f"{path}: its patterns are replaced by the names that they match")
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(data)
        yield {path: folder / path for path in documents}


def _download(uri: Path | str, scratch_folder: Path, importing: Importing) -> PreparedBundle:
    importing.say(f"downloading {uri}")
    folder = importing.download(str(uri), scratch_folder / "model")
    bundle = _logged_bundle(folder)
    if bundle is None:
        return _convert(folder, scratch_folder, importing)
    refuse_import_options(importing, str(uri))
    return _check_logged(bundle, str(uri))


def refuse_import_options(importing: Importing, source: str) -> None:
    """Refuse options that a bundle would ignore: it names its targets and its backbone itself.

    Raises:
        BadInput: a target or a backbone was given.
    """
    for option, value in (("--target", importing.target), ("--backbone", importing.backbone)):
        if value is not None:
            raise BadInput(
                f"{option} {value[:80]} has no effect: {source} is a bundle, which names this itself",
                hint=f"omit {option}, or change the bundle",
            )


def _convert(folder: Path | str, scratch_folder: Path, importing: Importing) -> PreparedBundle:
    bundle = scratch_folder / "bundle"
    bundle.mkdir()
    with unchanged(Path(folder), _NOT_READ, 2 * MAX_FILES):
        return _write_bundle(Path(folder), bundle, importing)


def _write_bundle(folder: Path, bundle: Path, importing: Importing) -> PreparedBundle:
    say = importing.say
    mirrored = importing.mirror.all()
    for key, why in mirrored.refused.items():
        say(f"the backbone of {key} is not considered: {why}")
    known = [each.backbone for each in mirrored]
    options = {"target": importing.target, "backbone": importing.backbone}
    try:
        convert: Importer = plugin(IMPORTERS, importing.flavor)
        imported = convert(folder, bundle, **options, known=known, fetch=importing.mirror.fetch, say=say)
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"importing {folder} needs the package {error.name}, which is not installed", hint=_EXTRA
        ) from error
    _describe(imported, bundle, say)
    if imported.version is None:
        return PreparedBundle(bundle, ReleaseNotes(), imported.assumed)
    _check_digests(folder, imported.version, say)
    return PreparedBundle(bundle, _old_release_notes(imported.version), imported.assumed)


def _describe(imported: Imported, bundle: Path, say: Say) -> None:
    """Report what was imported and what was not."""
    say(f"backbone {imported.backbone}")
    for adapter in imported.adapters:
        head = f"a {adapter.head} head of {counted(adapter.labels, 'label')}" if adapter.head else "no head"
        detector = f"a detector of kind {adapter.detector}" if adapter.detector else "no detector"
        files = sorted(path for path in (bundle / "adapters" / adapter.target).rglob("*") if path.is_file())
        names = ", ".join(path.relative_to(bundle / "adapters" / adapter.target).as_posix() for path in files)
        say(f"{adapter.target}: {head}, {detector}; {names}")
        for note in adapter.notes:
            say(f"{adapter.target}: {note}")
    if imported.left_out:
        more = f" and {len(imported.left_out) - _SHOWN} more" if len(imported.left_out) > _SHOWN else ""
        say(f"left out: {', '.join(imported.left_out[:_SHOWN])}{more}")


def _is_bundle(folder: Path) -> bool:
    """Whether a folder is a bundle, or a damaged one, for which `read_bundle` has the better error."""
    if (folder / "backbone.json").exists():
        return True
    return any(any(folder.glob(f"adapters/*/{name}.json")) for name in ("component", "head"))


def _logged_bundle(folder: Path) -> Path | None:
    """The bundle in an MLflow model that ulora logged; None for other models."""
    candidates = (folder / _LOGGED / "bundle", folder / "bundle", folder)
    return next((each for each in candidates if (each / "backbone.json").is_file()), None)


def _check_logged(folder: Path, source: str) -> PreparedBundle:
    """A downloaded bundle, checked against the manifest that was logged with it."""
    path = folder / MANIFEST
    if not path.is_file():
        if folder.parent.name == _LOGGED:
            raise CorruptBlob(
                f"{source} has no {MANIFEST} any more, so its files can't be checked",
                hint="the model in MLflow was changed; nothing was created. The store has the version: `ulora restore`",
            )
        return PreparedBundle(folder, ReleaseNotes())
    try:
        what = f"{MANIFEST} of {source}"
        manifest = Manifest.parse(canonical.read_file(path, what), what)
    except BadManifest as error:
        raise CorruptBlob(str(error), hint="the model in MLflow is damaged; nothing was created") from error
    path.unlink()
    expected = {file.path: file.sha256 for file in manifest.files}
    actual = {file.path: file.sha256 for file in read_bundle(folder).files}
    wrong = sorted(name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name))
    if wrong:
        raise CorruptBlob(
            f"{source} is no longer {manifest.version}: {', '.join(wrong[:3])} differ from its manifest",
            hint="the model in MLflow was changed or is damaged; nothing was created",
        )
    release_notes = ReleaseNotes(
        manifest.description,
        manifest.changes,
        manifest.breaking_changes,
        manifest.backward_compatibility,
        manifest.testing_instructions,
    )
    return PreparedBundle(folder, release_notes)


def _old_release_notes(document: Mapping[str, Any]) -> ReleaseNotes:
    """The release notes in an old `version.json`. Unknown fields are kept in `changes`."""
    rest = dict(document)
    changes, breaking = rest.pop("changes", None), rest.pop("breaking_changes", None)
    texts = {
        name: _text(rest.pop(name, ""))
        for name in ("description", "backward_compatibility", "testing_instructions")
    }  # fmt: skip
    kept = dict(changes) if isinstance(changes, Mapping) else {"changes": changes} if changes else {}
    lines = breaking if isinstance(breaking, list) else [breaking] if breaking else []
    return ReleaseNotes(changes=_merged({"imported": rest}, kept), breaking_changes=tuple(map(_text, lines)), **texts)


def _merged(source: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of both; where both have one, the given value is used."""
    merged = dict(source)
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
        BadBundle: a file has another digest.
    """
    listed = document.get("files")
    absent, known = 0, dict[tuple[int, int, int], str]()
    for path, entry in listed.items() if isinstance(listed, Mapping) else ():
        digest = entry.get("hash") if isinstance(entry, Mapping) else None
        if not isinstance(digest, str) or len(digest) not in _DIGESTS:
            continue
        file = _file_at(folder, path)
        if file is None:
            absent += 1
            continue
        actual = _digest_of(file, len(digest), known)
        if actual != digest.lower():
            raise BadBundle(
                f"{file} is damaged: its digest in {MANIFEST} is {digest[:12]}, but its bytes have {actual[:12]}",
                hint="nothing was created; copy the backup again",
            )
    if absent:
        say(f"{counted(absent, 'file')} listed in {MANIFEST} missing")


def _digest_of(file: Path, length: int, known: dict[tuple[int, int, int], str]) -> str:
    """The hex digest of this length; from `known` if the same file had another name before. A path of many parts has
    very many names, because Windows' separators count too, and through links there are more."""
    info = file.stat()
    which = (info.st_dev, info.st_ino, length)
    if which not in known:
        with file.open("rb") as opened_file:
            known[which] = hashlib.file_digest(opened_file, _digest(length)).hexdigest()
    return known[which]


def _file_at(folder: Path, path: str) -> Path | None:
    """The file at a path, which may be a Windows path; None if it does not exist in the folder."""
    try:
        file = folder / check_path(path.replace("\\", "/"))
    except ValueError:
        return None
    return file if file.is_file() else None


def _digest(length: int) -> Callable[[], Any]:
    return lambda: hashlib.new(_DIGESTS[length], usedforsecurity=False)
