"""Bytes in pieces, up to a bound."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from registry.formats.bounded import joined


@given(st.lists(st.binary(max_size=20), max_size=20), st.integers(0, 100))
def test_bytes_within_the_bound_are_whole_others_are_none(pieces: list[bytes], limit: int) -> None:
    whole = b"".join(pieces)
    assert joined(pieces, limit) == (whole if len(whole) <= limit else None)


def test_no_more_is_asked_for_beyond_the_bound() -> None:
    asked = []

    def endless() -> Iterator[bytes]:
        while True:
            asked.append(1)
            yield b"12345"

    assert joined(endless(), 12) is None
    assert len(asked) == 3
