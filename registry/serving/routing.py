"""Which version answers a request: what a replica serves at one moment, and the choice for one request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from registry.channels.record import Record
from registry.serving.loaders import Loaded

Arm = Literal["stable", "named"]
"""Why a version answers: it is the stable one, or the client named another one that is in memory."""


@dataclass(frozen=True)
class Route:
    """The version that answers one request. What is said of the answer comes from here: the replica may have gone on
    to another version since.

    Attributes:
        manifest_sha256: the digest of the manifest that it was loaded by.
        arm: why it was chosen.
    """

    loaded: Loaded
    manifest_sha256: str
    arm: Arm = "stable"

    @property
    def version(self) -> str:
        """The version's name."""
        return self.loaded.version


@dataclass(frozen=True)
class Serving:
    """What answers at one moment. Immutable: a change of the channel makes a new one.

    Attributes:
        since: when it began to answer, UTC, ISO 8601.
    """

    record: Record
    stable: Loaded
    since: str

    def route(self, key: str | None) -> Loaded:
        """The version that answers a request with this key."""
        return self.choose(key).loaded

    def choose(self, key: str | None) -> Route:
        """The same, with what an answer has to say of it."""
        return Route(self.stable, self.record.stable.manifest_sha256 if self.record.stable else "")
