"""Put a version's files on this disk: `restore` into a folder, `switch` by a link."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from registry.errors import MissingBlob
from registry.progress import OpenProgress, open_no_progress
from registry.retention.notes import check_remembered
from registry.tree import restore as restoring
from registry.tree import switch as switching
from registry.tree.layout import tree_files
from registry.tree.restore import Restored, RestoreRequest
from registry.tree.switch import Switched
from registry.usecases.checks import check_trusted
from registry.usecases.options import RestoreOptions
from registry.versions.manifest import FileEntry
from registry.wiring import Wiring


def restore(
    wiring: Wiring,
    version: str,
    target: Path,
    options: RestoreOptions | None,
    *,
    dry_run: bool,
    progress: OpenProgress | None,
) -> Restored:
    """Put a version's files into a folder; see `Registry.restore`."""
    options = options or RestoreOptions()
    manifest = wiring.manifest(version)
    check_trusted(wiring, manifest)
    order = RestoreRequest(
        version, tree_files(manifest), fetcher(wiring, version, progress), tuple(options.only), options.clean
    )
    return restoring.restore(order, target, dry_run=dry_run)


def switch(wiring: Wiring, version: str, root: Path, *, dry_run: bool, progress: OpenProgress | None) -> Switched:
    """Put a version below a folder and make `current` a link to it; see `Registry.switch`."""
    manifest = wiring.manifest(version)
    check_trusted(wiring, manifest)
    return switching.switch(manifest, root, fetcher(wiring, version, progress), dry_run=dry_run)


def fetcher(
    wiring: Wiring, version: str, progress: OpenProgress | None = None
) -> Callable[[Sequence[FileEntry]], Mapping[str, Path]]:
    """Fetches files of a version into this machine's cache of verified blobs.

    What it returns raises MissingBlob, CorruptBlob, and VersionForgotten where that says why files are missing.
    """

    def fetch(files: Sequence[FileEntry]) -> Mapping[str, Path]:
        try:
            with (progress or open_no_progress)(sum(file.size for file in files)) as advance:
                return wiring.blobs.fetch(files, advance, of=version)
        except MissingBlob:
            check_remembered(wiring.forgotten, version)  # it says why files are missing
            raise

    return fetch
