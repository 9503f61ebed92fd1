"""How large a batch is, and how long it takes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from registry.serving.pace import SIZES, Pace, calibrate
from registry.serving.scheduler import Scheduler
from tests.support.batch_flavor import Controls, TogetherEcho, routed, together


def full(pace: Pace) -> float:
    """How long a full batch takes."""
    return pace.seconds(pace.max_batch)


def test_a_small_batch_tells_how_slow_the_machine_is() -> None:
    pace = Pace(32, {1: 1.0, 32: 8.0})
    assert full(pace) == 8.0
    for _ in range(100):
        pace.note(1, 2.0)
    assert full(pace) == pytest.approx(16.0, rel=1e-3)
    for _ in range(100):
        pace.note(32, 4.0)
    assert full(pace) == pytest.approx(4.0, rel=1e-3)


def test_sizes_between_are_on_a_straight_line() -> None:
    pace = Pace(16, {8: 2.0, 32: 8.0})
    assert full(pace) == pytest.approx(4.0)
    assert full(Pace(64, {8: 2.0, 32: 8.0})) == pytest.approx(16.0)
    assert full(Pace(4, {8: 2.0, 32: 8.0})) == pytest.approx(1.0)


def test_one_slow_batch_changes_little() -> None:
    pace = Pace(32, {32: 1.0})
    pace.note(32, 1000.0)
    assert full(pace) < 2.0


def test_uneven_batches_are_promised_later_than_their_mean() -> None:
    chance = random.Random(1)
    even, uneven = Pace(8, {1: 1.0, 8: 1.0}), Pace(8, {1: 1.0, 8: 1.0})
    taken = [max(0.1, chance.gauss(1.0, 0.2)) for _ in range(2000)]
    later = 0
    for seconds in taken:
        later += seconds > uneven.seconds(1)
        even.note(8, 1.0)
        uneven.note(8, seconds)
    assert full(even) == pytest.approx(1.0)
    assert later / len(taken) < 0.12  # 0.055 by the normal distribution; mean and deviation are estimates
    assert full(uneven) < 1.7


def test_waiting_for_the_loop_does_not_count_for_each_row() -> None:
    pace = Pace(32, {1: 0.005, 32: 0.06})
    for _ in range(100):  # an image alone, after which the loop took 0.1 s
        pace.note(1, 0.005, between=0.1)
    assert full(pace) == pytest.approx(0.16, rel=1e-3)


def test_the_estimate_comes_back_after_batches_that_stalled() -> None:
    pace = Pace(32, {1: 0.005, 32: 0.06})
    for rows in (32, 32, 1, 1):
        pace.note(rows, 1.0, between=0.1)
    assert full(pace) > 0.4
    for _ in range(40):  # only images alone are admitted now
        pace.note(1, 0.005, between=0.04)
    assert full(pace) < 2 * (0.06 + 0.04)


def test_without_measurements_the_first_batch_counts() -> None:
    pace = Pace(10)
    pace.note(2, 4.0)
    assert full(pace) == pytest.approx(20.0)
    pace.note(2, 0.0)
    assert full(pace) > 0


@dataclass
class Stopwatch:
    """A clock that only computing moves, and a version for which batches of so many rows take so long."""

    seconds: Callable[[int], float]
    now: float = 0.0
    sizes: list[int] = field(default_factory=list)
    targets: tuple[str, ...] = ("low", "mid")
    asked: list[Any] = field(default_factory=list)

    def prepare(self, image: bytes, target: str | None) -> object:
        assert image.startswith(b"\x89PNG")
        self.asked.append(target)
        return object()

    def answer_rows(self, rows: Sequence[object]) -> list[object]:
        self.sizes.append(len(rows))
        self.now += self.seconds(len(rows))
        return [*rows]

    def calibrated(self, max_batch: int | None = None) -> Pace:
        return calibrate(self, max_batch, [lambda: self.now])  # type: ignore[arg-type]


def test_the_smallest_batch_near_the_best_throughput_is_taken() -> None:
    watch = Stopwatch(lambda rows: 0.010 + 0.001 * rows)
    assert watch.calibrated().max_batch == 64
    assert watch.asked == ["low", "mid"]
    assert Stopwatch(lambda rows: 0.001 + 0.001 * rows).calibrated().max_batch == 8
    assert Stopwatch(lambda rows: 0.001 * rows).calibrated().max_batch == 1


def test_other_work_on_the_machine_does_not_make_batches_small() -> None:
    watch = Stopwatch(lambda rows: 0.002 + 0.0001 * rows)  # of the processor; what passes is ten times that above 3 ms

    def passing() -> float:
        return watch.now * (10 if watch.sizes and watch.sizes[-1] > 8 else 1)

    assert calibrate(watch, None, [passing, lambda: watch.now]).max_batch == 64  # type: ignore[arg-type]


def test_one_slow_try_does_not_make_batches_small() -> None:
    watch = Stopwatch(lambda rows: 0.6 if len(watch.sizes) == 2 else 0.010 + 0.001 * rows)  # the first that is timed
    assert watch.calibrated().max_batch == 64


def test_a_slow_first_pass_does_not_make_batches_small() -> None:
    watch = Stopwatch(lambda rows: 5.0 if len(watch.sizes) == 1 else 0.010 + 0.001 * rows)  # libraries get ready
    assert watch.calibrated().max_batch == 64


def test_the_first_pass_of_a_slow_version_is_a_try() -> None:
    watch = Stopwatch(lambda rows: 0.28 * rows)
    watch.calibrated()
    assert watch.sizes == [1, 1]


def test_slow_versions_are_not_tried_in_large_batches() -> None:
    watch = Stopwatch(lambda rows: 0.2 * rows)
    assert watch.calibrated().max_batch == 1
    assert max(watch.sizes) == 8


def test_a_given_size_is_kept_and_timed() -> None:
    watch = Stopwatch(lambda rows: 0.001 + 0.001 * rows)
    pace = watch.calibrated(12)
    assert (pace.max_batch, full(pace)) == (12, pytest.approx(0.013))
    assert set(watch.sizes) == {1, 8, 12}


def test_a_start_calibrates_in_the_thread_that_computes() -> None:
    scheduler, controls = Scheduler(), Controls()
    scheduler.start(together(controls))
    assert controls.began == ["ulora-compute"]
    assert {len(batch) for batch in controls.batches} <= set(SIZES)
    assert scheduler.max_batch in SIZES
    scheduler.close(60)


def test_a_version_that_cannot_be_timed_is_served_all_the_same() -> None:
    scheduler, controls = Scheduler(), Controls()

    class Fails(TogetherEcho):
        def prepare(self, image: bytes, target: str | None = None) -> Any:
            if image.startswith(b"\x89PNG"):
                raise RuntimeError("it takes leaves only")
            return super().prepare(image, target)

    version = Fails("v1.0.0", "", b"", controls=controls)
    scheduler.start(version)
    assert scheduler.predict(routed(version), b"leaf").version == "v1.0.0"
    scheduler.close(60)
