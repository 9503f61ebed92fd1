"""Addresses of versions and their files: `ulora://MODEL/VERSION/path`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from registry.errors import BadInput
from registry.names import VersionName, check_model

SCHEME = "ulora"
MAX_ADDRESS = 8192
_FORM = re.compile(r"ulora:/{1,2}([^/?#]+)(/[^?#]*)?", re.DOTALL)
_HINT = "it is ulora://MODEL/VERSION or ulora://MODEL/VERSION/PATH; in a path, # is %23 and ? is %3F"


@dataclass(frozen=True)
class Address:
    """A place among the versions of a model.

    Attributes:
        parts: what comes after the model, as it was written: the version's name, then the parts of a path.
    """

    model: str
    parts: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address. Whether there is something is not looked at.

        Raises:
            BadInput: it has another form, or the model's name is invalid.
        """
        match = _FORM.fullmatch(text) if len(text) <= MAX_ADDRESS else None
        if match is None:
            raise BadInput(f"{text[:200]!r} is not an address of {SCHEME}", hint=_HINT)
        return cls(check_model(match[1]), _parts(match[2] or ""))

    def below(self, path: str | None) -> Address:
        """The address of a path below this one."""
        return Address(self.model, (*self.parts, *_parts(path or "")))

    @property
    def version(self) -> str:
        """The name of the version.

        Raises:
            BadInput: there is none.
            BadVersionName: it is none.
        """
        if not self.parts:
            raise BadInput(
                f"ulora://{self.model} names no version",
                hint=f"is a shell variable empty? {_HINT}; `ulora list` shows the versions",
            )
        return str(VersionName.parse(self.parts[0]))

    @property
    def path(self) -> str:
        """The path of a file or folder of the version; empty for the whole version."""
        return "/".join(self.parts[1:])

    def __str__(self) -> str:
        return "/".join((f"{SCHEME}://{self.model}", *self.parts))


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part)
