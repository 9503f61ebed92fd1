"""The decisions that the store keeps: create-only, each under its own digest, beside its channel."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from registry.errors import BadInput, CorruptBlob, IntegrityError, NotFound, ObjectNotFound
from registry.guard.decision import Decision
from registry.names import check_channel
from registry.store import layout
from registry.store.object_info import ObjectInfo
from registry.store.objects import ObjectStore
from registry.store.storage import list_folder

MIN_PREFIX = 4
"""Characters of a digest that are enough where only one decision begins so."""
_MAX_LISTED = 20_000
_SHOWN = 10
_EPOCH = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Decisions:
    """The decisions about one model's channels."""

    store: ObjectStore
    model: str

    def add(self, decision: Decision) -> str:
        """Store a decision; return its digest. Twice does nothing."""
        sha256 = decision.sha256
        self.store.create(layout.decision(self.model, decision.facts.channel, sha256), decision.to_bytes())
        return sha256

    def read(self, channel: str, sha256: str) -> Decision:
        """A decision by its digest.

        Raises:
            ObjectNotFound: there is none.
            BadManifest, CorruptBlob: it does not follow its format, or hash to its name.
        """
        key = layout.decision(self.model, channel, sha256)
        decision = Decision.parse(self.store.get(key, Decision.LIMIT).body, key)
        if decision.sha256 != sha256:
            raise CorruptBlob(
                f"decision {sha256[:12]} hashes to {decision.sha256[:12]}: it is not what was written",
                hint="bring it back from the bucket's own versions, or a copy of it",
            )
        return decision

    def newest(self, channel: str) -> Decision | None:
        """The decision about a channel that was stored last; None if there is none, or it can't be read."""
        infos = islice(list_folder(self.store, layout.decision(self.model, channel)), _MAX_LISTED)
        last = max(infos, key=lambda info: info.modified or _EPOCH, default=None)
        try:
            return self.read(channel, layout.stem(last.key)) if last else None
        except (ObjectNotFound, IntegrityError):
            return None

    def find(self, digest: str, channels: list[str]) -> Decision:
        """A decision about one of the channels, by its digest or the beginning of it.

        Raises:
            BadInput: it is not a digest, or more than one decision begins so.
            NotFound: there is no such decision.
            BadManifest, CorruptBlob: see `read`.
        """
        if not re.fullmatch(rf"[0-9a-f]{{{MIN_PREFIX},64}}", digest):
            raise BadInput(
                f"{digest[:100]!r} is not the digest of a decision, or its first characters, {MIN_PREFIX} or more",
                hint="`ulora history` shows that of each change by the guard",
            )
        found = [(channel, layout.stem(info.key)) for channel in channels for info in self._beginning(channel, digest)]
        if not found:
            raise NotFound(f"no decision begins with {digest}", hint="`ulora history` shows those that moved a channel")
        if len(found) > 1:
            named = ", ".join(sha256 for _, sha256 in found[:_SHOWN])
            raise BadInput(f"more than one decision begins with {digest}: {named}", hint="give more characters")
        return self.read(*found[0])

    def _beginning(self, channel: str, digest: str) -> list[ObjectInfo]:
        prefix = layout.decision(self.model, check_channel(channel)) + digest
        return list(islice(self.store.list(prefix), _SHOWN))
