"""What can be read as a record, and what is written after it: the package and the rollback script agree on both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.api import Registry
from registry.breakglass import rollback_script as source
from registry.breakglass.rollback_script import Failure
from registry.channels.channel import RollbackOptions
from registry.channels.record import (
    MAX_WITHDRAWN,
    Author,
    Canary,
    ChannelPosition,
    Record,
    aborted,
    promoted,
    rolled_back,
)
from registry.channels.record_size import ROLLBACK_ROOM, RecordFitter
from registry.channels.trial import Trial
from registry.errors import BadInput, BadManifest, UloraError
from registry.formats import canonical
from registry.store import layout
from registry.versions.bindings import Binding
from registry.versions.pointer import Pointer
from tests.support.registries import open_registry
from tests.support.run_script import run, serve_three

MISSING = object()
WHO = {"who": "w", "who_verified": False, "reason": "f"}
LONGEST = Author("\x01" * 256, "\x01" * 4096)


def pointer(name: str, **more: Any) -> dict[str, Any]:
    return {"version": name, "manifest_sha256": canonical.sha256(name.encode()), **more}


def head(**changed: Any) -> dict[str, Any]:
    """A record of production that serves v3.0.0, with v2.0.0 and v1.0.0 on the stack."""
    fields = {
        "format": 1, "min_writer": 1, "model": "m", "channel": "production", "generation": 4, "action": "promote",
        "stable": pointer("v3.0.0"), "stack": [pointer("v2.0.0"), pointer("v1.0.0")], "withdrawn": [], "reason": "",
        "verdict": None, "who": "me", "who_verified": False, "when": "2026-11-21T12:00:00.000+00:00",
        "nonce": "0" * 32, "previous": "f" * 64, **changed,
    }  # fmt: skip
    return {name: value for name, value in fields.items() if value is not MISSING}


def trial(**changed: Any) -> dict[str, Any]:
    """A trial, as a record has it."""
    fields = {"id": "0" * 32, "kind": "split", "salt": "s", "started_generation": 4, **changed}
    return {name: value for name, value in fields.items() if value is not MISSING}


def nested(levels: int) -> Any:
    """Lists in each other."""
    found: Any = 1
    for _ in range(levels):
        found = [found]
    return found


VALUES = (
    MISSING, None, True, False, 0, 1, -1, 2, 4.0, 4.5, 100, 100.5, 10**12, 10**18, 10**40, -(10**40), "", "1", "x" * 15,
    "x" * 16, "x" * 40, "a" * 41, "x" * 64, "x" * 65, "x" * 100,
    "x" * 101, "x" * 120, "x" * 121, "x" * 256, "x" * 257, "é" * 256, "x" * 4096,
    "x" * 4097, "f" * 32,
    "f" * 64, "f" * 64 + "\n", "F" * 64, "rollback", "Rollback", "later-one", "promote\n", [],
    {}, [1], [None], ["x"], [[]], "production", "staging", pointer("v2.0.0"),
    pointer("v2.0.0", weight=5), pointer("v3.0.0", weight=0.5),
    pointer("v2.0.0", weight=101), pointer("v2.0.0", weight=True), pointer("v2.0.0", weight="5"), pointer("x" * 121),
    pointer("v2.0.0", manifest_sha256="f"), {"version": "v2.0.0"}, [pointer("v2.0.0")], [pointer("v2.0.0"), 1],
    trial(plan="x", shadow_percent=5, later=[1]),
    [pointer("v2.0.0", later={"a": 1})] * 100, [pointer("v2.0.0")] * 101, ["v2.0.0"] * 10_000, ["x"] * 10_001,
)  # fmt: skip


def mutations() -> Iterator[tuple[str, bytes]]:
    """Records with one thing changed, each with a name."""
    for name in (*Record.model_fields, "later", "", "_stored", "model_extra"):
        for number, value in enumerate(VALUES):
            yield f"{name} {number}", canonical.encode(head(**{name: value}))
    for name in ("version", "manifest_sha256", "weight", "later"):
        for number, value in enumerate(VALUES):
            changed = {key: each for key, each in {**pointer("v2.0.0", weight=5.0), name: value}.items()}
            changed = {key: each for key, each in changed.items() if each is not MISSING}
            for place, whole in (("stable", changed), ("canary", changed), ("stack", [changed])):
                yield f"{place}.{name} {number}", canonical.encode(head(**{place: whole}))
    for name in (*Trial.model_fields, "later"):
        for number, value in enumerate(VALUES):
            on_trial = {"canary": pointer("v4.0.0", weight=5.0), "trial": trial(**{name: value})}
            yield f"trial.{name} {number}", canonical.encode(head(**on_trial))
    for levels in (50, 98, 99, 100, 150, 199, 200, 250, 900, 5000):
        text = canonical.encode(head(later=0)).decode()
        yield f"lists {levels}", text.replace('"later":0', '"later":' + "[" * levels + "]" * levels).encode()
        yield (
            f"objects {levels}",
            text.replace('"later":0', '"later":' + '{"a":' * levels + "1" + "}" * levels).encode(),
        )
    plain = canonical.encode(head())
    for number, body in enumerate((
        b"", b"[]", b"1", b"\xff", b"\xef\xbb\xbf" + plain, plain + b" ", plain + b"x", plain[:-1] + b',"who":"x"}',
        plain[:-1] + b',"later":NaN}', plain[:-1] + b',"later":1e999}', plain[:-1] + b',"later":-0}',
        plain[:-1] + b',"later":1e-999}', plain[:-1] + b',"later":' + b"9" * 300 + b"}",
        plain[:-1] + b',"later":' + b"9" * 301 + b"}", plain[:-1] + b',"later":"\\ud800"}',
        plain[:-1] + b',"\\ud800":1}', plain[:-1] + b',"later":"\\ud83d\\ude00"}', plain[:-1] + b',"later":"\t"}',
        plain[:-1] + b',"later":01}', plain[:-1] + b',"later":"' + b"x" * (Record.LIMIT - len(plain) - 11) + b'"}',
        plain[:-1] + b',"later":"' + b"x" * (Record.LIMIT - len(plain) - 10) + b'"}',
    )):  # fmt: skip
        yield f"bytes {number}", body


def by_package(body: bytes, to: str) -> str:
    """What `ulora rollback --to` does after a record: the new record, or why there is none."""
    try:
        record = Record.parse(body, "k")
    except UloraError:
        return "unreadable"
    if (record.model, record.channel, record.generation) != ("m", "production", 4):
        return "unreadable"
    place, author, options = ChannelPosition("m", "production", record), Author("w", "f"), RollbackOptions(to=to)
    if options.is_reached(record):
        return "nothing to do"
    try:
        made = aborted(place, author) if options.ends_trial(record) else rolled_back(place, author, to)
    except UloraError as error:
        return type(error).__name__
    return same(Record.parse(made.to_bytes(), "k").to_bytes())


def by_script(body: bytes, to: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same by a rollback script."""
    for name, value in {"model": "m", "channel": "production", **pointer(to)}.items():
        monkeypatch.setitem(source.VERSION, name, value)
    if len(body) > source.MAX_RECORD:
        return "unreadable"
    try:
        document = source.decode(body, "k")
        source.check_record(document, "k", 4)
    except Failure as failure:
        return "unreadable" if source.CODES[failure.error] == 6 else failure.error
    try:
        record = source.plan(document, canonical.sha256(body), WHO, force=False)
        if record is None:
            return "nothing to do"
        source.fit(record)
        return same(source.encode(record))
    except Failure as failure:
        return failure.error


