"""How commands react to Ctrl-C (SIGINT) and SIGTERM."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

_BOTH = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does, so that temporary folders, which may be large, are removed."""
    with _interrupted_by([signal.SIGTERM]):
        yield


@contextmanager
def interrupted_once() -> Iterator[None]:
    """Let Ctrl-C or SIGTERM interrupt the command; a second one is ignored, so that it can clean up."""
    with _interrupted_by(_BOTH):
        yield


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C or SIGTERM call `stop`; a second one interrupts at once."""

    def handle(number: int, frame: object) -> None:
        for each in _BOTH:
            signal.signal(each, signal.default_int_handler)
        stop()

    with _handled(_BOTH, handle):
        yield


@contextmanager
def lost_interrupts() -> Iterator[list[object]]:
    """The interrupts that came while C code could not pass them on, instead of a message of Python's about each.

    pydantic makes a document's checks when it is first read. Interrupted then, it goes on with a wrong pattern, and
    refuses documents that nothing is wrong with.
    """
    lost: list[object] = []
    before = sys.unraisablehook

    def note(unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            lost.append(unraisable.exc_type)
        else:
            before(unraisable)

    sys.unraisablehook = note
    try:
        yield lost
    finally:
        sys.unraisablehook = before


def wait_for_signal(look: Callable[[], None] = lambda: None, seconds: float = 3600.0) -> None:
    """Return when Ctrl-C or SIGTERM asks to stop. Meanwhile `look` is called, with a pause of `seconds`."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    try:
        while not stop.wait(seconds):
            look()
    except KeyboardInterrupt:
        click.echo("", err=True)


@contextmanager
def _interrupted_by(signals: Sequence[signal.Signals]) -> Iterator[None]:
    def interrupt(number: int, frame: object) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    with _handled(signals, interrupt):
        yield


@contextmanager
def _handled(signals: Sequence[signal.Signals], handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Install a handler, and the former ones afterwards. Does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.signal(each, handle) for each in signals]
    try:
        yield
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)
