"""The one place that starts other programs.

Each call names a program of a short list, gives it a clean environment, and has a deadline. What a program reads may
come from anybody, so nothing that it reads may decide what is run.
"""

from __future__ import annotations

import os
import subprocess
import sys

from registry.errors import UloraError

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "SYSTEMROOT", "LD_LIBRARY_PATH")
"""The variables that a program gets from this process's environment."""


def ask_module(module: str, question: bytes, *, seconds: float) -> bytes:
    """Run a Python module of this installation in a process of its own; returns what it prints.

    It is for work that could hang or hold the interpreter's lock for ever: the process is killed at the deadline.

    Args:
        module: its dotted name; it reads `question` from standard input and answers on standard output.
        seconds: after which it is killed.

    Raises:
        TimeoutError: it did not answer in time.
        UloraError: it failed; the message is the last line that it printed on standard error.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", module],
            input=question, capture_output=True, timeout=seconds, check=False, env=_clean_environment(),
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{module} did not answer within {seconds:g} s") from error
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it printed nothing"]
        raise UloraError(f"{module} failed: {lines[-1][:300]}")
    return done.stdout


def _clean_environment() -> dict[str, str]:
    return {name: value for name in _KEPT if (value := os.environ.get(name)) is not None}
