"""`reconcile --watch`: reconcile again and again until stopped, also through outages."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Self, TypeVar

from registry.answers import Reconciled
from registry.catalog.reconciler import Reconciler
from registry.errors import BadInput
from registry.names import VersionName

T = TypeVar("T")
_MAX_PAUSE = 60.0
"""Seconds between tries in a long outage, unless `every` is longer."""
_SETTLED = timedelta(minutes=1)
_CLOSE_SECONDS = 10.0
"""Seconds that the end of a `Watch` waits for a running round. One that takes longer goes on, which is harmless."""
_FULL_EVERY = 30
"""After so many rounds there is a full one, which reads every version and the whole logs, even if nothing is new."""


@dataclass(frozen=True)
class LoopControl:
    """When a loop runs its next round, and when it ends.

    Attributes:
        every: seconds between two rounds.
        stop: once set, the loop ends after the running round.
        wake: once set, the next round begins at once, also in an outage.
    """

    every: float = 10.0
    stop: threading.Event = field(default_factory=threading.Event)
    wake: threading.Event = field(default_factory=threading.Event)

    def end(self) -> None:
        """Stop, without waiting for the end of the pause."""
        self.stop.set()
        self.wake.set()


class Watch:
    """A context manager that reconciles in its own thread. At its end it waits for the running round."""

    def __init__(self, reconciler: Reconciler, control: LoopControl, done: Callable[[Reconciled], None]) -> None:
        self._control = control
        self._thread = threading.Thread(
            target=reconcile_repeatedly, args=(reconciler, control, done, _ignore), name="ulora-watch", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._control.end()
        self._thread.join(_CLOSE_SECONDS)


def _ignore(error: Exception, pause: float) -> None:
    """A `failed` that reports nothing."""


def reconcile_repeatedly(
    reconciler: Reconciler,
    control: LoopControl,
    done: Callable[[Reconciled], None],
    failed: Callable[[Exception, float], None],
) -> None:
    """Reconcile until `control.stop`. A round is a full one at first, after an outage, if there are new versions, and
    now and then; else a quick one.

    Versions that were created within the last minute are not logged: their creator is doing it.

    Args:
        done: called with the result of each round.
        failed: called with an error and the seconds until the next try.
    """
    seen: list[VersionName] = []

    def round_(number: int) -> Reconciled:
        settled = reconciler.bindings.settled(_SETTLED)
        if number % _FULL_EVERY and settled == seen:
            return reconciler.reconcile_quickly()
        reconciled = replace(reconciler, to_log=lambda: settled).reconcile()
        seen[:] = settled
        return reconciled

    repeat(round_, control, done, failed)


def repeat(
    act: Callable[[int], T],
    control: LoopControl,
    done: Callable[[T], None],
    failed: Callable[[Exception, float], None],
) -> None:
    """Call `act` until `control.stop`, with the number of rounds since the start or the last failure.

    After repeated failures the pauses become longer, up to a minute or `every`. Any exception is a failure, so that an
    unexpected error does not end a loop that runs for weeks. An invalid setting (`BadInput`) is raised in the first
    round.

    Args:
        done: called with the result of each round.
        failed: called with an error and the seconds until the next try.
    """
    rounds, failures = 0, 0
    while not control.stop.is_set():
        control.wake.clear()
        try:
            done(act(rounds))
            rounds, failures = rounds + 1, 0
            pause = control.every
        except Exception as error:
            if isinstance(error, BadInput) and not rounds and not failures:
                raise
            rounds, failures = 0, failures + 1
            pause = min(control.every * 2.0**failures, max(_MAX_PAUSE, control.every))
            failed(error, pause)
        if not control.stop.is_set():
            control.wake.wait(pause)
