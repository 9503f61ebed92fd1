"""Get a registered model's files out of MLflow."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from registry.catalog.connection import Connection
from registry.errors import BadInput, CatalogRefused, CatalogUnreachable, VersionNotFound
from registry.names import check_model

if TYPE_CHECKING:
    from mlflow import MlflowClient

_URI = re.compile(r"models:/([^/@]+)(?:/(\d{1,9})|@([\w\-]{1,255}))")
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")


def download(connection: Connection, uri: str, folder: Path) -> Path:
    """Download `models:/NAME/7` or `models:/NAME@alias` into a folder that does not exist yet; returns where it lies.

    Raises:
        BadInput: the URI does not read so.
        VersionNotFound: MLflow has no such version.
        CatalogRefused: its files lie on this machine's disk by the server's word alone. That word may name any file.
        CatalogUnreachable: MLflow does not answer.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise BadInput(
            f"{uri[:200]!r} names no version", hint="for example models:/aads-ulora/7 or models:/aads-ulora@champion"
        )
    name, number, alias = match.groups()
    check_model(name)
    if connection.uri is None:
        raise CatalogUnreachable(
            f"no MLflow tracking server is set that {uri} could come from",
            hint="set MLFLOW_TRACKING_URI or pass --tracking-uri",
        )
    folder.mkdir(parents=True)
    with connection.open() as client:
        import mlflow.artifacts

        location = _location(client, _find(client, name, number, alias, uri))
        check_remote(location, connection, uri)
        place = mlflow.artifacts.download_artifacts(
            artifact_uri=location, dst_path=str(folder), tracking_uri=connection.uri, registry_uri=connection.uri
        )
    return Path(place)


def _find(client: MlflowClient, name: str, number: str | None, alias: str | None, uri: str) -> Any:
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
    """Where a version's files lie: that of its LoggedModel, where it has one."""
    source = str(version.source)
    if source.startswith("models:/m-"):
        return str(client.get_logged_model(source.removeprefix("models:/").strip("/")).artifact_location)
    return str(client.get_model_version_download_uri(version.name, str(version.version)))


def check_remote(location: str, connection: Connection, uri: str) -> None:
    """A version's source is what anybody with access to the server wrote there: never read this disk because of it.

    Raises:
        CatalogRefused: the files of `uri` lie on a disk by the word of a server.
    """
    is_local = urlsplit(location).scheme in ("", "file")
    if is_local and urlsplit(str(connection.uri)).scheme in ("http", "https"):
        raise CatalogRefused(
            f"the files of {uri} lie at {location[:200]}, on the server's own disk and not behind the server",
            hint="start the MLflow server with --artifacts-destination, or give --from the folder itself",
        )
