"""Files that a running replica reads again when they change: tokens and certificates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

_LOOK_EVERY = 1.0
"""Seconds between two looks."""
_State = tuple[tuple[int, ...] | None, ...]


class WatchedFiles:
    """Tells when one of several files has become another. It is looked at only when somebody asks."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """What the files are now is not news."""
        self._paths = tuple(paths)
        self._seen: _State | None = self._state()
        self._next_look = time.monotonic() + _LOOK_EVERY

    def have_changed(self) -> bool:
        """Whether they have changed since it was asked last; False if that was just now."""
        now = time.monotonic()
        if not self._paths or now < self._next_look:
            return False
        self._next_look = now + _LOOK_EVERY
        seen, self._seen = self._seen, self._state()
        return seen != self._seen

    def look_soon(self) -> None:
        """Count them as changed at the next look, which is the next question."""
        self._seen = None
        self._next_look = 0.0

    def _state(self) -> _State:
        return tuple(map(_state_of, self._paths))


def _state_of(path: Path) -> tuple[int, ...] | None:
    """Tells one state of a file from another; None if there is none."""
    try:
        about = path.stat()
    except OSError:
        return None
    return (about.st_ino, about.st_mtime_ns, about.st_size)
