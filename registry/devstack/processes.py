"""The demo's short processes: commands as a person would type them, and fits."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from registry.devstack.ports import HOST
from registry.errors import UloraError
from registry.machine.programs import DEVNULL, PIPE, StillRuns, start
from registry.plugins import TRAINERS, entry_point

_COMMAND_SECONDS = 900
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Finished:
    """A command that has ended: what it was, its exit status, what it printed."""

    line: str
    code: int
    out: str
    err: str


def ulora(*words: str, env: Mapping[str, str], cwd: Path, check: Callable[[], None] = lambda: None) -> Finished:
    """Run an `ulora` command as a person would, in a process of its own.

    Args:
        check: called again and again while it runs; what it raises ends the command.

    Raises:
        UloraError: it took too long.
    """
    line = " ".join(["ulora", *words])
    deadline = time.monotonic() + _COMMAND_SECONDS
    with start(
        [sys.executable, "-m", "registry", *words],
        env=dict(env), cwd=cwd, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            while True:
                with suppress(StillRuns):
                    out, err = process.communicate(timeout=_POLL_SECONDS)
                    return Finished(line, process.returncode, out, err)
                check()
                if time.monotonic() > deadline:
                    raise UloraError(f"`{line}` took longer than {_COMMAND_SECONDS} s")
        finally:
            process.kill()


class FitProcess:
    """A fit that runs in a process of its own, on one core. `progress` says how far it is."""

    def __init__(self, flavor: str, words: list[str], env: Mapping[str, str], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / f"fit-{len(list(folder.iterdir()))}.log"
        with self._log.open("wb") as log:
            self._process = start(
                [sys.executable, "-m", entry_point(TRAINERS, flavor).module, *words],
                env=dict(env), cwd=folder, stdin=PIPE, stdout=PIPE, stderr=log, text=True,
                errors="replace", process_group=0,
            )  # fmt: skip
        self.progress = "starting"
        self._reader = threading.Thread(target=self._read, name="demo-fit", daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        """Whether it still fits."""
        return self._process.poll() is None

    def wait(self, check: Callable[[], None] = lambda: None) -> None:
        """Return when it is done.

        Args:
            check: called again and again meanwhile; what it raises ends the waiting.

        Raises:
            UloraError: it failed; the message is its own.
        """
        while self.running:
            with suppress(StillRuns):
                self._process.wait(_POLL_SECONDS)
            check()
        if self._process.returncode != 0:
            lines = self._log.read_text("utf-8", "replace").strip().splitlines() or ["it printed nothing"]
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
            # Libraries may print too. Every line is read: the fit would wait for ever on a full pipe.
            match line.split():
                case [stage, done, total] if done.isdigit() and total.isdigit():
                    self.progress = f"{stage} {done} of {total}"


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
