"""The options of `ulora dashboard`. Nothing heavy is imported here, as the command line reads this module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from registry.errors import BadInput, no_folder

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class DashboardOptions:
    """How the dashboard is served, and what it may do.

    Attributes:
        allow_changes: whether channels may be changed from it; there is no login.
        data: the folder of the test images, for thumbnails of those that two versions answer differently.
    """

    host: str = "127.0.0.1"
    port: int = 8501
    allow_changes: bool = False
    data: Path | None = None

    def __post_init__(self) -> None:
        """Raises: BadInput: there is no such folder, or the port can't be one."""
        if self.data is not None and not self.data.is_dir():
            raise BadInput(no_folder(self.data), hint="--data is the folder that `ulora measure` got")
        if not 1 <= self.port <= 65535:
            raise BadInput(f"{self.port} is not a port", hint="give --port 1 to 65535")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in LOOPBACK

    @property
    def url(self) -> str:
        """Its address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"
