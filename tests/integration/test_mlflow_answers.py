"""Whatever an MLflow server answers, it costs bounded memory, and what can't be read is said to be that."""

from __future__ import annotations

import gzip
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
