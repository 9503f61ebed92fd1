"""Which version answers a request: what a replica serves at one moment, and the choice for one request.

Every replica chooses the same version for a key, from the record alone: by the trial's salt and the canary's share.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from registry.channels.record import Record
from registry.serving.loaders import Loaded
from registry.trials.observations import ArmName, LeftOut, TrialStage
from registry.trials.split import is_canary, is_shadowed, unit_of
from registry.trials.stages import stage_of_record

Arm = Literal["stable", "canary", "named"]
"""Why a version answers: it is the stable one; or the one on trial, whose share has the key; or the client chose it."""


@dataclass(frozen=True)
class Route:
    """The version that answers one request. What is said of the answer comes from here: the replica may have gone on
    to another version since.

    Attributes:
        manifest_sha256: the digest of the manifest that it was loaded by.
        arm: why it was chosen.
        sticky: whether the request has a key, all requests of which get this version during a trial.
        stage, unit: what the request is counted in, and as which unit; None where nothing is counted.
        left_out: why it is not.
        shadow: the canary of a shadow trial, which computes the same image.
    """

    loaded: Loaded
    manifest_sha256: str
    arm: Arm = "stable"
    sticky: bool = False
    stage: TrialStage | None = None
    unit: int = 0
    left_out: LeftOut = ""
    shadow: Loaded | None = None

    @property
    def version(self) -> str:
        """The version's name."""
        return self.loaded.version

    @property
    def counts_for(self) -> ArmName:
        """The arm of the trial whose version it is; stable for any that is not the canary."""
        return "canary" if self.stage and self.version == self.stage.canary else "stable"


@dataclass(frozen=True)
class Serving:
    """What answers at one moment. Immutable: a change of the channel makes a new one.

    Attributes:
        since: when it began to answer, UTC, ISO 8601.
        canary: the version on trial; None if there is none, or while it is not in memory. Then stable answers all.
    """

    record: Record
    stable: Loaded
    since: str
    canary: Loaded | None = None

    @cached_property
    def stage(self) -> TrialStage:
        """The stage that its record began."""
        return stage_of_record(self.record) or TrialStage(self.record.generation, self.stable.version)

    @property
    def described(self) -> Route:
        """Stable, for whoever asks what is served, and for no prediction."""
        return Route(self.stable, self._stable_sha256)

    def route(self, key: str | None) -> Loaded:
        """The version that answers a request with this key."""
        return self.choose(key).loaded

    def choose(self, key: str | None, request_id: str = "") -> Route:
        """The same, with what an answer has to say of it. Without a key the request's id decides, or chance."""
        name = key or request_id or secrets.token_hex(16)
        stage, sticky = self.stage, bool(key)
        unit = unit_of(stage.salt, name)
        if self.canary is None:
            return self._stable_route(sticky, unit, "without_canary" if stage.canary else "")
        if stage.kind == "shadow":
            if not is_shadowed(stage.salt, name, stage.weight):
                return self._stable_route(sticky, unit, "not_shadowed")
            return self._stable_route(sticky, unit, shadow=self.canary)
        if is_canary(stage.salt, name, stage.weight):
            return Route(self.canary, self._canary_sha256, "canary", sticky, stage, unit)
        return self._stable_route(sticky, unit)

    def forced(self, arm: ArmName) -> Route | None:
        """The version of an arm that a client chose; None if there is none in memory."""
        if arm == "stable":
            return self.named(self.stable, self._stable_sha256)
        return self.named(self.canary, self._canary_sha256) if self.canary else None

    def named(self, loaded: Loaded, manifest_sha256: str) -> Route:
        """A version in memory that a client chose: no trial counts such a request."""
        return Route(loaded, manifest_sha256, "named", stage=self.stage, left_out="forced")

    def _stable_route(self, sticky: bool, unit: int, left_out: LeftOut = "", shadow: Loaded | None = None) -> Route:
        return Route(self.stable, self._stable_sha256, "stable", sticky, self.stage, unit, left_out, shadow)

    @property
    def _stable_sha256(self) -> str:
        return self.record.stable.manifest_sha256 if self.record.stable else ""

    @property
    def _canary_sha256(self) -> str:
        return self.record.canary.manifest_sha256 if self.record.canary else ""
