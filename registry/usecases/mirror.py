"""Show one change in MLflow: a version, or what the channels serve. `reconcile` shows everything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from registry.breakglass.write_script import Script
from registry.catalog.client import Catalog
from registry.catalog.mirror import mirror as mirror_channels
from registry.catalog.reference import Reference
from registry.catalog.views import ChannelViews, note_nothing
from registry.errors import IntegrityError, NotInMlflow, StoreDenied, StoreUnreachable, VersionNotFound, first_line
from registry.formats.local_file import LocalFile
from registry.names import VersionName
from registry.parallel import within
from registry.usecases.pages import RECENT, Pages
from registry.versions.bindings import Binding
from registry.wiring import Wiring

MIRROR_SECONDS = 5.0
"""How long a promotion waits for MLflow; what is not shown by then is left to `reconcile`."""
_REPORT_SECONDS = 5.0
"""After that, for the version's report, if MLflow shows all else."""


def mirror(wiring: Wiring, scripts: Sequence[Script] = (), *, seconds: float | None = None) -> tuple[str, ...]:
    """Make MLflow show what the channels serve; see `Registry.mirror`."""
    if wiring.settings.tracking_uri is None:
        return ()
    catalog = wiring.catalog.hasty()
    views = ChannelViews(wiring.channel)
    left: list[str] = []

    def show() -> None:
        plan = mirror_channels(catalog, wiring.model, lambda: views.from_newest_records(note_nothing))
        left.extend((*plan.skipped, *plan.denied))
        if not left:
            left.extend(_show_moved(wiring, catalog))
        for script in scripts:
            catalog.add_file(script, script.name, script.body)

    try:
        within(MIRROR_SECONDS if seconds is None else seconds, show)
    except Exception as error:  # the channel has moved: MLflow only shows it, so this is not a failure
        return (f"MLflow does not show it yet ({error}); the next change does, or `ulora reconcile`",)
    return tuple(f"MLflow does not show it: {skipped}" for skipped in left)


def add_report(wiring: Wiring, version: str) -> tuple[str, ...]:
    """Make a version's report, as of now, artifacts of it in MLflow. Returns why that did not work."""
    from registry.usecases.version_report_page import report_files

    if wiring.settings.tracking_uri is None:
        return ()

    def add() -> None:
        binding = wiring.bindings.get(VersionName.parse(version))
        with suppress(VersionNotFound):  # it was created without MLflow: `reconcile` logs it, and adds the report
            wiring.catalog.hasty().add_files(binding, report_files(wiring, version, RECENT))

    try:
        within(_REPORT_SECONDS, add)
    except Exception as error:  # all else is shown, and anybody can make the report at any time
        return (f"MLflow does not have the report of {version} yet ({first_line(error)}); `ulora reconcile` adds it",)
    return ()


def show_version(wiring: Wiring, binding: Binding) -> None:
    """Bring the page of a version in MLflow up to date."""
    wiring.catalog.show(binding, Pages.read(wiring, RECENT).page(binding))


def _show_moved(wiring: Wiring, catalog: Catalog) -> list[str]:
    """Bring the pages of the versions up to date that the newest records are about; `reconcile` does all. Returns which
    were left as they are, because something may not be read, and what."""
    pages = Pages.read(wiring, RECENT)
    left = []
    for named in pages.moved():
        try:
            binding = wiring.bindings.get(VersionName.parse(named.version))
            with suppress(VersionNotFound):  # it was created without MLflow
                catalog.show(binding, pages.page(binding))
        except StoreDenied as error:
            left.append(f"{named.version}: {error}")
    return left


@contextmanager
def not_shown(what: str, answer: object) -> Iterator[None]:
    """Tell what MLflow did not take from what was not done.

    Args:
        what: what is so in the store, for the message.
        answer: what was done there.

    Raises:
        NotInMlflow: MLflow did not take it, for whatever reason.
        IntegrityError, StoreUnreachable, StoreDenied: the store can't be read.
    """
    try:
        yield
    except (IntegrityError, StoreUnreachable, StoreDenied):
        raise
    except Exception as error:
        hint = getattr(error, "hint", "") or "run `ulora reconcile` later"
        raise NotInMlflow(f"{what}: {first_line(error)}", hint=hint, answer=answer) from error


def log_version(wiring: Wiring, binding: Binding, paths: Mapping[str, LocalFile] | None) -> int:
    """Log a version in MLflow, from files on disk or (None) from the store, and return its number there.

    Raises:
        MissingBlob, CorruptBlob: the store does not hold a file that it needs.
    """
    manifest = wiring.bindings.manifest(binding.pointer)
    if wiring.settings.mlflow_artifacts == "reference":
        wiring.blobs.require(manifest.files, of=manifest.version)
        place = Reference(wiring.store.url, wiring.settings.endpoint_url)
        return wiring.catalog.log(manifest, binding.manifest_sha256, place, wiring.settings.who).number
    if paths is None:
        files = wiring.blobs.fetch(manifest.files, of=manifest.version)
        paths = {file.path: files[file.sha256] for file in manifest.files}
    return wiring.catalog.log(manifest, binding.manifest_sha256, paths, wiring.settings.who).number