def same(body: bytes) -> str:
    """A record without what differs between any two."""
    return canonical.encode(json.loads(body) | {"nonce": "", "when": ""}).decode()


def test_both_read_the_same_records_and_write_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    differ, seen = {}, set()  # a script knows its version's manifest, and compares it
    for name, body in mutations():
        outcomes = by_package(body, "v2.0.0"), by_script(body, "v2.0.0", monkeypatch)
        seen.add(outcomes[0][:12])
        if outcomes[0] != outcomes[1] and not ("manifest_sha256" in name and outcomes[1] == "BrokenChain"):
            differ[name] = [outcome[:200] for outcome in outcomes]
    assert differ == {}
    assert {"unreadable", "nothing to d", "NothingToRol", "NotNow"} < seen


def test_the_script_knows_the_same_fields_and_limits() -> None:
    assert set(Record.model_fields) == source.RECORD_FIELDS
    assert set(Canary.model_fields) == source.VERSION_FIELDS
    assert (source.MAX_RECORD, source.MAX_DEPTH) == (Record.LIMIT, canonical.MAX_DEPTH)
    assert source.MAX_WITHDRAWN == MAX_WITHDRAWN


BIG = {
    "one huge field": {"later": "x" * (Record.LIMIT - 1500)},
    "many fields": {f"later{number}": "x" * 100 for number in range(9000)},
    "a huge field of the next version": {"stack": [pointer("v2.0.0", later="x" * (Record.LIMIT - 1500))]},
    "withdrawn names": {"withdrawn": [f"v{number}.0.0" for number in range(10, 10_010)]},
    "withdrawn long names": {"withdrawn": [f"{number:0120d}" for number in range(8_400)]},
    "withdrawn names on the stack": {
        "withdrawn": ["v1.0.0", *(f"{number:0120d}" for number in range(8_400))],
        "stack": [pointer("v2.0.0"), pointer("v1.0.0"), pointer("v1.0.1")],
    },
    "everything": {
        "later": "x" * 180_000, "withdrawn": ["é" * 50] * 8_000,
        "stack": [pointer("v2.0.0"), *(pointer(f"v9.{number}.0", later="x" * 200) for number in range(99))],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", BIG)
def test_a_rollback_always_fits_and_says_what_it_left_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = canonical.encode(head(**BIG[name]))
    record = Record.parse(body, "the head")
    made = rolled_back(ChannelPosition("m", "production", record), LONGEST)
    again = Record.parse(made.to_bytes(), "the new record")
    assert again.live() == ("v2.0.0",)
    assert made.left_out
    assert "v3.0.0" in again.withdrawn
    assert not {each.version for each in again.stack} & set(record.withdrawn)
    for name_, value in {"model": "m", "channel": "production", **pointer("v2.0.0")}.items():
        monkeypatch.setitem(source.VERSION, name_, value)
    said = {"who": LONGEST.who, "who_verified": False, "reason": LONGEST.reason}
    planned = source.plan(json.loads(body), canonical.sha256(body), said, force=False)
    assert planned
    assert tuple(source.fit(planned)) == made.left_out
    assert same(source.encode(planned)) == same(made.to_bytes())


def test_both_leave_out_the_same_whatever_the_limit() -> None:
    known = RecordFitter(frozenset(Record.model_fields), frozenset(Canary.model_fields))
    stack = [pointer(f"v{number}.0.0", newer=number) for number in range(9)]
    full = head(later="é" * 300, latest=[1], stack=stack, withdrawn=[f"v{number}.0.0" for number in range(5, 30)])
    said = set()
    for limit in range(0, 3000, 37):
        for names in (0, 9, 100):
            ours, theirs = json.loads(json.dumps(full)), json.loads(json.dumps(full))
            assert list(known.fit(ours, limit, names)) == source.fit(theirs, limit, names)
            assert ours == theirs
            said |= {line.partition(" ")[2] for line in source.fit(theirs, limit, names)} | {ours["stable"]["version"]}
            assert not {each["version"] for each in ours["stack"]} & set(full["withdrawn"]) - set(ours["withdrawn"])
    assert "v3.0.0" in said


@pytest.mark.parametrize("name", BIG)
def test_a_promotion_leaves_room_for_rollbacks(name: str) -> None:
    record: Record = Record.parse(canonical.encode(head(**BIG[name])), "the head")
    new = Pointer(version="v4.0.0", manifest_sha256="e" * 64)
    made = promoted(ChannelPosition("m", "production", record), new, LONGEST, None)
    assert len(made.to_bytes()) <= Record.LIMIT - ROLLBACK_ROOM
    assert made.left_out
    for _ in range(3):
        if made.rollback_targets():
            made = rolled_back(ChannelPosition("m", "production", made), LONGEST)
            assert made.left_out == ()


def test_a_small_record_takes_everything_over() -> None:
    record = Record.parse(canonical.encode(head(later={"a": 1})), "the head")
    made = rolled_back(ChannelPosition("m", "production", record), LONGEST)
    assert (made.left_out, made.model_dump()["later"]) == ((), {"a": 1})


def test_a_document_that_can_not_be_read_is_not_written() -> None:
    record = Record.parse(canonical.encode(head()), "the head")
    for changed in ({"reason": "x" * 5000}, {"withdrawn": ("x" * Record.LIMIT,)}, {"nonce": ""}, {"generation": 0}):
        with pytest.raises(BadInput, match="could not be read again, so it is not written"):
            record.model_copy(update=changed).to_bytes()
    deep = record.model_copy(update={"later": nested(150)})
    with pytest.raises(BadInput, match="100 levels"):
        deep.to_bytes()
    with pytest.raises(BadInput, match="binding"):
        Binding.model_construct(format=1, version="v1.0.0").to_bytes()


# --- on a real store -------------------------------------------------------------------------------------------------


def serving(registry: Registry, **changed: Any) -> Record:
    """Put a record of another release, or of nobody's, after those that let production serve three versions."""
    serve_three(registry)
    newest = registry.channel("production").head()
    assert newest
    fields = json.loads(newest.to_bytes()) | {"generation": 4, "previous": newest.sha256, **changed}
    registry.store.create(layout.record(registry.model, "production", 4), canonical.encode(fields))
    return newest


@pytest.mark.parametrize("way", ["command", "script"])
def test_a_record_at_the_limit_stops_no_rollback(store_url: str, model: str, tmp_path: Path, way: str) -> None:
    registry = open_registry(tmp_path, store_url, model)
    serving(registry, later="x" * (Record.LIMIT - 1200))
    reason = "y" * 1000
    if way == "command":
        done = registry.rollback(reason=reason)
        (note,) = done.notes
        assert note.endswith("the record would have been too large: unknown fields (1)")
    else:
        ran = run(registry.rollback_script("v2.0.0"), "--yes", "--reason", reason, "--json")
        assert ran.document["left_out"] == ["unknown fields (1)"]
    found = registry.channel("production").head()
    assert found
    assert (found.live(), found.generation) == (("v2.0.0",), 5)


@pytest.mark.parametrize("way", ["command", "script"])
def test_a_record_that_nobody_reads_is_named_with_the_way_on(
    store_url: str, model: str, tmp_path: Path, way: str
) -> None:
    registry = open_registry(tmp_path, store_url, model)
    serving(registry, nonce="short")
    if way == "command":
        with pytest.raises(BadManifest, match="does not follow the format: nonce") as refused:
            registry.rollback(reason="x")
        said = refused.value.hint
    else:
        ran = run(registry.rollback_script("v2.0.0"), "--yes", "--reason", "x")
        assert (ran.code, "does not follow the format: nonce" in ran.err) == (6, True)
        said = ran.err
    assert "no replica passes a record that it can't read" in said
    assert "Junk in the log" in said
    registry.store.delete(layout.record(model, "production", 4))
    assert registry.rollback(reason="x").version == "v2.0.0"


@pytest.mark.parametrize("way", ["command", "script"])
def test_a_channel_that_serves_nothing_goes_to_its_stack(store_url: str, model: str, tmp_path: Path, way: str) -> None:
    registry = open_registry(tmp_path, store_url, model)
    serving(registry, stable=None)
    if way == "command":
        assert registry.rollback(options=RollbackOptions(to="v2.0.0"), reason="x").version == "v2.0.0"
    else:
        ran = run(registry.rollback_script("v2.0.0"), "--yes", "--reason", "x")
        assert (ran.code, ran.out.splitlines()[0]) == (0, "production is nothing; this makes it v2.0.0")
    found = registry.channel("production").head()
    assert found
    assert (found.live(), found.stack[0].version) == (("v2.0.0",), "v1.0.0")
