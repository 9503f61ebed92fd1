"""`ulora://MODEL/VERSION/path` for MLflow's clients: versions can be listed and downloaded, and never written.

Files come as a `restore` has them: only of a version that is trusted, hashed, and by way of this machine's cache. The
settings are those of the environment and of `ulora.toml`; the model is that of the address.

A tracking server that has this package refuses these addresses: it would read the store with its own rights for
everybody who may name an address there.
"""

from __future__ import annotations

import os
import secrets
import threading
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mlflow.entities import FileInfo
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from registry.deployments.addresses import Address
from registry.deployments.refusals import RefusedByUlora, as_mlflow_errors
from registry.errors import BadInput, CorruptBlob, NotFound, StoreDenied, disk_errors

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.deployments.version_tree import VersionTree
    from registry.versions.manifest import FileEntry

_SERVER = "_MLFLOW_SERVER_ARTIFACT_ROOT"
"""Set by `mlflow server` for its workers and their jobs."""


class VersionArtifacts(ArtifactRepository):  # type: ignore[misc]
    """The files of a model's versions: `ulora://MODEL` is the root, or a version or folder below it."""

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        """Opens nothing. `tracking_uri` and `registry_uri` are not used: MLflow is not asked.

        Raises:
            RefusedByUlora: the address is invalid, or this is a tracking server.
        """
        super().__init__(artifact_uri, tracking_uri=tracking_uri, registry_uri=registry_uri)
        self._lock = threading.Lock()
        self._trees: dict[str, VersionTree] = {}
        with as_mlflow_errors():
            if _SERVER in os.environ:
                raise StoreDenied(
                    f"a tracking server does not read {artifact_uri[:200]!r} for others",
                    hint="read it where the rights on the store are: `mlflow artifacts download -u ulora://…`",
                )
            self._root = Address.parse(artifact_uri)

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """What is right below a path, relative to the root; empty for a file.

        Raises:
            RefusedByUlora: there is no such version, file or folder, the version is not trusted, or the store can't be
                read.
        """
        with as_mlflow_errors():
            address = self._root.below(path)
            tree = self._tree(address.version)
            here = tree.find(address.path)
            start = "/".join((*self._root.parts, ""))
            return [self._info(tree, each, start) for each in tree.folders.get(here, ())]

    def _info(self, tree: VersionTree, path: str, start: str) -> FileInfo:
        file = tree.files.get(path)
        full = f"{tree.version}/{path}"
        return FileInfo(full.removeprefix(start), file is None, file.size if file else None)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        """Write a file, verified. Until it is whole, the local path has what it had before.

        Raises:
            RefusedByUlora: there is no such file, or its bytes are missing or damaged in the store.
        """
        with as_mlflow_errors(), disk_errors(local_path, hint="choose another folder"):
            address = self._root.below(remote_file_path)
            tree = self._tree(address.version)
            path = tree.find(address.path)
            file = tree.files.get(path)
            if file is None:
                raise NotFound(f"{address} is a folder, not a file")
            self._write(tree, file, Path(local_path))

    def _write(self, tree: VersionTree, file: FileEntry, target: Path) -> None:
        from registry.machine.safe_folder import SafeFolder
        from registry.progress import no_progress
        from registry.tree.layout import open_fetched

        # MLflow has made the folder and checked that it lies below the one that was asked for.
        with SafeFolder.at(Path(os.path.realpath(target.parent))) as folder:
            scratch = f".ulora-{secrets.token_hex(8)}"
            try:
                if file.path in tree.written:
                    folder.write(scratch, tree.written[file.path])
                else:
                    with open_fetched(self._fetched(tree, file)) as source:
                        folder.write_verified(file.model_copy(update={"path": scratch}), source, no_progress)
                folder.rename(scratch, folder, target.name)
            except CorruptBlob as error:
                raise CorruptBlob(f"{file.path} of {tree.version} is damaged: {error}", hint=error.hint) from error
            finally:
                folder.remove(scratch)

    def _fetched(self, tree: VersionTree, file: FileEntry) -> Path:
        from registry.usecases.restore import fetcher

        return fetcher(self._registry.wiring, tree.version)([file])[file.sha256]

    @cached_property
    def _registry(self) -> Registry:
        from registry.api import Registry

        return Registry(self._root.model)

    def _tree(self, version: str) -> VersionTree:
        """A version that is trusted; read once, as it never changes."""
        from registry.deployments.version_tree import VersionTree

        with self._lock:
            if version not in self._trees:
                self._trees[version] = VersionTree.of(self._registry.trusted_manifest(version))
            return self._trees[version]

    # --- what writes -------------------------------------------------------------------------------------------------

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> NoReturn:
        """Refused. Raises: RefusedByUlora."""
        self._refuse()

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> NoReturn:
        """Refused. Raises: RefusedByUlora."""
        self._refuse()

    def delete_artifacts(self, artifact_path: str | None = None) -> NoReturn:
        """Refused. Raises: RefusedByUlora."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise RefusedByUlora(
            BadInput(
                f"{self._root} can't be written: a version never changes; nothing was done",
                hint="`ulora create VERSION --from FOLDER` makes a version; `ulora store gc` deletes old ones",
            )
        )
