"""Which version of a store a URI of MLflow names: `models:/NAME/7`, `models:/NAME@alias`, `models:/m-<id>`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from registry.catalog.download import find_version, parse_uri
from registry.catalog.entries import CatalogVersion, Entries
from registry.catalog.identities import Identities
from registry.catalog.version_id import VersionId
from registry.errors import BadInput, VersionNotFound

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LOGGED = re.compile(r"models:/(m-[0-9a-f]{32})")


def version_named(client: MlflowClient, entries: Entries, store: str, model: str, uri: str) -> VersionId:
    """The version of `store` that a URI names, by what the LoggedModel says that it is.

    Raises:
        BadInput: the URI is invalid, or of another model.
        VersionNotFound: MLflow has no such version, or it is none of this store.
    """
    found = _found(client, entries, model, uri)
    if found.id is None or found.store not in (store, ""):
        why = f"it is of the store {found.store}" if found.id else found.refused or "others registered it"
        raise VersionNotFound(
            f"{uri} is not a version of {model} in this store: {why}",
            hint="`ulora list` shows the versions with their numbers in MLflow; `ulora create VERSION --from "
            f"{uri}` makes one of it",
        )
    return found.id


def _found(client: MlflowClient, entries: Entries, model: str, uri: str) -> CatalogVersion:
    if logged := _LOGGED.fullmatch(uri):
        said = Identities().of(client, model, [logged[1]])[logged[1]]
        return CatalogVersion(0, logged[1], {}, "None", "", said)
    name, number, alias = parse_uri(uri)
    if name != model:
        raise BadInput(f"{uri[:200]} is of the model {name}, and this is {model}", hint=f"the target ulora:/{name}")
    return entries.numbered(model, int(find_version(client, name, number, alias, uri).version))
