"""Sets of units: they behave as sets, and what is read of others is bounded."""

import base64
import random
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.trials.observations import ArmCounts
from registry.trials.units import GrowingUnits, Units

SETS = st.sets(st.integers(0, 65_535), max_size=50)


@given(SETS, SETS)
def test_units_are_sets(left: set[int], right: set[int]) -> None:
    a, b = Units.of(left), Units.of(right)
    assert set(a) == left
    assert len(a) == len(left)
    assert set(a | b) == left | right
    assert set(a & b) == left & right
    assert set(a - b) == left - right
    assert set(a ^ b) == left ^ right
    assert all(unit in a for unit in left)
    assert Units.from_text(a.to_text()) == a


def test_a_growing_set_says_what_is_new() -> None:
    growing = GrowingUnits()
    assert [growing.add(unit) for unit in (0, 65_535, 0)] == [True, True, False]
    assert set(growing.frozen()) == {0, 65_535}


def test_any_set_makes_a_short_text() -> None:
    assert len(Units.of([7]).to_text()) < 80
    assert len(Units((1 << 65_536) - 1).to_text()) < 80
    dense = Units(random.Random(1).getrandbits(65_536))
    assert len(dense.to_text()) < 11_000
    assert Units.from_text(dense.to_text()) == dense


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no base64!",
        "é",
        packed(b""),
        packed(bytes(8191)),
        packed(bytes(8193)),
        packed(bytes(8 * 1024 * 1024)),
        packed(bytes(8192))[:-8],
        base64.b64encode(zlib.compress(bytes(8192)) + b"more").decode(),
        "A" * 20_000,
    ],
)
def test_a_text_that_is_no_set_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="units"):
        Units.from_text(text)


def test_units_that_were_read_stay_packed() -> None:
    """A guard holds those of all replicas: a bitmap with its highest bit set is 8 KB, its text is short."""
    top = Units.of([65_535]).to_text()
    tracemalloc.start()
    kept = [Units.from_text(top) for _ in range(200)]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 200 * 1000
    assert all(65_535 in units for units in kept)


def test_events_that_nobody_knows_are_not_kept() -> None:
    text = Units.of([1]).to_text()
    found = ArmCounts.model_validate(
        {"version": "v1.0.0", "units": {"asked": text, "later": text, "first_wrong": text}}
    )
    assert set(found.units) == {"asked", "first_wrong"}
