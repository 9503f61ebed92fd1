"""What `.gitignore` files exclude, as https://git-scm.com/docs/gitignore describes it, without git.

Patterns may come from anybody. A regular expression that goes back to earlier stars can take for ever on a few of them,
so each pattern becomes one that never does: every star but a segment's last takes the first text that fits, and stays
there. Comparing a pattern with a path takes at most time in proportion to the product of their lengths.

Paths and patterns are compared byte by byte, as git does.
"""

from __future__ import annotations

import os
import re
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import groupby, islice

from registry.machine.source_folder import SourceFolder

IGNORE_FILE = ".gitignore"
MAX_BYTES = 64 * 1024
"""Bytes of the largest file of patterns. The largest of https://github.com/github/gitignore has 13 KB."""
MAX_WALK_BYTES = 1024 * 1024
"""Bytes of all files of patterns that one walk reads. To compile so many takes 7 s on one core at most."""
MAX_PATTERNS = 2000
"""How many patterns may apply to one folder, those of the folders above it included."""
MAX_PATTERN = 4096
"""Bytes of the longest pattern: what the longest path has that a system can open (PATH_MAX)."""
CACHES = (
    ".git", ".hg", ".svn", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", ".tox", ".nox",
    ".venv", "node_modules", ".ipynb_checkpoints", ".cache", "*.egg-info", ".eggs", "*.pyc", "*.pyo", ".DS_Store",
    ".import_linter_cache", ".coverage",
)  # fmt: skip
"""Names that belong to tools, and never to a project."""

_STAR, _SLASH = b"*", b"/"
_SOME_FOLDERS = rb"(?:[^/]+/)*"
_CLASSES = {
    b"alnum": string.ascii_letters + string.digits, b"alpha": string.ascii_letters, b"blank": " \t",
    b"cntrl": "".join(map(chr, [*range(32), 127])), b"digit": string.digits,
    b"graph": string.ascii_letters + string.digits + string.punctuation, b"lower": string.ascii_lowercase,
    b"print": string.ascii_letters + string.digits + string.punctuation + " ", b"punct": string.punctuation,
    b"space": string.whitespace, b"upper": string.ascii_uppercase, b"xdigit": string.hexdigits,
}  # fmt: skip


@dataclass(frozen=True)
class _Pattern:
    """One pattern: `regex` describes the whole path, or only its name; `is_exception` marks those with a `!`."""

    regex: re.Pattern[bytes]
    is_exception: bool
    is_for_folders: bool
    is_for_names: bool


class WalkBytes:
    """How many bytes of files of patterns one walk may still read: `MAX_WALK_BYTES` at its beginning."""

    def __init__(self) -> None:
        self._left = MAX_WALK_BYTES

    def take(self, count: int) -> bool:
        """Take some; False if there are not so many left."""
        self._left -= count
        return self._left >= 0


