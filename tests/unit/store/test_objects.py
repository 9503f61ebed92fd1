"""Objects on a real server: conditional writes whose replies are lost, late or never come, and what errors say."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry.devstack.servers import S3Server, free_port
from registry.errors import (
    BadManifest,
    BadSetting,
    BucketNotFound,
    CorruptBlob,
    KeyExists,
    ObjectNotFound,
    OutcomeUnknown,
    StoreDenied,
    StoreUnfit,
    StoreUnreachable,
)
from registry.formats import canonical
from registry.store import layout, objects
from registry.store.objects import ObjectStore
from tests.servers import proxy as faults
from tests.servers.proxy import Fault, Hold, Proxy, Stall

KEY = "models/m/channels/staging/0999999999999.json"


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    return ObjectStore(store_url)


@pytest.fixture
def distant(store_url: str, proxy: Proxy) -> ObjectStore:
    """The same store, behind the proxy."""
    return ObjectStore(store_url, endpoint_url=proxy.url, deadline=10)


def puts(proxy: Proxy) -> int:
    return sum(method == "PUT" for method, _ in proxy.requests)


def seen(store: ObjectStore, key: str = KEY) -> bytes:
    return store.get(key).body


# --- conditional writes ----------------------------------------------------------------------------------------------


def test_a_key_is_created_once(store: ObjectStore) -> None:
    store.create(KEY, b"one")
    store.create(KEY, b"one")  # by the same bytes: a write that was applied already
    with pytest.raises(KeyExists, match=KEY):
        store.create(KEY, b"two")
    assert seen(store) == b"one"


def test_of_many_writers_exactly_one_wins(store: ObjectStore) -> None:
    together = threading.Barrier(6)

    def write(number: int) -> bool:
        together.wait(30)
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
def test_a_write_whose_reply_is_lost_after_it_was_applied_is_won(
    distant: ObjectStore, proxy: Proxy, fault: Fault
) -> None:
    proxy.next(fault, method="PUT", containing=KEY)
    distant.create(KEY, b"mine")
    assert seen(distant) == b"mine"
    assert puts(proxy) == 1


@pytest.mark.parametrize("fault", [faults.refuse, faults.unavailable], ids=lambda fault: fault.__name__)
def test_a_write_that_was_lost_before_it_was_applied_is_sent_again(
    distant: ObjectStore, proxy: Proxy, fault: Fault
) -> None:
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
        assert late.arrived.wait(30)
        try:
            store.create(KEY, b"theirs")
            won = False
        except KeyExists:
            won = True
        if won:
            mine.result(30)
        else:
            with pytest.raises(KeyExists):
                mine.result(30)
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


def test_a_swap_that_comes_too_late_is_lost_also_when_its_reply_is(
    store: ObjectStore, distant: ObjectStore, proxy: Proxy
) -> None:
    store.create(KEY, b"one")
    etag = store.get(KEY).etag
    store.swap(KEY, b"theirs", etag)
    proxy.next(faults.swallow_reply, method="PUT", containing=KEY)
    with pytest.raises(KeyExists):
        distant.swap(KEY, b"mine", etag)
    assert seen(store) == b"theirs"


def test_a_write_that_nobody_answers_for_is_of_unknown_outcome(store_url: str, proxy: Proxy) -> None:
    impatient = ObjectStore(store_url, endpoint_url=proxy.url, deadline=0.2)
    proxy.next(faults.refuse, containing=KEY, times=1000)
    with pytest.raises(OutcomeUnknown, match=KEY) as unknown:
        impatient.create(KEY, b"mine")
    assert "it is safe" in unknown.value.hint
    assert unknown.value.exit_code == 7


def test_a_server_that_is_slow_to_say_so_has_still_applied_the_write(
    distant: ObjectStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.config import Config

    class Hasty(Config):
        """The real configuration, with a read time-out that a test can wait for."""

        def __init__(self, **options: object) -> None:
            super().__init__(**{**options, **({"read_timeout": 0.5} if "read_timeout" in options else {})})

    monkeypatch.setattr(objects, "Config", Hasty)
    slow = Stall()
    proxy.next(slow, method="PUT", containing=KEY)
    with ThreadPoolExecutor(1) as pool:
        mine = pool.submit(distant.create, KEY, b"mine")
        mine.result(60)
    slow.release()
    assert seen(distant) == b"mine"


def test_a_server_that_is_not_there_is_unreachable_and_not_of_unknown_outcome(s3_env: dict[str, str]) -> None:
    nowhere = ObjectStore("s3://bucket/x", endpoint_url=f"http://127.0.0.1:{free_port()}")
    writes = (lambda: nowhere.create(KEY, b"x"), lambda: nowhere.swap(KEY, b"x", '"etag"'))
    for act in (*writes, lambda: nowhere.get(KEY), lambda: nowhere.first("")):
        with pytest.raises(StoreUnreachable, match=r"s3://bucket/x at http://127\.0\.0\.1:\d+ does") as error:
            act()
        assert "ULORA_S3_ENDPOINT" in error.value.hint


def test_a_server_that_goes_away_after_the_write_was_sent_leaves_the_outcome_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = S3Server(tmp_path).start()
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    store = ObjectStore(f"s3://{server.bucket}/x", deadline=0.2)
    with Proxy(server.port) as proxy:

        def die(exchange: faults.Exchange) -> None:
            server.kill()
            exchange.reset()

        distant = ObjectStore(store.url, endpoint_url=proxy.url, deadline=0.2)
        proxy.next(die, method="PUT")
        with pytest.raises(OutcomeUnknown):
            distant.create(KEY, b"x")


# --- reading ---------------------------------------------------------------------------------------------------------


def test_reads_survive_a_broken_connection(store: ObjectStore, distant: ObjectStore, proxy: Proxy) -> None:
    store.create(KEY, b"one")
    proxy.next(faults.refuse, method="GET")
    proxy.next(faults.unavailable, method="GET")
    assert seen(distant) == b"one"
    assert distant.first("models/") == KEY


def test_a_reply_that_breaks_off_is_no_answer(store: ObjectStore, distant: ObjectStore, proxy: Proxy) -> None:
    store.create(KEY, b"x" * 1000)
    proxy.next(faults.cut_body, method="GET")
    with pytest.raises(StoreUnreachable):
        distant.get(KEY)
    proxy.next(faults.cut_body, method="GET")
    with pytest.raises(StoreUnreachable):  # the reply that it is not there has a body too
        distant.get("models/m/nothing.json")


def test_what_is_not_there_is_not_found(store: ObjectStore) -> None:
    with pytest.raises(ObjectNotFound, match=KEY):
        store.get(KEY)
    assert store.head(KEY) is None
    assert store.first("models/") is None
    assert list(store.list("models/")) == []
    store.delete(KEY)


def test_an_object_over_its_limit_is_not_read(store: ObjectStore) -> None:
    store.create(KEY, b"12345678")
    assert store.get(KEY, limit=8).body == b"12345678"
    with pytest.raises(BadManifest, match="8 bytes, more than the 7"):
        store.get(KEY, limit=7)
    with pytest.raises(CorruptBlob, match="8 bytes long, not 7"):
        list(store.stream(KEY, 7))


def test_a_listing_is_in_order_and_below_the_prefix_only(store: ObjectStore, store_url: str) -> None:
    other = ObjectStore(f"{store_url}-other")
    other.create("a", b"")
    for key in ("b/2", "b/10", "b/1", "c"):
        store.create(key, b"12")
    assert [(info.key, info.size) for info in store.list("b/")] == [("b/1", 2), ("b/10", 2), ("b/2", 2)]
    assert store.first("b/") == "b/1"
    assert [info.key for info in store.list("")] == ["b/1", "b/10", "b/2", "c"]


def test_a_store_may_be_a_whole_bucket(store_url: str, s3: S3Server) -> None:
    inner = ObjectStore(store_url)
    inner.create("a", b"1")
    whole = ObjectStore(f"s3://{s3.bucket}")
    prefix = store_url.removeprefix(f"s3://{s3.bucket}/")
    assert [info.key for info in whole.list(f"{prefix}/")] == [f"{prefix}/a"]


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"some bytes")
    return path


def digest(path: Path) -> str:
    return canonical.sha256(path.read_bytes())


def test_an_uploaded_file_has_the_servers_checksum(store: ObjectStore, file: Path) -> None:
    for _ in range(2):
        store.upload("blobs/x", file, digest(file), 10)
    info = store.head("blobs/x")
    assert info
    assert (info.size, info.sha256) == (10, digest(file))


def test_a_file_that_is_not_what_it_says_is_refused_by_the_server(store: ObjectStore, file: Path) -> None:
    announced = digest(file)
    for content in (b"other bits", b"some bytes and more"):
        file.write_bytes(content)
        with pytest.raises(CorruptBlob, match=f"{file} changed while"):
            store.upload("blobs/x", file, announced, 10)
    assert store.head("blobs/x") is None


def test_an_upload_over_other_bytes_is_refused(store: ObjectStore, file: Path) -> None:
    store.overwrite("blobs/x", b"other bits")
    with pytest.raises(CorruptBlob, match="not the ones its name says"):
        store.upload("blobs/x", file, digest(file), 10)
    assert seen(store, "blobs/x") == b"other bits"


def test_an_upload_whose_reply_is_lost_is_done(distant: ObjectStore, proxy: Proxy, file: Path) -> None:
    proxy.next(faults.swallow_reply, method="PUT", containing="blobs/")
    distant.upload("blobs/x", file, digest(file), 10)
    assert seen(distant, "blobs/x") == b"some bytes"


@pytest.fixture
def big(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of three parts, of the smallest size that S3 allows for a part."""
    monkeypatch.setattr(objects, "PART_BYTES", 5 * 1024**2)
    path = tmp_path / "big"
    path.write_bytes(bytes(range(256)) * (11 * 1024**2 // 256))
    return path


def test_a_large_file_goes_in_parts_once_and_names_its_digest(store: ObjectStore, big: Path) -> None:
    size = big.stat().st_size
    for _ in range(2):
        store.upload("blobs/big", big, digest(big), size)
    info = store.head("blobs/big")
    assert info
    assert (info.size, info.sha256) == (size, digest(big))
    assert b"".join(store.stream("blobs/big", size)) == big.read_bytes()


def test_a_large_file_that_changed_meanwhile_leaves_nothing(store: ObjectStore, big: Path) -> None:
    with pytest.raises(CorruptBlob, match="changed while it was read"):
        store.upload("blobs/big", big, "0" * 64, big.stat().st_size)
    assert store.head("blobs/big") is None


def test_a_large_file_over_other_bytes_is_refused(store: ObjectStore, big: Path) -> None:
    store.overwrite("blobs/big", b"other")
    with pytest.raises(CorruptBlob, match="not the ones its name says"):
        store.upload("blobs/big", big, digest(big), big.stat().st_size)
    assert seen(store, "blobs/big") == b"other"


# --- the store itself ------------------------------------------------------------------------------------------------


def test_a_prefix_becomes_a_store_once_and_is_one_for_ever(store: ObjectStore) -> None:
    with pytest.raises(ObjectNotFound) as error:
        store.check_writable()
    assert "ulora store init" in error.value.hint
    for _ in range(2):
        store.initialise()
    store.check_writable()
    assert [info.key for info in store.list("")] == ["format.json"]
    assert seen(store, "format.json") == b'{"format":1}'


def test_a_store_of_a_newer_format_is_not_written_to(store: ObjectStore) -> None:
    store.create(layout.FORMAT_KEY, b'{"format":2}')
    for act in (store.initialise, store.check_writable):
        with pytest.raises(StoreUnfit, match="format 2") as error:
            act()
        assert "upgrade" in error.value.hint


def test_a_bucket_can_be_created_twice(s3_env: dict[str, str], model: str) -> None:
    store = ObjectStore(f"s3://{model}/x")
    with pytest.raises(BucketNotFound, match=model) as error:
        store.create(KEY, b"x")
    assert "--create-bucket" in error.value.hint
    for _ in range(2):
        store.create_bucket()
    store.initialise()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "bucket/x",
        "s3://",
        "s3:///x",
        "http://bucket",
        "s3://Junk Bucket!/x",
        "s3://a/x",
        "s3://../x",
        "s3://ääää/x",
        "s3://bucket//x",
        "s3://bucket/a/../b",
        "s3://bucket/x//",
        "s3://" + "b" * 64,
    ],
)
def test_what_is_no_s3_url_is_refused(url: str) -> None:
    with pytest.raises(BadSetting, match="is not a store") as error:
        ObjectStore(url)
    assert "s3://BUCKET/PREFIX" in error.value.hint


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "s3://bucket/a", "s3://bucket/a/b-c/", "s3://my.b/ä b"])
def test_a_store_is_a_bucket_and_a_prefix(url: str) -> None:
    assert ObjectStore(url).url == url.rstrip("/")


def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def _wrong_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")


def _wrong_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")


def _half_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


@pytest.mark.parametrize("spoil", [_no_keys, _wrong_secret, _wrong_key, _half_a_key], ids=lambda act: act.__name__)
def test_credentials_that_are_wrong_or_missing_are_a_refusal(
    store_url: str, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[pytest.MonkeyPatch], None]
) -> None:
    spoil(monkeypatch)
    for act in (
        lambda store: store.get(KEY),
        lambda store: store.head(KEY),
        lambda store: store.first(""),
        lambda store: store.create(KEY, b"x"),
        lambda store: store.initialise(),
    ):
        with pytest.raises(StoreDenied) as error:
            act(ObjectStore(store_url))
        assert store_url in str(error.value)
        assert "credentials" in f"{error.value} {error.value.hint}"


def test_a_profile_that_is_not_there_is_a_bad_setting(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "missing")
    with pytest.raises(BadSetting, match="missing"):
        ObjectStore(store_url).get(KEY)


def test_an_address_that_is_none_is_a_bad_setting(s3_env: dict[str, str]) -> None:
    with pytest.raises(BadSetting, match="not an address"):
        ObjectStore("s3://bucket/x", endpoint_url="not an address").get(KEY)
