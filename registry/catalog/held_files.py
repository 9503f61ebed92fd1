"""Whether a LoggedModel holds the version that its tags say it is.

Whoever may write to MLflow can copy tags. So a LoggedModel is looked into before it is used for a version, and
`reconcile` looks into those that channels name: it has to be in the model's experiment and to hold the version's
manifest, byte for byte. That finds copies of tags and lost files, not a complete copy with one file changed: serving
takes its files from the store, never from here.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.catalog import tags
from registry.catalog.calls import Deadline
from registry.catalog.connection import Connection
from registry.catalog.download import check_remote
from registry.errors import CatalogRefused
from registry.machine.scratch import scratch
from registry.versions.manifest import Manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = "artifacts/bundle"
"""Where a LoggedModel has the files of a version: `mlflow.pyfunc` puts the artifact `bundle` there."""
MANIFEST = f"{FOLDER}/version.json"

Holds = Callable[["MlflowClient", str, Manifest], bool]
"""Whether the LoggedModel with an id holds a version."""


def holds(connection: Connection, client: MlflowClient, model_id: str, manifest: Manifest) -> bool:
    """Whether a LoggedModel holds a version's manifest. True where its files can't be read from this machine.

    Args:
        client: of an open conversation with `connection`.
    """
    found = client.get_logged_model(model_id)
    experiment = client.get_experiment_by_name(manifest.model)
    if experiment is None or found.experiment_id != experiment.experiment_id:
        return False
    location, expected = f"{str(found.artifact_location).rstrip('/')}/{MANIFEST}", manifest.to_bytes()
    try:
        check_remote(location, connection, f"models:/{model_id}")
    except CatalogRefused:  # on the server's own disk; the experiment is the model's, so nobody chose this place now
        return True
    sizes = {file.path: file.file_size for file in client.list_logged_model_artifacts(model_id, FOLDER)}
    # The size first: nothing larger is downloaded.
    return sizes.get(MANIFEST) == len(expected) and _read(connection, location) == expected


def refuse(client: MlflowClient, model_id: str, version: str) -> None:
    """Note on a LoggedModel that it does not hold the version that it says it is. Then it counts as none."""
    client.set_logged_model_tags(model_id, {tags.REFUSED: f"its files are not those of {version}"})


def _read(connection: Connection, location: str) -> bytes:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    place, _, name = location.rpartition("/")
    with scratch("ulora-file-") as folder:

        def fetch() -> str:
            repository = get_artifact_repository(place, tracking_uri=connection.uri, registry_uri=connection.uri)
            repository.thread_pool = _InThisThread()
            return str(repository.download_artifacts(name, str(folder)))

        return Path(Deadline(connection.limits.total).call(fetch)).read_bytes()


class _InThisThread(Executor):
    """Downloads in the thread that asks: only that one is ended where MLflow sends a file for ever."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **options))
        except Exception as error:
            future.set_exception(error)
        return future
