"""The registered versions of a model in MLflow: find one by name and content, list all, register a new one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.catalog import tags
from registry.errors import VersionNotFound
from registry.names import VersionName, check_model, is_version_name
from registry.versions.manifest import Manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MODEL_DESCRIPTION = (
    "Versions are made, gated, promoted and rolled back with `ulora` (ulora-registry). "
    "Stages and aliases here mirror the log that serving follows: `ulora promote` and `ulora rollback` change them."
)
_MODELS = "models:/"
_MAX_DESCRIPTION = 5000
_MAX_VERSIONS = 10_000
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class CatalogVersion:
    """A registered version of MLflow.

    Attributes:
        number: MLflow's version number within the model.
        model_id: the LoggedModel that holds its artifacts and metrics, None for one registered by other means.
        tags: the version's tags.
        stage: `None`, `Staging`, `Production` or `Archived`.
        url: its page.
    """

    number: int
    model_id: str | None
    tags: Mapping[str, str]
    stage: str
    url: str

    @property
    def version(self) -> str | None:
        """The version's name; None if its tags are not those of a version that was created by ulora."""
        name, digest = self.tags.get(tags.VERSION, ""), self.tags.get(tags.CONTENT, "")
        return name if is_version_name(name) and _DIGEST.fullmatch(digest) else None

    @property
    def content_sha256(self) -> str | None:
        """The digest of its content; None if it was not created by ulora."""
        return self.tags[tags.CONTENT] if self.version else None

    def shows(self, metrics: Mapping[str, float]) -> bool:
        """Whether its tags hold these metrics."""
        return all(self.tags.get(name) == value for name, value in tags.of_metrics(metrics).items())


class Entries:
    """The registered versions of one MLflow server, within one conversation.

    A version is found by its name and its content: two versions may have equal content, and two stores that share an
    MLflow server may have different content under one name.
    """

    def __init__(self, client: MlflowClient, url: Callable[[str, int], str]) -> None:
        """Args:
        client: of the conversation.
        url: returns the page of a model's version with a number.
        """
        self._client = client
        self._url = url

    def all(self, model: str) -> tuple[CatalogVersion, ...]:
        """All registered versions of a model by number, also those of other tools; empty if there is no such model."""
        return self._search(_of_model(model))

    def find(self, model: str, version: str, content_sha256: str) -> CatalogVersion | None:
        """The version with this name and content, None if it is not registered."""
        found = self._search(_of_version(model, version, content_sha256))
        return found[0] if found else None

    def get(self, model: str, version: str, content_sha256: str) -> CatalogVersion:
        """The version with this name and content.

        Raises:
            VersionNotFound: it is not registered.
        """
        found = self.find(model, version, content_sha256)
        if found is None:
            raise VersionNotFound(
                f"{model} has no {version} with content {content_sha256[:12]} in MLflow", hint="run `ulora reconcile`"
            )
        return found

    def register(self, manifest: Manifest, manifest_sha256: str, model_id: str) -> CatalogVersion:
        """Register a logged model as a version. If another process registered it first, that one is returned."""
        created = self._client.create_model_version(
            manifest.model,
            f"{_MODELS}{model_id}",
            tags=tags.of_version(manifest, manifest_sha256),
            description=_description(manifest),
            await_creation_for=0,
            model_id=model_id,
        )
        # Another process, or a retry whose first reply was lost, may have registered the same version: the lowest
        # number is kept. Numbers are given in order, so whoever has a higher one sees the lower one here.
        same = self._search(_of_version(manifest.model, manifest.version, manifest.content_sha256))
        for extra in same[1:]:
            if extra.model_id == model_id:
                self._client.delete_model_version(manifest.model, str(extra.number))
        return same[0] if same else self._version(created)

    def _search(self, query: str) -> tuple[CatalogVersion, ...]:
        found: list[CatalogVersion] = []
        token = None
        while True:
            page = self._client.search_model_versions(query, max_results=_MAX_VERSIONS, page_token=token)
            found += [self._version(each) for each in page]
            token = page.token
            if not token:
                return tuple(sorted(found, key=lambda version: version.number))

    def _version(self, version: Any) -> CatalogVersion:
        number, source = int(version.version), str(version.source)
        # MLflow's SQL store has no model_id of a version, but its source names the LoggedModel.
        model_id = source.removeprefix(_MODELS) if source.startswith(f"{_MODELS}m-") else None
        return CatalogVersion(
            number, model_id, dict(version.tags), version.current_stage, self._url(version.name, number)
        )


def create_registered_model(client: MlflowClient, model: str) -> None:
    """Create the registered model, unless it exists."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model, tags={tags.MANAGED: "true"}, description=_MODEL_DESCRIPTION)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def set_name_alias(client: MlflowClient, manifest: Manifest, number: int) -> None:
    """Set a version's name as its alias, unless another version has that alias."""
    from mlflow.exceptions import MlflowException

    alias = manifest.name.alias
    try:
        client.get_model_version_by_alias(manifest.model, alias)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        client.set_registered_model_alias(manifest.model, alias, str(number))


def set_tags(client: MlflowClient, model: str, version: CatalogVersion, wanted: Mapping[str, str]) -> None:
    """Set the tags of a version that differ: each costs a slow call."""
    for name, value in wanted.items():
        if version.tags.get(name) != value:
            client.set_model_version_tag(model, str(version.number), name, value)


def _of_model(model: str) -> str:
    return f"name = '{check_model(model)}'"


def _of_version(model: str, version: str, content_sha256: str) -> str:
    name = VersionName.parse(version)
    return f"{_of_model(model)} and tag.`{tags.VERSION}` = '{name}' and tag.`{tags.CONTENT}` = '{content_sha256}'"


def _description(manifest: Manifest) -> str:
    backbone = f"`{manifest.backbone.name}` ({manifest.backbone.family})" if manifest.backbone else "none"
    facts = (
        f"| | |\n|---|---|\n| version | `{manifest.version}` |\n| backbone | {backbone} |\n"
        f"| components | {', '.join(f'`{name}`' for name in sorted(manifest.components)[:50])} |\n"
        f"| size | {manifest.size / 1e6:.2f} MB in {len(manifest.files)} files |\n| made | {manifest.timestamp} |\n"
        f"| content | `{manifest.content_sha256}` |\n"
    )
    return "\n\n".join(part for part in (manifest.description[:_MAX_DESCRIPTION], facts) if part)
