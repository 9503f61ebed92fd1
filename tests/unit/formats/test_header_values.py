"""A credential that no HTTP header can hold is refused by the name of its setting, and never shown."""

from __future__ import annotations

import pytest

from registry.errors import BadSetting
from registry.formats.header_values import check_header, header_problem


@pytest.mark.parametrize(
    ("value", "encoding", "problem"),
    [
        ("", "ascii", ""), ("abc.~+/-=", "ascii", ""), ("a b", "ascii", ""), ("\u0151", "utf-8", ""),
        ("\xe9", "latin-1", ""), ("s\n", "ascii", "ends with a line break"),
        ("s\r\n", "utf-8", "ends with a line break"),
        ("s\r", "latin-1", "ends with a line break"), ("s\nt", "ascii", "has a line break in it"),
        ("s\x00", "ascii", "has a control character in it"), ("s\x7f", "utf-8", "has a control character in it"),
        ("s\x85t", "latin-1", "has a control character in it"), ("s\u0151", "latin-1", "is not Latin-1"),
        ("s\xe9", "ascii", "is not ASCII"), ("s\udcff", "utf-8", "is not UTF-8"),
    ],
)  # fmt: skip
def test_why_a_credential_cant_be_sent(value: str, encoding: str, problem: str) -> None:
    found = header_problem(value, encoding)
    assert found.endswith(problem)
    assert bool(found) is bool(problem)


@pytest.mark.parametrize("value", ["SECRET\n", "SEC\nRET", "SECRET\u0151"])
def test_the_setting_is_named_and_its_value_is_not_shown(value: str) -> None:
    check_header("ULORA_TOKEN", "SECRET")
    with pytest.raises(BadSetting, match=r"^ULORA_TOKEN ") as refused:
        check_header("ULORA_TOKEN", value)
    assert "SEC" not in f"{refused.value}{refused.value.hint}"
    assert ("made from a file" in refused.value.hint) is value.endswith("\n")
