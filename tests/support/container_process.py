"""A container's command as a process of this machine: its user, its variables, and a root folder that is read-only."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.support.pages import ROOT

VENV = "/opt/ulora"
"""Where the image has its environment of Python; here it is the one that runs the tests."""
_QUIET = {"OMP_NUM_THREADS": "1", "AWS_EC2_METADATA_DISABLED": "true"}
"""Of the tests alone: they share few cores, and there is no network."""


@dataclass(frozen=True)
class Container:
    """What a manifest says of one container.

    Attributes:
        command: its entry point and arguments.
        env: its variables, and no others.
        writable: the volumes that it may write to, by their paths in it; everything else is read-only.
        read_only: files and folders of the machine, and volumes by their names, that it sees, by their paths in it.
        check: the command by which an engine finds out whether it is healthy; may be empty.
        grace: seconds that it has to end after SIGTERM.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    user: int
    group: int
    writable: Mapping[str, str] = field(default_factory=dict)
    read_only: Mapping[str, Path | str] = field(default_factory=dict)
    folder: str = "/"
    check: tuple[str, ...] = ()
    grace: float = 30.0

    def at(self, addresses: Mapping[str, str]) -> Container:
        """The same with addresses of the test in the place of those in the manifest."""

        def here(text: str) -> str:
            for old, new in addresses.items():
                text = text.replace(old, new)
            return text

        return replace(
            self,
            command=tuple(map(here, self.command)),
            env={name: here(value) for name, value in self.env.items()},
            check=tuple(map(here, self.check)),
        )

    def having(self, **env: str) -> Container:
        """The same with more variables."""
        return replace(self, env={**self.env, **env})


class Containers:
    """Starts containers in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        """Skips the test where this user may not start any."""
        if os.geteuid() != 0:
            pytest.skip("only root may become another user")
        if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
            pytest.skip("mount namespaces are not allowed here")
        self._folder = folder
        self._volumes: dict[str, Path] = {}

    def volume(self, name: str, owner: int) -> Path:
        """A folder that outlives a container, as a volume does."""
        if name not in self._volumes:
            place = self._folder / "volumes" / name
            place.mkdir(parents=True)
            os.chown(place, owner, owner)
            self._volumes[name] = place
        return self._volumes[name]

    @contextmanager
    def running(self, container: Container) -> Iterator[Running]:
        """A container that goes on until the end of the block, where it is killed if it has not ended."""
        log = self._place("logs") / f"{container.name}-{len(list(self._place('logs').iterdir()))}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(self._line(container), stdout=out, stderr=out, start_new_session=True)
        try:
            yield Running(process, log, container)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def run(self, container: Container) -> subprocess.CompletedProcess[str]:
        """A container that ends by itself, and what it printed."""
        return subprocess.run(self._line(container), capture_output=True, text=True, timeout=1000, check=False)

    def check(self, container: Container) -> int:
        """The status of the command that looks whether a container is healthy, in a container like it."""
        assert container.check, f"{container.name} has no check"
        return self.run(replace(container, command=container.check)).returncode

    def _line(self, container: Container) -> list[str]:
        root = self._place("roots") / f"{container.name}-{len(list(self._place('roots').iterdir()))}"
        root.mkdir()
        places = {str(place): place for place in (ROOT, Path(sys.prefix), Path(sys.base_prefix))}
        places |= {VENV: Path(sys.prefix), **container.read_only}
        wanted = {
            "command": container.command,
            "env": {**_QUIET, **container.env},
            "user": container.user,
            "group": container.group,
            "folder": container.folder,
            "writable": {path: self._outside(name, container) for path, name in container.writable.items()},
            "read_only": {path: self._outside(place, container) for path, place in places.items()},
        }
        unshare = shutil.which("unshare")
        assert unshare
        enter = [sys.executable, "-m", "tests.support.enter_container", str(root), json.dumps(wanted)]
        return [unshare, "--mount", "--propagation", "private", *enter]

    def _outside(self, place: Path | str, container: Container) -> str:
        return str(place if isinstance(place, Path) else self.volume(place, container.user))

    def _place(self, name: str) -> Path:
        place = self._folder / name
        place.mkdir(parents=True, exist_ok=True)
        return place


@dataclass(frozen=True)
class Running:
    """A container that runs."""

    process: subprocess.Popen[bytes]
    log: Path
    container: Container

    def ended(self) -> bool:
        """Whether it has ended; nothing that is waited for comes then."""
        return self.process.poll() is not None

    def says(self) -> str:
        """What it has printed."""
        return self.log.read_text("utf-8", "replace")

    def stop(self) -> int:
        """End it as an engine does: SIGTERM, and its grace; its exit status.

        Raises:
            TimeoutExpired: an engine would have killed it.
        """
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(self.container.grace)
