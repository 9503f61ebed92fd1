"""The flavor `files`: snapshots of a project, which have no model and predict nothing.

Stable: models logged in MLflow import exactly `load_files` from this module and call `predict` on what it returns. They
never move, and they keep their arguments and their meaning. (Those of the flavor `dino-lora` import `adapters.model`.)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from registry.errors import BadInput, CorruptBlob, LoadFailed
from registry.formats.bounded import file_digest
from registry.versions.manifest import Manifest

MANIFEST = "version.json"


class Snapshot:
    """A snapshot as an MLflow model: it has artifacts, but no predictions."""

    def __init__(self, version: str) -> None:
        self._version = version

    def predict(self, table: object) -> NoReturn:
        """Refuse to predict.

        Raises:
            BadInput: always.
        """
        raise BadInput(
            f"{self._version} is a snapshot of files: it has no model, so it can't predict",
            hint=_restore_hint(self._version),
        )


def load_files(folder: str) -> Snapshot:
    """Check the files of a snapshot's folder against its manifest, `version.json`.

    Raises:
        CorruptBlob: a file is missing, or does not match the manifest.
    """
    place = Path(folder)
    if not (place / MANIFEST).is_file():
        raise CorruptBlob(
            f"{MANIFEST} is missing among the model's artifacts in MLflow, so its files can't be checked",
            hint="get the files from the store instead: ulora restore",
        )
    manifest = Manifest.parse((place / MANIFEST).read_bytes())
    for file in manifest.files:
        path = place / file.artifact_path
        path = path if path.is_file() else place / file.path  # as earlier releases stored it
        if not path.is_file() or _digest(path, file.size) != file.sha256:
            raise CorruptBlob(
                f"{manifest.version}: {file.path} among the model's artifacts does not match the manifest",
                hint="get it from the store instead: ulora restore",
            )
    return Snapshot(manifest.version)


def refuse_to_serve(manifest: Manifest, files: Mapping[str, Path], **options: Any) -> NoReturn:
    """The loader of this flavor, for `serve`, `follow` and `load`.

    Raises:
        LoadFailed: always.
    """
    raise LoadFailed(
        f"{manifest.version} is a snapshot of files: it has no model, so it can't be served",
        hint=_restore_hint(manifest.version),
    )


def _restore_hint(version: str) -> str:
    return f"`ulora restore {version} --target DIR` writes its files to a folder"


def _digest(path: Path, at_most: int) -> str | None:
    with path.open("rb") as file:
        return file_digest(file.fileno(), at_most)
