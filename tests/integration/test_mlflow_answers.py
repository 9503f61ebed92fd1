"""Whatever an MLflow server answers, it costs bounded memory, and what can't be read is said to be that."""

from __future__ import annotations

import base64
import gzip
import json
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from registry.catalog.client import Catalog
from registry.catalog.connection import PATIENT
from registry.errors import CatalogRefused, CatalogUnreachable
from tests.servers.loopback import Loopback
from tests.support.registries import bind, open_registry

STORE = "s3://bucket/prefix"
LIMITS = replace(PATIENT, retries=0, total=120)
_SPACES = b" " * (64 * 1024)
_PACKED = gzip.compress(b" " * (64 * 1024 * 1024))


def server(status: int, body: bytes, headers: dict[str, str] | None = None) -> Loopback:
    """Answers every request with a body; with one that never ends if it is empty."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(body)
                while not body:
                    self.wfile.write(_SPACES)

        do_GET = do_POST = answer

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    return Loopback(Handler)


ENDLESS = {
    "a success": server(200, b""),
    "a refusal": server(400, b""),
    "a redirect": server(302, b"", {"Location": "/login"}),
    "packed": server(200, _PACKED, {"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_long_answer_is_not_read_to_its_end(kind: str) -> None:
    with ENDLESS[kind] as endless, pytest.raises(CatalogUnreachable, match="an answer is longer than"):
        Catalog(endless.url, STORE, limits=LIMITS).versions("m")


UNREADABLE = {
    "no list": b'{"model_versions": "x", "models": "x", "registered_model": "x"}',
    "no number": b'{"model_versions": [{"name": "m", "version": "zero"}]}',
    "half a character": rb'{"model_versions": [{"name": "m", "version": "1", "description": "\ud800"}]}',
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_answer_that_can_not_be_read_is_said_to_be(store_url: str, model: str, tmp_path: Path, kind: str) -> None:
    with server(200, UNREADABLE[kind]) as odd:
        with pytest.raises(CatalogRefused, match="does not answer as MLflow does"):
            Catalog(odd.url, STORE, limits=LIMITS).versions("m")
        registry = open_registry(tmp_path, store_url, model, tracking_uri=odd.url)
        registry.store.initialise()
        bind(registry, "v1.0.0")
        assert [listed.catalog_number for listed in registry.versions()] == [None]


def repeating(status: int) -> Loopback:
    """Answers every request with an error that repeats how it was authenticated, as it came and decoded."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            sent = self.headers.get("Authorization", "")
            plain = base64.b64decode(sent.removeprefix("Basic ") + "==").decode("latin-1") if "Basic" in sent else ""
            body = json.dumps({"error_code": "PERMISSION_DENIED", "message": f"you sent {sent} {plain}"}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    return Loopback(Handler)


@pytest.mark.parametrize("way", ["token", "password", "address"])
def test_an_answer_that_repeats_a_secret_is_shown_without_it(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"token": ["TOKEN"], "password": ["USERNAME", "PASSWORD"], "address": []}[way]
    for name in names:
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "ann" if name == "USERNAME" else "Q3-SECRET")
    with repeating(403) as server:
        address = server.url.replace("://", "://ann:Q3-SECRET@") if way == "address" else server.url
        with pytest.raises(CatalogRefused, match="PERMISSION_DENIED: you sent") as refused:
            Catalog(address, STORE, limits=LIMITS).versions("m")
    said = f"{refused.value} {refused.value.hint}"
    assert "SECRET" not in said
    assert base64.b64encode(b"ann:Q3-SECRET").decode().rstrip("=") not in said
    assert "***" in said
