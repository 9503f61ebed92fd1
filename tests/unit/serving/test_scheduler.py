"""Images of all callers are computed together, in order, in time, and in bounded memory."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from registry.errors import BadInput, Expired, Overloaded, ReplicaClosed
from registry.serving import precedence
from registry.serving.pace import Pace
from registry.serving.precedence import LoopPrecedence
from registry.serving.scheduler import AdmittedRow, Scheduler
from tests.support.batch_flavor import NO_FILE, NO_IMAGE, POISON, SIZE, Controls, routed, together
from tests.support.echo_releases import Echo, wait_until

LONG = 600.0
"""Seconds: a deadline that no test reaches."""


@pytest.fixture
def controls() -> Iterator[Controls]:
    controls = Controls()
    yield controls
    controls.reading.set()
    controls.computing.set()


@pytest.fixture
def scheduler(controls: Controls) -> Iterator[Scheduler]:
    scheduler = Scheduler(max_batch=4)
    scheduler.start()
    yield scheduler
    controls.reading.set()
    controls.computing.set()
    scheduler.close(60)


class Held:
    """A batch of one that is being computed, while others can be queued."""

    def __init__(self, scheduler: Scheduler, controls: Controls) -> None:
        self._scheduler, self._controls = scheduler, controls

    def __enter__(self) -> Held:
        self._controls.computing.clear()
        self._controls.at_work.clear()
        self.first = self._scheduler.submit(routed(together(self._controls)), b"first", None, LONG).future
        assert self._controls.at_work.wait(60)
        return self

    def all_read(self) -> None:
        """Wait until every image that waits was read."""
        wait_until(lambda: all(row.prepared for row in list(self._scheduler._waiting)))

    def __exit__(self, *_: object) -> None:
        self._controls.computing.set()


def ask(scheduler: Scheduler, controls: Controls, *images: bytes, version: str = "v1.0.0") -> list:
    return [scheduler.submit(routed(together(controls, version)), image, None, LONG).future for image in images]


# --- batches ---------------------------------------------------------------------------------------------------------


def test_what_waits_is_computed_together_in_order(scheduler: Scheduler, controls: Controls) -> None:
    with Held(scheduler, controls) as held:
        futures = ask(scheduler, controls, b"a", b"b", b"c", b"d", b"e")
        held.all_read()
    assert [future.result(60).answer for future in futures] == [
        together(controls).predict(image).answer for image in (b"a", b"b", b"c", b"d", b"e")
    ]
    assert controls.batches == [[b"first"], [b"a", b"b", b"c", b"d"], [b"e"]]


def test_an_image_that_waits_alone_is_computed_alone(scheduler: Scheduler, controls: Controls) -> None:
    for image in (b"a", b"b"):
        assert scheduler.predict(routed(together(controls)), image).version == "v1.0.0"
    assert controls.batches == [[b"a"], [b"b"]]


def test_one_pass_answers_rows_of_several_versions(scheduler: Scheduler, controls: Controls) -> None:
    with Held(scheduler, controls) as held:
        futures = [*ask(scheduler, controls, b"a"), *ask(scheduler, controls, b"a", version="v2.0.0")]
        held.all_read()
    assert [future.result(60) for future in futures] == [
        together(controls, name).predict(b"a") for name in ("v1.0.0", "v2.0.0")
    ]
    assert controls.batches[1:] == [[b"a", b"a"]]


def test_a_flavor_without_batches_is_asked_row_by_row(scheduler: Scheduler, controls: Controls) -> None:
    plain = Echo("v1.0.0", "", b"plain")
    with Held(scheduler, controls) as held:
        futures = [scheduler.submit(routed(plain), image, None, LONG).future for image in (b"a", b"b")]
        futures += ask(scheduler, controls, b"c")
        held.all_read()
    assert [future.result(60) for future in futures[:2]] == plain.predict([b"a", b"b"])
    assert futures[2].result(60) == together(controls).predict(b"c")
    assert scheduler.predict(routed(plain), [b"a", b"b"], ["low", None]) == plain.predict([b"a", b"b"])


def test_one_thread_computes_and_is_set_up_once(scheduler: Scheduler, controls: Controls) -> None:
    for _ in range(3):
        scheduler.predict(routed(together(controls)), b"a")
    assert controls.began == ["ulora-compute"]


def test_a_poisonous_image_costs_no_other_its_answer(scheduler: Scheduler, controls: Controls) -> None:
    with Held(scheduler, controls) as held:
        before, poison, after = ask(scheduler, controls, b"a", POISON, b"b")
        held.all_read()
    assert [before.result(60), after.result(60)] == together(controls).predict([b"a", b"b"])
    with pytest.raises(MemoryError):
        poison.result(60)
    assert controls.batches[1:] == [[b"a", POISON, b"b"], [b"a"], [POISON], [b"b"]]
    assert scheduler.predict(routed(together(controls)), b"c").version == "v1.0.0"


def test_an_image_is_not_tried_again_after_its_deadline(controls: Controls) -> None:
    version, scheduler = together(controls), Scheduler(max_batch=4)
    late, poison, other = (
        AdmittedRow(routed(version), image, None, expires, 0, 0.0, version.prepare(image))
        for image, expires in ((b"a", 0.0), (POISON, math.inf), (b"b", math.inf))
    )
    scheduler.computer.compute([late, poison, other], lambda count: 0.001)
    scheduler.computer.give([late, poison, other], lambda: True)
    assert isinstance(late.future.exception(), Expired)
    assert isinstance(poison.future.exception(), MemoryError)
    assert other.future.result() == version.predict(b"b")
    assert controls.batches == [[b"a", POISON, b"b"], [POISON], [b"b"]]


def rows_that_expire_in(*seconds: float, controls: Controls) -> list[AdmittedRow]:
    version, now = together(controls), time.monotonic()
    return [AdmittedRow(routed(version), b"a", None, now + one, 0, now, version.prepare(b"a")) for one in seconds]


def test_what_would_be_late_gives_way_to_what_is_in_time(controls: Controls) -> None:
    scheduler = Scheduler(max_batch=4)
    scheduler._pace = Pace(4, {4: 100.0})
    late, in_time = rows_that_expire_in(40.0, 900.0, controls=controls)
    scheduler._answer([late, in_time])
    assert isinstance(late.future.exception(), Expired)
    assert in_time.future.result().version == "v1.0.0"
    assert controls.batches == [[b"a"]]


def test_a_slow_estimate_never_ends_all_computing(controls: Controls) -> None:
    scheduler = Scheduler(max_batch=4)
    scheduler._pace = Pace(4, {4: 1e6})
    for _ in range(100):
        rows = rows_that_expire_in(-1.0, 90.0, 90.0, controls=controls)
        scheduler._answer(rows)
        assert [row.future.exception() is None for row in rows] == [False, True, True]
    assert scheduler._pace.seconds(4) < 90.0  # it is corrected by what is computed


def test_a_missing_answer_is_an_error(scheduler: Scheduler, controls: Controls) -> None:
    controls.missing = 1
    with pytest.raises(RuntimeError, match=r"v1\.0\.0 gave 0 answers for 1 images"):
        scheduler.predict(routed(together(controls)), b"a")


def test_no_image_is_answered_without_computing(scheduler: Scheduler, controls: Controls) -> None:
    assert scheduler.predict(routed(together(controls)), NO_IMAGE).outcome == "corrupt_image"
    assert controls.batches == []


def test_slow_reading_counts_as_a_slow_batch(
    scheduler: Scheduler, controls: Controls, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[float] = []
    monkeypatch.setattr(scheduler._pace, "note", lambda rows, seconds, between: noted.append(seconds))
    with Held(scheduler, controls):
        controls.reading.clear()
        (future,) = ask(scheduler, controls, b"a")
    wait_until(lambda: noted)
    began = time.monotonic()
    wait_until(lambda: time.monotonic() > began)
    waited = time.monotonic() - began
    controls.reading.set()
    future.result(60)
    wait_until(lambda: len(noted) == 2)
    assert noted[1] >= waited > 0


# --- admission -------------------------------------------------------------------------------------------------------


def test_an_image_is_admitted_if_it_will_be_in_time(scheduler: Scheduler, controls: Controls) -> None:
    scheduler._pace = Pace(4, {4: 100.0})  # seconds
    with Held(scheduler, controls):
        for _ in range(4):
            ask(scheduler, controls, b"a")
        scheduler.check_admission(200.0)  # one batch before it, and its own
        ask(scheduler, controls, b"a")
        with pytest.raises(Overloaded, match="5 images wait") as caught:
            scheduler.submit(routed(together(controls)), b"late", None, 200.0)
        assert caught.value.retry_after == 60  # no client is sent away for longer
        with pytest.raises(Overloaded) as caught:
            scheduler.submit(routed(together(controls)), b"late", None, 299.5)
        assert caught.value.retry_after == 1
        assert scheduler.queued == 5
        scheduler.check_admission(300.0)


def test_an_idle_replica_takes_whatever_comes(scheduler: Scheduler, controls: Controls) -> None:
    scheduler._pace = Pace(4, {4: 100.0})
    assert scheduler.submit(routed(together(controls)), b"a", None, 1.0)
    wait_until(lambda: controls.batches)


def test_batches_are_smaller_while_the_loop_goes_first(
    scheduler: Scheduler, controls: Controls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precedence, "_RECENT", 300.0)
    loop = asyncio.new_event_loop()
    with Held(scheduler, controls) as held:
        futures = ask(scheduler, controls, b"a", b"b", b"c", b"d")
        held.all_read()
        loop.close()
        scheduler.precedence.refused(loop)
    assert all(future.result(60) for future in futures)
    assert controls.batches[1:] == [[b"a", b"b"], [b"c", b"d"]]


def test_threads_that_read_and_compute_ask_who_goes_first(scheduler: Scheduler, controls: Controls) -> None:
    asked: list[str] = []

    class Asked(LoopPrecedence):
        def wait(self) -> None:
            asked.append(threading.current_thread().name)
            super().wait()

        def give_way(self) -> float:
            asked.append(threading.current_thread().name)
            return super().give_way()

    scheduler.precedence = Asked()
    for _ in range(2):
        scheduler.predict(routed(together(controls)), b"a")
    wait_until(lambda: "ulora-compute" in asked)
    assert any(name.startswith("ulora-read-") for name in asked)


def test_a_batch_that_hangs_refuses_others_at_once(scheduler: Scheduler, controls: Controls) -> None:
    def is_refused() -> bool:
        try:
            scheduler.check_admission(0.05)
        except Overloaded:
            return True
        return False

    with Held(scheduler, controls):
        wait_until(is_refused)
        assert scheduler.busy_seconds > 0.05
    wait_until(lambda: scheduler.busy_seconds == 0)


def test_a_caller_without_a_deadline_is_never_refused(scheduler: Scheduler, controls: Controls) -> None:
    scheduler._pace = Pace(4, {4: 1e6})
    with ThreadPoolExecutor(1) as pool:
        with Held(scheduler, controls):
            ask_long = pool.submit(scheduler.predict, routed(together(controls)), [b"a"] * 100)
            wait_until(lambda: scheduler.queued == 2 * scheduler.max_batch)  # there is room for others
        assert len(ask_long.result(60)) == 100


def test_what_expired_while_it_waited_is_not_computed(scheduler: Scheduler, controls: Controls) -> None:
    controls.reading.clear()
    future = scheduler.submit(routed(together(controls)), b"late", None, 0.001).future
    row = next(iter(scheduler._waiting))
    wait_until(lambda: time.monotonic() > row.expires)
    controls.reading.set()
    with pytest.raises(Expired):
        future.result(60)
    assert controls.batches == []


def test_a_hanging_computation_holds_no_deadline_up(scheduler: Scheduler, controls: Controls) -> None:
    controls.computing.clear()
    with pytest.raises(Expired):
        scheduler.predict(routed(together(controls)), b"a", deadline=0.01)


def test_a_cancelled_image_is_not_computed(scheduler: Scheduler, controls: Controls) -> None:
    with Held(scheduler, controls) as held:
        gone, stays = ask(scheduler, controls, b"gone", b"stays")
        held.all_read()
        assert gone.cancel()
        assert scheduler.queued == 1
        assert not held.first.cancel()
    assert stays.result(60).version == "v1.0.0"
    assert controls.batches == [[b"first"], [b"stays"]]
    wait_until(lambda: scheduler.budget.taken == 0)


def test_a_list_that_fails_leaves_nothing_in_the_queue(scheduler: Scheduler, controls: Controls) -> None:
    with Held(scheduler, controls), pytest.raises(BadInput, match="no such file"):
        scheduler.predict(routed(together(controls)), [NO_FILE, b"a", b"b"])
    wait_until(lambda: scheduler.queued == 0)


def test_bad_arguments_raise_as_a_version_does(scheduler: Scheduler, controls: Controls) -> None:
    version = together(controls)
    with pytest.raises(TypeError):
        scheduler.predict(routed(version), 7)
    with pytest.raises(BadInput, match="2 images but 1 targets"):
        scheduler.predict(routed(version), [b"a", b"b"], ["low"])
    assert scheduler.predict(routed(version), []) == []


# --- memory ----------------------------------------------------------------------------------------------------------


def test_the_images_that_wait_have_bounded_memory(controls: Controls) -> None:
    scheduler = Scheduler(max_batch=4, waiting_bytes=100)
    scheduler.start()
    with Held(scheduler, controls):
        assert scheduler.budget.taken == SIZE  # pixels, no more the image
        ask(scheduler, controls, b"x" * 80)
        wait_until(lambda: scheduler.budget.taken == 2 * SIZE)
        with pytest.raises(Overloaded, match="wait hold"):
            ask(scheduler, controls, b"x" * 90)
        with ThreadPoolExecutor(1) as pool:
            # A caller in this process has the image in memory anyway.
            answer = pool.submit(scheduler.predict, routed(together(controls)), b"x" * 1000)
            wait_until(lambda: scheduler.queued == 2)
            controls.computing.set()
            assert answer.result(60).version == "v1.0.0"
    scheduler.close(60)
    assert scheduler.budget.taken == 0


def test_a_row_that_finds_no_memory_is_refused(controls: Controls) -> None:
    scheduler = Scheduler(max_batch=4, waiting_bytes=SIZE + 5)
    scheduler.start()
    with Held(scheduler, controls), pytest.raises(Overloaded):
        ask(scheduler, controls, b"a")[0].result(60)
    scheduler.close(60)
    assert scheduler.budget.taken == 0


def test_hundreds_of_versions_leave_nothing_behind(scheduler: Scheduler, controls: Controls) -> None:
    threads = threading.active_count()
    left = []
    gc.disable()  # a version's memory is free at once
    try:
        for number in range(300):
            version = together(controls, f"v{number}.0.0")
            assert scheduler.predict(routed(version), b"a").version == version.version
            left.append(weakref.ref(version))
        del version
        wait_until(lambda: not any(each() for each in left))
    finally:
        gc.enable()
    assert threading.active_count() <= threads  # one that another test has left may end meanwhile


# --- the end ---------------------------------------------------------------------------------------------------------


def test_closing_answers_what_was_admitted(controls: Controls) -> None:
    scheduler = Scheduler(max_batch=4)
    scheduler.start()
    with ThreadPoolExecutor(2) as pool:
        with Held(scheduler, controls):
            listed = pool.submit(scheduler.predict, routed(together(controls)), [b"a"] * 50)
            wait_until(lambda: scheduler.queued == 8)
            closed = pool.submit(scheduler.close, 60)
            wait_until(lambda: scheduler._closing)
            with pytest.raises(ReplicaClosed):
                scheduler.predict(routed(together(controls)), b"late")
        assert len(listed.result(60)) == 50
        closed.result(60)
    for thread in (scheduler._thread, *scheduler._readers):
        thread.join(60)
        assert not thread.is_alive()


def test_closing_waits_for_no_computation_that_hangs(controls: Controls) -> None:
    scheduler = Scheduler(max_batch=4)
    scheduler.start()
    with Held(scheduler, controls) as held:
        (left,) = ask(scheduler, controls, b"a")
        scheduler.close(0.01)
        with pytest.raises(ReplicaClosed):
            left.result(60)
        assert not held.first.done()
    scheduler._thread.join(60)
    assert not scheduler._thread.is_alive()


def test_a_scheduler_that_was_not_started_can_be_closed() -> None:
    Scheduler().close(1)
