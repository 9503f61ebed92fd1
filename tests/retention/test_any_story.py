"""Any story of creating, promoting, going back, forgetting and pruning leaves whatever is needed readable."""

from __future__ import annotations

import uuid
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from registry.channels.channel import RollbackOptions
from registry.errors import NothingToRollBackTo, VersionForgotten, VersionNotFound
from registry.formats.canonical import sha256
from registry.names import VersionName
from registry.retention.forget import RetentionRule
from registry.store import layout
from tests.support.store_with_clock import has, open_calendar, release

NUMBERS = st.integers(1, 5)


def name(number: int) -> str:
    return f"v{number}.0.0"


def files(number: int) -> tuple[bytes, bytes]:
    """One of its own, and one that every other version shares."""
    return f"own {number}".encode(), f"shared {number % 2}".encode()


class Story(RuleBasedStateMachine):
    """Which versions are bound and forgotten; the rest is asked of the store."""

    url: str
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.registry, self.calendar = open_calendar(self.folder, f"{self.url}/{uuid.uuid4().hex[:8]}", "m")
        self.calendar.initialise()
        self.bound: set[int] = set()

    @rule(number=NUMBERS)
    def create(self, number: int) -> None:
        release(self.registry, name(number), *files(number))
        self.bound.add(number)
        assert has(self.registry, *files(number))

    @rule(number=NUMBERS)
    def promote(self, number: int) -> None:
        is_forgotten = self.registry.wiring.forgotten.find(name(number)) is not None
        try:
            self.registry.promote(name(number), "production")
        except VersionNotFound:
            assert number not in self.bound
        except VersionForgotten:
            assert is_forgotten

    @rule()
    def roll_back(self) -> None:
        with suppress(NothingToRollBackTo):
            self.registry.rollback(options=RollbackOptions(again=True))

    @rule(keep=st.integers(1, 3), days=st.sampled_from([0.5, 2, 31]))
    def collect_garbage(self, keep: int, days: float) -> None:
        self.calendar.days += days
        self.registry.collect_garbage(RetentionRule(keep))

    @rule(number=NUMBERS)
    def remember(self, number: int) -> None:
        try:
            self.registry.remember(name(number))
        except VersionNotFound:
            assert number not in self.bound
        except VersionForgotten:
            assert not has(self.registry, *files(number))

    @invariant()
    def what_is_needed_is_readable(self) -> None:
        forgotten = set(self.registry.wiring.forgotten.versions())
        head = self.registry.channel("production").head()
        needed = {name(number) for number in self.bound} - forgotten
        if head and head.stable:
            needed |= {head.stable.version, *(pointer.version for pointer in head.stack)}
        blobs = {info.key for info in self.calendar.list(layout.BLOBS_PREFIX)}
        for binding in map(self.registry.bindings.get, self.registry.bindings.names()):
            assert layout.blob(binding.manifest_sha256) in blobs
            if binding.version in needed:
                number = VersionName.parse(binding.version).major
                assert {layout.blob(sha256(body)) for body in files(number)} <= blobs


def test_any_story_leaves_what_is_needed_readable(store_url: str, tmp_path: Path) -> None:
    Told = type("Told", (Story,), {"url": store_url, "folder": tmp_path})
    few = settings(max_examples=5, stateful_step_count=12, suppress_health_check=list(HealthCheck), deadline=None)
    run_state_machine_as_test(Told, settings=few)
