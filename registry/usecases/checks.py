"""What a version must fulfil before it is used: its files are in the store, and it is trusted."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from registry.errors import BadWeights, MissingBlob, MissingDependency
from registry.integrity.loadable import LoadableChecks
from registry.names import VersionName

if TYPE_CHECKING:
    from registry.versions.manifest import Manifest
    from registry.wiring import Wiring

_SHOWN = 3


def check_trusted(wiring: Wiring, manifest: Manifest) -> None:
    """Check that a version is signed by a trusted key or composed of such versions, if any keys are trusted.

    What is checked are the exact bytes that the manifest was read from.

    Raises:
        NotTrusted: it is neither; see `settings.trusted_keys`.
        BadSetting: a trusted key can't be read.
        MissingDependency: the package `model-signing` is not installed.
    """
    if wiring.settings.trusted_keys:
        wiring.admission().check(manifest)


def check_followed(wiring: Wiring, manifest: Manifest) -> None:
    """Check that a replica may serve a version: trusted, and not before `minimum_version`.

    A signature does not expire, so the minimum version is a check of its own.

    Raises:
        NotTrusted: it is not trusted, or too old.
        BadSetting: a trusted key can't be read.
        MissingDependency: the package `model-signing` is not installed.
    """
    oldest = wiring.settings.minimum_version
    if wiring.settings.trusted_keys or oldest:
        wiring.admission(VersionName.parse(oldest) if oldest else None).check(manifest)


def check_whole(wiring: Wiring, manifest: Manifest) -> None:
    """Check that the store holds every file of a version.

    Raises:
        MissingBlob: a file is missing, or the store has other bytes for it.
    """
    absent = {bad.sha256 for bad in wiring.blobs.absent(manifest.files)}
    paths = [file.path for file in manifest.files if file.sha256 in absent]
    if paths:
        raise MissingBlob(
            f"files of {manifest.version} are missing in the store: {', '.join(paths[:_SHOWN])}"
            + " …" * (len(paths) > _SHOWN),
            hint=f"`ulora verify {manifest.version}` names every file",
        )


def check_loadable(wiring: Wiring, manifest: Manifest) -> None:
    """Check that no document of a version says that loading would refuse it. Passes where that can't be found out here.

    Raises:
        BadWeights: one does.
        MissingBlob, CorruptBlob: a document can't be read.
    """
    with suppress(MissingDependency):
        refused = LoadableChecks(wiring.blobs).refused(manifest)
        if refused:
            found = "; ".join(f"{path}: {why}" for path, why in list(refused.items())[:_SHOWN])
            raise BadWeights(
                f"this release would not load {manifest.version}: {found}",
                hint=f"`ulora verify {manifest.version}` names every file; create a version with other adapters, or "
                "upgrade ulora-registry if a later release made it",
            )


def check_servable(wiring: Wiring, manifest: Manifest) -> None:
    """Check that a channel may serve a version. The errors are those of `check_trusted` and `check_whole`."""
    check_trusted(wiring, manifest)
    check_whole(wiring, manifest)
