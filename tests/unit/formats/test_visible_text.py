"""What other people wrote does not act on a reader's terminal, nor turn what stands beside it around."""

from __future__ import annotations

import pytest

from registry.formats.html_page import html_page, sections_page
from registry.formats.markdown import markdown_block, markdown_text, sections_markdown
from registry.formats.report_parts import ReportSection
from registry.formats.visible_text import visible, visible_lines

EVIL = "\u202egood\u2066 \x1b[31mred\x07 \x00 zw\u200b"


def is_plain(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def test_invisible_characters_are_shown() -> None:
    assert visible("a\u202eb\x1bc\nd é 文") == "a\ufffdb\ufffdc\nd é 文"
    assert visible_lines("a\tb\r\nc\u2028d") == "a   b\nc\nd"


@pytest.mark.parametrize(
    "text",
    ["مرحبا بالعالم", "שלום", "می\u200cخواهم", "क्\u200dष", "👩\u200d🔬", "❤\ufe0f\u200d🔥", "e\u0301", "漢字かな"],
)
def test_texts_in_all_scripts_stay(text: str) -> None:
    said = f"{text} and {text}\n{text}"
    assert visible(said) == visible_lines(said) == said
    assert text in html_page(text, text)
    assert markdown_text(text) == text


def test_spaces_of_all_kinds_are_spaces() -> None:
    assert visible("10\u00a0000\u202fkm\u3000漢字") == "10 000 km 漢字"


def test_joiners_hide_nothing() -> None:
    assert visible("a\u200db \u200d") == "a\ufffdb \ufffd"
    assert visible("\u200d文\u200d\u200d\u200c") == "\ufffd文\u200d\ufffd\ufffd"


def test_pages_have_none() -> None:
    section = ReportSection("What " + EVIL, {"reason": EVIL}, (EVIL,), texts={"note": f"{EVIL}\r\n```\u2028````"})
    for page in (html_page(EVIL, EVIL), sections_page(EVIL, [section]), sections_markdown(EVIL, [section])):
        assert is_plain(page), page
        assert "good" in page
    assert is_plain(markdown_text(EVIL))
    assert markdown_block("a\u2028````\nb").startswith("`````text\na\n````\nb\n`````")
