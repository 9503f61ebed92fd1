"""The bytes that requests hold while they wait, bounded over all of them."""

from __future__ import annotations

import threading

from registry.errors import Overloaded


class ByteBudget:
    """Bytes that are taken and given back, by any thread. Nobody waits for them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._taken = 0
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """Bytes that are held now."""
        return self._taken

    def take(self, size: int, *, bounded: bool = True) -> None:
        """Take so many bytes; where it is not `bounded`, they count, but are never refused.

        Raises:
            Overloaded: more than the budget would be taken.
        """
        with self._lock:
            if bounded and self._taken + size > self.size:
                raise Overloaded(
                    f"the requests that wait hold {self._taken >> 20} MiB of memory, of {self.size >> 20} MiB allowed"
                )
            self._taken += size

    def give(self, size: int) -> None:
        """Give so many bytes back."""
        with self._lock:
            self._taken -= size


class HeldBytes:
    """The bytes that one request holds; leaving the `with` statement gives them back."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._held = 0

    def add(self, size: int) -> None:
        """Hold so many more.

        Raises:
            Overloaded: there are not so many left.
        """
        self._budget.take(size)
        self._held += size

    def release(self) -> None:
        """Give all of them back."""
        held, self._held = self._held, 0
        self._budget.give(held)

    def __enter__(self) -> HeldBytes:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
