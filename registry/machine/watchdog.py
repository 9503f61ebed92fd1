"""End a process that does not end by itself: `watchdog.py PID SECONDS`, which `registry.machine.programs` starts.

It reads from standard input the numbers of the signals that the process received, one byte each: C code writes them
there, so they arrive even if that process never runs a line of Python again. So many seconds after the first SIGTERM or
SIGINT the process is killed. At the end of the input, or of its parent, it ends itself.

It imports nothing of this package, so that it starts quickly and stays small.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

_STOP = (signal.SIGTERM, signal.SIGINT)
_LOOK_EVERY = 5.0
"""Seconds between two looks whether the parent lives: a fork of it may hold the pipe open."""


def main() -> None:
    """Watch the parent."""
    process, seconds = int(sys.argv[1]), float(sys.argv[2])
    for number in (*_STOP, signal.SIGHUP):  # a service manager may send them to all processes of a service
        signal.signal(number, signal.SIG_IGN)
    deadline = float("inf")
    while os.getppid() == process:
        left = deadline - time.monotonic()
        if left <= 0:
            sys.stderr.write(f"error: process {process} did not end within {seconds:g} s: it is killed\n")
            # Its id can't have been given to another process: it is still the parent of this one.
            os.kill(process, signal.SIGKILL)
            return
        if select.select([0], [], [], min(left, _LOOK_EVERY))[0]:
            received = os.read(0, 4096)
            if not received:
                return
            if deadline == float("inf") and any(number in _STOP for number in received):
                deadline = time.monotonic() + seconds


if __name__ == "__main__":
    main()
