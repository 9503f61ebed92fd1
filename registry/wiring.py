"""The parts that the use cases are told with: each is opened when it is first used, and kept."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from registry.channels.channel import Channel
from registry.channels.record import Record
from registry.errors import IntegrityError, MissingBlob, MissingDependency, StoreDenied, Unreachable
from registry.machine import identity
from registry.names import VersionName, check_channel
from registry.settings import Settings
from registry.store.blobs import Blobs
from registry.store.objects import ObjectStore
from registry.store.stored import Encryption
from registry.versions.bindings import Binding, Bindings

if TYPE_CHECKING:
    from registry.answers import ChannelStatus, ReplicaStatus
    from registry.catalog.log import Catalog
    from registry.evidence.gates import Candidate
    from registry.evidence.ledger import Ledger
    from registry.integrity.lastread import LastReads
    from registry.retention.notes import Forgotten, Notes, Pin
    from registry.trust.admission import Admission
    from registry.trust.signatures import Signatures
    from registry.versions.backbones import BackboneMirror
    from registry.versions.manifest import Manifest


class Parts:
    """One model's store and catalog, as its settings say. Opens nothing until it is used; threads may share it."""

    def __init__(
        self,
        model: str | None = None,
        *,
        store: str | None = None,
        tracking_uri: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        """What is left out comes from the environment or `ulora.toml`; see `registry.settings`.

        Raises:
            BadSetting: a setting is missing or wrong.
        """
        self.settings = settings or Settings.load(model=model, store=store, tracking_uri=tracking_uri)
        self.model = self.settings.model
        self._is_checked = False

    def __repr__(self) -> str:
        return f"Registry({self.model!r}, store={self.settings.store!r})"

    # --- the parts ---------------------------------------------------------------------------------------------------

    @cached_property
    def store(self) -> ObjectStore:
        """The objects of the store."""
        return ObjectStore(self.settings.store, endpoint_url=self.settings.endpoint_url, encryption=self._encryption)

    @property
    def _encryption(self) -> Encryption | None:
        return Encryption(self.settings.sse, self.settings.sse_kms_key_id) if self.settings.sse else None

    @cached_property
    def blobs(self) -> Blobs:
        """The blobs of the store, through this machine's cache."""
        return Blobs(self.store, self.settings.cache)

    @cached_property
    def bindings(self) -> Bindings:
        """The names of the model."""
        return Bindings(self.store, self.blobs, self.model)

    @cached_property
    def backbone_mirror(self) -> BackboneMirror:
        """The backbones of the store, which all its models share."""
        from registry.versions.backbones import BackboneMirror

        return BackboneMirror(self.store, self.blobs)

    @cached_property
    def ledger(self) -> Ledger:
        """The evidence, verdicts and passes of the model."""
        from registry.evidence.ledger import Ledger

        return Ledger(self.store, self.model)

    @cached_property
    def signatures(self) -> Signatures:
        """The signatures of the model's versions."""
        from registry.trust.signatures import Signatures

        return Signatures(self.store, self.model)

    @cached_property
    def forgotten(self) -> Notes[Forgotten]:
        """Which versions of the model are forgotten."""
        from registry.retention.notes import forgotten_notes

        return forgotten_notes(self.store, self.model)

    @cached_property
    def _pins(self) -> Notes[Pin]:
        from registry.retention.notes import pins

        return pins(self.store, self.model)

    @cached_property
    def last_reads(self) -> LastReads:
        """When this machine last read all bytes of versions."""
        from registry.integrity.lastread import LastReads

        return LastReads(self.settings.cache, self.settings.store)

    @cached_property
    def catalog(self) -> Catalog:
        """The MLflow server. Every use of it may raise `CatalogUnreachable`."""
        from registry.catalog.log import Catalog

        return Catalog(self.settings.tracking_uri, self.settings.aliases)

    def channel(self, name: str) -> Channel:
        """The log of a channel."""
        return Channel(self.store, self.model, check_channel(name))

    # --- what several use cases need ---------------------------------------------------------------------------------

    def note_caller(self) -> None:
        """Ask AWS who acts here, if that is not known, and keep the answer for later records. Never in a rollback."""
        place = (self.settings.cache, self.settings.endpoint_url)
        if identity.is_due(*place):
            identity.save(*place, self.store.caller())

    def _check_writable(self) -> None:
        """Before the first write of this object: is this a store, and does it honour conditional writes?"""
        if not self._is_checked:
            self.store.check_writable()
            self.note_caller()
            self._is_checked = True

    def _check_whole(self, manifest: Manifest) -> None:
        absent = {bad.sha256 for bad in self.blobs.absent(manifest.files)}
        paths = [file.path for file in manifest.files if file.sha256 in absent]
        if paths:
            raise MissingBlob(
                f"{manifest.version} is not whole in the store: {', '.join(paths[:3])}{' …' * (len(paths) > 3)}",
                hint=f"`ulora verify {manifest.version}` names every file",
            )

    def _stable_beside(self, candidate: Candidate, head: Record | None) -> Candidate | None:
        """The stable version that a candidate is compared with. Of one that can't be read, nothing was measured."""
        from registry.evidence.gates import Candidate

        if head is None or head.stable is None or head.stable.version == str(candidate.version):
            return None
        try:
            return Candidate.of(self.bindings.manifest(head.stable))
        except IntegrityError:
            name = VersionName.parse(head.stable.version)
            return Candidate(self.model, name, content_sha256="", targets=candidate.targets)

    def _log_in_catalog(self, binding: Binding, paths: Mapping[str, Path] | None) -> int:
        """Log a version in MLflow from files on disk, or from the store."""
        manifest = self.bindings.manifest(binding.pointer)
        if paths is None:
            files = self.blobs.fetch(manifest.files)
            paths = {file.path: files[file.sha256] for file in manifest.files}
        return self.catalog.log(manifest, binding.manifest_sha256, paths).number

    def _catalog_numbers(self) -> dict[tuple[str | None, str | None], int]:
        """MLflow's numbers by name and content, empty when it does not answer."""
        if self.settings.tracking_uri is None:
            return {}
        try:
            self.catalog.ping()
            versions = self.catalog.versions(self.model)
            return {(found.version, found.content_sha256): found.number for found in versions}
        except (Unreachable, MissingDependency):
            return {}

    def _channel_status(self, name: str) -> ChannelStatus:
        from registry.answers import ChannelStatus

        try:
            return ChannelStatus.of(name, self.channel(name).head(), self._replicas(name))
        except IntegrityError as error:
            return ChannelStatus.of(name, None, (), problem=str(error))

    def _replicas(self, channel: str) -> tuple[ReplicaStatus, ...]:
        """What the replicas last said; nothing where we may not ask: following never depends on it."""
        from registry.answers import ReplicaStatus
        from registry.serving.fleet import replicas

        try:
            fleet = replicas(self.store, self.model, channel)
        except StoreDenied:
            return ()
        return tuple(ReplicaStatus.of(replica) for replica in fleet)

    def _check_followed(self, manifest: Manifest) -> None:
        """Check that a replica may serve a version. A signature never ends, so age is a matter of its own."""
        oldest = self.settings.minimum_version
        if self.settings.trusted_keys or oldest:
            self._admission(VersionName.parse(oldest) if oldest else None).check(manifest)

    def _admission(self, oldest: VersionName | None = None) -> Admission:
        from registry.trust.admission import Admission

        return Admission(self.bindings, self.signatures, self.settings.trusted_keys, oldest)
