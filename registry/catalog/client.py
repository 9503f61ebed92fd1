"""MLflow as the catalog of versions: log a version as a model, find it again, record evidence on it.

A version is found by its tags: store, name, content and manifest. So every method can be called again after a crash, or
by two processes at once, and there is one registered version of each at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from registry.catalog import logged_model, runs, tags
from registry.catalog.connection import HASTY, PATIENT, PING, Connection, Limits
from registry.catalog.entries import CatalogVersion, Entries, by_id, create_registered_model, set_tags
from registry.catalog.runs import EvidenceRun
from registry.catalog.version_id import Known, VersionId
from registry.machine.scratch import scratch
from registry.versions.bindings import Binding
from registry.versions.manifest import Manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient


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
    ) -> None:
        """Args:
        tracking_uri: the MLflow server; None if there is none, and then every method raises `CatalogUnreachable`.
        store: `s3://BUCKET/PREFIX`, by which versions of this store are told from those of others.
        aliases: the MLflow alias that shows each mirrored channel's stable version.
        limits: the time limits of each conversation.
        """
        self.connection = Connection(tracking_uri, limits)
        self.store = store.rstrip("/")
        self.aliases = dict(aliases)

    def hasty(self) -> Catalog:
        """The same catalog with short time limits, for work whose caller may stop waiting for it."""
        return Catalog(self.connection.uri, self.store, self.aliases, HASTY)

    def ping(self, timeout: int = PING.timeout) -> None:
        """Check that the server answers.

        Raises:
            CatalogUnreachable: it does not, within `timeout` seconds.
        """
        limits = replace(PING, timeout=timeout, total=timeout + PING.total - PING.timeout)
        with self.connection.open(limits) as client:
            client.search_experiments(max_results=1)

    def log(self, manifest: Manifest, manifest_sha256: str, files: Mapping[str, Path]) -> CatalogVersion:
        """Log a version as a model and register it, unless it is registered already.

        Args:
            manifest: the version.
            manifest_sha256: digest of the manifest's bytes in the store.
            files: the version's verified files on disk, by manifest path.

        Raises:
            MissingDependency: nothing is installed that says how the version's flavor is logged.
        """
        with self._entries(self.connection.limits.for_bytes(manifest.size)) as (client, entries):
            found = entries.find(Binding.of(manifest, manifest_sha256))
            if found is None:
                create_registered_model(client, manifest.model, self.store)
                model_id = logged_model.log_once(client, self.store, manifest, files)
                found = entries.register(manifest, manifest_sha256, model_id)
            registered = entries.model(manifest.model)
            if registered and registered.store in (self.store, "") and manifest.name.alias not in registered.aliases:
                client.set_registered_model_alias(manifest.model, manifest.name.alias, str(found.number))
            return found

    def find(self, wanted: Known) -> CatalogVersion | None:
        """The registered version of a version of this store, None if there is none."""
        with self._entries() as (_, entries):
            return entries.find(wanted)

    def registered(self, model: str) -> dict[VersionId, CatalogVersion]:
        """The versions of this store that are registered, by their tags."""
        return by_id(self.versions(model), self.store)

    def versions(self, model: str) -> tuple[CatalogVersion, ...]:
        """All registered versions of a model by number, also those of other tools; empty if there is no such model."""
        with self._entries() as (_, entries):
            return entries.all(model)

    def record_evidence(self, wanted: Known, run: EvidenceRun) -> str:
        """Show evidence: a run linked to the version's LoggedModel, and `ulora.metric.*` tags.

        Evidence that was recorded before is not recorded again. Returns the run's id.

        Raises:
            VersionNotFound: the version is not in MLflow.
        """
        with self._entries() as (client, entries):
            version = entries.get(wanted)
            run_id = runs.record_once(client, wanted.model, version, run)
            set_tags(client, wanted.model, version, tags.of_metrics(run.metrics))
            return run_id

    def set_tags(self, wanted: Known, values: Mapping[str, str]) -> None:
        """Set those tags of a version that differ.

        Raises:
            VersionNotFound: the version is not in MLflow.
        """
        with self._entries() as (client, entries):
            set_tags(client, wanted.model, entries.get(wanted), values)

    def adopt(self, wanted: Known) -> bool:
        """Note the store on a version that an early release registered; False if there is none, or it says it."""
        with self._entries() as (client, entries):
            found = entries.find(wanted)
            if found is None or found.store:
                return False
            set_tags(client, wanted.model, found, {tags.STORE: self.store})
            return True

    def add_file(self, wanted: Known, name: str, body: bytes) -> None:
        """Add a file to a version's artifacts, such as its rollback script; an older one is replaced.

        Raises:
            VersionNotFound: the version is not in MLflow.
        """
        with self._entries() as (client, entries), scratch("ulora-file-") as folder:
            found = entries.get(wanted)
            if found.model_id is not None:
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

    def url(self, model: str, number: int) -> str:
        """The page of a version in MLflow's UI; the version's URI if the catalog is a database without a server."""
        server = self.connection.name.rstrip("/")
        return (
            f"{server}/#/models/{model}/versions/{number}" if server.startswith("http") else f"models:/{model}/{number}"
        )

    def entries(self, client: MlflowClient) -> Entries:
        """The registered versions, within a conversation."""
        return Entries(client, self.store, self.url)

    @contextmanager
    def _entries(self, limits: Limits | None = None) -> Iterator[tuple[MlflowClient, Entries]]:
        """One conversation: its client, and the registered versions."""
        with self.connection.open(limits) as client:
            yield client, self.entries(client)
