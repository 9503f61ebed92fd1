"""Whoever answers in place of the store, a rollback script never says the opposite of what is so."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from registry.api import Registry
from registry.breakglass.write_script import Script
from registry.channels.channel import RollbackOptions
from tests.servers.proxy import Exchange, Fault, Proxy, Reply, answering, swallow_reply
from tests.support.foreign_answers import EACH_404, EACH_FOREIGN, EACH_REFUSAL, FOREIGN, applied, refusal
from tests.support.registries import open_registry
from tests.support.run_script import run, serve_three

pytestmark = pytest.mark.acceptance

NEXT = "/channels/production/0999999999996.json"
"""The record that the script writes."""
LOGIN = Reply(200, [("Content-Type", "text/html"), ("ETag", 'W/"1"')], b"<html><body>Log in</body></html>")
STRONG = Reply(200, [("Content-Type", "text/html"), ("ETag", '"abc"')], b"<html><body>Log in</body></html>")
EACH = pytest.mark.parametrize("answer", EACH_FOREIGN)


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    """Production served v1.0.0, v2.0.0, and now v3.0.0."""
    registry = open_registry(tmp_path, store_url, model)
    serve_three(registry)
    return registry


@pytest.fixture
def script(registry: Registry, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Script:
    """The one that goes to v2.0.0, by way of the proxy."""
    script = registry.rollback_script("v2.0.0")
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    return script


def served(registry: Registry) -> list[str]:
    return [record.stable.version for record in registry.history() if record.stable]


@pytest.mark.parametrize("page", [LOGIN, STRONG, Reply(200, [], b"")], ids=["login", "strong ETag", "empty"])
def test_a_page_is_no_answer_of_the_store(registry: Registry, script: Script, proxy: Proxy, page: Reply) -> None:
    proxy.next(lambda exchange: exchange.send(page), method="GET", containing="list-type=2")
    assert run(script, "--yes", "--json").error == "StoreUnreachable"
    proxy.next(lambda exchange: exchange.send(page), method="PUT", containing=NEXT)
    assert run(script, "--yes", "--json").document["changed"]
    assert served(registry)[0] == "v2.0.0"


@EACH
def test_a_record_that_others_took_is_written_again(
    registry: Registry, script: Script, proxy: Proxy, answer: Fault
) -> None:
    proxy.next(answer, method="PUT", containing=NEXT)
    assert run(script, "--yes", "--json").document["changed"]
    assert served(registry)[0] == "v2.0.0"


@EACH
def test_where_others_answer_the_look_back_nobody_knows(
    registry: Registry, script: Script, proxy: Proxy, answer: Fault
) -> None:
    def from_now_on(exchange: Exchange) -> None:
        proxy.next(answer, method="GET", containing=NEXT, times=1000)
        swallow_reply(exchange)

    proxy.next(from_now_on, method="PUT", containing=NEXT)
    unknown = run(script, "--yes", "--json", ATTEMPT=1.0, DEADLINE=2.0)
    assert (unknown.code, unknown.error, served(registry)[0]) == (7, "OutcomeUnknown", "v2.0.0")


@pytest.mark.parametrize("refused", EACH_REFUSAL)
def test_a_refusal_of_what_was_passed_on_is_not_believed(
    registry: Registry, script: Script, proxy: Proxy, refused: Fault
) -> None:
    def from_now_on(exchange: Exchange) -> None:
        proxy.next(refused, containing=NEXT, times=1000)
        applied(refused)(exchange)

    proxy.next(from_now_on, method="PUT", containing=NEXT)
    unknown = run(script, "--yes", "--json", ATTEMPT=1.0, DEADLINE=2.0)
    assert (unknown.code, unknown.error, served(registry)[0]) == (7, "OutcomeUnknown", "v2.0.0")


@pytest.mark.parametrize(("status", "page"), EACH_404)
def test_a_404_of_others_says_nothing_of_the_record(
    registry: Registry, script: Script, proxy: Proxy, status: int, page: Fault
) -> None:
    def from_now_on(exchange: Exchange) -> None:
        proxy.next(page, method="GET", containing=NEXT, times=1000)
        proxy.next(refusal(status), method="PUT", containing=NEXT, times=1000)
        applied(refusal(status))(exchange)

    proxy.next(from_now_on, method="PUT", containing=NEXT)
    unknown = run(script, "--yes", "--json", ATTEMPT=1.0, DEADLINE=2.0)
    assert (unknown.code, unknown.error, served(registry)[0]) == (7, "OutcomeUnknown", "v2.0.0")


@pytest.mark.parametrize("said", [[("Transfer-Encoding", "chunked")], []], ids=["in chunks", "without a length"])
def test_a_body_that_is_not_announced_is_one(
    registry: Registry, script: Script, proxy: Proxy, said: list[tuple[str, str]]
) -> None:
    def page(exchange: Exchange) -> None:
        body = b"4\r\npage\r\n0\r\n\r\n" if said else b"page"
        headers = "".join(f"{name}: {value}\r\n" for name, value in [("ETag", '"a"'), *said])
        exchange.write(f"HTTP/1.1 200 OK\r\n{headers}\r\n".encode() + body)
        exchange.close()

    proxy.next(page, method="PUT", containing=NEXT)
    assert run(script, "--yes", "--json").document["changed"]
    assert served(registry)[0] == "v2.0.0"


def test_a_listing_of_something_else_is_no_log(script: Script, proxy: Proxy) -> None:
    other = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
    proxy.next(lambda exchange: exchange.send(Reply(200, [], other)), method="GET", containing="list-type=2")
    refused = run(script, "--yes", "--json")
    assert (refused.code, refused.error) == (7, "StoreUnreachable")


@pytest.mark.parametrize("field", [b"Key", b"Size"], ids=["Key", "Size"])
def test_a_listing_without_keys_or_sizes_is_none(script: Script, proxy: Proxy, field: bytes) -> None:
    def answer(exchange: Exchange) -> None:
        reply = exchange.forward()
        body = re.sub(b"<%s>[^<]*</%s>" % (field, field), b"", reply.body)
        exchange.send(Reply(reply.status, reply.headers, body))

    proxy.next(answer, method="GET", containing="list-type=2", times=1000)
    refused = run(script, "--yes", "--json")
    assert (refused.code, refused.error) == (7, "StoreUnreachable"), refused.err


@pytest.mark.parametrize("checksum", ["not base64", "\xe9" * 44], ids=["not base64", "not ASCII"])
def test_a_checksum_that_is_none_is_no_answer(script: Script, proxy: Proxy, checksum: str) -> None:
    def answer(exchange: Exchange) -> None:
        reply = exchange.forward()
        headers = [(name, value) for name, value in reply.headers if name.lower() != "x-amz-checksum-sha256"]
        exchange.send(Reply(reply.status, [*headers, ("x-amz-checksum-sha256", checksum)], reply.body))

    proxy.next(answer, method="HEAD", times=1000)
    refused = run(script, "--yes", "--json")
    assert (refused.code, refused.error) == (7, "StoreUnreachable"), refused.err


def test_a_page_never_says_that_files_are_missing(script: Script, proxy: Proxy) -> None:
    proxy.next(refusal(404), method="HEAD", times=1000)
    refused = run(script, "--yes", "--json")
    assert (refused.code, refused.error) == (7, "StoreUnreachable")


@pytest.mark.parametrize("answer", [answering(404), FOREIGN["json"]], ids=["404", "a file of a web server"])
def test_a_head_alone_never_says_that_files_are_bad(
    registry: Registry, script: Script, proxy: Proxy, answer: Fault
) -> None:
    """Such a reply has no body to know S3 by."""
    proxy.next(answer, method="HEAD", times=1000)
    refused = run(script, "--yes", "--json")
    assert (refused.code, refused.error) == (7, "StoreUnreachable"), refused.err
    assert "and lists an object of" in refused.err
    assert served(registry)[0] == "v3.0.0"


def test_a_head_alone_never_says_that_a_version_is_forgotten(registry: Registry, script: Script, proxy: Proxy) -> None:
    registry.rollback("production")
    registry.rollback("production", RollbackOptions(again=True))
    proxy.next(FOREIGN["json"], method="HEAD", containing="/forgotten/", times=1000)
    assert run(script, "--yes", "--json", "--force", "--reason", "it is needed").document["changed"]


def test_only_the_question_is_left_out_of_its_time(registry: Registry, script: Script) -> None:
    ahead, ends = [0.0], []

    def check(store: Any, *_: object) -> None:
        ends.append(store.ends)
        ahead[0] += 20.0

    def ask() -> None:
        ahead[0] += 500.0

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + ahead[0], sleep=time.sleep)
    assert run(script, "--json", time=clock, check=check, ask=ask).document["changed"]
    assert ends[1] - ends[0] == pytest.approx(500.0, abs=10.0)
