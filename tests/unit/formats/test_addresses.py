"""A password is in nothing that is printed, however badly its address is spelled."""

from __future__ import annotations

import base64

import pytest

from registry.formats.addresses import without_password, without_password_of, without_passwords

SPELLED = {
    "http://user:SECRET@host:5000": "http://host:5000",
    "htps://user:SECRET@host": "htps://host",
    "http://user:SE/CRET@host/path": "http://host/path",
    "http://user:SE CRET#x@host": "http://host",
    "user:SECRET@host:5000": "host:5000",
    "postgresql://h/db?user=u&password=SECRET&sslmode=require": "postgresql://h/db?user=u&password=***&sslmode=require",
    "s3://user:SECRET@bucket/x": "s3://bucket/x",
    "sqlite:////tmp/x.db": "sqlite:////tmp/x.db",
    "http://host": "http://host",
}


@pytest.mark.parametrize("address", SPELLED)
def test_an_address_is_shown_without_its_password(address: str) -> None:
    assert without_password(address) == SPELLED[address]


def test_a_text_is_shown_without_the_passwords_in_it() -> None:
    text = "could not connect to 'http://u:SECRET@h:1/x' or https://t:SECRET@h2, X-Amz-Date=1"
    assert without_passwords(text) == "could not connect to 'http://h:1/x' or https://h2, X-Amz-Date=1"
    assert without_passwords("models:/plants@champion, ann@example.com") == "models:/plants@champion, ann@example.com"


@pytest.mark.parametrize("name", ["X-Amz-Signature", "X-Goog-Signature", "Signature", "sig"])
def test_a_signed_address_is_shown_without_its_signature(name: str) -> None:
    text = f"Max retries exceeded with url: /layer?se=2026-12-02&{name}=SECRET%3D&sp=r (Caused by design=1)"
    assert without_passwords(text) == text.replace("SECRET%3D", "***")


@pytest.mark.parametrize("said", ["auth failed for u with SE%20CRET", "SE CRET", "[('u', 'SE CRET')]"])
def test_what_others_say_of_an_address_has_no_password(said: str) -> None:
    assert "CRET" not in without_password_of("http://u:SE%20CRET@host", said)


@pytest.mark.parametrize("address", ["http://u:SE%20CRET@host", "http://u:SE CRET@host"])
def test_a_header_that_others_repeat_has_no_password(address: str) -> None:
    header = base64.b64encode(b"u:SE CRET").decode()
    assert without_password_of(address, f"you sent Basic {header}") == "you sent Basic ***"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("said", ["://", "?password", "&token?", "http://a@"])
def test_no_answer_of_a_server_takes_long_to_clean(said: str) -> None:
    assert "SECRET" not in without_passwords(said * 1_000_000 + " http://u:SECRET@h")
