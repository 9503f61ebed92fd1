"""The registered versions of a model in MLflow: find those of a store, list all, register a new one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from registry.catalog import tags
from registry.catalog.calls import BadAnswer
from registry.catalog.description import Description, model_description
from registry.catalog.identities import Identities
from registry.catalog.version_id import Known, VersionId
from registry.catalog.version_page import VersionPage
from registry.errors import VersionNotFound
from registry.names import VersionName, check_model, is_version_name
from registry.versions.bindings import Binding
from registry.versions.manifest import Manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MODELS, _LOGGED = "models:/", "models:/m-"
_MAX_PEOPLE = 2000
"""Characters of what people wrote that a new description begins with: the rest has to fit too."""
_MAX_VERSIONS = 1_000
"""Versions of one answer, which is bounded in bytes; more are asked for in further ones."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class CatalogVersion:
    """A registered version of MLflow.

    What it is, its source says: the LoggedModel, whose identity tags are `logged`. Earlier releases set these tags on
    the version too, and some of them only there: they count where the LoggedModel says the same name and content.

    Attributes:
        number: MLflow's version number within the model.
        model_id: the LoggedModel that holds its artifacts and metrics, None for one registered by other means.
        tags: the version's own tags.
        stage: `None`, `Staging`, `Production` or `Archived`.
        url: its page.
        logged: the identity tags of its LoggedModel, or why that counts as none.
        description: the text of its page.
        run_id: the run that it is registered with, None for one of an earlier release.
        was_asked: whether its LoggedModel was looked at; if not, it counts as a version of others.
    """

    number: int
    model_id: str | None
    tags: Mapping[str, str]
    stage: str
    url: str
    logged: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    run_id: str | None = None
    was_asked: bool = True

    @property
    def identity(self) -> Mapping[str, str]:
        """The tags that say which version of which store it is; empty if it was not created by ulora."""
        said = dict(self.logged)
        same = (tags.VERSION, tags.CONTENT)
        if tags.MANIFEST not in said or tags.STORE not in said:
            if not all(tag in said and said[tag] == self.tags.get(tag) for tag in same):
                return {}
            said = {tag: self.tags[tag] for tag in tags.IDENTITY if tag in self.tags} | said
        name, *digests = (said.get(tag, "") for tag in (tags.VERSION, tags.CONTENT, tags.MANIFEST))
        return said if is_version_name(name) and all(map(_DIGEST.fullmatch, digests)) else {}

    @property
    def id(self) -> VersionId | None:
        """Which version it is; None if it was not created by ulora."""
        said = self.identity
        return VersionId(said[tags.VERSION], said[tags.MANIFEST]) if said else None

    @property
    def version(self) -> str | None:
        """The version's name; None if it was not created by ulora."""
        return self.id.version if self.id else None

    @property
    def content_sha256(self) -> str | None:
        """The digest of its content; None if it was not created by ulora."""
        return self.identity.get(tags.CONTENT)

    @property
    def store(self) -> str:
        """The store that it is of; empty if an early release registered it, which did not say, or if it is not ours."""
        return self.identity.get(tags.STORE, "")

    @property
    def refused(self) -> str:
        """Why its LoggedModel counts as none: it was deleted, or is not what it said; empty if it may be one."""
        return self.logged.get(tags.REFUSED, "")

    @property
    def is_mislabelled(self) -> bool:
        """Whether its own tags say that it is a version of ours, and its source does not."""
        return (
            self.was_asked
            and self.id is None
            and all(tag in self.tags for tag in (tags.VERSION, tags.CONTENT, tags.MANIFEST))
        )

    @property
    def old_tags(self) -> list[str]:
        """The tags that earlier releases set and this one does not, without claims on a request."""
        return [
            name
            for name, value in self.tags.items()
            if name.startswith(tags.OLD) and name != tags.TRIAL and not tags.is_claim(name, value)
        ]


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model of MLflow: the version number of each alias, and its tags."""

    aliases: Mapping[str, int]
    tags: Mapping[str, str]
    description: str = ""

    @property
    def store(self) -> str:
        """The store whose channels it shows, as `Catalog.claim` of that store; of an earlier release its URL. Empty if
        it does not say."""
        return self.tags.get(tags.STORE, "")


def by_id(versions: Iterable[CatalogVersion], store: str) -> dict[VersionId, CatalogVersion]:
    """The registered version of each version of a store. Of several: one that names the store before those that name
    none, then the lowest number, as a lost reply can register a version twice."""
    ours = [each for each in versions if each.store in (store, "")]
    ours.sort(key=lambda each: (not each.store, each.number), reverse=True)
    return {each.id: each for each in ours if each.id}


class Entries:
    """The registered versions of one MLflow server, for one store and within one conversation.

    A version is found by its store, its name, its content and its manifest, as its LoggedModel says them: two versions
    may have equal content, two stores that share an MLflow server may have different content under one name, and
    whoever may write to MLflow may register anything. A version that names no store counts as this store's if
    everything else is equal.
    """

    def __init__(
        self, client: MlflowClient, store: str, url: Callable[[str, int], str], identities: Identities | None = None
    ) -> None:
        """Args:
        client: of the conversation.
        store: `s3://BUCKET/PREFIX`.
        url: returns the page of a model's version with a number.
        identities: what was read before of LoggedModels.
        """
        self._client = client
        self._store = store
        self._url = url
        self._identities = identities or Identities()

    def model(self, name: str) -> RegisteredModel | None:
        """A registered model, None if there is none of this name."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_registered_model(name)  # a search returns no aliases
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        aliases = {alias: _number(number) for alias, number in found.aliases.items()}
        return RegisteredModel(aliases, dict(found.tags), found.description or "")

    def all(self, model: str, concerns: Callable[[Any], bool] = lambda found: True) -> tuple[CatalogVersion, ...]:
        """All registered versions of a model by number, also those of others; empty if there is no such model.

        Args:
            concerns: whether the caller needs to know what a version is, MLflow's own object: else it counts as one of
                others, and is not asked for.
        """
        return self._search(model, _of_model(model), concerns)

    def tagged(self, model: str, tag: str, start: str) -> tuple[CatalogVersion, ...]:
        """The registered versions whose tag has a value that begins with a text; the server looks for them."""
        return self._search(model, f"{_of_model(model)} and tags.`{tag}` LIKE '{start}%'")

    def numbered(self, model: str, number: int) -> CatalogVersion:
        """The registered version with a number; MLflow's own error if there is none."""
        return self._versions(model, [self._client.get_model_version(model, str(number))])[0]

    def find(self, wanted: Known) -> CatalogVersion | None:
        """A version of this store, None if it is not registered."""
        found = self._registered(wanted)
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

    def named(self, model: str, version: str, content_sha256: str) -> list[CatalogVersion]:
        """The registered versions of this store with a name and a content, whatever their manifest."""
        name, experiment = VersionName.parse(version), self._client.get_experiment_by_name(model)
        if experiment is None:
            return []
        query = f"tags.`{tags.VERSION}` = '{name}' and tags.`{tags.CONTENT}` = '{content_sha256}'"
        found: list[CatalogVersion] = []
        for logged in self._client.search_logged_models([experiment.experiment_id], query):
            source = f"source_path = '{_MODELS}{logged.model_id}'"
            found += self._search(model, f"{_of_model(model)} and {source}")
        return [each for each in found if each.id and each.store in (self._store, "")]

    def register(self, page: VersionPage, manifest_sha256: str, model_id: str, run_id: str) -> CatalogVersion:
        """Register a logged model as a version. If another process registered it first, that one is returned.

        Args:
            page: of the new version.
            run_id: its summary run, by which MLflow compares it with others.
        """
        manifest = page.manifest
        text = Description(manifest.version, people=people_of(manifest), table=page.table(), mark=page.mark)
        created = self._client.create_model_version(
            manifest.model,
            f"{_MODELS}{model_id}",
            run_id=run_id,
            tags=page.short_tags(),
            description=str(text),
            await_creation_for=0,
            model_id=model_id,
        )
        # Another process, or a retry whose first reply was lost, may have registered the same version: the lowest
        # number is kept. Numbers are given in order, so whoever has a higher one sees the lower one here.
        same = self._registered(Binding.of(manifest, manifest_sha256))
        for extra in same[1:]:
            if extra.model_id == model_id:
                self._client.delete_model_version(manifest.model, str(extra.number))
        return same[0] if same else self._versions(manifest.model, [created])[0]

    def _registered(self, wanted: Known) -> list[CatalogVersion]:
        """The registered versions that are a version of this store; see `by_id` for their order."""
        found = self.named(wanted.model, wanted.version, wanted.content_sha256)
        same = [each for each in found if each.id == VersionId.of(wanted)]
        return sorted(same, key=lambda each: (not each.store, each.number))

    def _search(
        self, model: str, query: str, concerns: Callable[[Any], bool] = lambda found: True
    ) -> tuple[CatalogVersion, ...]:
        found: list[Any] = []
        token = None
        while True:
            page = self._client.search_model_versions(query, max_results=_MAX_VERSIONS, page_token=token)
            found += page
            token = page.token
            if not token:
                return self._versions(model, found, concerns)

    def _versions(
        self, model: str, found: Sequence[Any], concerns: Callable[[Any], bool] = lambda found: True
    ) -> tuple[CatalogVersion, ...]:
        # MLflow's SQL store has no model_id of a version, but its source names the LoggedModel.
        by_number = {_number(each.version): each for each in found}
        sources = {number: str(each.source) for number, each in by_number.items()}
        ids = {number: source.removeprefix(_MODELS) for number, source in sources.items() if source.startswith(_LOGGED)}
        asked = [ids[number] for number, each in by_number.items() if number in ids and concerns(each)]
        identities = self._identities.of(self._client, model, asked)
        return tuple(
            CatalogVersion(
                number,
                ids.get(number),
                dict(each.tags),
                each.current_stage,
                self._url(model, number),
                identities.get(ids.get(number, ""), {}),
                each.description or "",
                each.run_id or None,
                ids.get(number, "") in identities or number not in ids,
            )
            for number, each in sorted(by_number.items())
        )


