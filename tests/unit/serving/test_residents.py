"""The versions in memory: the wanted ones, the most urgent first, also after failed loads."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.serving.residents import Residents
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
