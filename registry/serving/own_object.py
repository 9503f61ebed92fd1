"""An object of the store that one process writes again and again, and nobody else."""

from __future__ import annotations

import os
import random
import re
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from registry.errors import StoreDenied
from registry.formats.document import Document
from registry.machine import clock
from registry.store.objects import ObjectStore

_LONGEST_PAUSE = 300.0
"""Seconds at most between two tries to write what the store refuses."""


class OwnObject:
    """Writes a document on every change and every few seconds; at the end it is deleted, or written once more.

    It has its own thread, so that a slow write delays neither following nor answering. While writes are denied, the
    replica serves on without it and `note` says so. It tries again after growing pauses, because the cause may pass: a
    token that has expired, a clock that was wrong.

    Attributes:
        note: why it is not written; empty if it is.
        written: when it was written last, UTC, ISO 8601; empty before that.
    """

    def __init__(
        self, store: ObjectStore, key: str, what: str, every: Callable[[], float], *, is_kept: bool = False
    ) -> None:
        """Args:
        what: what it holds, in the plural, for people.
        every: returns the seconds until the next write while nothing changes.
        is_kept: whether it stays after the end.
        """
        self._store = store
        self._key = key
        self._what = what
        self._every = every
        self._is_kept = is_kept
        self._due = threading.Event()
        self._retry = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._denied = 0
        self.note = self.written = ""

    def begin(self, make: Callable[[], Document]) -> None:
        """Start writing what `make` returns."""
        name = f"ulora-{self._what}"
        self._thread = threading.Thread(target=self._run, args=(make,), name=name, daemon=True)
        self._thread.start()

    def changed(self) -> None:
        """Write now, because something changed."""
        self._due.set()

    def retry_now(self) -> None:
        """Write now, even after denied writes: the store answers again."""
        self._retry.set()
        self._due.set()

    def stop(self) -> None:
        """Begin to write no more; `close` waits for it."""
        self._closing.set()
        self._retry.set()
        self._due.set()

    def close(self, timeout: float = 5.0) -> None:
        """Delete it or write it once more; returns when that is done, or after `timeout` seconds."""
        self.stop()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self, make: Callable[[], Document]) -> None:
        while not self._closing.is_set():
            self._due.clear()
            self._retry.clear()
            if self._closing.is_set():
                break
            self._write(make)
            self._pause()
        if self._is_kept:
            self._write(make)
        else:
            with suppress(Exception):
                self._store.delete(self._key)

    def _write(self, make: Callable[[], Document]) -> None:
        try:
            self._store.overwrite(self._key, make().to_bytes())
            self.note, self.written, self._denied = "", clock.timestamp(), 0
        except StoreDenied as error:
            self.note, self._denied = f"no {self._what}: {error}"[:500], self._denied + 1
        except Exception as error:  # of any kind: it is tried again
            self.note = f"the last {self._what} were not written: {error}"[:500]

    def _pause(self) -> None:
        """Wait until the next write is due; after denied writes longer, and also if something changes."""
        pause = self._every() * random.uniform(0.9, 1.1)  # noqa: S311  spreads the load, no secret
        if self._denied:
            self._retry.wait(max(pause, min(_LONGEST_PAUSE, pause * 2 ** min(self._denied - 1, 20))))
        else:
            self._due.wait(pause)


def new_replica_id() -> str:
    """An id that no other replica has."""
    host = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower())[:60]
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
