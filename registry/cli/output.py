"""What the command line prints: text for people or one JSON document for programs; progress and errors on stderr."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click

from registry.channels.committed import told
from registry.errors import UloraError
from registry.formats.addresses import without_password, without_passwords
from registry.formats.visible_text import visible

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

    from registry.answers import Change
    from registry.api import Registry
    from registry.evidence.results import Evidence
    from registry.evidence.verdict import Verdict

_MAX_CELL = 60
_LINE_SECONDS = 10.0
"""Between the lines of progress in a log."""


class Output:
    """Prints what a command answers. With `as_json` only documents are printed."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def answer(self, document: Any, text: str = "") -> None:
        """The command's answer: the document with --json, the text otherwise."""
        _echo(to_json(document) if self.as_json else visible(text))

    def change(self, done: Change, text: str) -> None:
        """The answer of a command that has changed a channel: what ends the command later need not say it again."""
        self.answer(done, text)
        told()

    def event(self, document: Any, text: str) -> None:
        """One of many answers of a command that goes on: with --json a document on one line."""
        _echo(json.dumps(document, default=_plain, ensure_ascii=False) if self.as_json else visible(text))

    def say(self, text: str) -> None:
        """A line of text; left out with --json."""
        if not self.as_json:
            _echo(visible(text))

    def note(self, text: str) -> None:
        """A line beside the answer, on standard error; with --json an object `{"note": …}`."""
        if self.as_json:
            to_stderr(json.dumps({"note": without_passwords(text)}, ensure_ascii=False))
        else:
            complain(f"note: {text}")

    @contextmanager
    def warnings_as_notes(self) -> Iterator[None]:
        """Print Python warnings, which come from the torch side, as notes."""

        def show(message: Warning | str, *_: object, **__: object) -> None:
            self.note(str(message))

        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = show
            yield

    @contextmanager
    def progress(self, total: int, label: str) -> Iterator[Callable[[int], None]]:
        """A bar over `total` bytes on a terminal, lines elsewhere, nothing with --json; yields a function to call with
        the bytes done."""
        if self.as_json or total == 0:
            yield lambda done: None
        elif sys.stderr.isatty():
            with click.progressbar(length=total, label=label, file=sys.stderr, show_pos=False) as bar:
                yield _Bar(bar).update
                bar.update(max(0, total - bar.pos))  # `total` may count what need not be done, such as a second copy
        else:
            yield _ProgressLines(total, label).update


class _Bar:
    """A bar that threads may move; click's own forgets what two add at once."""

    def __init__(self, bar: ProgressBar[int]) -> None:
        self._bar, self._lock = bar, threading.Lock()

    def update(self, done: int) -> None:
        with self._lock:
            self._bar.update(done)


class _ProgressLines:
    """What a log gets instead of a bar: a line now and then, and none for what is soon done."""

    def __init__(self, total: int, label: str) -> None:
        self._total, self._label = total, label
        self._done, self._next = 0, time.monotonic() + _LINE_SECONDS
        self._lock = threading.Lock()

    def update(self, done: int) -> None:
        with self._lock:
            self._done += done
            is_due = time.monotonic() >= self._next
            if is_due:
                self._next = time.monotonic() + _LINE_SECONDS
                share = min(1.0, self._done / self._total)
        if is_due:
            to_stderr(f"{self._label}: {share:.0%}")


