"""The saved answer of who acts: used for the same credentials only, ignored if damaged, never an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.channels.record import Author
from registry.machine import identity

ARN = "arn:aws:sts::123456789012:assumed-role/release/anna"


def kept(cache: Path) -> Path:
    (place,) = cache.glob("identities/*.json")
    return place


def test_a_saved_answer_is_used_with_the_same_credentials_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert identity.is_due(tmp_path, None)
    identity.save(tmp_path, None, ARN)
    assert identity.claimed(tmp_path, None) == ARN
    assert not identity.is_due(tmp_path, None)
    assert "@" in identity.claimed(tmp_path, "http://elsewhere")
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert "@" in identity.claimed(tmp_path, None)


def test_a_name_too_long_for_a_record_is_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULORA_WHO", "\udcff" + "x" * 300)
    assert Author(identity.claimed(tmp_path, None)).who == "?" + "x" * 255


@pytest.mark.parametrize(
    "garbage",
    [b"", b"{", b"[]", b'{"arn": 5}', b'{"arn": "me"}', b"x" * 10_000, b'{"arn": "arn:' + b"x" * 300 + b'"}',
     b'{"arn": "arn:a", "asked": "x", "asked": 1}'],
    ids=lambda garbage: str(garbage[:20]),
)  # fmt: skip
def test_a_damaged_answer_is_ignored(tmp_path: Path, garbage: bytes) -> None:
    identity.save(tmp_path, None, ARN)
    kept(tmp_path).write_bytes(garbage)
    assert "@" in identity.claimed(tmp_path, None)
    assert identity.is_due(tmp_path, None)


def test_an_unwritable_cache_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "identities").write_text("in the way")
    identity.save(tmp_path, None, ARN)
    assert "@" in identity.claimed(tmp_path, None)


def test_a_saved_empty_answer_stops_further_requests(tmp_path: Path) -> None:
    identity.save(tmp_path, None, None)
    assert "@" in identity.claimed(tmp_path, None)
    assert not identity.is_due(tmp_path, None)


def test_an_old_or_future_answer_is_used_but_asked_again(tmp_path: Path) -> None:
    for asked in (0, 4e9):
        identity.save(tmp_path, None, ARN)
        kept(tmp_path).write_bytes(b'{"arn": "%s", "asked": %d}' % (ARN.encode(), asked))
        assert identity.is_due(tmp_path, None)
        assert identity.claimed(tmp_path, None) == ARN
