"""Contenders that say themselves how long they took, in turns: for what needs preparation before each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.comparison import Times, say

TimedTurn = Callable[[], float]
"""One run of a contender; returns the milliseconds that count."""


def take_timed_turns(
    contenders: Mapping[str, TimedTurn], rounds: int, *, warm_up: int = 1, saying: str = ""
) -> dict[str, Times]:
    """Run contenders in turns, another one first in each round.

    Args:
        warm_up: how often each runs before, uncounted.
        saying: what is going on, told at each round; nothing if empty.

    Returns:
        Name -> its times, in the order of `contenders`.
    """
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        if saying:
            say(f"{saying}: round {number + 1} of {warm_up + rounds}")
        first = number % len(names)
        for name in names[first:] + names[:first]:
            took = contenders[name]()
            if number >= warm_up:
                times[name].append(took)
    return {name: Times(tuple(taken)) for name, taken in times.items()}
