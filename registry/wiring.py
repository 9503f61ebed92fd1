"""The parts of one model, opened from the settings: store, blobs, names of versions, evidence, MLflow.

Use cases take the wiring as their first argument. Parts that a rollback does not need are imported when they are first
used, so that `ulora rollback` starts fast.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from registry.channels.channel import Channel
from registry.channels.record import Author
from registry.machine import identity
from registry.names import VersionName, check_channel
from registry.settings import Settings
from registry.store.blobs import Blobs
from registry.store.object_info import Encryption
from registry.store.objects import ObjectStore
from registry.versions.bindings import Bindings

if TYPE_CHECKING:
    from registry.catalog.client import Catalog
    from registry.evidence.ledger import Ledger
    from registry.integrity.lastprobe import LastProbe
    from registry.integrity.lastread import LastReads
    from registry.integrity.operations import OperationsLog
    from registry.retention.notes import Forgotten, Notes, Pin
    from registry.trust.admission import Admission
    from registry.trust.signatures import Signatures
    from registry.versions.backbones import BackboneMirror
    from registry.versions.manifest import Manifest


class Wiring:
    """The parts of one model. Each part is opened when it is first used, and kept. Threads may share it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._is_checked = False

    @property
    def model(self) -> str:
        """The model's name."""
        return self.settings.model

    # --- the store ---------------------------------------------------------------------------------------------------

    @cached_property
    def store(self) -> ObjectStore:
        """The objects of the store."""

        def tested(honoured: bool) -> None:
            self.last_probe.note(honoured=honoured)

        settings = self.settings
        return ObjectStore(
            settings.store, endpoint_url=settings.endpoint_url, encryption=self.encryption, tested=tested
        )

    def through(self, store: ObjectStore) -> Wiring:
        """Parts of their own that read another view of the store."""
        other = Wiring(self.settings)
        other.store = store
        return other

    @property
    def encryption(self) -> Encryption | None:
        """How the store encrypts what is written; None for the bucket's default."""
        return Encryption(self.settings.sse, self.settings.sse_kms_key_id) if self.settings.sse else None

    @cached_property
    def blobs(self) -> Blobs:
        """The blobs of the store, read through this machine's cache."""
        return Blobs(self.store, self.settings.cache)

    @cached_property
    def bindings(self) -> Bindings:
        """The names of the model's versions, and the manifests that they are bound to."""
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
    def operations(self) -> OperationsLog:
        """How the commands of the command line ended."""
        from registry.integrity.operations import OperationsLog

        return OperationsLog(self.store, self.model)

    @cached_property
    def signatures(self) -> Signatures:
        """The signatures of the model's versions."""
        from registry.trust.signatures import Signatures

        return Signatures(self.store, self.model)

    @cached_property
    def forgotten(self) -> Notes[Forgotten]:
        """The notes that say which versions of the model are forgotten."""
        from registry.retention.notes import forgotten_notes

        return forgotten_notes(self.store, self.model)

    @cached_property
    def pins(self) -> Notes[Pin]:
        """The notes that say which versions of the model are pinned by a rollback script."""
        from registry.retention.notes import pins

        return pins(self.store, self.model)

    def channel(self, name: str) -> Channel:
        """The log of a channel.

        Raises:
            BadInput: the name is not a channel's name.
        """
        return Channel(self.store, self.model, check_channel(name))

    def manifest(self, version: str) -> Manifest:
        """The verified manifest of a version.

        Raises:
            BadVersionName: the name is invalid.
            VersionNotFound: there is no such version.
            MissingBlob, CorruptBlob: the manifest is missing or damaged.
        """
        return self.bindings.manifest(self.bindings.get(VersionName.parse(version)).pointer)

    # --- this machine, MLflow ----------------------------------------------------------------------------------------

    @cached_property
    def last_reads(self) -> LastReads:
        """When this machine last read all bytes of a version."""
        from registry.integrity.lastread import LastReads

        return LastReads(self.settings.cache, self.settings.store)

    @cached_property
    def last_probe(self) -> LastProbe:
        """When this machine last tested that the store honours conditional writes."""
        from registry.integrity.lastprobe import LastProbe

        return LastProbe(self.settings.cache, self.settings.store, self.settings.endpoint_url)

    @cached_property
    def catalog(self) -> Catalog:
        """The MLflow server. Every use of it may raise `CatalogUnreachable`."""
        from registry.catalog.client import Catalog

        def store_id() -> str:
            return self.store.identity()

        settings = self.settings
        return Catalog(settings.tracking_uri, settings.store, settings.aliases, store_id=store_id)

    # --- who acts, and what is trusted -------------------------------------------------------------------------------

    def author(self, reason: str = "") -> Author:
        """Who signs a record, and why the change is made."""
        return Author(self.settings.who, reason)

    def acting_as(self, who: str) -> Wiring:
        """The same parts, for records that are signed by somebody else."""
        other = copy.copy(self)
        other.settings = replace(self.settings, who=who)
        return other

    def note_caller(self) -> None:
        """Ask AWS who acts here if that is not known yet, and keep the answer for later records.

        A rollback never does this: it would cost one more round trip.
        """
        place = (self.settings.cache, self.settings.endpoint_url)
        if identity.is_due(*place):
            identity.save(*place, self.store.caller())

    def check_writable(self) -> None:
        """Check once, before the first write, that this is a store and that it honours conditional writes."""
        if not self._is_checked:
            self.store.check_writable()
            self.note_caller()
            self._is_checked = True

    def admission(self, oldest: VersionName | None = None) -> Admission:
        """Decides which versions may be used here; `oldest` is the first that is admitted, in the order of names."""
        from registry.trust.admission import Admission

        return Admission(self.bindings, self.signatures, self.settings.trusted_keys, oldest)
