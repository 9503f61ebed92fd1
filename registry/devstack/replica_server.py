"""The demo's replica: `ulora serve` in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from registry.devstack.ports import HOST
from registry.devstack.server import Server
from registry.errors import LoadFailed, UloraError


class ReplicaServer(Server):
    """`ulora serve` on the channel production."""

    name: ClassVar[str] = "serve"
    failure: ClassVar[type[UloraError]] = LoadFailed

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        super().__init__(folder)
        self._env = dict(env)

    @property
    def env(self) -> dict[str, str]:
        """Nothing: clients need its address only."""
        return {}

    def _command(self) -> list[str]:
        # Its few clients wait: the demo shows what is answered also where other work holds up the machine.
        options = ["--deadline", "30", "--observe-every", "1"]
        return [sys.executable, "-m", "registry", "serve", "--host", HOST, "--port", str(self.port), *options]

    def _child_env(self) -> dict[str, str]:
        return self._env | {"ULORA_INSTANCE": self._instance}

    def _answers(self) -> bool:
        return self._repeats_instance("/health")
