"""MLflow as the catalog of versions: log a version as a model, find it again, record evidence on it.

A version is found by what its LoggedModel says: store, name, content and manifest. So every method can be called again
after a crash, or by two processes at once, and there is one registered version of each at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from registry.catalog import logged_model, runs, tags
from registry.catalog.connection import HASTY, PATIENT, PING, Connection, Limits
from registry.catalog.entries import CatalogVersion, Entries, RegisteredModel, by_id, create_registered_model, set_tags
from registry.catalog.held_files import holds, refuse
from registry.catalog.identities import Identities
from registry.catalog.logged_model import Files, check_logged_models
from registry.catalog.model_uris import version_named
from registry.catalog.page_writer import describe_model, show
from registry.catalog.run_writer import ResultRun, record_result
from registry.catalog.runs import EvidenceRun
from registry.catalog.summary import summary_run
from registry.catalog.version_id import Known, VersionId
from registry.catalog.version_page import VersionPage
from registry.machine.scratch import scratch
from registry.versions.bindings import Binding
from registry.versions.manifest import Manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient


def _no_id() -> str:
    return ""


class Catalog:
    """One MLflow server as the catalog of the versions of one store. Opens nothing until it is used.

    Every method raises `CatalogUnreachable` if the server does not answer within seconds, and `CatalogRefused` if it
    refuses.
    """

    def __init__(
        self,
        tracking_uri: str | None,
        store: str,
        aliases: Mapping[str, str] = MappingProxyType({"staging": "staging", "production": "production"}),
        limits: Limits = PATIENT,
        *,
        store_id: Callable[[], str] = _no_id,
    ) -> None:
        """Args:
        tracking_uri: the MLflow server; None if there is none, and then every method raises `CatalogUnreachable`.
        store: `s3://BUCKET/PREFIX`, by which versions of this store are told from those of others.
        aliases: the MLflow alias that shows each mirrored channel's stable version.
        limits: the time limits of each conversation.
        store_id: reads the id of the store, empty if it has none; asked when the model's page is looked at.
        """
        self.connection = Connection(tracking_uri, limits)
        self.store = store.rstrip("/")
        self.aliases = dict(aliases)
        self._store_id = store_id
        self._identities = Identities()

    def hasty(self) -> Catalog:
        """The same catalog with short time limits, for work whose caller may stop waiting for it."""
        hasty = Catalog(self.connection.uri, self.store, self.aliases, HASTY, store_id=self._store_id)
        hasty._identities = self._identities
        return hasty

    @property
    def claim(self) -> str:
        """What the tag of a registered model says that shows this store: its URL, and its id if it has one."""
        own = self._store_id()
        return f"{self.store}#{own}" if own else self.store

    def may_show(self, registered: RegisteredModel) -> bool:
        """Whether a registered model shows this store, or does not say which one."""
        return registered.store in ("", self.store) or registered.store == self.claim

    def ping(self, timeout: int = PING.timeout) -> None:
        """Check that the server answers, and that it can hold versions.

        Raises:
            CatalogUnreachable: it does not answer within `timeout` seconds.
            CatalogRefused: it has no LoggedModels, as servers before MLflow 3.
        """
        limits = replace(PING, timeout=timeout, total=timeout + PING.total - PING.timeout)
        with self.connection.open(limits) as client:
            client.search_experiments(max_results=1)
            check_logged_models(client, self.connection.name)

    def log(self, manifest: Manifest, manifest_sha256: str, files: Files, who: str = "") -> CatalogVersion:
        """Log a version as a model and register it, unless it is registered already.

        Args:
            manifest: the version.
            manifest_sha256: digest of the manifest's bytes in the store.
            files: the version's verified files on disk, by manifest path; or where they are, to log a reference.
            who: shown as the user of its summary run.

        Raises:
            MissingDependency: nothing is installed that says how the version's flavor is logged.
        """
        with self._entries(self.connection.limits.for_bytes(manifest.size)) as (client, entries):
            found = entries.find(Binding.of(manifest, manifest_sha256))
            if found is None:
                create_registered_model(client, manifest.model, self.claim)
                identity = tags.identity(manifest, manifest_sha256, self.store)
                run_id = summary_run(client, runs.experiment_id(client, manifest.model), manifest, identity, who)
                model_id = logged_model.log_once(client, identity, manifest, files, run_id, self._holds)
                found = entries.register(VersionPage(manifest), manifest_sha256, model_id, run_id)
            registered = entries.model(manifest.model)
            if registered and self.may_show(registered) and manifest.name.alias not in registered.aliases:
                client.set_registered_model_alias(manifest.model, manifest.name.alias, str(found.number))
            return found

    def find(self, wanted: Known) -> CatalogVersion | None:
        """The registered version of a version of this store, None if there is none."""
        with self._entries() as (_, entries):
            return entries.find(wanted)

    def registered(self, model: str) -> dict[VersionId, CatalogVersion]:
        """The versions of this store that are registered."""
        return by_id(self.versions(model), self.store)

    def versions(self, model: str) -> tuple[CatalogVersion, ...]:
        """All registered versions of a model by number, also those of other tools; empty if there is no such model."""
        with self._entries() as (_, entries):
            return entries.all(model)

    def look_again(self) -> None:
        """Read anew what registered versions are: their LoggedModels may be deleted since."""
        self._identities.forget()

    def holds(self, version: CatalogVersion, manifest: Manifest) -> bool:
        """Whether a registered version holds the version that it says it is; see `held_files`."""
        with self.connection.open() as client:
            return self._holds(client, str(version.model_id), manifest)

    def refuse(self, version: CatalogVersion) -> None:
        """Note on the LoggedModel of a false version that it is none."""
        with self.connection.open() as client:
            refuse(client, str(version.model_id), str(version.version))
        self._identities.forget()

    def record_evidence(self, wanted: Known, run: EvidenceRun) -> str:
        """Show evidence: a run linked to the version's LoggedModel, and its plots in the version's summary run.

        Evidence that was recorded before is not recorded again. Returns the run's id.

        Raises:
            VersionNotFound: the version is not in MLflow.
        """
        with self._entries() as (client, entries):
            return runs.record_once(client, wanted.model, entries.get(wanted), run)

    def record_result(self, wanted: Sequence[Known], result: ResultRun) -> str:
        """Show a result about several versions of a model: a run linked to their LoggedModels. Returns the run's id.

        Raises:
            VersionNotFound: one of the versions is not in MLflow.
        """
        with self._entries() as (client, entries):
            models = [found.model_id for found in map(entries.get, wanted) if found.model_id is not None]
            return record_result(client, runs.experiment_id(client, wanted[0].model), result, models)

    def lacks_evidence(self, wanted: Known, digests: Collection[str]) -> set[str]:
        """Those of the digests for which a version has no finished run."""
        with self.connection.open() as client:
            shown = runs.evidence_runs(client, runs.experiment_id(client, wanted.model), wanted.version)
            return {each for each in digests if each not in shown}

    def show(self, wanted: Known, page: VersionPage) -> bool:
        """Make a version's page in MLflow say what `page` says; False if it did. What people wrote there is kept.

        A version of an earlier release is brought up to date: its identity goes to its LoggedModel, and the tags that
        it had for that go.

        Raises:
            VersionNotFound: the version is not in MLflow.
        """
        with self._entries() as (client, entries):
            return show(client, entries, self.store, wanted, page)

    def describe_model(self, model: str) -> bool:
        """Make the description of a registered model say how to ask; False if it did, or shows another store."""
        with self._entries() as (client, entries):
            found = entries.model(model)
            is_ours = found is not None and found.store != "" and self.may_show(found)
            return found is not None and is_ours and describe_model(client, model, found)

    def set_tags(self, wanted: Known, values: Mapping[str, str]) -> None:
        """Set those tags of a version that differ.

        Raises:
            VersionNotFound: the version is not in MLflow.
        """
        with self._entries() as (client, entries):
            set_tags(client, wanted.model, entries.get(wanted), values)

    def add_file(self, wanted: Known, name: str, body: bytes) -> None:
        """Add a file to a version's artifacts, such as its rollback script; see `add_files`."""
        self.add_files(wanted, {name: body})

    def add_files(self, wanted: Known, files: Mapping[str, bytes]) -> None:
        """Add files to a version's artifacts, such as its report, by name; older ones are replaced.

        Raises:
            VersionNotFound: the version is not in MLflow.
        """
        with self._entries() as (client, entries), scratch("ulora-file-") as folder:
            found = entries.get(wanted)
            if found.model_id is not None:
                for name, body in files.items():
                    (folder / name).write_bytes(body)
                client.log_model_artifacts(found.model_id, str(folder))

    def lacks_file(self, wanted: Known, name: str) -> bool:
        """Whether `add_file` would add a file; False for a version that is not in MLflow."""
        with self._entries() as (client, entries):
            found = entries.find(wanted)
            if found is None or found.model_id is None:
                return False
            return all(file.path != name for file in client.list_logged_model_artifacts(found.model_id))

    def download(self, uri: str, folder: Path) -> Path:
        """Download `models:/NAME/7` or `models:/NAME@alias` into a folder that does not exist yet.

        Returns the folder inside it that holds the version's files.

        Raises:
            BadInput: the URI is invalid.
            VersionNotFound: MLflow has no such version.
        """
        from registry.catalog.download import download

        return download(self.connection, uri, folder)

    def version_named(self, model: str, uri: str) -> VersionId:
        """The version of this store that `models:/NAME/7`, `models:/NAME@alias` or `models:/m-<id>` names.

        Raises:
            BadInput: the URI is invalid, or of another model.
            VersionNotFound: MLflow has no such version, or it is none of this store.
        """
        with self._entries() as (client, entries):
            return version_named(client, entries, self.store, model, uri)

    def url(self, model: str, number: int) -> str:
        """The page of a version in MLflow's UI; the version's URI if the catalog is a database without a server."""
        server = self.connection.name.rstrip("/")
        if not server.startswith("http"):
            return f"models:/{model}/{number}"
        # Without the parameter MLflow opens its pages for agents, where there are no models.
        return f"{server}/#/models/{model}/versions/{number}?workflowType=machine_learning"

    def entries(self, client: MlflowClient) -> Entries:
        """The registered versions, within a conversation."""
        return Entries(client, self.store, self.url, self._identities)

    def _holds(self, client: MlflowClient, model_id: str, manifest: Manifest) -> bool:
        return holds(self.connection, client, model_id, manifest)

    @contextmanager
    def _entries(self, limits: Limits | None = None) -> Iterator[tuple[MlflowClient, Entries]]:
        """One conversation: its client, and the registered versions."""
        with self.connection.open(limits) as client:
            yield client, self.entries(client)
