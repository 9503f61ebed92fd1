"""Create a version: from a bundle, a project, adapters of another layout, or another version with some parts replaced.

Order: describe the content, upload the missing blobs, bind the name (the commit), log the version in MLflow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from registry.answers import Created
from registry.catalog.reference import complete
from registry.errors import IntegrityError, NotInMlflow, UloraError
from registry.formats.local_file import LocalFile
from registry.names import VersionName
from registry.progress import Progress, Say
from registry.store.cache import Described
from registry.store.publishing import publish
from registry.tree.credentials import check_credentials
from registry.tree.git_tag import GitTag, planned_tag
from registry.tree.snapshot import Project, read_component, read_project, with_project
from registry.usecases.mirror import log_version, not_shown
from registry.usecases.options import CreateOptions
from registry.versions.bindings import Binding
from registry.versions.bundle import DEFAULT_FLAVOR, Bundle, ReleaseNotes, describe, read_bundle
from registry.versions.compose import compose
from registry.versions.importing import Importing, PreparedBundle, prepare_bundle, refuse_import_options, replaced_files
from registry.versions.manifest import Manifest
from registry.wiring import Wiring


@dataclass(frozen=True)
class _Planned:
    """A version that is about to be created.

    Attributes:
        same: a version of another name that has this content already, where it was asked for one; else None.
        assumed: what no file of the source states and the import assumed, in words.
    """

    manifest: Manifest
    bundle: Bundle
    bound: Binding | None
    tag: GitTag | None
    same: Manifest | None
    assumed: tuple[str, ...] = ()


def plan(
    wiring: Wiring,
    version: str,
    source: Path | str | None,
    options: CreateOptions | None,
    *,
    offline: bool,
    progress: Progress,
    say: Say,
) -> Created:
    """Say what `create` would do. Nothing is written, and MLflow is not asked."""
    if not offline and wiring.settings.tracking_uri is not None:
        wiring.catalog.connection.checked_uri()
    with _planned(wiring, version, source, options or CreateOptions(), progress, say) as planned:
        if planned.same:
            return Created.unchanged(planned.same)
        return replace(Created.of(planned.manifest, is_new=planned.bound is None), assumed=planned.assumed)


def create(
    wiring: Wiring,
    version: str,
    source: Path | str | None,
    options: CreateOptions | None,
    *,
    offline: bool,
    progress: Progress,
    say: Say,
) -> Created:
    """Create a version; see `Registry.create`."""
    if not offline and wiring.settings.tracking_uri is not None:
        wiring.catalog.connection.checked_uri()
    with _planned(wiring, version, source, options or CreateOptions(), progress, say) as planned:
        if planned.same:
            return Created.unchanged(planned.same)
        try:
            created = _create(wiring, planned, offline=offline, progress=progress)
        except NotInMlflow as error:
            _make_tag(planned)
            raise error from error.__cause__
    _make_tag(planned)
    return created


def _make_tag(planned: _Planned) -> None:
    if planned.tag:
        planned.tag.make(planned.manifest.content_sha256)


@contextmanager
def _planned(
    wiring: Wiring, version: str, source: Path | str | None, options: CreateOptions, progress: Progress, say: Say
) -> Iterator[_Planned]:
    """Describe the version. What was converted lies in a temporary folder, which is removed at the end."""
    options.check_source(source)
    name = VersionName.parse(version)
    if options.components:
        with _composed(wiring, name, options, say) as (manifest, bundle):
            yield _Planned(manifest, bundle, _bound(wiring, manifest, say), None, None)
        return
    project = Project.at(options.project) if isinstance(options.project, Path) else options.project
    tag = planned_tag(project.folder if project else None, name, say) if options.git_tag else None
    importing = Importing(
        DEFAULT_FLAVOR, wiring.backbone_mirror, partial(_download, wiring), options.target, options.backbone, say
    )
    with _content(source, project, importing, progress) as (bundle, prepared):
        check_credentials(bundle.paths, options.allow_secrets)
        manifest = describe(
            wiring.model, name, bundle, source=project.folder if project else Path(source or ""),
            release_notes=prepared.release_notes(options.release_notes or ReleaseNotes()),
            parent=wiring.manifest(options.parent) if options.parent else None,
            facts={**(project.facts() if project else {}), **({"git_tag": str(name)} if tag else {})},
        )  # fmt: skip
        same = _newest_with(wiring, manifest) if options.if_changed else None
        if same and same.name != name:
            yield _Planned(manifest, bundle, None, tag, same)
        else:
            yield _Planned(manifest, bundle, _bound(wiring, manifest, say), tag, None, prepared.assumed)


def _download(wiring: Wiring, uri: str, folder: Path) -> Path:
    """A model of MLflow; the files of a reference come from the store."""
    found = wiring.catalog.download(uri, folder)
    complete(found, uri, wiring.blobs)
    return found


@contextmanager
def _content(
    source: Path | str | None, project: Project | None, importing: Importing, progress: Progress
) -> Iterator[tuple[Bundle, PreparedBundle]]:
    """The content of a version, and what its source says besides."""
    files = read_project(project, progress) if project else None
    if not source:
        assert project is not None and files is not None  # noqa: S101, PT018  see `check_source`
        refuse_import_options(importing, str(project.folder))
        yield files, PreparedBundle(project.folder, ReleaseNotes())
        return
    with prepare_bundle(source, importing) as found, _as_stored(read_bundle(found.folder), importing.say) as bundle:
        yield (with_project(bundle, files) if files else bundle), found


@contextmanager
def _composed(wiring: Wiring, name: VersionName, options: CreateOptions, say: Say) -> Iterator[tuple[Manifest, Bundle]]:
    """The parent, with components from folders on this disk."""
    parent = wiring.manifest(options.parent or "")
    read = [read_component(each, Path(folder)) for each, folder in sorted(options.components.items())]
    composition = compose(parent, [piece for piece, _ in read])
    paths = {path: file for _, files in read for path, file in files.items()}
    check_credentials(paths, options.allow_secrets)
    composed = Bundle(parent.backbone, dict(composition.components), composition.files, paths, parent.flavor)
    with _as_stored(composed, say) as bundle:
        manifest = describe(
            wiring.model, name, bundle, source=Path(options.components[min(options.components)]), parent=parent,
            release_notes=options.release_notes or ReleaseNotes(), facts={"composed": composition.provenance},
        )  # fmt: skip
        yield manifest, bundle


@contextmanager
def _as_stored(bundle: Bundle, say: Say) -> Iterator[Bundle]:
    """A bundle with the documents that its flavor stores in place of some of its own."""
    with replaced_files(bundle.flavor, bundle.paths, bundle.backbone, say) as replaced:
        yield bundle.replacing(replaced)


def _bound(wiring: Wiring, manifest: Manifest, say: Say) -> Binding | None:
    """The binding of the name, None while it is free; then it is said if the newest version has the same content.

    Raises:
        VersionExists: the name has other content.
    """
    bound = wiring.bindings.find(manifest.name)
    if bound:
        wiring.bindings.check_same(bound, manifest.content_sha256)
        return bound
    with suppress(UloraError):  # it is only a note; to create needs no listing and no right to list
        same = _newest_with(wiring, manifest)
        if same:
            say(f"{same.version} has the same content; {manifest.version} is another name for it (see --if-changed)")
    return None


def _newest_with(wiring: Wiring, manifest: Manifest) -> Manifest | None:
    """The newest version of a manifest's flavor, if it has its content. Forgotten and damaged versions do not count."""
    names = wiring.bindings.names()
    forgotten = set(wiring.forgotten.versions()) if names else set()
    for name in reversed(names):
        try:
            found = wiring.bindings.manifest(wiring.bindings.get(name).pointer)
        except IntegrityError:
            continue
        if found.flavor == manifest.flavor and found.version not in forgotten:
            return found if found.content_sha256 == manifest.content_sha256 else None
    return None


