"""The registered versions of a model in MLflow: find those of a store, list all, register a new one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.catalog import tags
from registry.catalog.version_id import Known, VersionId
from registry.errors import VersionNotFound
from registry.names import VersionName, check_model, is_version_name
from registry.versions.bindings import Binding
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
    def id(self) -> VersionId | None:
        """Which version its tags say it is; None if they are not those of a version that was created by ulora."""
        name, *digests = (self.tags.get(tag, "") for tag in (tags.VERSION, tags.CONTENT, tags.MANIFEST))
        if not (is_version_name(name) and all(map(_DIGEST.fullmatch, digests))):
            return None
        return VersionId(name, self.tags[tags.MANIFEST])

    @property
    def version(self) -> str | None:
        """The version's name; None if it was not created by ulora."""
        return self.id.version if self.id else None

    @property
    def content_sha256(self) -> str | None:
        """The digest of its content; None if it was not created by ulora."""
        return self.tags[tags.CONTENT] if self.id else None

    @property
    def store(self) -> str:
        """The store that it is of; empty if an early release registered it, which did not say."""
        return self.tags.get(tags.STORE, "")

    def shows(self, metrics: Mapping[str, float]) -> bool:
        """Whether its tags hold these metrics."""
        return all(self.tags.get(name) == value for name, value in tags.of_metrics(metrics).items())


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model of MLflow: the version number of each alias, and its tags."""

    aliases: Mapping[str, int]
    tags: Mapping[str, str]

    @property
    def store(self) -> str:
        """The store whose channels it shows; empty if it does not say."""
        return self.tags.get(tags.STORE, "")


def by_id(versions: Iterable[CatalogVersion], store: str) -> dict[VersionId, CatalogVersion]:
    """The registered version of each version of a store. Of several: one that names the store before those that name
    none, then the lowest number, as a lost reply can register a version twice."""
    ours = [each for each in versions if each.store in (store, "")]
    ours.sort(key=lambda each: (not each.store, each.number), reverse=True)
    return {each.id: each for each in ours if each.id}


class Entries:
    """The registered versions of one MLflow server, for one store and within one conversation.

    A version is found by its store, its name, its content and its manifest: two versions may have equal content, two
    stores that share an MLflow server may have different content under one name, and whoever may write to MLflow may
    register anything. A version that names no store counts as this store's if everything else is equal.
    """

    def __init__(self, client: MlflowClient, store: str, url: Callable[[str, int], str]) -> None:
        """Args:
        client: of the conversation.
        store: `s3://BUCKET/PREFIX`.
        url: returns the page of a model's version with a number.
        """
        self._client = client
        self._store = store
        self._url = url

    def model(self, name: str) -> RegisteredModel | None:
        """A registered model, None if there is none of this name."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_registered_model(name)  # a search returns no aliases
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return RegisteredModel({alias: int(number) for alias, number in found.aliases.items()}, dict(found.tags))

    def all(self, model: str) -> tuple[CatalogVersion, ...]:
        """All registered versions of a model by number, also those of others; empty if there is no such model."""
        return self._search(_of_model(model))

    def find(self, wanted: Known) -> CatalogVersion | None:
        """A version of this store, None if it is not registered."""
        found = self._genuine(wanted)
        return found[0] if found else None

    def get(self, wanted: Known) -> CatalogVersion:
        """A version of this store.

        Raises:
            VersionNotFound: it is not registered.
        """
        found = self.find(wanted)
        if found is None:
            raise VersionNotFound(
                f"{wanted.model} has no {wanted.version} with content {wanted.content_sha256[:12]} in MLflow",
                hint="run `ulora reconcile`",
            )
        return found

    def is_genuine(self, version: CatalogVersion) -> bool:
        """Whether a version's source is a LoggedModel that was logged as this version, not only its tags say so."""
        from mlflow.exceptions import MlflowException

        try:
            logged = self._client.get_logged_model(version.model_id) if version.model_id else None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        same = (tags.VERSION, tags.CONTENT)
        return logged is not None and all(logged.tags.get(tag) == version.tags.get(tag) for tag in same)

    def register(self, manifest: Manifest, manifest_sha256: str, model_id: str) -> CatalogVersion:
        """Register a logged model as a version. If another process registered it first, that one is returned."""
        created = self._client.create_model_version(
            manifest.model,
            f"{_MODELS}{model_id}",
            tags=tags.of_version(manifest, manifest_sha256, self._store),
            description=_description(manifest),
            await_creation_for=0,
            model_id=model_id,
        )
        # Another process, or a retry whose first reply was lost, may have registered the same version: the lowest
        # number is kept. Numbers are given in order, so whoever has a higher one sees the lower one here.
        same = self._genuine(Binding.of(manifest, manifest_sha256))
        for extra in same[1:]:
            if extra.model_id == model_id:
                self._client.delete_model_version(manifest.model, str(extra.number))
        return same[0] if same else self._version(created)

    def _genuine(self, wanted: Known) -> list[CatalogVersion]:
        """The registered versions that are a version of this store; see `by_id` for their order."""
        found = self._search(_of_version(wanted))
        same = [each for each in found if each.store in (self._store, "") and each.id == VersionId.of(wanted)]
        return sorted(filter(self.is_genuine, same), key=lambda each: (not each.store, each.number))

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


def create_registered_model(client: MlflowClient, model: str, store: str) -> None:
    """Create the registered model, which shows the channels of a store, unless it exists."""
    from mlflow.exceptions import MlflowException

    try:
        its_tags = {tags.MANAGED: "true", tags.STORE: store}
        client.create_registered_model(model, tags=its_tags, description=_MODEL_DESCRIPTION)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def set_tags(client: MlflowClient, model: str, version: CatalogVersion, wanted: Mapping[str, str]) -> None:
    """Set the tags of a version that differ: each costs a slow call."""
    for name, value in wanted.items():
        if version.tags.get(name) != value:
            client.set_model_version_tag(model, str(version.number), name, value)


def _of_model(model: str) -> str:
    return f"name = '{check_model(model)}'"


def _of_version(wanted: Known) -> str:
    name, content = VersionName.parse(wanted.version), wanted.content_sha256
    return f"{_of_model(wanted.model)} and tag.`{tags.VERSION}` = '{name}' and tag.`{tags.CONTENT}` = '{content}'"


def _description(manifest: Manifest) -> str:
    backbone = f"`{manifest.backbone.name}` ({manifest.backbone.family})" if manifest.backbone else "none"
    facts = (
        f"| | |\n|---|---|\n| version | `{manifest.version}` |\n| backbone | {backbone} |\n"
        f"| components | {', '.join(f'`{name}`' for name in sorted(manifest.components)[:50])} |\n"
        f"| size | {manifest.size / 1e6:.2f} MB in {len(manifest.files)} files |\n| made | {manifest.timestamp} |\n"
        f"| content | `{manifest.content_sha256}` |\n"
    )
    return "\n\n".join(part for part in (manifest.description[:_MAX_DESCRIPTION], facts) if part)
