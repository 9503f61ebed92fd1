"""The results of the demo's acts: what its `--json` answer holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from registry.devstack.timeline import Event


@dataclass(frozen=True)
class ShadowTrial:
    """Act 2: the second release beside the first one, on the same images.

    Attributes:
        outcome: the report's verdict, with its `reasons`.
        labelled: images whose labels came back; the accuracies are of these.
        only_canary_right, only_stable_right: of how many of them exactly one answer was right.
        seconds: from its start to the verdict.
    """

    version: str
    outcome: str
    reasons: tuple[str, ...]
    labelled: int
    accuracy_stable: float
    accuracy_canary: float
    only_canary_right: int
    only_stable_right: int
    seconds: float


@dataclass(frozen=True)
class Exposure:
    """What it cost that a bad version got traffic.

    Attributes:
        percent: of the traffic.
        seconds: until the record that ended it.
        answers: that it gave, `wrong` of them.
    """

    percent: float
    ended_by: str
    seconds: float
    answers: int
    wrong: int


@dataclass(frozen=True)
class CanaryTrial:
    """Act 5: the guard found the bad version.

    Attributes:
        labelled, wrong: the version's units that the guard decided by.
        reasons: what was broken. `decision`: the digest of the guard's decision.
        incident: the key of the note on it in the store.
    """

    exposure: Exposure
    labelled: int
    wrong: int
    reasons: tuple[str, ...]
    decision: str
    incident: str


@dataclass(frozen=True)
class Refusal:
    """Act 4: how the gate refused the bad version."""

    exit_code: int
    rules: tuple[str, ...]


@dataclass(frozen=True)
class Import:
    """Act 3: an adapter in a plain PEFT folder became a version of its own.

    Attributes:
        images: how many test images both versions were shown.
        largest_difference: between the probabilities that it gives and those of the release that it was taken from.
    """

    version: str
    target: str
    images: int
    largest_difference: float


@dataclass(frozen=True)
class RuntimeComparison:
    """Act 3: the gate of another runtime, and what the release answers with it.

    Attributes:
        cosine: the least of its features to those of torch in float32, on the recorded inputs.
        same_labels: of how many of `images` it gives the same label.
        mean_blocks: of the backbone that live answers took.
        depth: per target, how deep held-out images say that it must go: full, dynamic or static.
    """

    name: str
    passes: bool
    cosine: float
    images: int
    same_labels: int
    mean_blocks: float
    depth: Mapping[str, str]


@dataclass(frozen=True)
class Race:
    """Act 6: who won, and the error that the other one got."""

    winner: str
    loser: str
    exit_codes: Mapping[str, int]
    message: str


@dataclass(frozen=True)
class Incident:
    """Act 7: what the bad version did, and how the rollback went.

    Attributes:
        exposure: what it cost that everybody got the bad version.
        accuracy_before, accuracy_bad, accuracy_after: of the live traffic, by the label of the image that was sent.
        rollback_seconds: from the call to the moved log.
        first_answer_seconds: from the moved log to the first answer by the old version.
        largest_difference: between its answers to fixed questions before and after; 0 is bit for bit.
        healed: what `reconcile` changed in MLflow.
    """

    exposure: Exposure
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
    """Act 8: what `verify` found, how a machine that had to read the blob took it, and what the replica answered."""

    exit_code: int
    file: str
    found: str
    refused: str
    largest_difference: float


@dataclass(frozen=True)
class DemoResult:
    """All that happened.

    Attributes:
        versions: how many answers each version gave.
        act_seconds: how long each act took.
    """

    events: tuple[Event, ...]
    requests: int
    failures: int
    versions: Mapping[str, int]
    imported: Import
    runtime: RuntimeComparison
    shadow: ShadowTrial
    refusal: Refusal
    canary: CanaryTrial
    race: Race
    incident: Incident
    corruption: Corruption
    act_seconds: Mapping[str, float]
