"""What is shown of errors of other libraries."""

from __future__ import annotations

import http.client
import traceback
from collections.abc import Callable

import pytest
import requests

from registry.errors import BadInput, first_line, without_header_value


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


def by_requests(value: str) -> None:
    requests.Request("GET", "http://host", headers={"Authorization": value}).prepare()


def by_http_client(value: str) -> None:
    connection = http.client.HTTPConnection("host")
    connection.putrequest("GET", "/")
    connection.putheader("Authorization", value)


@pytest.mark.parametrize("send", [by_requests, by_http_client])
@pytest.mark.parametrize("value", ["Bearer SECRET\n", "SECRET\nSECRET"])
def test_a_header_that_a_library_refuses_is_not_shown(send: Callable[[str], None], value: str) -> None:
    with pytest.raises((ValueError, requests.RequestException), match="SECRET") as refused:
        send(value)
    assert first_line(refused.value).endswith("header value (not shown)")


def test_a_letter_that_no_header_can_hold_is_not_shown() -> None:
    with pytest.raises(UnicodeEncodeError, match="u0151") as refused:
        by_http_client("SECRET\u0151")
    assert first_line(refused.value).startswith("'latin-1' codec can't encode character in position 6")


@pytest.mark.parametrize(
    "said",
    ["Invalid header value b'SECRET\\n'", "return character(s) in header value: 'Basic SECRET\\n'",
     "Illegal header value b'SECRET'", "Header part ('SECRET') from ('Authorization', 'SECRET') must be"],
)  # fmt: skip
def test_each_way_to_show_a_header_is_cut(said: str) -> None:
    shown = without_header_value(f"before\nthe request failed: {said}\nafter")
    assert shown.startswith("before\nthe request failed: ")
    assert shown.endswith("(not shown)\nafter")
    assert "SECRET" not in shown + first_line(ValueError(said))


def test_a_traceback_shows_the_hint() -> None:
    error = BadInput("no such folder: images/", hint="name a folder of images")
    assert traceback.format_exception_only(error)[-1].strip() == "hint: name a folder of images"
    assert not hasattr(BadInput("no such folder: images/"), "__notes__")
