"""YAML that people write is read as JSON would be, in bounded time: nothing in it grows, runs or is guessed."""

from __future__ import annotations

import re

import pytest

from registry.formats.strict_yaml import MAX_DEPTH, MAX_NODES, BadYaml, StrictYaml

_LONG = ":".join(["59"] * 20_000)
_LAUGHS = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("true", True), ("false", False), ("7", 7), ("-7", -7), ("+0", 0),
        ("0.5", 0.5), (".5", 0.5), ("-1.5e-3", -0.0015), ("1e3", 1000.0), ("'7'", "7"), ("no", "no"), ("On", "On"),
        ("010", "010"), ("0x1F", "0x1F"), ("1_000", "1_000"), ("1:59:59", "1:59:59"), ("1:59.5", "1:59.5"),
        (".inf", ".inf"), (".nan", ".nan"), ("e5", "e5"), ("2026-01-01", "2026-01-01"), ("=", "="),
        ("9" * 18, int("9" * 18)), ("9" * 19, "9" * 19), ("9" * 100_000, "9" * 100_000), (_LONG, _LONG),
    ],
    ids=lambda given: str(given)[:20],
)  # fmt: skip
def test_a_plain_scalar_is_json_or_text(text: str, value: object) -> None:
    read = StrictYaml.read(f"a: {text}\n".encode()).value["a"]
    assert (type(read), read) == (type(value), value)


def test_a_merge_key_is_a_key_like_any_other() -> None:
    assert StrictYaml.read(b"<<: {a: 1}").value == {"<<": {"a": 1}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (_LAUGHS, "line 1: anchors and aliases"),
        ("a: 1\nb: *a", "line 2: anchors and aliases"),
        (f"a: !!int {_LONG}", "line 1: tags"),
        ("a: !!timestamp 2020-01-01", "line 1: tags"),
        ("a: ! x", "line 1: tags"),
        ("[" * 100_000, f"line 1: more than {MAX_DEPTH} levels"),
        ("- " * (MAX_DEPTH + 1) + "1", f"line 1: more than {MAX_DEPTH} levels"),
        (f"[{'1,' * MAX_NODES}]", f"line 1: more than {MAX_NODES} parts"),
        ("a: 1\na: 2", "line 2: key 'a' is repeated"),
        ("? [x]\n: 1", "line 1: key .* is not text"),
        ("--- 1\n--- 2", "line 2: "),
        ("a: [", "line 1: |line 2: "),
        ("\x00", "can't be read"),
        ("# nothing", "it is empty"),
    ],
    ids=lambda given: given[:20],
)
def test_what_grows_runs_or_repeats_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadYaml) as caught:
        StrictYaml.read(text.encode())
    where = f"line {caught.value.line}: " if caught.value.line else ""
    assert re.search(said, where + str(caught.value))
