"""Files that commands write for people: whole or not at all, and over nothing but an older one of the same kind."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.errors import BadInput, disk_errors
from registry.formats.html_page import BEGIN

_HEAD = 4096
_MARKDOWN = b"\n\n## What it is\n"
_ARCHIVE = b"PK\x03\x04"
IsOwn = Callable[[bytes], bool]
"""Whether the first bytes of a file are those of one that may be replaced."""


def is_page(head: bytes) -> bool:
    """Whether a file is a page of HTML that this package wrote."""
    return head.startswith(BEGIN.encode())


def is_markdown_report(head: bytes) -> bool:
    """Whether a file is a report in Markdown."""
    return head.startswith(b"# ") and _MARKDOWN in head


def is_audit_archive(head: bytes) -> bool:
    """Whether a file is the archive of an audit: the first file in it is the index."""
    return head.startswith(_ARCHIVE) and head[30:40] == b"index.json"


def check_own(place: Path, is_own: IsOwn, *, hint: str) -> None:
    """Check that writing a file there overwrites nothing but an older one of its kind, or an empty one.

    Raises:
        BadInput: something else is there.
        BadSetting: it can't be read.
    """
    with disk_errors(place, hint=hint):
        try:
            kind = place.stat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISREG(kind):
            raise BadInput(f"{place} is there, and is not a plain file", hint=hint)
        with place.open("rb") as file:
            head = file.read(_HEAD)
        if head and not is_own(head):
            raise BadInput(f"{place} is there, and is not a file that this command wrote", hint=hint)


@contextmanager
def own_file(place: Path, is_own: IsOwn, *, hint: str) -> Iterator[Path]:
    """A new file, which gets its name at the end of the block; where a link is, what it leads to is replaced.

    Who may read an older one may read the new one, and nobody else.

    Raises:
        BadInput: something else has the name.
        BadSetting: it can't be written there.
        DiskFull: there is no space for it.
    """
    check_own(place, is_own, hint=hint)
    with disk_errors(place, hint=hint):
        target = Path(os.path.realpath(place))
        part = target.with_name(f".ulora.{secrets.token_hex(8)}.part")
        mode = _mode(target)
        try:
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if mode is None else 0o600))
            yield part
            with part.open("rb") as written:
                os.fsync(written.fileno())
            check_own(place, is_own, hint=hint)
            if mode is not None:
                part.chmod(mode)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


def _mode(target: Path) -> int | None:
    """Who may do what with a file; None if there is none."""
    try:
        return stat.S_IMODE(target.stat().st_mode) & 0o777
    except FileNotFoundError:
        return None


def write_own_text(place: Path, text: str, is_own: IsOwn, *, hint: str) -> Path:
    """Write a text for people; characters that are none, as in names of files, become `?`. See `own_file`."""
    with own_file(place, is_own, hint=hint) as part:
        part.write_text(text, "utf-8", "replace")
    return place
