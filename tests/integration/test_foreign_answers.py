"""A change that was made is never said to have failed, nor one that was not made to be done, whoever answers."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from registry.api import Registry
from registry.errors import BadManifest, IntegrityError, OutcomeUnknown, StoreUnreachable
from registry.retention.forget import RetentionRule
from registry.store import layout
from registry.store.client import Deadlines
from registry.store.objects import ObjectStore
from tests.servers.proxy import Exchange, Fault, Proxy, Reply, answering, swallow_reply
from tests.support.foreign_answers import EACH_404, EACH_FOREIGN, EACH_REFUSAL, FOREIGN, applied, refusal
from tests.support.registries import bind, create, listing, open_registry

pytestmark = pytest.mark.acceptance

V1, V2 = "v1.0.0", "v2.0.0"
LOG = "/channels/production/"
RECORD = "0999999999997.json"
"""Of generation 3, the next one."""
ALWAYS = 10_000
BUCKET = "ulora"
EACH = pytest.mark.parametrize("answer", EACH_FOREIGN)


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
    """The same by way of the proxy, with little patience."""
    opened = open_registry(tmp_path / "far", straight.settings.store, straight.model, endpoint_url=proxy.url)
    opened.wiring.check_writable()
    opened.store._client.deadlines = Deadlines(attempt=1, write=2)
    return opened


OTHER = b"<ListBucketResult><Name>other</Name><Prefix>x/</Prefix><IsTruncated>false</IsTruncated></ListBucketResult>"
BARE = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
NONE = b'<html xmlns="x"><IsTruncated>false</IsTruncated></html>'


def listing_of(body: bytes) -> Fault:
    return lambda exchange: exchange.send(Reply(200, [("Content-Type", "application/xml")], body))


def served(registry: Registry) -> list[str]:
    return [record.stable.version for record in registry.history() if record.stable]


@EACH
def test_a_record_that_others_took_is_written_again(
    straight: Registry, distant: Registry, proxy: Proxy, answer: Fault
) -> None:
    proxy.next(answer, method="PUT", containing=LOG)
    assert distant.rollback().generation == 3
    assert served(straight) == [V1, V2, V1]


@EACH
def test_a_record_that_was_written_is_found_whoever_answers(
    straight: Registry, distant: Registry, proxy: Proxy, answer: Fault
) -> None:
    proxy.next(applied(answer), method="PUT", containing=LOG)
    assert distant.rollback().generation == 3
    assert served(straight) == [V1, V2, V1]


@EACH
def test_where_others_answer_the_look_back_nobody_knows(
    straight: Registry, distant: Registry, proxy: Proxy, answer: Fault
) -> None:
    proxy.next(swallow_reply, method="PUT", containing=LOG)
    proxy.next(answer, method="GET", containing=RECORD, times=ALWAYS)
    with pytest.raises(OutcomeUnknown):
        distant.rollback()
    assert served(straight) == [V1, V2, V1]


@EACH
def test_a_promotion_that_can_not_be_read_back_is_done(distant: Registry, proxy: Proxy, answer: Fault) -> None:
    proxy.next(answer, method="GET", containing=RECORD, times=ALWAYS)
    change = distant.promote(V1, "production")
    assert (change.changed, change.generation) == (True, 3)
    assert "could not be read back" in change.notes[0]


@pytest.mark.parametrize("refused", EACH_REFUSAL)
def test_a_refusal_of_what_was_passed_on_is_not_believed(
    straight: Registry, distant: Registry, proxy: Proxy, refused: Fault
) -> None:
    proxy.next(applied(refused), method="PUT", containing=LOG, times=ALWAYS)
    proxy.next(refused, method="GET", containing=RECORD, times=ALWAYS)
    with pytest.raises(OutcomeUnknown):
        distant.rollback()
    assert served(straight) == [V1, V2, V1]


@pytest.mark.parametrize(("status", "page"), EACH_404)
def test_a_404_of_others_says_nothing_of_a_record(
    straight: Registry, distant: Registry, proxy: Proxy, status: int, page: Fault
) -> None:
    proxy.next(applied(refusal(status)), method="PUT", containing=LOG, times=ALWAYS)
    proxy.next(page, method="GET", containing=RECORD, times=ALWAYS)
    with pytest.raises(OutcomeUnknown):
        distant.rollback()
    assert served(straight) == [V1, V2, V1]


@pytest.mark.parametrize("page", [refusal(404), answering(404)], ids=["a page", "empty"])
def test_gc_believes_no_404_of_others(straight: Registry, distant: Registry, proxy: Proxy, page: Fault) -> None:
    key = layout.replica(straight.model, "production", "r1")
    straight.store.overwrite(key, b"{}")
    proxy.next(page, method="GET", containing=key, times=ALWAYS)
    with pytest.raises(StoreUnreachable, match="not an answer of S3"):
        distant.collect_garbage(RetentionRule(keep=1, older_than=timedelta()), grace=timedelta())


def test_a_page_never_says_that_a_file_is_missing(distant: Registry, proxy: Proxy) -> None:
    proxy.next(refusal(404), method="HEAD", times=ALWAYS)
    with pytest.raises(StoreUnreachable, match="not an answer of S3"):
        distant.store.head(layout.version(distant.model, V1))


@EACH
def test_nothing_is_deleted_on_the_word_of_others(proxy: Proxy, store_url: str, answer: Fault) -> None:
    store = ObjectStore(store_url, endpoint_url=proxy.url)
    store.create("models/m/forgotten/v1.0.0.json", b'{"format":1}')
    proxy.next(answer, method="DELETE")
    with pytest.raises(StoreUnreachable, match="answered"):
        store.delete("models/m/forgotten/v1.0.0.json")
    store.delete("models/m/forgotten/v1.0.0.json")
    assert store.head("models/m/forgotten/v1.0.0.json") is None


def test_a_version_is_only_remembered_where_the_store_says_so(
    straight: Registry, distant: Registry, proxy: Proxy
) -> None:
    bind(straight, "v0.1.0")
    straight.collect_garbage(RetentionRule(keep=1, older_than=timedelta()), grace=timedelta(days=1))
    before = listing(straight)
    assert layout.forgotten(straight.model, "v0.1.0") in before
    proxy.next(FOREIGN["xhtml"], method="DELETE", times=ALWAYS)
    with pytest.raises(StoreUnreachable):
        distant.remember("v0.1.0")
    assert listing(straight) == before


@pytest.mark.parametrize("body", [OTHER, BARE, NONE], ids=["another", "without a name", "no listing"])
def test_a_listing_of_something_else_is_none_of_this(
    straight: Registry, distant: Registry, proxy: Proxy, body: bytes
) -> None:
    before = listing(straight)
    proxy.next(listing_of(body), method="GET", containing="channels", times=ALWAYS)
    for _ in range(2):
        with pytest.raises(StoreUnreachable, match="not a listing of S3: it is one of"):
            distant.collect_garbage(RetentionRule(keep=1, older_than=timedelta()), grace=timedelta())
    for act in (distant.rollback, distant.status, distant.channel("production").head):
        with pytest.raises(StoreUnreachable, match="not a listing of S3"):
            act()
    assert {key: size for key, size in before.items() if "blobs/" in key}.items() <= listing(straight).items()


@pytest.mark.parametrize("key", ["<Contents><Key>{prefix}a</Key><Size>1</Size></Contents>", ""], ids=["again", "empty"])
def test_pages_without_end_are_given_up(distant: Registry, proxy: Proxy, key: str) -> None:
    def first_page(exchange: Exchange) -> None:
        asked = parse_qs(urlsplit(exchange.path).query)
        prefix = asked["prefix"][0]
        said = f"<Name>{BUCKET}</Name><Prefix>{prefix}</Prefix><IsTruncated>true</IsTruncated>"
        more = f"<NextContinuationToken>{len(proxy.requests)}</NextContinuationToken>" + key.format(prefix=prefix)
        listing_of(f"<ListBucketResult>{said}{more}</ListBucketResult>".encode())(exchange)

    proxy.next(first_page, method="GET", containing="list-type=2", times=ALWAYS)
    with pytest.raises(StoreUnreachable, match="not a listing of S3"):
        list(distant.store.folders("models/"))


def test_a_refusal_that_comes_from_reading_the_reply_is_unclear(
    straight: Registry, distant: Registry, proxy: Proxy
) -> None:
    odd = [("ETag", '"a"'), ("x-amz-object-size", "abc")]
    proxy.next(applied(lambda exchange: exchange.send(Reply(200, odd, b""))), method="PUT", containing=LOG)
    proxy.next(refusal(403), method="GET", containing=RECORD, times=ALWAYS)
    with pytest.raises(OutcomeUnknown):
        distant.rollback()
    assert served(straight) == [V1, V2, V1]


@pytest.mark.parametrize(("status", "code"), [(400, "RequestTimeout"), (400, "InternalError"), (403, "SlowDown")])
def test_what_s3_asks_to_try_again_is_tried_again(
    straight: Registry, distant: Registry, proxy: Proxy, status: int, code: str
) -> None:
    proxy.next(answering(status, code), method="PUT", containing=LOG)
    assert distant.rollback().changed
    assert served(straight) == [V1, V2, V1]


@pytest.mark.parametrize("refused", EACH_REFUSAL)
def test_a_note_that_was_taken_back_is_said_to_be(
    straight: Registry, distant: Registry, proxy: Proxy, refused: Fault
) -> None:
    bind(straight, "v0.1.0")
    straight.collect_garbage(RetentionRule(keep=1, older_than=timedelta()), grace=timedelta(days=1))
    proxy.next(applied(refused), method="DELETE")
    assert distant.remember("v0.1.0")
    assert layout.forgotten(straight.model, "v0.1.0") not in listing(straight)


def test_a_note_that_is_still_there_was_not_taken_back(straight: Registry, distant: Registry, proxy: Proxy) -> None:
    bind(straight, "v0.1.0")
    straight.collect_garbage(RetentionRule(keep=1, older_than=timedelta()), grace=timedelta(days=1))
    proxy.next(lambda exchange: exchange.send(Reply(204, [], b"")), method="DELETE")
    with pytest.raises(StoreUnreachable, match="still there"):
        distant.remember("v0.1.0")


def test_an_old_page_is_no_silent_replica(straight: Registry, distant: Registry, proxy: Proxy) -> None:
    straight.store.overwrite(layout.replica(straight.model, "production", "r1"), b"{}")
    proxy.next(FOREIGN["json"], method="GET", containing="/replicas/", times=ALWAYS)
    with pytest.raises(BadManifest):
        distant.collect_garbage(RetentionRule(keep=1, older_than=timedelta()), grace=timedelta())


@pytest.mark.parametrize("kind", ["text/plain", "application/json", None])
def test_a_404_of_somebody_else_is_no_missing_file(
    straight: Registry, distant: Registry, proxy: Proxy, tmp_path: Path, kind: str | None
) -> None:
    create(straight, "v3.0.0", tmp_path)
    answer = Reply(404, [("Content-Type", kind)] if kind else [], b"")
    proxy.next(lambda exchange: exchange.send(answer), method="HEAD", containing="/blobs/", times=ALWAYS)
    with pytest.raises(StoreUnreachable, match=r"as no object, and lists an object of"):
        distant.promote("v3.0.0", "production")
    assert served(straight) == [V2, V1]


def test_a_file_of_a_web_server_is_no_damaged_blob(
    straight: Registry, distant: Registry, proxy: Proxy, tmp_path: Path
) -> None:
    create(straight, "v3.0.0", tmp_path)
    proxy.next(FOREIGN["json"], method="HEAD", containing="/blobs/", times=ALWAYS)
    with pytest.raises(StoreUnreachable):
        distant.promote("v3.0.0", "production")
    assert served(straight) == [V2, V1]


def test_a_file_that_is_gone_is_missing(straight: Registry, distant: Registry, tmp_path: Path) -> None:
    create(straight, "v3.0.0", tmp_path)
    straight.store.delete(layout.blob(straight.manifest("v3.0.0").files[0].sha256))
    with pytest.raises(IntegrityError, match="missing"):
        distant.promote("v3.0.0", "production")