def to_json(document: Any) -> str:
    """A document of dataclasses, pydantic models, names and paths as JSON."""
    return json.dumps(document, default=_plain, indent=2, ensure_ascii=False)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns under a header, aligned with spaces. Long cells are cut, except in the last column."""
    last = len(header) - 1
    cells = [
        list(header),
        *([_cell(value, _MAX_CELL if column < last else 0) for column, value in enumerate(row)] for row in rows),
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def facts(pairs: Mapping[str, object]) -> str:
    """Names and values, a pair a line; empty values are left out."""
    shown = {name: value for name, value in pairs.items() if value not in (None, "", (), [], {})}
    width = max(map(len, shown), default=0)
    return "\n".join(f"{name.ljust(width)}  {_cell(value, limit=0)}" for name, value in shown.items())


def author(who: str | None, verified: bool) -> str:
    """Who made a change; `(unverified)` unless the store or a signature proves it."""
    return f"{who}" if verified else f"{who} (unverified)"


def place(registry: Registry) -> str:
    """Which model in which store a command is about: the first line of what it prints."""
    store, endpoint = registry.settings.store, registry.settings.endpoint_url
    return f"{registry.model} in {without_password(store)}" + (f" at {without_password(endpoint)}" if endpoint else "")


def change_sentence(change: Change, dry_run: bool) -> str:
    """What a promotion, a trial or a rollback did to a channel, or would do."""
    if change.action == "none":
        return f"{change.channel} serves {change.version or 'nothing'}; nothing to do (generation {change.generation})"
    if change.canary:
        beside = f"beside {change.version} in {change.channel}, generation {change.generation}"
        return f"{change.canary} {'would be' if dry_run else 'is'} on trial ({change.share}) {beside}"
    would = "would go" if dry_run else "went"
    before = change.previous or "nothing"
    return (
        f"{change.channel} {would} from {before} to {change.version} by {change.action}, generation {change.generation}"
    )


def checks(verdict: Verdict, *, refusals_only: bool = False) -> str:
    """What the gates of a channel say of a version: how many checks pass, then a check a line, failing ones first."""
    from registry.evidence.check_lines import check_lines, check_summary

    lines = check_lines(verdict, refusals_only=refusals_only)
    return "\n".join([f"{verdict.channel}: {check_summary(verdict)}", *(f"  {line}" for line in lines)])


def metrics_table(evidence: Iterable[Evidence]) -> str:
    """The newest evidence, a metric a line."""
    from registry.evidence.check_lines import metric_text, named
    from registry.evidence.results import newest

    rows = [
        (one.benchmark, named(metric.name, metric.target), metric_text(metric), one.device, one.runtime)
        for one in newest(evidence).values()
        for metric in one.metrics
    ]
    return table(("BENCHMARK", "METRIC", "VALUE", "DEVICE", "RUNTIME"), sorted(rows)) if rows else ""


def some(names: Iterable[str]) -> str:
    """The first ten names, and how many more there are."""
    every = list(names)
    return ", ".join(every[:10]) + (f" and {len(every) - 10} more" if len(every) > 10 else "")


def megabytes(size: int) -> str:
    """A size in bytes, as megabytes."""
    return f"{size / 1e6:.2f} MB"


def _echo(text: str) -> None:
    """Print a line. If the reader has closed the pipe or the disk is full, the rest of the output is dropped: that must
    change neither what the command does nor its exit code."""
    try:
        click.echo(_encodable(text, sys.stdout))
    except (OSError, ValueError) as error:
        _discard(sys.stdout)
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            complain(f"note: the output could not be written: {error.strerror}")


def complain(text: str, color: str | None = None) -> None:
    """Print one line on standard error."""
    line = visible(without_passwords(" ".join(text.splitlines())))
    to_stderr(click.style(line, fg=color) if color else line)


def to_stderr(line: str) -> None:
    """Print a line on standard error. If that fails, the exit code is still right."""
    try:
        click.echo(_encodable(line, sys.stderr), err=True)
    except (OSError, ValueError):
        _discard(sys.stderr)


def _encodable(text: str, stream: TextIO | None) -> str:
    """A text without what the stream's encoding lacks: a name or a reason must not end a command that has acted."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _discard(stream: TextIO) -> None:
    """Drop what is left in a stream's buffer, and what follows: it must not fail at the end of the process."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def fail(error: UloraError, as_json: bool, known: str = "") -> NoReturn:
    """Print an error as one line (with its hint), or as one JSON object, and exit with its code.

    Args:
        known: what is known of a record that was sent, see `registry.channels.committed`; it is said first.
    """
    name = next(kind.__name__ for kind in type(error).__mro__ if not kind.__name__.startswith("_"))
    if as_json:
        said = without_passwords(f"{known}; {error}" if known else str(error))
        document = {"error": name, "message": said, "hint": without_passwords(error.hint)}
        to_stderr(json.dumps(document, ensure_ascii=False))
    else:
        if known:
            complain(f"note: {known}")
        complain(f"error: {error}", color="red")
        if error.hint:
            complain(f"hint: {error.hint}")
    sys.exit(error.exit_code)


def _cell(value: object, limit: int = _MAX_CELL) -> str:
    if value is None or value == ():
        return "-"
    if isinstance(value, list | tuple | frozenset):
        return ", ".join(_cell(item, limit=0) for item in value)
    text = visible(" ".join(str(value).split()))
    return text if not limit or len(text) <= limit else text[: limit - 1] + "…"


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    return str(value)
