"""What is shown of errors of other libraries."""

from __future__ import annotations

import traceback

import pytest

from registry.errors import BadInput, first_line


@pytest.mark.parametrize(
    ("message", "shown"),
    [("one", "one"), ("\n one \ntwo", "one"), ("", "ValueError"), (" \n ", "ValueError"), ("a" * 500, "a" * 400)],
)
def test_the_first_line_of_an_error(message: str, shown: str) -> None:
    assert first_line(ValueError(message)) == shown


def test_an_error_that_cant_be_shown_has_its_type() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert first_line(Mute()) == "Mute"


def test_a_first_line_is_cut_to_its_limit() -> None:
    assert first_line(ValueError("abcdef"), 3) == "abc"


def test_a_traceback_shows_the_hint() -> None:
    error = BadInput("no such folder: images/", hint="name a folder of images")
    assert traceback.format_exception_only(error)[-1].strip() == "hint: name a folder of images"
    assert not hasattr(BadInput("no such folder: images/"), "__notes__")
