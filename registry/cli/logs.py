"""The log lines of commands that go on, on standard error: as text for people, or as JSON for log collectors."""

from __future__ import annotations

import atexit
import json
import logging
import queue
import time
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from typing import Any

from registry.cli.output import to_stderr
from registry.errors import without_header_value
from registry.formats.visible_text import visible

FORMATS = ("text", "json")


_MAX_WAITING = 1000
"""Lines that may wait to be printed; later ones are dropped."""
_LAST_SECONDS = 1.0
"""For printing what waits at the end of the process."""
_QUEUES: list[queue.Queue[logging.LogRecord]] = []


def start_logging(log_format: str) -> None:
    """Print what this package and its servers log, from level INFO on, and warnings of other packages.

    A thread of its own prints: whoever logs never waits for a reader of standard error that has stopped to read.
    """
    lines: queue.Queue[logging.LogRecord] = queue.Queue(_MAX_WAITING)
    logging.basicConfig(handlers=[_Waiting(lines)], force=True)
    logging.getLogger("registry").setLevel(logging.INFO)
    QueueListener(lines, _StandardError(_Json() if log_format == "json" else _Text())).start()
    _QUEUES.append(lines)


@atexit.register
def print_rest() -> None:
    """Wait for the lines that are still to be printed: at the end of the process, orderly or not."""
    deadline = time.monotonic() + _LAST_SECONDS
    while any(lines.unfinished_tasks for lines in _QUEUES) and time.monotonic() < deadline:
        time.sleep(0.01)


class _Waiting(QueueHandler):
    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """The record as it is: it stays in this process."""
        return record

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop a line that finds no place."""


class _StandardError(logging.Handler):
    """Prints a record on standard error. If that fails, the process goes on."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)

    def createLock(self) -> None:
        """None: one thread prints, and the end of the process would wait for a lock that it holds for ever."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        to_stderr(self.format(record))


def _when(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Formatter(logging.Formatter):
    def formatException(self, ei: Any) -> str:
        return without_header_value(super().formatException(ei))


class _Text(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        lines = [f"{_when(record)} {record.levelname}", *record.getMessage().splitlines()]
        lines += self.formatException(record.exc_info).splitlines() if record.exc_info else []
        return visible(" ".join(lines))  # one line: other people wrote parts of it


class _Json(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": _when(record), "level": record.levelname, "logger": record.name, "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }  # fmt: skip
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False, default=str)
