"""One is not several."""

from __future__ import annotations

import re
from pathlib import Path

import registry
from registry.formats.counts import counted

NOUNS = "files|versions|blobs|records|replicas|documents|results|signatures|images|checks"


def test_a_count_has_the_right_number() -> None:
    assert [counted(number, "file") for number in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
    assert counted(2, "copy", "copies") == "2 copies"


def test_what_commands_print_counts_with_it() -> None:
    told = re.compile(rf"(?<!of )\{{[^{{}}]*\}} (?:{NOUNS})\b")
    sources = (Path(registry.__file__).parent / "cli").glob("*.py")
    found = {f"{path.name}: {each}" for path in sources for each in told.findall(path.read_text("utf-8"))}
    assert found == set()
