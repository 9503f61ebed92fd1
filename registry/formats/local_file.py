"""A file on this disk that can be opened for reading, however it is found."""

from __future__ import annotations

from typing import BinaryIO, Literal, Protocol


class LocalFile(Protocol):
    """A `Path`, or a file that is opened through its folder: see `registry.machine.source_folder`. Text of it (`str`)
    is its path, for people."""

    @property
    def name(self) -> str:
        """The last part of its path."""
        ...

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Open it for reading."""
        ...
