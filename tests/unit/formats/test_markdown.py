"""Markdown makes nothing of a text, by a parser that is not ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from registry.formats.markdown import markdown_table, markdown_text
from registry.formats.visible_text import visible

_PARSER = MarkdownIt("commonmark").enable("table")
_LETTERS = st.sampled_from("ab1- +=*_.)(`~$#>|![]<&;\\\n:/@") | st.characters(codec="utf-8")
_STARTS = st.sampled_from(["", "- ", "+ ", "1. ", "23) ", "# ", "> ", "---", "==", "```", "<b>", "[a]: /b"])
TEXTS = st.builds(str.__add__, _STARTS, st.text(_LETTERS, max_size=30))


def kinds_and_texts(document: str) -> tuple[list[str], list[str]]:
    """The kinds of a document's inner parts, and the texts of its paragraphs and cells."""
    tokens = _PARSER.parse(document)
    parts = [token for token in tokens if token.type == "inline"]
    kinds = [child.type for part in parts for child in part.children or ()]
    opened = [token.type for token in tokens if token.nesting >= 0 and token.type != "inline"]
    texts = ["".join(child.content for child in part.children or ()) for part in parts]
    return opened + kinds, texts


@given(TEXTS)
def test_a_text_is_one_line_of_a_list(text: str) -> None:
    line = visible(" ".join(text.split()))
    kinds, texts = kinds_and_texts(f"- {markdown_text(text)}")
    assert "".join(texts) == line
    assert kinds.count("list_item_open") == 1
    assert set(kinds) <= {"bullet_list_open", "list_item_open", "paragraph_open", "text", "text_special"}


@given(TEXTS)
def test_a_text_is_one_cell_of_a_table(text: str) -> None:
    kinds, texts = kinds_and_texts(markdown_table(("a", "b"), [("c", text)]))
    assert texts[:3] == ["a", "b", "c"]
    assert texts[3:] == [visible(" ".join(text.split()))]
    assert set(kinds) <= {
        "table_open", "thead_open", "tbody_open", "tr_open", "th_open", "td_open", "text", "text_special",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["ood_false_alarm_rate", "a (b)", "v1.0.0", "-0.100", "0.5", "- ", "1st"])
def test_names_and_numbers_are_as_they_are(text: str) -> None:
    assert markdown_text(text).lstrip("\\") == text.strip()


@pytest.mark.parametrize("text", ["- a", "+ a", "1. a", "2) a", "---", "===", "$a$", "_a_", "![a](b)", "<b>"])
def test_a_mark_is_escaped(text: str) -> None:
    assert markdown_text(text) != text
    assert markdown_text(text).replace("\\", "") == text
