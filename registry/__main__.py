"""`ulora` and `python -m registry`: the command line as a process, whose exit status no late signal changes."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

_INTERRUPTED = 130


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


if __name__ == "__main__":
    main()
