"""`reconcile --watch`: the same again and again, through outages, until somebody says stop."""

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

Result = TypeVar("Result")
_LONGEST_PAUSE = 60.0
"""Seconds between tries in a long outage, unless `every` is longer."""
_SETTLED = timedelta(minutes=1)
_ENDING = 10.0
"""Seconds that the end of a `Watch` waits for a round; after that it goes on behind our back and can do no harm."""
_THOROUGH = 30
"""Of so many rounds one looks at every version and the whole logs, whether or not there seems to be anything new."""


@dataclass(frozen=True)
class Pace:
    """When to look again.

    Attributes:
        every: seconds between two rounds.
        stop: once set, the loop ends after the round that runs.
        wake: once set, the next round begins at once, also in an outage.
    """

    every: float = 10.0
    stop: threading.Event = field(default_factory=threading.Event)
    wake: threading.Event = field(default_factory=threading.Event)

    def end(self) -> None:
        """Stop, and do not wait for the pause to be over."""
        self.stop.set()
        self.wake.set()


class Watch:
    """Reconciles in a thread of its own. A context manager; at its end the round that runs is waited for."""

    def __init__(self, reconciler: Reconciler, pace: Pace, done: Callable[[Reconciled], None]) -> None:
        self._pace = pace
        self._thread = threading.Thread(
            target=keep_reconciled, args=(reconciler, pace, done, _say_nothing), name="ulora-watch", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._pace.end()
        self._thread.join(_ENDING)


def _say_nothing(error: Exception, pause: float) -> None:
    """A server that is away is no news where nobody looks."""


def keep_reconciled(
    reconciler: Reconciler,
    pace: Pace,
    done: Callable[[Reconciled], None],
    failed: Callable[[Exception, float], None],
) -> None:
    """Reconcile until `pace.stop`, one round at a time: thoroughly at first, after an outage, when there are other
    versions than before, and now and then; else by a glance at requests, stages and aliases.

    What was created within the last minute is left to its creator, who logs it in MLflow right now.

    Args:
        done: told what a round did.
        failed: told of a failure and the seconds to the next try.
    """
    seen: list[VersionName] = []

    def look(rounds: int) -> Reconciled:
        names = reconciler.bindings.settled(_SETTLED)
        if rounds % _THOROUGH and names == seen:
            return reconciler.glance()
        reconciled = replace(reconciler, names=lambda: names).reconcile()
        seen[:] = names
        return reconciled

    keep_doing(look, pace, done, failed)


def keep_doing(
    act: Callable[[int], Result],
    pace: Pace,
    done: Callable[[Result], None],
    failed: Callable[[Exception, float], None],
) -> None:
    """Call `act` with the number of rounds since the start or the last failure, one at a time.

    Failures in a row make the pauses longer, up to a minute or `every`. Errors that are none of this package's are
    failures too: what runs for weeks must not end for a surprise. What can't be meant ends the first round.

    Args:
        done: told what a round did.
        failed: told of a failure and the seconds to the next try.
    """
    rounds, failures = 0, 0
    while not pace.stop.is_set():
        pace.wake.clear()
        try:
            done(act(rounds))
            rounds, failures = rounds + 1, 0
            pause = pace.every
        except Exception as error:
            if isinstance(error, BadInput) and not rounds and not failures:
                raise
            rounds, failures = 0, failures + 1
            pause = min(pace.every * 2.0**failures, max(_LONGEST_PAUSE, pace.every))
            failed(error, pause)
        if not pace.stop.is_set():
            pace.wake.wait(pause)