def _number(text: object) -> int:
    """The number of a registered version, as MLflow says it.

    Raises:
        BadAnswer: it is none.
    """
    try:
        return int(str(text))
    except ValueError as error:
        raise BadAnswer(f"a version has the number {str(text)[:40]!r}") from error


def create_registered_model(client: MlflowClient, model: str, store: str) -> None:
    """Create the registered model, which shows the channels of a store, unless it exists."""
    from mlflow.exceptions import MlflowException

    try:
        its_tags = {tags.MANAGED: "true", tags.STORE: store}
        client.create_registered_model(model, tags=its_tags, description=model_description(""))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def set_tags(client: MlflowClient, model: str, version: CatalogVersion, wanted: Mapping[str, str]) -> None:
    """Set the tags of a version that differ: each costs a slow call. An empty value deletes one."""
    for name, value in wanted.items():
        if value and version.tags.get(name) != value:
            client.set_model_version_tag(model, str(version.number), name, value)
        if not value and name in version.tags:
            client.delete_model_version_tag(model, str(version.number), name)


def people_of(manifest: Manifest) -> str:
    """What people wrote of a version when they made it."""
    changes = "; ".join(manifest.breaking_changes)
    breaking = f"**Breaking changes:** {changes}" if changes else ""
    text = "\n\n".join(part for part in (manifest.description, breaking) if part)
    return text if len(text) <= _MAX_PEOPLE else text[: _MAX_PEOPLE - 2] + " …"


def _of_model(model: str) -> str:
    return f"name = '{check_model(model)}'"
