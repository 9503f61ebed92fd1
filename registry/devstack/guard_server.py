"""The demo's guard: `ulora guard run` in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from registry.devstack.server import Server
from registry.errors import LoadFailed, UloraError

_SECONDS = 1.0
"""Between two looks: the demo has minutes, a real trial days."""
_WATCHING = b"watching production"


class GuardServer(Server):
    """`ulora guard run` on the channel production. It listens nowhere: it reads and writes the store only."""

    name: ClassVar[str] = "guard"
    failure: ClassVar[type[UloraError]] = LoadFailed
    port_count: ClassVar[int] = 0

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        super().__init__(folder)
        self._env = dict(env)

    @property
    def env(self) -> dict[str, str]:
        """Nothing: nobody talks to it."""
        return {}

    def _command(self) -> list[str]:
        watched = ["--channel", "production", "--every", str(_SECONDS)]
        return [sys.executable, "-m", "registry", "guard", "run", *watched]

    def _child_env(self) -> dict[str, str]:
        return self._env

    def _answers(self) -> bool:
        with suppress(OSError), self.log.open("rb") as log:
            log.seek(self._log_start)
            return _WATCHING in log.read()
        return False
