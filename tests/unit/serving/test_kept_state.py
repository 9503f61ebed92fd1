"""What is kept for a start without the store: anybody who may write to the cache may have put anything there."""

from __future__ import annotations

import fcntl
import json
import os
import resource
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from registry.channels.record import Author, ChannelPosition, Record, promoted
from registry.errors import BadManifest, ObjectNotFound, StoreUnreachable
from registry.formats import canonical
from registry.formats.cache_files import opened_folder
from registry.serving.kept_state import KeptState, StateKeeper, StatePlace, read_state, write_state
from registry.store.kept_documents import KeptStore
from registry.store.objects import ObjectStore
from registry.versions.pointer import Pointer
from tests.support.kill_at_step import count_of, killed_at

DOCUMENTS = {
    "blobs/sha256/aa/aabb": b'{"format":1}',
    "backbones/00.json": None,
    "models/m/signatures/v1.0.0/cc.json": b"\xff\x00",
    "models/m/signatures/v1.0.0/dd.json": b"",
}


@pytest.fixture
def place(tmp_path: Path) -> StatePlace:
    return StatePlace(tmp_path / "cache", "s3://bucket/prefix", "", "plants", "production")


def record(model: str = "plants", channel: str = "production") -> Record:
    pointer = Pointer(version="v1.0.0", manifest_sha256="a" * 64)
    return promoted(ChannelPosition(model, channel, None), pointer, Author("a test", "ä reason"), None)


def state(place: StatePlace, age: timedelta = timedelta(0)) -> KeptState:
    return KeptState.make(place, record(), DOCUMENTS, datetime.now(UTC) - age)


def keeper(place: StatePlace) -> StateKeeper:
    def load_through(store: ObjectStore) -> Any:
        raise AssertionError

    return StateKeeper(place, ObjectStore(place.store), load_through, max_age=3600)


def test_a_state_is_read_as_it_was_kept(place: StatePlace) -> None:
    assert read_state(place) is None
    kept = state(place)
    write_state(place, kept)
    found = read_state(place)
    assert found
    assert (found.served().sha256, found.contents()) == (kept.served().sha256, DOCUMENTS)
    assert found.confirmed == kept.confirmed
    assert not keeper(place).problem


def test_each_store_model_and_channel_has_a_state_of_its_own(place: StatePlace) -> None:
    others = [{"store": "s3://bucket/other"}, {"endpoint": "http://h:1"}, {"model": "m"}, {"channel": "staging"}]
    assert len({place.path, *(replace(place, **other).path for other in others)}) == 5


def flipped(body: bytes) -> bytes:
    place = body.index(b'"confirmed":"20') + len(b'"confirmed":"20')
    return body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]


def changed(**fields: object) -> Callable[[bytes], bytes]:
    """With other fields, and a digest that is right."""

    def change(body: bytes) -> bytes:
        document = {**json.loads(body), **fields}
        del document["digest"]
        return canonical.encode({**document, "digest": canonical.digest(document)})

    return change


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda body: body[: len(body) // 2], "not valid JSON"),
        (lambda body: b"", "not valid JSON"),
        (flipped, "its digest does not match"),
        (lambda body: body + b" " * KeptState.LIMIT, "more than the allowed"),
        (changed(format=2), "has format 2"),
        (changed(record=record(model="other").to_bytes().decode()), "the record of another channel"),
        (changed(record=record(channel="staging").to_bytes().decode()), "the record of another channel"),
        (changed(record="{}"), "has format None"),
        (changed(model="other", record=record(model="other").to_bytes().decode()), "is that of other production"),
        (changed(endpoint="http://h:1"), "is that of plants production in s3://bucket/prefix http://h:1"),
        (changed(documents={"key": "not base64"}), "does not follow the format: "),
        (changed(confirmed="2026-01-01T00:00:00"), "does not follow the format: confirmed"),
        (lambda body: body[:-1] + b',"more":"\\ud800"}', "does not follow the format"),
        (lambda body: body[:-1] + b',"more":' + b"[" * 5000 + b"]" * 5000 + b"}", "not valid JSON|the format"),
        (lambda body: body[:-1] + b',"more":' + b"[" * 900 + b"]" * 900 + b"}", "100 levels deep"),
    ],
)
def test_a_damaged_state_is_named_and_not_used(place: StatePlace, damage: Callable[[bytes], bytes], said: str) -> None:
    write_state(place, state(place))
    damaged = damage(place.path.read_bytes())
    place.path.unlink()
    place.path.write_bytes(damaged)
    with pytest.raises(BadManifest, match=said) as caught:
        read_state(place)
    assert str(place.path) in str(caught.value)
    looking = keeper(place)
    assert looking.find() is None
    assert looking.problem == f"{caught.value}; it is not used"


