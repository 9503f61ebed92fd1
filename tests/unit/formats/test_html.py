"""Results show as tables in notebooks."""

from __future__ import annotations

from registry.formats.document import Document
from registry.formats.html import _MAX_ROWS
from registry.integrity.report import BadFile, Verification, VerificationReport


def test_a_result_is_a_table_of_its_fields() -> None:
    shown = Verification("v1.0.0", 3, 100, read=True, bad=())._repr_html_()
    assert shown.startswith("<b>Verification</b><table><tr><th>version</th><td>v1.0.0</td></tr>")


def test_parts_of_a_result_are_tables_inside() -> None:
    bad = (BadFile("a", "0" * 64, "missing"), BadFile("b", "1" * 64, "corrupt"))
    shown = VerificationReport((Verification("v1.0.0", 3, 100, read=True, bad=bad),))._repr_html_()
    assert "<td>a</td>" in shown
    assert "<td>corrupt</td>" in shown
    assert shown.count("<th>problem</th>") == 1


def test_text_can_not_become_markup() -> None:
    shown = Verification("<script>", 3, 100, read=True, bad=(), note="<b>&")._repr_html_()
    assert "<script>" not in shown
    assert "&lt;b&gt;&amp;" in shown


def test_very_long_results_are_cut() -> None:
    bad = tuple(BadFile(str(number), "0" * 64, "missing") for number in range(10 * _MAX_ROWS))
    shown = Verification("v1.0.0", 3, 100, read=True, bad=bad)._repr_html_()
    assert shown.count("<tr>") < 2 * _MAX_ROWS
    assert f"and {9 * _MAX_ROWS + 1} more" in shown


def test_stored_documents_show_their_fields_too() -> None:
    class Note(Document):
        text: str

    assert "<th>text</th><td>hello</td>" in Note(text="hello")._repr_html_()
