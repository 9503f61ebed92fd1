"""`ulora` and `python -m registry`: the command line as a process, whose exit status no late signal changes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import NoReturn

_INTERRUPTED = 130
_LEFT_BEHIND = ("ulora-compute", "ulora-load-")
"""Threads of a replica that is closed, if they are still there; see `registry/serving/`."""


def main() -> NoReturn:
    """Run the command line and exit with the documented code."""
    try:
        _run()
    except KeyboardInterrupt:  # while modules are imported, or once more while the first one is reported
        _keep(_INTERRUPTED)
        with suppress(OSError):
            os.write(2, b"interrupted\n")
        sys.exit(_INTERRUPTED)


def _run() -> NoReturn:
    try:
        from registry.cli.main import main as run_command_line

        run_command_line()
    except SystemExit as end:
        _keep(end.code)
        _end_before_what_hangs(end.code)
        raise


def _keep(status: object) -> None:
    """Let no signal change the exit status any more: at its end the interpreter waits for threads, and may die of one.

    What was interrupted ends at once if it is interrupted again; what is done ends undisturbed.
    """
    if status == _INTERRUPTED:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: os._exit(_INTERRUPTED))
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_before_what_hangs(status: object) -> None:
    """End here if a computation was left behind. The interpreter's end would take away the threads that it shares its
    operations with, and C++ answers that by aborting the process (SIGABRT, 134).
    """
    if any(thread.name.startswith(_LEFT_BEHIND) for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status if isinstance(status, int) else int(status is not None))


if __name__ == "__main__":
    main()
