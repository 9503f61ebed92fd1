"""What answers in place of the store (a login page, a proxy, another address) is never taken for an answer of S3."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from registry.api import Registry
from registry.channels.channel import RollbackOptions
from registry.channels.record import Author
from registry.errors import BadSetting, OutcomeUnknown, StoreDenied, StoreUnfit, StoreUnreachable, UloraError
from registry.retention.forget import RetentionRule
from registry.store import layout
from registry.store.client import Deadlines
from registry.store.objects import ObjectStore
from tests.servers.proxy import Exchange, Fault, Proxy, Reply, answering
from tests.support.registries import bind, create, listing, open_registry, small_bundle

pytestmark = pytest.mark.acceptance

V1, V2 = "v1.0.0", "v2.0.0"
LOG = "/channels/production/"
ALWAYS = 10_000


def page(body: bytes, *headers: tuple[str, str]) -> Fault:
    """A success that does not come from the store."""
    return lambda exchange: exchange.send(Reply(200, [("Content-Type", "text/html"), *headers], body))


EMPTY = page(b"")
LOGIN = page(b"<html><body>Please log in</body></html>", ("ETag", 'W/"1f-abc"'))
STRONG = page(b"<html><body>Please log in</body></html>", ("ETag", '"1f-abc"'))
PAGES = pytest.mark.parametrize("answer", [EMPTY, LOGIN, STRONG], ids=["empty", "login", "strong ETag"])


@pytest.fixture
def straight(store_url: str, model: str, tmp_path: Path) -> Registry:
    """Two generations in production."""
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    bind(registry, V1, V2)
    registry.promote(V1, "production")
    registry.promote(V2, "production")
    return registry


@pytest.fixture
def distant(straight: Registry, proxy: Proxy, tmp_path: Path) -> Registry:
    """The same by way of the proxy."""
    opened = open_registry(tmp_path / "far", straight.settings.store, straight.model, endpoint_url=proxy.url)
    opened.wiring.check_writable()
    return opened


READS: dict[str, Callable[[Registry], object]] = {
    "head": lambda registry: registry.channel("production").head(),
    "history": lambda registry: registry.history(),
    "versions": lambda registry: registry.versions(),
    "verify": lambda registry: registry.verify_all(),
    "rollback": lambda registry: registry.rollback(),
    "follow": lambda registry: registry.follow().start(),
}


@PAGES
@pytest.mark.parametrize("name", READS)
def test_a_page_is_never_a_listing_of_nothing(distant: Registry, proxy: Proxy, name: str, answer: Fault) -> None:
    proxy.next(answer, method="GET", containing="list-type=2", times=ALWAYS)
    with pytest.raises(StoreUnreachable, match=r"not an answer of S3: it lacks .IsTruncated"):
        READS[name](distant)


@PAGES
def test_no_file_is_deleted_on_the_word_of_a_page(
    straight: Registry, distant: Registry, proxy: Proxy, tmp_path: Path, answer: Fault
) -> None:
    create(straight, "v3.0.0", tmp_path)
    before = listing(straight)
    proxy.next(answer, method="GET", containing="prefix=" + "models", times=ALWAYS)
    proxy.next(answer, method="GET", containing="models%2F", times=ALWAYS)
    for _ in range(2):
        with pytest.raises(UloraError) as error:
            distant.collect_garbage(RetentionRule(keep=1, older_than=timedelta()), grace=timedelta())
        assert error.value.exit_code in (6, 7)
    assert {key: size for key, size in before.items() if "blobs/" in key}.items() <= listing(straight).items()


@PAGES
def test_a_record_that_only_a_page_took_is_written_again(
    straight: Registry, distant: Registry, proxy: Proxy, answer: Fault
) -> None:
    proxy.next(answer, method="PUT", containing=LOG)
    assert distant.rollback().generation == 3
    assert [record.stable.version for record in straight.history()] == [V1, V2, V1]


@PAGES
def test_a_write_that_only_pages_took_is_unknown(store_url: str, proxy: Proxy, answer: Fault) -> None:
    store = ObjectStore(store_url, endpoint_url=proxy.url, deadlines=Deadlines(write=1))
    proxy.next(answer, method="PUT", times=ALWAYS)
    with pytest.raises(OutcomeUnknown, match="not an answer of S3"):
        store.create("models/m/versions/v1.0.0.json", b"{}")


@PAGES
def test_no_name_is_bound_to_files_that_a_page_took(
    straight: Registry, distant: Registry, proxy: Proxy, tmp_path: Path, answer: Fault
) -> None:
    proxy.next(answer, method="PUT", containing="/blobs/", times=ALWAYS)
    with pytest.raises(StoreUnreachable, match="not an answer of S3"):
        distant.create("v3.0.0", small_bundle(tmp_path / "bundle"), offline=True)
    assert "v3.0.0" not in {each.version for each in straight.versions()}


@PAGES
def test_a_page_never_says_that_a_file_is_there(distant: Registry, proxy: Proxy, answer: Fault) -> None:
    proxy.next(answer, method="HEAD", times=ALWAYS)
    with pytest.raises(StoreUnreachable, match="not an answer of S3"):
        distant.store.head(layout.version(distant.model, V1))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_names_what_to_set(distant: Registry, proxy: Proxy, status: int) -> None:
    def redirect(exchange: Exchange) -> None:
        exchange.send(Reply(status, [("Location", f"https://user:secret@other.example:1{exchange.path}")], b""))

    proxy.next(redirect, times=ALWAYS)
    for act in (distant.rollback, distant.status):
        with pytest.raises(BadSetting, match="redirects") as error:
            act()
        assert "ULORA_S3_ENDPOINT" in error.value.hint
        assert "secret" not in str(error.value)


CHANGES: dict[str, Callable[[Registry, Path], object]] = {
    "rollback": lambda registry, folder: registry.rollback(),
    "promote": lambda registry, folder: registry.promote(V1),
    "init": lambda registry, folder: registry.store.initialise(),
    "create": lambda registry, folder: registry.create("v3.0.0", small_bundle(folder / "bundle"), offline=True),
}
EACH = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


@EACH
def test_a_bucket_of_another_region_is_said_to_be_one(
    distant: Registry, proxy: Proxy, tmp_path: Path, change: Callable[[Registry, Path], object]
) -> None:
    proxy.next(answering(301, "PermanentRedirect"), times=ALWAYS)
    with pytest.raises(BadSetting, match=r"redirects every request.*the region set here is us-east-1") as error:
        change(distant, tmp_path)
    assert "AWS_REGION" in error.value.hint


def test_a_region_that_is_refused_is_named_with_the_right_one(distant: Registry, proxy: Proxy) -> None:
    said = b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>no</Message><Region>eu-north-1</Region></Error>"
    proxy.next(lambda exchange: exchange.send(Reply(400, [("Content-Type", "application/xml")], said)), times=ALWAYS)
    with pytest.raises(BadSetting, match="region") as error:
        distant.rollback()
    assert "AWS_REGION" in error.value.hint


@EACH
def test_a_server_without_conditional_writes_is_unfit(
    distant: Registry, proxy: Proxy, tmp_path: Path, change: Callable[[Registry, Path], object]
) -> None:
    proxy.next(answering(501, "NotImplemented"), method="PUT", times=ALWAYS)
    with pytest.raises(StoreUnfit, match="does not implement what ulora needs: PutObject") as error:
        change(Registry(settings=distant.settings), tmp_path)
    assert "conditional writes" in error.value.hint


@EACH
def test_clocks_that_differ_are_told_with_both_times(
    distant: Registry, proxy: Proxy, tmp_path: Path, change: Callable[[Registry, Path], object]
) -> None:
    date = ("Date", "Mon, 01 Jun 2026 10:00:00 GMT")
    said = b"<Error><Code>RequestTimeTooSkewed</Code><Message>no</Message></Error>"
    proxy.next(lambda exchange: exchange.send(Reply(403, [date], said)), times=ALWAYS)
    with pytest.raises(StoreDenied, match=r"here it is 2\d{3}-.* UTC, at the server 2026-06-01 10:00:00 UTC"):
        change(distant, tmp_path)


def test_a_reply_with_two_dates_is_read(distant: Registry, proxy: Proxy) -> None:
    def twice(exchange: Exchange) -> None:
        reply = exchange.forward()
        dates = [header for header in reply.headers if header[0].lower() == "date"]
        exchange.send(Reply(reply.status, [*reply.headers, *dates], reply.body))

    proxy.next(twice, times=ALWAYS)
    assert distant.promote(V1).changed


def test_a_write_that_was_refused_after_it_was_applied_is_done(
    straight: Registry, distant: Registry, proxy: Proxy
) -> None:
    def refuse_afterwards(exchange: Exchange) -> None:
        exchange.forward()
        answering(403, "AccessDenied")(exchange)

    proxy.next(refuse_afterwards, method="PUT", containing=LOG)
    assert distant.rollback().changed
    assert straight.channel("production").head().generation == 3


@pytest.mark.parametrize("junk", [".DS_Store", "0.json", "0000000000001.json.bak", "readme"])
def test_junk_in_a_log_stops_no_rollback(straight: Registry, junk: str) -> None:
    straight.store.overwrite(layout.channel(straight.model, "production") + junk, b"junk")
    assert {each.channel: each.stable for each in straight.status().channels}["production"] == V2
    assert straight.rollback().version == V1


def test_a_planned_rollback_is_not_planned_from_an_old_listing(
    straight: Registry, distant: Registry, proxy: Proxy
) -> None:
    kept: list[Reply] = []

    def listing_of_before(exchange: Exchange) -> None:
        kept.append(kept[0] if kept else exchange.forward())
        exchange.send(kept[0])

    proxy.next(listing_of_before, method="GET", containing="channels%2Fproduction%2F", times=ALWAYS)
    log, author = distant.channel("production"), Author("a test")
    assert log.plan_rollback(author, RollbackOptions()).record.generation == 3
    straight.promote(V1, "production")
    assert distant.rollback(dry_run=True).generation == 4


def listing_of(text: str) -> Fault:
    body = f"<ListBucketResult>{text}</ListBucketResult>".encode()
    return lambda exchange: exchange.send(Reply(200, [("Content-Type", "application/xml")], body))


MORE = "<IsTruncated>true</IsTruncated>"
ALL = "<IsTruncated>false</IsTruncated>"
ENTRY = "<Size>1</Size><ETag>x</ETag><LastModified>2026-01-01T00:00:00Z</LastModified>"


@pytest.mark.parametrize(
    "text",
    [MORE, f"{ALL}<Contents><Key>elsewhere/0999999999990.json</Key>{ENTRY}</Contents>"],
    ids=["more, but not where", "other keys"],
)
def test_a_listing_that_can_not_be_whole_is_refused(distant: Registry, proxy: Proxy, text: str) -> None:
    proxy.next(listing_of(text), method="GET", containing="list-type=2", times=ALWAYS)
    for look in (distant.channel("production").head, distant.versions):
        with pytest.raises(StoreUnreachable, match="not a listing of S3"):
            look()


@pytest.mark.parametrize("method", ["list", "get"])
def test_a_reply_that_is_longer_than_it_says_is_not_read_on(distant: Registry, proxy: Proxy, method: str) -> None:
    """Its length is ignored by HTTP where it comes in chunks."""
    sent: list[int] = []

    def endless(exchange: Exchange) -> None:
        with suppress(OSError):
            exchange.write(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: "a"\r\nTransfer-Encoding: chunked\r\n\r\n')
            for _ in range(200):
                exchange.write(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
                sent.append(1)
        exchange.close()

    proxy.next(endless, method="GET", times=ALWAYS)
    with pytest.raises(UloraError):
        distant.store.first("models/") if method == "list" else distant.store.get("models/x.json", 1000)
    assert len(sent) < 150


@pytest.mark.parametrize(
    "junk",
    [".stversions/0999999999991.json", ".snapshot/0999999999901.json", "0000000000000.json", "٠999999999991.json"],
)
def test_no_name_but_a_record_s_is_taken_for_one(straight: Registry, junk: str) -> None:
    straight.store.overwrite(layout.channel(straight.model, "production") + junk, b"{}")
    assert straight.channel("production").head() == straight.channel("production").read(2)
    assert straight.rollback().generation == 3


def test_a_document_of_which_half_has_arrived_is_not_read(distant: Registry, proxy: Proxy) -> None:
    def half(exchange: Exchange) -> None:
        exchange.send(exchange.forward(), body_bytes=5)
        exchange.close()

    proxy.next(half, method="GET", containing="format.json", times=ALWAYS)
    with pytest.raises(StoreUnreachable):
        distant.store.get("format.json")
