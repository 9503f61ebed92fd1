"""Webhooks of MLflow wake `ulora reconcile --watch`, and nothing else can."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow.webhooks.delivery import _generate_hmac_signature

from registry.api import Registry
from registry.catalog import webhook_listener
from registry.catalog.webhook_listener import MAX_BODY, MAX_CONNECTIONS, PATH, WebhookListener, WebhookUse
from registry.catalog.webhook_signature import Deliveries
from registry.devstack.mlflow_server import MlflowServer
from registry.serving.listening import listen
from tests.support.mlflow_versions import client, register
from tests.support.pages import ROOT, blocks
from tests.support.raw_http import connect, is_closed, read_answer
from tests.support.registries import bind, open_registry
from tests.support.run_ulora import complains, ulora

SECRET = "a-secret-of-thirty-two-characters"
MODEL = "aads-ulora"


class Heard:
    """A listener, what it woke and what it refused."""

    def __init__(self) -> None:
        self.woken = threading.Semaphore(0)
        self.refused: list[str] = []
        self.socket = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        use = WebhookUse(MODEL, self.woken.release, self.refused.append)
        self.listener = WebhookListener(self.socket, Deliveries([SECRET]), use)

    def send(
        self, body: bytes = b"{}", *, secret: str = SECRET, method: str = "POST", path: str = PATH, delivery: str = "",
        at: int | None = None,
    ) -> tuple[int, str]:  # fmt: skip
        """Send what MLflow would; the status and the text of the answer."""
        stamp = str(int(time.time()) if at is None else at)
        delivery = delivery or os.urandom(8).hex()
        headers = {
            "Content-Type": "application/json",
            "X-MLflow-Delivery-Id": delivery,
            "X-MLflow-Timestamp": stamp,
            "X-MLflow-Signature": _generate_hmac_signature(secret, delivery, stamp, body.decode()),
        }
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=300)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode().strip()

    def was_woken(self) -> bool:
        return self.woken.acquire(blocking=False)


@pytest.fixture
def heard() -> Iterator[Heard]:
    found = Heard()
    with found.listener:
        yield found


def about(model: object) -> bytes:
    return json.dumps({"entity": "model_version_alias", "action": "created", "data": {"name": model}}).encode()


def test_a_signed_webhook_wakes(heard: Heard) -> None:
    assert heard.send(about(MODEL)) == (200, "taken")
    assert heard.woken.acquire(timeout=300)
    assert heard.send(about("other")) == (200, "taken; it is about another model")
    assert heard.send(about(MODEL), delivery="d-1")[1] == "taken"
    assert heard.woken.acquire(timeout=300)
    assert heard.send(about(MODEL), delivery="d-1") == (200, "taken before")
    assert not heard.was_woken()
    for odd in (b"[]", b"null", b"{", about(7), b'{"data": []}', b"[" * 10_000, b""):
        assert heard.send(odd) == (200, "taken"), "it is a hint, whatever it says"
    assert heard.refused == []


def test_a_flood_of_webhooks_wakes_now_and_then(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_listener, "AT_MOST_EVERY", 3600.0)
    for _ in range(50):
        assert heard.send(about(MODEL)) == (200, "taken")
    assert heard.woken.acquire(timeout=300)
    assert not heard.was_woken()


def test_what_is_not_from_this_server_is_refused(heard: Heard) -> None:
    old = int(time.time()) - 1000
    assert heard.send(secret="another-secret-of-some-length")[0] == 401
    assert heard.send(secret="another-secret-of-some-length")[0] == 401
    assert heard.send(at=old)[0] == heard.send(at=old - 5)[0] == 401
    assert heard.send(method="GET")[0] == 405
    assert heard.send(path="/")[0] == 404
    assert len(heard.refused) == 2, "each reason is said once"
    assert not heard.was_woken()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"POST /mlflow HTTP/1.1\r\nContent-Length: x\r\n\r\n", 411),
        (b"POST /mlflow HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 411),
        (b"POST /mlflow HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"POST /mlflow HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1), 413),
        (b"POST /mlflow HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
        (b"POST /mlflow HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n", 400),
        (b"POST /mlflow HTTP/1.1\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(200)) + b"\r\n", 400),
        (b"POST /mlflow HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 431),
        (b"POST /mlflow HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 401),
        (b"POST /mlflow HTTP/1.1\r\nContent-Length: 0\r\n" + b"X-Forwarded-For: 10.0.0.1\r\n" * 2 + b"\r\n", 401),
    ],
)
def test_requests_that_no_client_sends_are_answered(heard: Heard, request_: bytes, status: int) -> None:
    with connect(heard.url) as connection:
        connection.sendall(request_)
        assert read_answer(connection).status == status
    assert heard.send(about(MODEL)) == (200, "taken"), "it listens on"


def test_clients_that_send_nothing_keep_nobody_out(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_listener, "SECONDS", 2.0)
    silent = [connect(heard.url) for _ in range(MAX_CONNECTIONS)]
    for connection in silent:
        connection.sendall(b"POST /mlflow HTTP/1.1\r\n")
    statuses = set()
    while 200 not in statuses:  # until the time of the silent ones is over
        with suppress(OSError):  # one too many is closed at once, maybe before its request was read
            statuses.add(heard.send(about(MODEL))[0])
    assert statuses <= {200, 503}
    for connection in silent:
        assert connection.recv(1) == b""
        connection.close()


def test_the_end_waits_for_no_client(caplog: pytest.LogCaptureFixture) -> None:
    found = Heard()
    with found.listener:
        silent = connect(found.url)
        silent.sendall(b"POST /mlflow HTTP/1.1\r\n")
        assert found.send(about(MODEL))[0] == 200
    assert is_closed(silent)
    silent.close()
    assert [record for record in caplog.records if record.name == "asyncio"] == []
    with pytest.raises(ConnectionRefusedError):
        connect(found.url)


def test_a_listener_that_can_not_listen_says_so() -> None:
    found = Heard()
    found.socket.close()
    with pytest.raises(OSError, match="Bad file descriptor"), found.listener:
        pytest.fail("it does not listen")


def test_the_options_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULORA_STORE", "s3://bucket/prefix")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    secret = tmp_path / "secret"
    complains(ulora("reconcile", "--watch", "--webhook-port", "0"), 2, "go together")
    secret.write_text("short")
    options = ("--webhook-port", "0", "--webhook-secret-file", secret)
    complains(ulora("reconcile", *options), 2, "--watch")
    complains(ulora("reconcile", "--watch", *options), 2, "16 to 512 characters")
    secret.write_text(SECRET)
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        done = ulora("reconcile", "--watch", "--webhook-port", port, "--webhook-secret-file", secret)
    complains(done, 2, f"127.0.0.1:{port}", "--webhook-port")


class WebhookServer(MlflowServer):
    """An MLflow server that sends webhooks to this machine, and looks at once which there are."""

    def _child_env(self) -> dict[str, str]:
        return super()._child_env() | {
            "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
            "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
            "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": "hOk9M0bTIUHqXuCcvXy2kCjX1r7i0QhZ3n0xWmC9c1s=",
            "MLFLOW_WEBHOOK_CACHE_TTL": "0",
        }


@pytest.mark.acceptance
def test_a_request_in_mlflow_is_answered_at_once(
    store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause between two rounds is an hour: only the webhook of a real server can begin the next one."""
    server = WebhookServer(tmp_path / "mlflow").start()
    try:
        registry = open_registry(tmp_path, store_url, model, tracking_uri=server.url)
        registry.store.initialise()
        bind(registry, "v1.0.0", "v1.1.0")
        register(registry, "v1.0.0", "v1.1.0")
        registry.promote("v1.0.0", "production")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        Path("webhook.secret").write_text(SECRET)
        options = ("--webhook-port", "0", "--webhook-secret-file", "webhook.secret", "--every", "3600")
        words = [sys.executable, "-m", "registry", "reconcile", "--watch", "--json", *options]
        settings = registry.settings.environment()
        with subprocess.Popen(words, env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            try:
                url = json.loads(watching.stdout.readline())["webhooks"]
                register_webhook(url)
                assert json.loads(watching.stdout.readline()) == {"watching": model}
                ask_until_answered(registry, watching)
            finally:
                watching.send_signal(signal.SIGTERM)
                assert watching.wait(300) == 0
        head = registry.channel("production").head()
        assert head is not None
        assert head.live() == ("v1.1.0",)
        assert head.reason.startswith("asked for in MLflow")
    finally:
        server.kill()


def register_webhook(url: str) -> None:
    """As the page shows it; MLflow itself says that the listener takes it, and what it says to another secret."""
    (shown,) = [block for block in blocks(ROOT / "docs" / "mlflow.md") if block.run_by]
    names: dict[str, Any] = {}
    exec(shown.text.replace("https://reconcile.example.com/mlflow", url), names)
    tried = names["client"].test_webhook(names["hook"].webhook_id)
    assert (tried.success, tried.response_status) == (True, 200), tried
    wrong = names["client"].create_webhook("wrong", url, ["model_version.created"], secret="another-secret-of-length")
    assert names["client"].test_webhook(wrong.webhook_id).response_status == 401
    names["client"].delete_webhook(wrong.webhook_id)


def ask_until_answered(registry: Registry, watching: subprocess.Popen[str]) -> None:
    """Ask for a promotion, and wait for the line that says that it was done."""
    theirs = client(registry)
    theirs.set_registered_model_alias(registry.model, "request-production", "2")
    assert watching.stdout is not None
    lines = iter(watching.stdout.readline, "")
    assert any("request of v1.1.0" in line and "production" in line for line in lines)
