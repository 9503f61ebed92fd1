"""What is kept of each image: the same bytes for the same answers, and nothing that can't be read again."""

from __future__ import annotations

import gzip
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import BadManifest
from registry.evidence import outcomes as module
from registry.evidence.outcomes import MAX_OUTCOMES, ImageOutcome, by_image, packed, unpacked

IMAGE = "a" * 64
ONE = ImageOutcome(image=IMAGE, target="low", label="two", answered_label="two", probability=0.75, blocks=6)
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
OUTCOMES = st.builds(
    ImageOutcome,
    image=DIGESTS,
    kind=st.sampled_from(["test", "far", "near"]),
    target=st.none() | st.text(max_size=20),
    label=st.none() | st.text(max_size=20),
    answered_label=st.none() | st.text(max_size=20),
    probability=st.none() | st.floats(0, 1),
    ood_score=st.none() | st.floats(-1e6, 1e6),
    is_ood=st.none() | st.booleans(),
)


@given(st.lists(OUTCOMES, min_size=1, max_size=20))
def test_outcomes_are_read_as_they_were_kept(given_outcomes: list[ImageOutcome]) -> None:
    data = packed(given_outcomes)
    assert unpacked(data, "them") == tuple(given_outcomes)
    assert packed(given_outcomes) == data


def test_no_outcomes_and_too_many_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert packed([]) == b""
    assert packed([ONE] * (MAX_OUTCOMES + 1)) == b""
    monkeypatch.setattr(module, "MAX_STORED", 10)
    assert packed([ONE]) == b""


DAMAGED = {
    "JSON": (b"{}", "not a whole gzip file"),
    "cut": (packed([ONE])[:-9], "not a whole gzip file"),
    "no image": (gzip.compress(b"{}\n"), "line 1: image: Field required"),
    "packed twice": (gzip.compress(packed([ONE])), "line 1: Invalid JSON"),
    "a long line": (gzip.compress(b'{"image": "' + b"x" * 10_000 + b'"}\n'), "more text than is read"),
    "no number": (gzip.compress(b'{"image": "' + IMAGE.encode() + b'", "ood_score": 1e999}\n'), "line 1: ood_score"),
}


@pytest.mark.parametrize(("data", "said"), DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_outcome_is_named(data: bytes, said: str) -> None:
    with pytest.raises(BadManifest, match=said):
        unpacked(data, "them")


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TEXT", 1000)
    with pytest.raises(BadManifest, match="more text than is read"):
        unpacked(packed([ONE] * 100), "them")


def test_what_is_not_known_is_not_kept_in_memory() -> None:
    filled = gzip.compress(b'{"image": "' + IMAGE.encode() + b'", "later": [' + b"[]," * 2000 + b"0]}\n")
    assert unpacked(filled, "them") == (ImageOutcome(image=IMAGE),)
    assert unpacked(filled, "them")[0].model_extra is None


@given(st.binary(max_size=200))
def test_junk_is_only_ever_a_bad_document(junk: bytes) -> None:
    for data in (junk, gzip.compress(junk)):
        with suppress(BadManifest):
            unpacked(data, "them")


def test_of_several_answers_for_one_image_the_first_counts() -> None:
    other = ONE.model_copy(update={"answered_label": "three"})
    far = ONE.model_copy(update={"kind": "far"})
    assert by_image([ONE, other, far]) == {(IMAGE, "low", "test"): ONE, (IMAGE, "low", "far"): far}
