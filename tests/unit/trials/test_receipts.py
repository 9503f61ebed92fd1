"""Receipts: what is issued can be read under the fleet's keys, and nothing else can."""

import base64
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import BadReceipt, BadSetting
from registry.trials.receipts import ArmAnswer, FleetKeys, Receipt, issue, read

KEYS = FleetKeys((b"k" * 32,))
LABELS = st.none() | st.text(min_size=1, max_size=110)
ANSWERS = st.builds(ArmAnswer, st.none() | st.text(min_size=1, max_size=30), st.booleans())
RECEIPTS = st.builds(
    Receipt,
    generation=st.integers(0, 10**12),
    arm=st.sampled_from(["stable", "canary", "named"]),
    unit=st.integers(0, 65_535),
    answer=ANSWERS,
    issued_at=st.integers(0, 10**11),
    target=st.none() | st.text(min_size=1, max_size=30),
    shadow=st.none() | ANSWERS,
)
ONE = Receipt(7, "stable", 65_535, ArmAnswer("late_blight"), 1_800_000_000, "tomato__leaf")


@given(RECEIPTS)
def test_a_receipt_says_what_was_issued(receipt: Receipt) -> None:
    text = issue(KEYS, receipt)
    assert read(KEYS, text) == receipt
    assert len(text) <= 800
    assert text.replace("-", "").replace("_", "").isalnum()


def test_a_usual_receipt_is_short() -> None:
    assert len(issue(KEYS, ONE)) <= 100


def test_two_answers_have_two_receipts() -> None:
    assert issue(KEYS, Receipt(1, "stable", 1, ArmAnswer("a"), 0)) != issue(
        KEYS, Receipt(1, "stable", 1, ArmAnswer("a"), 0)
    )


@given(st.integers(0, 8 * 64 - 1))
def test_a_changed_bit_is_found(place: int) -> None:
    text = issue(KEYS, ONE)
    data = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    assert len(data) == 64
    data[place // 8] ^= 1 << place % 8
    with pytest.raises(BadReceipt):
        read(KEYS, base64.urlsafe_b64encode(data).decode().rstrip("="))


@given(st.text(max_size=100) | st.binary(max_size=100).map(lambda data: base64.urlsafe_b64encode(data).decode()))
def test_what_is_no_receipt_is_refused(text: str) -> None:
    with pytest.raises(BadReceipt):
        read(KEYS, text)


def test_a_receipt_that_is_too_long_is_refused() -> None:
    with pytest.raises(BadReceipt, match="too long"):
        read(KEYS, "A" * 10_000_000)


def test_a_later_format_is_refused_by_its_number() -> None:
    with pytest.raises(BadReceipt, match="format 2"):
        read(KEYS, base64.urlsafe_b64encode(b"\2" + bytes(60)).decode())


def test_keys_are_rotated_with_two_of_them() -> None:
    old, new = b"o" * 32, b"n" * 32
    before, during, after = FleetKeys((old,)), FleetKeys((new, old)), FleetKeys((new,))
    assert read(during, issue(before, ONE)) == ONE
    assert read(after, issue(during, ONE)) == ONE
    with pytest.raises(BadReceipt, match="no key"):
        read(after, issue(before, ONE))


def test_a_receipt_counts_in_its_own_channel_only() -> None:
    text = issue(KEYS.for_channel("m", "staging"), ONE)
    assert read(KEYS.for_channel("m", "staging"), text) == ONE
    for model, channel in (("m", "production"), ("other", "staging")):
        with pytest.raises(BadReceipt, match="channel"):
            read(KEYS.for_channel(model, channel), text)


@pytest.mark.parametrize("length", [1, 120, 121, 1000])
def test_labels_of_any_length_are_told_apart(length: int) -> None:
    label = "é" * length
    answer = read(KEYS, issue(KEYS, Receipt(1, "stable", 1, ArmAnswer(label), 0))).answer
    assert answer.says(label)
    assert not answer.says(label + "x")


def test_no_answer_says_no_label() -> None:
    assert not ArmAnswer(None).says("")


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ULORA_FLEET_KEY", raising=False)
    assert FleetKeys.from_setting() is None
    monkeypatch.setenv("ULORA_FLEET_KEY", "a" * 32 + "," + "b" * 32)
    assert FleetKeys.from_setting() == FleetKeys((b"a" * 32, b"b" * 32))
    file = tmp_path / "keys"
    file.write_text("c" * 32 + "\n" + "d" * 32 + "\n")
    assert FleetKeys.from_setting(file=file) == FleetKeys((b"c" * 32, b"d" * 32))


@pytest.mark.parametrize("text", ["short", "k" * 2000, " ".join(["k" * 32] * 5)])
def test_keys_that_are_too_weak_or_too_many_are_refused(text: str) -> None:
    with pytest.raises(BadSetting, match="fleet key"):
        FleetKeys.from_setting(text)


def test_a_file_without_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(BadSetting, match="no fleet key"):
        FleetKeys.from_setting(file=tmp_path / "empty")
    with pytest.raises(BadSetting, match="can't be read"):
        FleetKeys.from_setting(file=tmp_path / "missing")


def test_keys_are_not_shown() -> None:
    assert "kkk" not in repr(KEYS)


def test_the_hint_names_the_field_that_has_the_receipt() -> None:
    with pytest.raises(BadReceipt) as refused:
        read(KEYS, "8c6e-the-header")
    assert refused.value.hint.startswith("send the `request_id` in the body")


def test_a_pipe_is_no_key_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadSetting, match="is not a regular file"):
        FleetKeys.from_setting(file=tmp_path / "pipe")