@dataclass(frozen=True)
class IgnoreRules:
    """The patterns that apply in one folder, in groups: one group for each file, that of the highest folder first.

    `IgnoreRules()` begins a walk through folders; the others are made from it.

    Attributes:
        groups: the path of the file's folder, with a `/` at the end, and its patterns.
        check_time: called before each pattern is compiled; it raises an error when the walk has taken too long.
        walk_bytes: how many bytes of files the walk may still read.
    """

    groups: tuple[tuple[str, tuple[_Pattern, ...]], ...] = ()
    check_time: Callable[[], None] = field(default=lambda: None, compare=False)
    walk_bytes: WalkBytes = field(default_factory=WalkBytes, repr=False, compare=False)

    def with_file(self, here: str, data: bytes) -> IgnoreRules:
        """These rules and those of one more file, whose patterns apply in the folder `here` and below.

        Raises:
            ValueError: the file or one of its patterns is too large, this walk has read too many, or too many patterns
                would apply.
        """
        file = f"{here}{IGNORE_FILE}"
        if len(data) > MAX_BYTES:
            raise ValueError(f"{file} has more than {MAX_BYTES} bytes")
        if not self.walk_bytes.take(len(data)):
            raise ValueError(f"{file} and the other {IGNORE_FILE} files have more than {MAX_WALK_BYTES} bytes together")
        room = MAX_PATTERNS - sum(len(patterns) for _, patterns in self.groups)
        found = tuple(islice(self._compiled(file, data), room + 1))
        if len(found) > room:
            raise ValueError(f"{file} and those above it have more than {MAX_PATTERNS} patterns")
        return replace(self, groups=(*self.groups, (here, found)))

    def _compiled(self, file: str, data: bytes) -> Iterator[_Pattern]:
        for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
            text = _without_trailing_spaces(line.removesuffix(b"\r"))
            if text.startswith(b"#"):
                continue
            if len(text) > MAX_PATTERN:
                raise ValueError(f"{file} has a pattern of more than {MAX_PATTERN} bytes")
            self.check_time()
            pattern = _pattern(text)
            if pattern:
                yield pattern

    def in_folder(self, here: str, folder: SourceFolder) -> IgnoreRules:
        """These rules and those of the `.gitignore` in `here`, if there is one; `here` is a path in `folder`.

        Raises:
            ValueError: see `with_file`.
            BadBundle: it has become a link meanwhile.
            OSError: the file can't be read.
        """
        file = f"{here}{IGNORE_FILE}"
        if not folder.is_file(file):
            return self
        with folder.open(file) as opened:
            return self.with_file(here, opened.read(MAX_BYTES + 1))

    def exclude(self, path: str, *, is_folder: bool) -> bool:
        """Whether the last pattern that fits a path excludes it. What is in an excluded folder is not asked for."""
        for here, patterns in reversed(self.groups):
            inner = os.fsencode(path.removeprefix(here))
            name = inner.rpartition(_SLASH)[2]
            for pattern in reversed(patterns):
                if pattern.is_for_folders and not is_folder:
                    continue
                if pattern.regex.fullmatch(name if pattern.is_for_names else inner):
                    return not pattern.is_exception
        return False


def is_cache(name: str) -> bool:
    """Whether a file or folder of this name belongs to a tool, see `CACHES`."""
    return any(fnmatchcase(name, pattern) for pattern in CACHES)


def _pattern(text: bytes) -> _Pattern | None:
    """A line as a pattern; None if it fits nothing."""
    is_exception = text.startswith(b"!")
    text = text[is_exception:]
    is_for_folders = text.endswith(_SLASH)
    text = text[: len(text) - is_for_folders]
    regex = _regex(text.removeprefix(_SLASH))
    if not text or regex is None:
        return None
    return _Pattern(re.compile(regex, re.DOTALL), is_exception, is_for_folders, is_for_names=_SLASH not in text)


def _without_trailing_spaces(line: bytes) -> bytes:
    """A line without the spaces at its end that no backslash keeps."""
    bare = line.rstrip(b" ")
    backslashes = len(bare) - len(bare.rstrip(b"\\"))
    return bare + b" " if backslashes % 2 and bare != line else bare


def _regex(pattern: bytes) -> bytes | None:
    """A pattern as a regular expression for the whole path; None if git takes it for invalid: it fits nothing."""
    tokens = _tokens(pattern)
    if tokens is None:
        return None
    segments = _split(tokens)
    if not all(segments):
        return None
    runs = [
        [] if is_deep else [_segment(each) for each in run]
        for is_deep, run in groupby(segments, lambda each: len(each) > 1 and set(each) == {_STAR})
    ]
    # `[]` stands for `**`: any number of folders, at the end anything. Others are segments that follow each other.
    regex = b""
    for number, run in enumerate(runs):
        follows = number > 0
        is_last = number == len(runs) - 1
        text = _SLASH.join(run)
        if not run:
            regex += b".+" if is_last else b""
        elif is_last:
            regex += (_SOME_FOLDERS if follows else b"") + text
        else:
            regex += b"(?>" + (_SOME_FOLDERS + b"?" if follows else b"") + text + b"/)"
    return regex


