"""Who may ask a replica, and how often."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from registry.errors import BadSetting
from registry.serving.follow import Live, LiveOptions
from registry.serving.http.app import create_app
from registry.serving.http.options import HttpOptions
from registry.serving.http.rate_limit import MAX_CALLERS, RateLimit, caller_of_address
from registry.serving.http.rights import right_of
from registry.serving.http.tokens import parse_tokens, read_tokens
from registry.store.objects import ObjectStore
from tests.support.echo_releases import Shop, find_echo, wait_until
from tests.support.running_app import running, running_server

APP, OPS, LABELS = "a" * 32, "o" * 32, "l" * 32
LINES = f"""
# who   what            token
app     predict         {APP}
ops     predict,admin   sha256:{hashlib.sha256(OPS.encode()).hexdigest()}
labels  feedback        {LABELS}
"""


@pytest.fixture
def live(store_url: str, model: str, tmp_path: Path) -> Iterator[Live]:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    shop.release("v1.0.0")
    shop.promote("v1.0.0")
    with Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(find=find_echo, deadline=600)) as live:
        yield live


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(LINES)
    path.chmod(0o600)
    return path


def ask(http: httpx.Client, token: str | None, method: str = "POST", path: str = "/predict") -> httpx.Response:
    headers = {"Content-Type": "image/png"} | ({"Authorization": f"Bearer {token}"} if token else {})
    return http.request(method, path, content=b"leaf" if method == "POST" else None, headers=headers)


def test_a_token_is_good_for_its_scopes_only(live: Live, tokens: Path) -> None:
    with running(live, HttpOptions(tokens=tokens)) as http:
        assert [ask(http, token).status_code for token in (APP, OPS, LABELS)] == [200, 200, 403]
        assert [ask(http, token, path="/-/refresh").status_code for token in (OPS, APP)] == [202, 403]
        for token in (None, "b" * 32, APP[:-1], "", APP + "a"):
            refused = ask(http, token)
            assert (refused.status_code, refused.json()["error"]) == (401, "Unauthorized")
            assert refused.headers["WWW-Authenticate"].startswith("Bearer")
            assert refused.headers["X-Request-Id"]
        assert ask(http, LABELS).headers["WWW-Authenticate"].endswith('scope="predict"')


def test_without_a_token_only_probes_are_answered(live: Live, tokens: Path) -> None:
    closed = ["/health", "/version", "/metrics", "/docs", "/openapi.json", "/nowhere", "/v2/models/x"]
    with running(live, HttpOptions(tokens=tokens)) as http:
        assert {ask(http, None, "GET", path).status_code for path in closed} == {401}
        assert {ask(http, LABELS, "GET", path).status_code for path in ("/health", "/version", "/docs")} == {200}
        probes = [f"{where}/health/{what}" for where in ("", "/v2") for what in ("live", "ready")]
        assert {ask(http, None, "GET", path).status_code for path in probes} == {200}
        assert set(ask(http, None, path="/v2/models/x/infer").json()) == {"error"}, "as that protocol has it"
        assert ask(http, LABELS, path="/v2/models/x/infer").status_code == 403
        assert [ask(http, LABELS, path=path).status_code for path in ("/predict/batch", "/v1/diagnose")] == [403, 403]


def test_no_spelling_of_a_path_needs_less_than_the_path(live: Live, tokens: Path) -> None:
    with running(live, HttpOptions(tokens=tokens)) as http:
        for path in ("/v1/diagnose", f"/v2/models/{live.record.model}/infer"):
            spelled = [path, f"{path}%0A", f"{path}/", f"/{path}", f"{path}%2F", f"{path}%0A%0A", f"{path}%00"]
            statuses = [ask(http, LABELS, path=each).status_code for each in spelled]
            assert statuses[:2] == [403, 404]
            assert set(statuses[2:]) <= {307, 403, 404}


def test_an_application_within_another_asks_for_the_same(live: Live, tokens: Path) -> None:
    whole = FastAPI()
    whole.mount("/p", create_app(live, HttpOptions(tokens=tokens)))
    with TestClient(whole) as http:
        assert [ask(http, token, path="/p/predict").status_code for token in (None, LABELS, APP)] == [401, 403, 200]
        assert ask(http, None, "GET", "/p/health/live").status_code == 200
        assert set(ask(http, None, path="/p/v2/models/x/infer").json()) == {"error"}, "as that protocol has it"
        counted = ask(http, APP, "GET", "/p/metrics").text
    assert 'ulora_requests_total{arm="stable",code="200",version="v1.0.0"} 1.0' in counted
    assert right_of({"method": "POST", "root_path": "/p", "path": "/predict"}) == "predict", "no other path is cut"


def test_two_credentials_are_none(live: Live, tokens: Path) -> None:
    with running(live, HttpOptions(tokens=tokens)) as http:
        twice = [("Authorization", f"Bearer {APP}"), ("Authorization", f"Bearer {APP}")]
        assert http.get("/health", headers=twice).status_code == 401
        assert http.get("/health", headers={"Authorization": f"Basic {APP}"}).status_code == 401
        assert http.get("/health", headers={"Authorization": f"bearer {APP}"}).status_code == 200


def test_a_changed_file_counts_and_a_broken_one_does_not(
    live: Live, tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running_server(live, HttpOptions(tokens=tokens)) as (server, url), httpx.Client(base_url=url) as http:
        tokens.write_text(f"app predict {'n' * 32}\n")
        wait_until(lambda: ask(http, "n" * 32).status_code == 200)
        assert ask(http, APP).status_code == 401
        tokens.write_text(f"app predict {'p' * 5}")
        server.read_files_again()
        assert ask(http, "n" * 32).status_code == 200
        tokens.unlink()
        server.read_files_again()
        assert ask(http, "n" * 32).status_code == 200
    assert "the tokens stay as they were: line 1" in caplog.text
    assert "ppppp" not in caplog.text


def test_no_log_line_and_no_error_has_a_token(live: Live, tokens: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), running(live, HttpOptions(tokens=tokens)) as http:
        answers = [ask(http, token).text for token in (APP, LABELS, "w" * 32)]
    said = caplog.text + "".join(answers)
    assert not any(token in said for token in (APP, LABELS, "w" * 32))


def test_a_replica_says_whether_it_asks_who_is_there(
    live: Live, tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "registry.serving.http"):
        with running(live, HttpOptions(tokens=tokens)):
            pass
        assert "no tokens" not in caplog.text
        with running(live), running(live, HttpOptions(host="0.0.0.0")):
            pass
    starts = [record.facts for record in caplog.records if getattr(record, "facts", {}).get("event") == "start"]
    assert [start["tokens"] for start in starts] == [True, False, False]
    assert {(start["version"], start["tls"]) for start in starts} == {("v1.0.0", False)}
    levels = [record.levelno for record in caplog.records if "there are no tokens" in record.message]
    assert levels == [logging.INFO, logging.WARNING]


def test_tokens_may_come_from_the_environment() -> None:
    found = read_tokens(None, {"ULORA_TOKENS": f"app predict {APP}; ops admin {OPS}"})
    assert found
    callers = [found.caller([(b"authorization", b"Bearer " + token.encode())]) for token in (APP, OPS, LABELS)]
    assert [caller and caller.name for caller in callers] == ["app", "ops", None]
    assert read_tokens(None, {}) is None


@pytest.mark.parametrize(
    "line",
    ["app predict", "app nothing " + APP, "a/b predict " + APP, "app predict short", "app predict é" + APP, "# x"],
)
def test_a_line_that_is_no_token_is_named(line: str) -> None:
    with pytest.raises(BadSetting, match=r"line 1 of here|here has 0") as refused:
        parse_tokens(line, "here")
    assert APP not in str(refused.value) + refused.value.hint


def test_a_file_that_others_can_read_is_warned_of(tokens: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokens.chmod(0o604)
    read_tokens(tokens)
    assert "chmod o=" in caplog.text
    with pytest.raises(BadSetting, match="No such file"):
        read_tokens(tokens.with_name("missing"))
    pipe = tokens.with_name("pipe")
    os.mkfifo(pipe)
    for path in (tokens.parent, pipe):
        with pytest.raises(BadSetting, match="is no file"):
            read_tokens(path)


@given(st.text(max_size=200))
def test_any_text_is_tokens_or_refused(text: str) -> None:
    with suppress(BadSetting):
        assert all(token.scopes for token in parse_tokens(text, "here"))


# --- rates -----------------------------------------------------------------------------------------------------------


def test_a_caller_that_asks_too_often_is_refused(live: Live, tokens: Path) -> None:
    with running(live, HttpOptions(tokens=tokens, rate_limit="3/hour")) as http:
        assert [ask(http, APP).status_code for _ in range(4)] == [200, 200, 200, 429]
        refused = ask(http, APP)
        assert refused.json()["error"] == "Overloaded"
        assert 1 <= int(refused.headers["Retry-After"]) <= 3600
        assert ask(http, OPS).status_code == 200, "another caller has its own"
        assert [ask(http, "w" * 32).status_code for _ in range(4)] == [401, 401, 401, 429], "nobody can try many"
        assert ask(http, None, "GET", "/health/live").status_code != 429


def test_callers_without_tokens_are_told_apart_by_address(live: Live) -> None:
    with running(live, HttpOptions(rate_limit="2/hour")) as http:
        assert [ask(http, None).status_code for _ in range(3)] == [200, 200, 429]
        elsewhere = {"Content-Type": "image/png", "X-Forwarded-For": "192.0.2.7"}  # from a trusted proxy
        assert http.post("/predict", content=b"leaf", headers=elsewhere).status_code == 200


def test_many_callers_take_bounded_memory() -> None:
    rate = RateLimit("1/hour")
    for number in range(2 * MAX_CALLERS):
        rate.check(str(number))
    assert len(rate._throttle._store._backend.get_client()) == MAX_CALLERS  # type: ignore[attr-defined]


@pytest.mark.parametrize("rate", ["", "0/second", "1/fortnight", "1.5/second", "100", "99999999/hour"])
def test_what_is_no_rate_is_refused(rate: str) -> None:
    with pytest.raises(BadSetting, match="is not a rate"):
        RateLimit(rate)


def test_one_network_of_ipv6_is_one_caller() -> None:
    assert caller_of_address("2001:db8::1") == caller_of_address("2001:db8::2:3") == "2001:db8::/64"
    assert caller_of_address("192.0.2.1") == "192.0.2.1"
    assert caller_of_address("no:address") == "no:address"