def test_nothing_is_read_through_a_link_or_from_a_pipe(place: StatePlace, tmp_path: Path) -> None:
    write_state(place, state(place))
    place.path.rename(tmp_path / "elsewhere.json")
    place.path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BadManifest, match="can't be read"):
        read_state(place)
    place.path.unlink()
    os.mkfifo(place.path)
    with pytest.raises(BadManifest, match="it is not a regular file"):
        read_state(place)
    place.path.unlink()
    place.path.parent.rename(tmp_path / "states")
    place.path.parent.symlink_to(tmp_path / "states")
    with pytest.raises(BadManifest, match="can't be read"):
        read_state(place)


def test_a_state_is_not_written_through_a_link(place: StatePlace, tmp_path: Path) -> None:
    write_state(place, state(place))
    target = tmp_path / "precious"
    target.write_text("precious")
    place.path.unlink()
    place.path.symlink_to(target)
    write_state(place, state(place))
    assert target.read_text() == "precious"
    assert read_state(place)


@pytest.mark.parametrize(
    ("age", "said"),
    [(timedelta(hours=2), "7200 s ago, more than the 3600 s of --max-cache-age"), (timedelta(hours=-1), "the future")],
)
def test_a_state_of_the_wrong_age_is_refused(place: StatePlace, age: timedelta, said: str) -> None:
    write_state(place, state(place, age))
    looking = keeper(place)
    assert looking.find() is None
    assert said in looking.problem


def test_what_was_confirmed_later_is_not_replaced(place: StatePlace) -> None:
    older, newer = state(place, timedelta(minutes=2)), state(place)
    for kept in (older, newer, older):
        write_state(place, kept)
    assert read_state(place) == newer
    place.path.unlink()
    write_state(place, state(place, timedelta(days=-1)))  # by a clock that was wrong
    write_state(place, newer)
    assert read_state(place) == newer


def test_a_lock_that_another_holds_does_not_hang(place: StatePlace) -> None:
    write_state(place, state(place))
    with opened_folder(place.cache, "states") as folder:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            write_state(place, state(place))


def test_a_full_disk_leaves_the_old_state(place: StatePlace) -> None:
    old = state(place)
    write_state(place, old)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # no file may have more bytes
        try:
            write_state(place, state(place))
        except OSError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert read_state(place) == old
    assert list(place.path.parent.iterdir()) == [place.path]


def test_a_kill_leaves_the_old_state_or_the_new_one(place: StatePlace) -> None:
    old, new = state(place, timedelta(minutes=2)), state(place, timedelta(minutes=1))
    write_state(place, old)
    steps = count_of(lambda: write_state(place, old))
    seen = []
    for step in range(1, steps + 1):
        write_state(place, old)
        assert killed_at(step, lambda: write_state(place, new))
        found = read_state(place)
        assert found
        assert found.confirmed in (old.confirmed, new.confirmed)
        seen.append(found.confirmed)
    assert seen[0] == old.confirmed


def test_a_kept_store_knows_what_was_noted_and_asks_no_server() -> None:
    store = KeptStore("s3://bucket/prefix", DOCUMENTS)
    assert store.get("blobs/sha256/aa/aabb").body == b'{"format":1}'
    assert [(info.key, info.size) for info in store.list("models/m/signatures/")] == [
        ("models/m/signatures/v1.0.0/cc.json", 2),
        ("models/m/signatures/v1.0.0/dd.json", 0),
    ]
    with pytest.raises(ObjectNotFound):
        store.get("backbones/00.json")
    with pytest.raises(StoreUnreachable, match="backbones/aa is not kept on this machine"):
        store.get("backbones/aa")
    with pytest.raises(StoreUnreachable, match="no whole copy of blob aabb"):
        store.stream("blobs/sha256/aa/aabb", 4)
    with pytest.raises(BadManifest, match="more than the 3 bytes"):
        store.get("blobs/sha256/aa/aabb", 3)