def _split(tokens: Sequence[bytes]) -> list[list[bytes]]:
    """The tokens between slashes."""
    segments: list[list[bytes]] = [[]]
    for token in tokens:
        if token == _SLASH:
            segments.append([])
        else:
            segments[-1].append(token)
    return segments


def _segment(tokens: Sequence[bytes]) -> bytes:
    """What fits between two slashes. Only the last star may try again: what follows it has one length."""
    pieces = [b"".join(each) for is_star, each in groupby(tokens, lambda token: token == _STAR) if not is_star]
    starts, ends = tokens[0] == _STAR, tokens[-1] == _STAR
    if not pieces:
        return rb"[^/]+"
    first = b"" if starts else pieces.pop(0)
    last = b"" if ends or not pieces else pieces.pop()
    has_star = _STAR in tokens
    middle = b"".join(rb"(?>[^/]*?" + piece + b")" for piece in pieces)
    return first + middle + (rb"[^/]*" if has_star else b"") + last


def _tokens(pattern: bytes) -> list[bytes] | None:
    """Slashes, stars, and regular expressions of one byte each. None if the pattern is invalid."""
    tokens: list[bytes] = []
    at = 0
    while at < len(pattern):
        letter = pattern[at : at + 1]
        at += 1
        if letter == b"[":
            found = _bracket(pattern, at)
            if found is None:
                return None
            token, at = found
            tokens.append(token)
            continue
        if letter == b"\\":
            letter = pattern[at : at + 1]
            at += 1
            if not letter:
                return None
            tokens.append(letter if letter == _SLASH else re.escape(letter))
        else:
            tokens.append(rb"[^/]" if letter == b"?" else letter if letter in (_STAR, _SLASH) else re.escape(letter))
    return tokens


def _bracket(pattern: bytes, at: int) -> tuple[bytes, int] | None:
    """What a bracket allows, and the position after it; `at` is the one after its `[`. None if it is invalid."""
    is_negated = pattern[at : at + 1] in (b"!", b"^")
    at += is_negated
    allowed: set[int] = set()
    previous, is_first = -1, True
    while is_first or pattern[at : at + 1] != b"]":
        is_first = False
        letter = pattern[at : at + 1]
        if letter == b"[" and pattern[at + 1 : at + 2] == b":":
            end = pattern.find(b"]", at + 2)
            if end < 0:
                return None
            if end > at + 2 and pattern[end - 1 : end] == b":":
                if pattern[at + 2 : end - 1] not in _CLASSES:
                    return None
                allowed.update(_CLASSES[pattern[at + 2 : end - 1]].encode())
                previous, at = -1, end + 1
                continue
        is_range = letter == b"-" and previous >= 0 and pattern[at + 1 : at + 2] not in (b"", b"]")
        at += is_range
        at += pattern[at : at + 1] == b"\\"
        if at >= len(pattern):
            return None
        allowed.update(range(previous, pattern[at] + 1) if is_range else [pattern[at]])
        previous = -1 if is_range else pattern[at]
        at += 1
    return _one_of(allowed, is_negated=is_negated), at + 1


def _one_of(allowed: set[int], *, is_negated: bool) -> bytes:
    letters = allowed | {0x2F} if is_negated else allowed - {0x2F}
    if not letters:
        return b"(?!)"
    return b"[" + b"^" * is_negated + b"".join(rb"\x%02x-\x%02x" % ends for ends in _ranges(letters)) + b"]"


def _ranges(numbers: set[int]) -> Iterator[tuple[int, int]]:
    """The first and the last of each row of numbers without a gap."""
    for _, row in groupby(enumerate(sorted(numbers)), lambda each: each[1] - each[0]):
        found = [number for _, number in row]
        yield found[0], found[-1]
