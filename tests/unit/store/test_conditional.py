"""Conditional writes on a real server: one writer wins, also when replies are lost, late, or never come."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry.devstack.s3_server import S3Server
from registry.errors import (
    KeyExists,
    OutcomeUnknown,
)
from registry.store import client
from registry.store.client import Deadlines
from registry.store.objects import ObjectStore
from tests.servers import proxy as faults
from tests.servers.proxy import Fault, Hold, Proxy, Stall

KEY = "models/m/channels/staging/0999999999999.json"


def puts(proxy: Proxy) -> int:
    return sum(method == "PUT" for method, _ in proxy.requests)


def seen(store: ObjectStore, key: str = KEY) -> bytes:
    return store.get(key).body


def test_a_key_is_created_once(store: ObjectStore) -> None:
    store.create(KEY, b"one")
    store.create(KEY, b"one")  # by the same bytes: a write that was applied already
    with pytest.raises(KeyExists, match=KEY):
        store.create(KEY, b"two")
    assert seen(store) == b"one"


def test_of_many_writers_exactly_one_wins(store: ObjectStore) -> None:
    together = threading.Barrier(6)

    def write(number: int) -> bool:
        together.wait(300)
        try:
            store.create(KEY, f"{number}".encode())
        except KeyExists:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(write, range(6)))
    assert won.count(True) == 1
    assert seen(store) == f"{won.index(True)}".encode()


@pytest.mark.parametrize("fault", [faults.swallow_reply, faults.fail_after_applying], ids=lambda fault: fault.__name__)
def test_an_applied_write_whose_reply_is_lost_is_won(distant: ObjectStore, proxy: Proxy, fault: Fault) -> None:
    proxy.next(fault, method="PUT", containing=KEY)
    distant.create(KEY, b"mine")
    assert seen(distant) == b"mine"
    assert puts(proxy) == 1


@pytest.mark.parametrize("fault", [faults.refuse, faults.unavailable], ids=lambda fault: fault.__name__)
def test_a_write_that_never_arrived_is_sent_again(distant: ObjectStore, proxy: Proxy, fault: Fault) -> None:
    proxy.next(fault, method="PUT", containing=KEY, times=2)
    distant.create(KEY, b"mine")
    assert seen(distant) == b"mine"
    assert puts(proxy) == 3


@pytest.mark.parametrize("fault", [faults.swallow_reply, faults.refuse], ids=lambda fault: fault.__name__)
def test_a_lost_race_is_lost_also_when_its_reply_is(
    store: ObjectStore, distant: ObjectStore, proxy: Proxy, fault: Fault
) -> None:
    store.create(KEY, b"theirs")
    proxy.next(fault, method="PUT", containing=KEY)
    with pytest.raises(KeyExists):
        distant.create(KEY, b"mine")
    assert seen(store) == b"theirs"


LATER = [(400, "InvalidRequest"), (404, "NoSuchBucket"), (403, "ExpiredToken"), (301, "PermanentRedirect")]


@pytest.mark.parametrize(("status", "code"), LATER)
def test_after_an_unclear_answer_no_error_is_clear(distant: ObjectStore, proxy: Proxy, status: int, code: str) -> None:
    later = faults.answering(status, code)
    proxy.next(faults.swallow_reply, method="PUT", containing=KEY)
    proxy.next(later, method="GET", containing=KEY)
    proxy.next(later, method="PUT", containing=KEY)
    distant.create(KEY, b"mine")
    assert seen(distant) == b"mine"


def test_a_write_that_can_t_be_read_back_is_unknown(store_url: str, proxy: Proxy) -> None:
    distant = ObjectStore(store_url, endpoint_url=proxy.url, deadlines=Deadlines(attempt=0.5, write=1))
    proxy.next(faults.swallow_reply, method="PUT", containing=KEY)
    for method in ("GET", "PUT"):
        proxy.next(faults.answering(403, "AccessDenied"), method=method, containing=KEY, times=1000)
    with pytest.raises(OutcomeUnknown, match=r"did not say whether it was applied; at last: .*AccessDenied"):
        distant.create(KEY, b"mine")


def test_a_write_that_lands_late_is_won_once(distant: ObjectStore, proxy: Proxy) -> None:
    # The connection breaks, the re-read finds nothing, the same bytes are sent again; then the first one lands too.
    late = Hold()
    proxy.next(late, method="PUT", containing=KEY)
    distant.create(KEY, b"mine")
    late.release()
    assert seen(distant) == b"mine"


def test_a_late_write_does_not_overtake_the_winner(store: ObjectStore, distant: ObjectStore, proxy: Proxy) -> None:
    late = Hold()
    proxy.next(late, method="PUT", containing=KEY)
    with ThreadPoolExecutor(1) as pool:
        mine = pool.submit(distant.create, KEY, b"mine")
        assert late.arrived.wait(300)
        try:
            store.create(KEY, b"theirs")
            won = False
        except KeyExists:
            won = True
        if won:
            mine.result(300)
        else:
            with pytest.raises(KeyExists):
                mine.result(300)
    late.release()
    assert seen(store) == (b"mine" if won else b"theirs")


def test_an_object_is_swapped_by_one_of_those_who_read_it(store: ObjectStore) -> None:
    store.swap(KEY, b"one", None)
    etag = store.get(KEY).etag
    store.swap(KEY, b"two", etag)
    with pytest.raises(KeyExists):
        store.swap(KEY, b"three", etag)
    with pytest.raises(KeyExists):
        store.swap(KEY, b"three", None)
    assert seen(store) == b"two"


@pytest.mark.parametrize(
    "fault",
    [faults.swallow_reply, faults.fail_after_applying, faults.refuse, faults.unavailable],
    ids=lambda fault: fault.__name__,
)
def test_a_swap_whose_reply_is_lost_is_won_all_the_same(distant: ObjectStore, proxy: Proxy, fault: Fault) -> None:
    distant.create(KEY, b"one")
    proxy.next(fault, method="PUT", containing=KEY)
    distant.swap(KEY, b"mine", distant.get(KEY).etag)
    assert seen(distant) == b"mine"


def test_a_late_swap_is_lost_also_when_its_reply_is(store: ObjectStore, distant: ObjectStore, proxy: Proxy) -> None:
    store.create(KEY, b"one")
    etag = store.get(KEY).etag
    store.swap(KEY, b"theirs", etag)
    proxy.next(faults.swallow_reply, method="PUT", containing=KEY)
    with pytest.raises(KeyExists):
        distant.swap(KEY, b"mine", etag)
    assert seen(store) == b"theirs"


def test_a_write_that_is_never_answered_has_an_unknown_outcome(store_url: str, proxy: Proxy) -> None:
    impatient = ObjectStore(store_url, endpoint_url=proxy.url, deadlines=Deadlines(write=0.5))
    proxy.next(faults.refuse, containing=KEY, times=1000)
    with pytest.raises(OutcomeUnknown, match=KEY) as unknown:
        impatient.create(KEY, b"mine")
    assert "if nothing has changed" in unknown.value.hint
    assert unknown.value.exit_code == 7


def test_a_write_whose_reply_times_out_was_applied(
    distant: ObjectStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.config import Config

    class Hasty(Config):
        """The real configuration, with a read time-out that a test can wait for."""

        def __init__(self, **options: object) -> None:
            super().__init__(**{**options, **({"read_timeout": 0.5} if "read_timeout" in options else {})})

    monkeypatch.setattr(client, "Config", Hasty)
    slow = Stall()
    proxy.next(slow, method="PUT", containing=KEY)
    with ThreadPoolExecutor(1) as pool:
        mine = pool.submit(distant.create, KEY, b"mine")
        mine.result(300)
    slow.release()
    assert seen(distant) == b"mine"


def test_if_the_server_dies_after_a_write_its_outcome_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = S3Server(tmp_path).start()
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    store = ObjectStore(f"s3://{server.bucket}/x", deadlines=Deadlines(write=0.5))
    with Proxy(server.port) as proxy:

        def die(exchange: faults.Exchange) -> None:
            server.kill()
            exchange.reset()

        distant = ObjectStore(store.url, endpoint_url=proxy.url, deadlines=Deadlines(write=0.5))
        proxy.next(die, method="PUT")
        with pytest.raises(OutcomeUnknown):
            distant.create(KEY, b"x")
