"""A flavor for tests of the scheduler: its versions answer rows together, and wait or fail on demand."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from registry.errors import BadInput
from registry.serving.loaders import Loaded
from registry.serving.routing import Route
from tests.support.echo_releases import Echo, EchoAnswer

SIZE = 10
"""Bytes of a row that was read."""
NO_IMAGE, POISON, NO_FILE = b"no image", b"poison", b"no file"
"""Images that get their answer when they are read, break the batch that they are in, and are refused."""


@dataclass
class Controls:
    """What the versions of a test share. Closed gates hold those that read, or the one that computes."""

    reading: threading.Event = field(default_factory=threading.Event)
    computing: threading.Event = field(default_factory=threading.Event)
    at_work: threading.Event = field(default_factory=threading.Event)
    batches: list[list[bytes]] = field(default_factory=list)
    began: list[str] = field(default_factory=list)
    missing: int = 0

    def __post_init__(self) -> None:
        self.reading.set()
        self.computing.set()


@dataclass(frozen=True)
class ReadRow:
    """A row of this flavor."""

    version: TogetherEcho
    image: bytes
    nbytes: int = SIZE
    answer: EchoAnswer | None = None


@dataclass(frozen=True, eq=False)
class TogetherEcho(Echo):
    """An echo version that answers batches."""

    controls: Controls = field(default_factory=Controls)

    def prepare(self, image: bytes, target: str | None = None) -> ReadRow:
        assert self.controls.reading.wait(300)
        if not isinstance(image, bytes):
            raise TypeError(f"an image is not a {type(image).__name__}")
        if image == NO_FILE:
            raise BadInput("there is no such file")
        corrupt = EchoAnswer(self.version, "", "corrupt_image")
        return ReadRow(self, image, SIZE, corrupt if image == NO_IMAGE else None)

    @staticmethod
    def answer_rows(rows: Sequence[Any]) -> list[Any]:
        controls = rows[0].version.controls
        controls.batches.append([row.image for row in rows])
        controls.at_work.set()
        assert controls.computing.wait(300)
        if any(row.image == POISON for row in rows):
            raise MemoryError("out of memory")
        return [row.version.predict(row.image) for row in rows][: len(rows) - controls.missing]

    def begin_computing(self) -> None:
        self.controls.began.append(threading.current_thread().name)


def together(controls: Controls, name: str = "v1.0.0") -> TogetherEcho:
    """A version of this flavor."""
    return TogetherEcho(name, "", name.encode(), controls=controls)


def routed(loaded: Loaded, **fields: Any) -> Route:
    """A request that this version answers; the rest are fields of `Route`."""
    return Route(loaded, "0" * 64, **fields)