def _create(wiring: Wiring, planned: _Planned, *, offline: bool, progress: Progress) -> Created:
    manifest, bundle, bound = planned.manifest, planned.bundle, planned.bound
    if not offline:
        wiring.catalog.ping()
    wiring.check_writable()
    is_forgotten = bound is not None and wiring.forgotten.find(manifest.version) is not None
    sources = bundle.sources

    def commit() -> bool:
        if is_forgotten:
            wiring.forgotten.take_back(manifest.version)
        return bound is None and wiring.bindings.bind(manifest, wiring.blobs.put(manifest.to_bytes()))

    def local(file: Described) -> AbstractContextManager[LocalFile]:
        return nullcontext(sources.get(file.sha256) or wiring.blobs.fetch([file])[file.sha256])

    done = publish(wiring.store, manifest.files, local, commit, progress)
    binding = wiring.bindings.get(manifest.name)
    created = Created.of(wiring.bindings.manifest(binding.pointer), is_new=done.value, uploaded=done.uploaded)
    created = replace(created, brought_back=is_forgotten, assumed=planned.assumed)
    if offline:
        return created
    with not_shown(f"{manifest.version} is in the store, but not in MLflow", created):
        number = log_version(wiring, binding, bundle.paths if bundle.is_on_disk else None)
    return replace(created, catalog_number=number)
