"""`ulora` and `python -m registry`: the command line as a process, whose exit status no late signal changes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

_INTERRUPTED = 130
_LEFT_BEHIND = ("ulora-compute", "ulora-load-")
"""Threads of a replica that is closed, if they are still there; see `registry/serving/`."""
_LAST_SECONDS = 1.0
"""How long other threads may go on that the interpreter's end would wait for."""


def main() -> NoReturn:
    """Run the command line and exit with the documented code."""
    try:
        _run()
    except KeyboardInterrupt:  # while modules are imported, or once more while the first one is reported
        _keep(_INTERRUPTED)
        with suppress(OSError):
            os.write(2, b"interrupted\n")
        _end_before_what_hangs(_INTERRUPTED)
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
    """End here if a computation was left behind, or a thread works that the interpreter's end would wait for.

    Of a computation the end would take away the threads that it shares its operations with, and C++ answers that by
    aborting the process (SIGABRT, 134). MLflow and boto3 transfer files in pools of threads: where a server gives a
    byte now and then, they go on for ever, long after the command gave them up.
    """
    is_left = any(thread.name.startswith(_LEFT_BEHIND) for thread in threading.enumerate())
    if is_left or _is_waited_for(time.monotonic() + _LAST_SECONDS):
        if logs := sys.modules.get("registry.cli.logs"):
            logs.print_rest()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status if isinstance(status, int) else int(status is not None))


def _is_waited_for(until: float) -> bool:
    """Whether other threads, daemons not counted, still work at that time."""
    while _working() and time.monotonic() < until:
        time.sleep(0.01)
    return _working()


def _working() -> bool:
    """Whether another thread, daemons not counted, does something. A pool's thread without work ends by itself."""
    from registry.parallel import frames_of_threads

    frames = frames_of_threads()
    others = (thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread())
    return any((frame := frames.get(each.ident or 0)) and frame.f_code.co_name != "_worker" for each in others)


if __name__ == "__main__":
    main()
