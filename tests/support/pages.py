"""The pages of the documentation, and the fenced blocks on them.

A block in a language of `RUN` is run by `tests/integration/test_docs.py`, unless an HTML comment right before it says
something else:

    <!-- not run: REASON -->
    <!-- run by tests/FILE.py::TEST -->         another test runs it
    <!-- run with CONDITION -->                 one of the conditions of `tests/integration/test_docs.py`
    <!-- run until the end of the page -->      a server: the blocks below it use it
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "docs" / "commands.md"
"""Made from the help of the commands, with a test of its own."""
RUN = ("sh", "python")
SHOWN = ("text", "toml", "yaml", "json")

_FENCE = re.compile(r"\s*(`{3,}|~{3,})\s*(\S*)")
_NOTE = re.compile(r"<!--\s*((?:(?!-->).)*?)\s*-->\s*\Z", re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block; `note` is the text of the HTML comment right before it, or empty."""

    page: str
    line: int
    language: str
    text: str
    note: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def not_run(self) -> str:
        """Why nothing runs it, or empty."""
        return self._after("not run:")

    @property
    def run_by(self) -> str:
        """The other test that runs it, or empty."""
        return self._after("run by ")

    @property
    def condition(self) -> str:
        """What it is run with, or empty."""
        return self._after("run with ")

    @property
    def is_server(self) -> bool:
        """Whether it runs until the end of its page."""
        return self.note == "run until the end of the page"

    @property
    def is_run_here(self) -> bool:
        """Whether `tests/integration/test_docs.py` runs it."""
        return self.language in RUN and not self.note.startswith(("not run:", "run by "))

    def _after(self, beginning: str) -> str:
        return self.note.removeprefix(beginning).strip() if self.note.startswith(beginning) else ""


def pages() -> list[Path]:
    """Every page that people write."""
    found = [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
    return [page for page in found if page != GENERATED]


def name_of(page: Path) -> str:
    """A page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return list(_blocks(name_of(page), page.read_text().splitlines(keepends=True)))


def anchors(page: Path) -> set[str]:
    """What a link to a heading of a page may say after `#`."""
    headings = _HEADING.findall(page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _blocks(page: str, lines: list[str]) -> Iterator[Block]:
    opened: tuple[int, str, str] | None = None
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened = (number, fence[1], fence[2])
        elif opened and fence and fence[1].startswith(opened[1]) and not fence[2]:
            start, _, language = opened
            note = _NOTE.search("".join(lines[:start]))
            yield Block(page, start + 1, language, "".join(lines[start + 1 : number]), note[1] if note else "")
            opened = None
    assert opened is None, f"{page}:{opened[0] + 1} is not closed"
