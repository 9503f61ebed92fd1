"""The user and password for an OCI registry from the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Self

from registry.errors import BadSetting
from registry.formats.header_values import check_header

USERNAME = "ULORA_OCI_USERNAME"
PASSWORD = "ULORA_OCI_PASSWORD"  # noqa: S105  the name of a variable


@dataclass(frozen=True)
class OciCredentials:
    """A user and password. Without them, docker's configuration has them or nobody."""

    username: str = ""
    password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """Raises: BadSetting: they can't be sent."""
        check_header(USERNAME, self.username, "utf-8")
        check_header(PASSWORD, self.password, "utf-8")

    @classmethod
    def from_environment(cls) -> Self:
        """What the environment says.

        Raises:
            BadSetting: it has only one of the two, or they can't be sent.
        """
        username, password = os.environ.get(USERNAME, ""), os.environ.get(PASSWORD, "")
        if bool(username) != bool(password):
            missing = USERNAME if password else PASSWORD
            raise BadSetting(f"{missing} is not set", hint=f"set both {USERNAME} and {PASSWORD}, or none")
        return cls(username, password)

    @property
    def is_given(self) -> bool:
        """Whether there are any."""
        return bool(self.username)
