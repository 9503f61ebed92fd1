"""Run a benchmark as a command, and have what it prints; whatever happens, nothing of it is left running."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from registry.errors import LoadFailed
from registry.machine.programs import PIPE, Process, StillRuns, start

_PATIENCE = 20.0
"""Seconds that an interrupted command gets to stop its servers."""


def output_of(words: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    """What a command of this Python prints on standard output; its standard error is passed on.

    Args:
        words: those after `python`.
        env: its variables; those of this process by default.

    Raises:
        KeyboardInterrupt: it or this process was interrupted. The command has ended, with all in its group.
        LoadFailed: it failed.
    """
    # A process group of its own: a terminal's Ctrl-C must not reach it twice while it stops its servers.
    process = start([sys.executable, *words], stdout=PIPE, text=True, env=env or dict(os.environ), process_group=0)
    try:
        out, _ = process.communicate()
    except BaseException:
        process.terminate()
        with suppress(StillRuns):
            process.communicate(timeout=_PATIENCE)
        raise
    finally:
        _kill_group(process)
    if process.returncode in (130, -signal.SIGINT):
        raise KeyboardInterrupt
    if process.returncode:
        raise LoadFailed(f"its command ended with exit status {process.returncode}; its reason is above")
    return str(out)


def _kill_group(process: Process[Any]) -> None:
    """Kill what is left in a command's group: itself, and what it started and could not end."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
