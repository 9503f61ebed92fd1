"""The programs of rivals: where they are found, and how they are run.

They are installed beside this package, or in a folder of `pip install --target DIR NAME`. If one is missing, the result
says so, and the measurement goes on.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.errors import LoadFailed
from registry.machine.programs import PIPE, start

_MAX_SAID = 300


@dataclass(frozen=True)
class RivalPackages:
    """Where rivals are found.

    Attributes:
        folder: of `pip install --target`; None for this installation alone.
    """

    folder: Path | None = None

    def has(self, module: str) -> bool:
        """Whether a Python package can be imported by a process with `env`."""
        beside = self.folder is not None and (self.folder / module).is_dir()
        return beside or importlib.util.find_spec(module) is not None

    def env(self) -> dict[str, str]:
        """The environment of a process that imports from the folder."""
        return {**os.environ, **({"PYTHONPATH": str(self.folder.absolute())} if self.folder else {})}

    def program(self, name: str) -> str | None:
        """The path of a program, None if it is not installed."""
        inside = self.folder / name / "bin" / name if self.folder else None
        if inside and inside.is_file():
            return str(inside.absolute())
        places = [sysconfig.get_path("scripts"), os.environ.get("PATH", "")]
        return shutil.which(name, path=os.pathsep.join(places))


def not_installed(package: str) -> str:
    """What a result says in place of a rival's figures."""
    return f"not installed: pip install --target DIR {package}, and --packages DIR"


def run_python(words: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run this installation's Python to its end; returns what it prints. Raises LoadFailed: it failed."""
    return _run([sys.executable, *words], env, cwd)


def run_program(path: str, words: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a program to its end; returns what it prints.

    Raises:
        LoadFailed: it failed.
    """
    return _run(["sh", "-c", 'exec "$@"', "sh", path, *words], env, cwd)


def _run(command: Sequence[str], env: Mapping[str, str] | None, cwd: Path | None) -> str:
    given = dict(os.environ if env is None else env)
    process = start(command, env=given, cwd=cwd, stdout=PIPE, stderr=PIPE, text=True)
    try:
        out, error = process.communicate()
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        last = (error.strip() or out.strip() or "it printed nothing").splitlines()[-1][:_MAX_SAID]
        raise LoadFailed(f"{' '.join(command)[:_MAX_SAID]} failed: {last}")
    return str(out)
