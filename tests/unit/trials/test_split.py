"""The choice of who sees the canary: what it is computed from, and that it is sticky, fair and grows."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.trials.split import is_canary, is_shadowed, unit_of

SALT = "0123456789abcdef" * 2
KEYS = [f"key-{number}" for number in range(20_000)]


@given(st.text(max_size=20), st.integers(0, 10_000))
def test_units_and_arms_are_those_of_the_contract(key: str, hundredths: int) -> None:
    data = (SALT + "\0" + key).encode()
    assert unit_of(SALT, key) == int(hashlib.sha256(data).hexdigest(), 16) % 65_536
    bucket = int.from_bytes(hashlib.sha256(data).digest()[:8], "big") % 10_000
    assert is_canary(SALT, key, hundredths / 100) == (bucket < hundredths)


@pytest.mark.parametrize("choose", [is_canary, is_shadowed])
def test_a_share_of_the_keys_is_chosen(choose: type[bool]) -> None:
    for percent in (1.0, 10.0, 50.0):
        share = sum(choose(SALT, key, percent) for key in KEYS) / len(KEYS)
        assert share == pytest.approx(percent / 100, abs=0.011)
    assert not any(choose(SALT, key, 0) for key in KEYS[:1000])
    assert all(choose(SALT, key, 100) for key in KEYS[:1000])


def test_a_larger_share_holds_the_keys_of_a_smaller_one() -> None:
    assert all(is_canary(SALT, key, 50) for key in KEYS if is_canary(SALT, key, 10))


def test_the_choices_do_not_depend_on_each_other() -> None:
    shadowed = [key for key in KEYS if is_shadowed(SALT, key, 10)]
    assert sum(is_canary(SALT, key, 10) for key in shadowed) / len(shadowed) == pytest.approx(0.1, abs=0.03)
    low = [key for key in KEYS if unit_of(SALT, key) < 32_768]
    assert sum(is_canary(SALT, key, 10) for key in low) / len(low) == pytest.approx(0.1, abs=0.01)


def test_another_trial_chooses_others() -> None:
    chosen = [key for key in KEYS if is_canary(SALT, key, 10)]
    assert sum(is_canary("f" * 32, key, 10) for key in chosen) / len(chosen) == pytest.approx(0.1, abs=0.03)


def test_any_key_has_a_unit() -> None:
    assert 0 <= unit_of(SALT, "\ud800") < 65_536
    assert unit_of(SALT, "") != unit_of(SALT, "\0")
