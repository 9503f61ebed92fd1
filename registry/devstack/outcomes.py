"""What came of the demo's acts: what its `--json` answer holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from registry.devstack.timeline import Moment


@dataclass(frozen=True)
class Refusal:
    """Act 2: what the gate said to the bad version."""

    exit_code: int
    rules: tuple[str, ...]


@dataclass(frozen=True)
class Race:
    """Act 3: who won, and what the other was told."""

    winner: str
    loser: str
    exit_codes: Mapping[str, int]
    told: str


@dataclass(frozen=True)
class Incident:
    """Act 4: what the bad version did, and how the rollback went.

    Attributes:
        accuracy_before, accuracy_bad, accuracy_after: of the live traffic, by the label of the image that was sent.
        rollback_seconds: from the call to the moved log.
        first_answer_seconds: from the moved log to the first answer by the old version.
        largest_difference: between its answers to fixed questions before and after; 0 is bit for bit.
        healed: what `reconcile` changed in MLflow.
    """

    accuracy_before: float
    accuracy_bad: float
    accuracy_after: float
    rollback_seconds: float
    first_answer_seconds: float
    answers_by_bad_after: int
    largest_difference: float
    healed: tuple[str, ...]


@dataclass(frozen=True)
class Corruption:
    """Act 5: what `verify` found, how a machine that had to read the blob took it, and what the replica answered."""

    exit_code: int
    file: str
    found: str
    refused: str
    largest_difference: float


@dataclass(frozen=True)
class Told:
    """All that happened.

    Attributes:
        versions: how many answers each version gave.
        act_seconds: how long each act took.
    """

    moments: tuple[Moment, ...]
    requests: int
    failures: int
    versions: Mapping[str, int]
    refusal: Refusal
    race: Race
    incident: Incident
    corruption: Corruption
    act_seconds: Mapping[str, float]
