"""Which version of a model a URI of MLflow, or an address of ulora, names."""

from __future__ import annotations

from registry.api import Registry
from registry.deployments.addresses import SCHEME, Address
from registry.errors import BadInput, VersionNotFound
from registry.names import VersionName


def version_named(registry: Registry, uri: str) -> str:
    """The name of the version that `models:/NAME/7`, `models:/NAME@alias`, `models:/m-<id>` or
    `ulora://MODEL/VERSION` names.

    Of a version in MLflow name, store and manifest must be those of the store's version of that name.

    Raises:
        BadInput: the URI is of another kind or model, or names a file.
        VersionNotFound: there is no such version, or it is not in this store.
        CatalogUnreachable, CatalogRefused: MLflow is asked, and does not answer.
    """
    kind = uri.partition(":")[0]
    if kind == SCHEME:
        return _at_address(registry, uri)
    if kind != "models":
        raise BadInput(
            f"{uri[:200]!r} names no version",
            hint="models:/NAME/7, models:/NAME@alias or ulora://MODEL/VERSION; `ulora create` makes a version of "
            "anything else first",
        )
    found = registry.catalog.version_named(registry.model, uri)
    binding = registry.bindings.get(VersionName.parse(found.version))
    if binding.manifest_sha256 != found.manifest_sha256:
        raise VersionNotFound(
            f"{uri} says that it is {found.version} with the manifest {found.manifest_sha256[:12]}, which has "
            f"{binding.manifest_sha256[:12]} in the store",
            hint=f"name the one in the store: ulora://{registry.model}/{found.version}",
        )
    return found.version


def _at_address(registry: Registry, uri: str) -> str:
    address = Address.parse(uri)
    if address.model != registry.model:
        raise BadInput(
            f"{address} is of the model {address.model}, and this is {registry.model}",
            hint=f"the target ulora:/{address.model} is that model's",
        )
    if address.path:
        raise BadInput(f"{address} names a file of a version", hint=f"ulora://{address.model}/{address.version}")
    return address.version
