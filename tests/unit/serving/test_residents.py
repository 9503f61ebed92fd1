"""The versions in memory: the wanted ones, the most urgent first, also after failed loads."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import LoadFailed
from registry.serving.residents import MAX_LOADS, Residents
from registry.serving.steps import Steps
from registry.versions.pointer import Pointer
from tests.support.echo_releases import Echo, wait_until


def pointer(number: int) -> Pointer:
    return Pointer(version=f"v{number}.0.0", manifest_sha256=f"{number:064x}")


@dataclass
class Shelf:
    """Loads versions by name, and fails on demand."""

    broken: set[str] = field(default_factory=set)
    order: list[str] = field(default_factory=list)
    arrivals: int = 0

    def load(self, wanted: Pointer, steps: Steps) -> Any:
        self.order.append(wanted.version)
        if wanted.version in self.broken:
            raise RuntimeError("a shelf too high")
        return Echo(wanted.version, wanted.manifest_sha256, b"")

    def arrived(self) -> None:
        self.arrivals += 1


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def residents(shelf: Shelf) -> Iterator[Residents]:
    residents = Residents(shelf.load, shelf.arrived, retry=0.01)
    yield residents
    residents.close(10)


def test_the_most_urgent_is_loaded_first(shelf: Shelf, residents: Residents) -> None:
    residents.want([pointer(2), pointer(1), pointer(3)])
    residents.start()
    wait_until(lambda: shelf.arrivals == 3)
    assert shelf.order == ["v2.0.0", "v1.0.0", "v3.0.0"]


def test_a_failure_holds_up_nothing_else_and_is_tried_again(shelf: Shelf, residents: Residents) -> None:
    shelf.broken.add("v1.0.0")
    residents.want([pointer(1), pointer(2)])
    residents.start()
    wait_until(lambda: residents.get(pointer(2)))
    assert "v1.0.0 was not loaded: RuntimeError: a shelf too high" in residents.problem(pointer(1))
    shelf.broken.clear()
    wait_until(lambda: residents.get(pointer(1)))
    assert residents.problem(pointer(1)) == ""


def test_a_version_that_nobody_wants_is_released(residents: Residents) -> None:
    loaded = Echo("v1.0.0", "", b"")
    gone = weakref.ref(loaded)
    residents.put(pointer(1), loaded)
    del loaded
    residents.start()
    residents.want([pointer(2)])
    wait_until(lambda: residents.names() == ("v2.0.0",))
    gc.collect()
    assert gone() is None


def test_a_version_is_loaded_once_however_often_it_is_wanted(shelf: Shelf, residents: Residents) -> None:
    residents.start()
    for _ in range(50):
        residents.want([pointer(1), pointer(1)])
    wait_until(lambda: residents.get(pointer(1)))
    residents.want([pointer(1), pointer(2)])
    wait_until(lambda: residents.get(pointer(2)))
    assert shelf.order == ["v1.0.0", "v2.0.0"]


def test_closing_ends_the_thread_and_empties_the_memory(residents: Residents) -> None:
    residents.start()
    residents.want([pointer(1)])
    wait_until(lambda: residents.get(pointer(1)))
    residents.close(10)
    assert residents.names() == ()
    assert not any(thread is residents._thread for thread in threading.enumerate())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=8))
def test_in_the_end_the_memory_holds_what_was_wanted_last(rollback_options: list[list[int]]) -> None:
    shelf = Shelf()
    residents = Residents(shelf.load, shelf.arrived, retry=0.01)
    residents.start()
    for options in rollback_options:
        residents.want([pointer(number) for number in options])
    wait_until(lambda: residents.names() == tuple(sorted({pointer(number).version for number in rollback_options[-1]})))
    residents.close(10)


@dataclass
class Gates:
    """Loads that hang until they are let go, in a step of so many seconds."""

    seconds: float = 0.05
    gates: dict[str, threading.Event] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)

    def load(self, wanted: Pointer, steps: Steps) -> Any:
        self.begun.append(wanted.version)
        with steps.step("loader", self.seconds):
            if gate := self.gates.get(wanted.version):
                assert gate.wait(300)
        return Echo(wanted.version, wanted.manifest_sha256, b"")


@contextmanager
def watched(gates: Gates, *hanging: int, slow_after: float = 30.0) -> Iterator[Residents]:
    """Residents whose loads of these versions hang; at the end they are let go."""
    gates.gates = {pointer(number).version: threading.Event() for number in hanging}
    residents = Residents(gates.load, lambda: None, retry=0.01, slow_after=slow_after)
    residents.start()
    try:
        yield residents
    finally:
        for gate in gates.gates.values():
            gate.set()
        residents.close(10)


def test_a_load_that_hangs_is_left_behind() -> None:
    gates = Gates()
    with watched(gates, 1) as residents:
        residents.want([pointer(1), pointer(2)])
        wait_until(lambda: residents.get(pointer(2)))
        assert "v1.0.0 was not loaded: the step 'loader' showed no sign of life" in residents.problem(pointer(1))
        assert residents.loading().startswith("left behind: loading v1.0.0 for ")
        # What it brings after it was given up is dropped; the version is then loaded afresh.
        gates.gates["v1.0.0"].set()
        wait_until(lambda: residents.get(pointer(1)))
        assert gates.begun.count("v1.0.0") > 1
        assert (residents.problem(pointer(1)), residents.loading()) == ("", "")


def test_no_more_than_a_few_loads_hang() -> None:
    gates = Gates()
    with watched(gates, *range(1, MAX_LOADS + 1)) as residents:
        last = pointer(MAX_LOADS + 1)
        residents.want([pointer(number) for number in range(1, MAX_LOADS + 2)])
        wait_until(lambda: "3 loads hang: no version is loaded" in residents.problem(last))
        assert len(gates.begun) == MAX_LOADS
        gates.gates["v2.0.0"].set()
        wait_until(lambda: residents.get(last))


def test_the_first_load_is_left_for_others_a_few_times_only() -> None:
    gates, numbers = Gates(seconds=300), iter(range(2, MAX_LOADS + 2))
    with watched(gates, *range(1, MAX_LOADS + 1)) as residents:
        with pytest.raises(LoadFailed, match="3 loads hang, so v4"):
            residents.load_first(pointer(1), lambda: pointer(next(numbers)), 0.01)
        wait_until(lambda: len(gates.begun) == MAX_LOADS)


def test_a_load_that_nobody_wants_holds_up_no_other() -> None:
    gates = Gates(seconds=300)
    with watched(gates, 1) as residents:
        residents.want([pointer(1)])
        wait_until(lambda: gates.begun)
        residents.want([pointer(2)])
        wait_until(lambda: residents.get(pointer(2)))
        gates.gates["v1.0.0"].set()
        wait_until(lambda: residents.loading() == "")
        assert residents.names() == ("v2.0.0",)


def test_a_slow_load_holds_up_no_urgent_one() -> None:
    gates = Gates(seconds=300)
    with watched(gates, 1, slow_after=0.02) as residents:
        residents.want([pointer(1)])
        wait_until(lambda: gates.begun)
        residents.want([pointer(2), pointer(1), pointer(3)])
        wait_until(lambda: residents.get(pointer(2)))
        assert residents.get(pointer(3)) is None
        gates.gates["v1.0.0"].set()
        wait_until(lambda: residents.names() == ("v1.0.0", "v2.0.0", "v3.0.0"))
        assert gates.begun == ["v1.0.0", "v2.0.0", "v3.0.0"]
