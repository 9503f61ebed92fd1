"""Download the files of a registered version from MLflow."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from registry.catalog.artifact_names import restore_names
from registry.catalog.calls import Deadline
from registry.catalog.connection import Connection
from registry.errors import BadInput, CatalogRefused, CatalogUnreachable, VersionNotFound

if TYPE_CHECKING:
    from mlflow import MlflowClient

_URI = re.compile(r"models:/([^/]{1,256})(?:/(\d{1,9})|@([\w\-]{1,255}))")
"""Which names a model may have, MLflow decides: `Tomato Leaf LoRA` is one."""
_LOGGED = "models:/m-"
_MAX_NAMES = 5
_DOWNLOAD_SECONDS = 1800.0
"""How long a version's files may take: nobody knows their size before, and half an hour is 1.8 GB at 1 MB/s."""
_OWN_DISK = ("", "file")
_BUCKETS = ("s3", "gs", "wasb", "wasbs", "abfs", "abfss", "dbfs", "r2")
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")


def download(connection: Connection, uri: str, folder: Path) -> Path:
    """Download `models:/NAME/7` or `models:/NAME@alias` into a folder that does not exist yet; returns its path.

    Raises:
        BadInput: the URI is invalid.
        VersionNotFound: MLflow has no such version.
        CatalogRefused: its files are neither behind the server nor in a bucket; see `check_remote`.
        CatalogUnreachable: MLflow does not answer.
    """
    name, number, alias = parse_uri(uri)
    if connection.uri is None:
        raise CatalogUnreachable(
            f"no MLflow tracking server is set to get {uri} from",
            hint="set MLFLOW_TRACKING_URI or pass --tracking-uri",
        )
    folder.mkdir(parents=True)
    with connection.open() as client:
        location = _location(client, find_version(client, name, number, alias, uri))
        check_remote(location, connection, uri)
    found = Path(_download_artifacts(connection, location, folder))
    restore_names(found)
    return found


def _download_artifacts(connection: Connection, location: str, folder: Path) -> str:
    with connection.open():
        import mlflow.artifacts

        def fetch() -> str:
            return str(
                mlflow.artifacts.download_artifacts(
                    artifact_uri=location, dst_path=str(folder), tracking_uri=connection.uri,
                    registry_uri=connection.uri,
                )
            )  # fmt: skip

        return Deadline(_DOWNLOAD_SECONDS).call(fetch)


def parse_uri(uri: str) -> tuple[str, str | None, str | None]:
    """The model's name in `models:/NAME/7` or `models:/NAME@alias`, and the number or the alias.

    Raises:
        BadInput: the URI is invalid.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise BadInput(
            f"{uri[:200]!r} is not the URI of a version",
            hint="for example models:/aads-ulora/7 or models:/aads-ulora@champion",
        )
    return match[1], match[2], match[3]


def find_version(client: MlflowClient, name: str, number: str | None, alias: str | None, uri: str) -> Any:
    """MLflow's registered version with a number, else an alias.

    Raises:
        VersionNotFound: there is none.
    """
    from mlflow.exceptions import MlflowException

    try:
        if number is None:
            return client.get_model_version_by_alias(name, alias)
        return client.get_model_version(name, number)
    except MlflowException as error:
        if error.error_code not in _ABSENT:
            raise
        raise VersionNotFound(f"MLflow has no {uri}", hint="its Models page lists the versions and aliases") from error


def _location(client: MlflowClient, version: Any) -> str:
    """The location of a version's files. Its source may be another URI of MLflow, whose source is followed.

    Raises:
        CatalogRefused: there are too many of them.
    """
    location = str(client.get_model_version_download_uri(version.name, str(version.version)))
    if str(version.source).startswith(_LOGGED):
        location = str(version.source)
    for _ in range(_MAX_NAMES):
        parts = urlsplit(location)
        if parts.scheme == "runs":
            location = _of_run(client, parts.path.strip("/"))
        elif location.startswith(_LOGGED):
            model_id, _, inner = parts.path.strip("/").partition("/")
            location = _below(str(client.get_logged_model(model_id).artifact_location), inner)
        elif parts.scheme == "models":
            location = _of_model(client, location)
        else:
            return location
    raise CatalogRefused(f"the source of {version.name} {version.version} has too many indirections: {location[:200]}")


def _of_run(client: MlflowClient, path: str) -> str:
    """The location of a run's artifact. A model that MLflow 3 logged in the run has a location of its own."""
    run_id, _, inner = path.partition("/")
    run = client.get_run(run_id)
    name, _, rest = inner.partition("/")
    outputs = run.outputs.model_outputs if run.outputs else []
    for model in (client.get_logged_model(output.model_id) for output in outputs):
        if model.name == name:
            return _below(str(model.artifact_location), rest)
    return _below(str(run.info.artifact_uri), inner)


def _of_model(client: MlflowClient, uri: str) -> str:
    match = _URI.fullmatch(uri)
    if match is None:
        raise CatalogRefused(f"a version's source is {uri[:200]!r}, which is not the URI of a version")
    name, number, alias = match.groups()
    return str(find_version(client, name, number, alias, uri).source)


def _below(location: str, inner: str) -> str:
    parts = urlsplit(location)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{inner}").geturl() if inner else location


def check_remote(location: str, connection: Connection, uri: str) -> None:
    """Check that files are behind the MLflow server or in a bucket.

    Anybody with access to the server can set a version's source: it must not make this process read local files or
    connect to other servers.

    Args:
        location: of the files of `uri`.

    Raises:
        CatalogRefused: they are on a local disk although the catalog is on a server, or on another server.
    """
    parts, tracking = urlsplit(location), urlsplit(str(connection.uri))
    if parts.scheme in _BUCKETS:
        return
    if parts.scheme in _OWN_DISK:
        if tracking.scheme in (*_OWN_DISK, "sqlite"):  # the whole catalog is on this disk
            return
        raise CatalogRefused(
            f"the files of {uri} are at {location[:200]}, a path on a disk, which the server does not serve",
            hint="start the MLflow server with --artifacts-destination, or pass the folder with --from",
        )
    is_same = _host(parts.netloc) == _host(tracking.netloc)
    if (parts.scheme == "mlflow-artifacts" and (is_same or not parts.netloc)) or (
        parts.scheme in ("http", "https") and is_same
    ):
        return
    raise CatalogRefused(
        f"the files of {uri} are at {location[:200]}, neither behind the MLflow server nor in a bucket",
        hint="download them yourself, and pass the folder with --from",
    )


def _host(netloc: str) -> str:
    return netloc.rpartition("@")[2].lower()
