"""The demo's other processes: the replica that serves, commands as a person would type them, fits."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import ClassVar

from registry.devstack.servers import HOST, Server, free_port, request_status
from registry.errors import LoadFailed, MissingDependency, UloraError

TRAINERS = "ulora.trainers"
"""The entry point group that maps a flavor to the module that fits it; see `adapters.demo` for what it can be told."""
_COMMAND_SECONDS = 120


class Replica(Server):
    """`ulora serve` on a channel, in a process of its own."""

    name: ClassVar[str] = "serve"
    failure: ClassVar[type[UloraError]] = LoadFailed

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        super().__init__(folder, free_port())
        self._env = dict(env)

    @property
    def env(self) -> dict[str, str]:
        """Nothing: clients need its address only."""
        return {}

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "registry", "serve", "--host", HOST, "--port", str(self.port)]

    def _child_env(self) -> dict[str, str]:
        return self._env

    def _answers(self) -> bool:
        return request_status(self.port, "GET", "/health") == http.client.OK


@dataclass(frozen=True)
class Finished:
    """A command that has ended: what it was, its exit status, what it printed."""

    line: str
    code: int
    out: str
    err: str


def ulora(*words: str, env: Mapping[str, str], cwd: Path) -> Finished:
    """Run an `ulora` command as a person would, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "registry", *words],
        env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=_COMMAND_SECONDS, check=False,
    )  # fmt: skip
    return Finished(" ".join(["ulora", *words]), done.returncode, done.stdout, done.stderr)


class Fit:
    """A fit that runs in a process of its own, on one core. `progress` says how far it is."""

    def __init__(self, flavor: str, words: list[str], env: Mapping[str, str], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / f"fit-{len(list(folder.iterdir()))}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _trainer(flavor), *words],
                env=dict(env), cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                process_group=0,
            )  # fmt: skip
        self.progress = "starting"
        self._reader = threading.Thread(target=self._read, name="demo-fit", daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        """Whether it still fits."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Return when it is done.

        Raises:
            UloraError: it failed; the message is its own.
        """
        self._reader.join()
        if self._process.wait() != 0:
            lines = self._log.read_text("utf-8", "replace").strip().splitlines() or ["it said nothing"]
            raise UloraError(f"a fit failed: {lines[-1][:500]}", hint=f"see {self._log}")

    def stop(self) -> None:
        """End it now, if it still runs."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        with suppress(OSError):
            self._process.communicate()

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101  a pipe was asked for
        for line in self._process.stdout:
            stage, done, total = line.split()
            self.progress = f"{stage} {done} of {total}"


def _trainer(flavor: str) -> str:
    for point in entry_points(group=TRAINERS, name=flavor):
        return point.module
    raise MissingDependency(
        f"nothing is installed that fits versions of flavor {flavor}", hint="pip install 'ulora-registry[demo]'"
    )


def isolated_env(own: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `own`, without anybody's credentials and settings. No proxy for loopback."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "ULORA_", "MLFLOW_"))}
    away = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), HOST, "localhost"]))
    quiet = {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "NO_PROXY": away,
        "no_proxy": away,
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    return {**kept, **quiet, **own}
