"""What is shown of errors of other libraries."""

from __future__ import annotations

import pytest

from registry.errors import first_line


@pytest.mark.parametrize(
    ("message", "shown"),
    [("one", "one"), ("\n one \ntwo", "one"), ("", "ValueError"), (" \n ", "ValueError"), ("a" * 500, "a" * 400)],
)
def test_the_first_line_of_an_error(message: str, shown: str) -> None:
    assert first_line(ValueError(message)) == shown


def test_a_first_line_is_cut_to_its_limit() -> None:
    assert first_line(ValueError("abcdef"), 3) == "abc"
