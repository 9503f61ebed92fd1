"""Every request that an `ObjectStore` sends, recorded by an event of botocore."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from registry.store.objects import ObjectStore


@dataclass(frozen=True)
class Sent:
    """A request: the name of its operation, the key below the bucket, and its headers in lower case."""

    operation: str
    key: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]


def record(store: ObjectStore) -> list[Sent]:
    """A list that every later request of this store is added to."""
    sent: list[Sent] = []

    def note(request: Any, event_name: str, **_: object) -> None:
        parts = urlsplit(request.url)
        key = unquote(parts.path).removeprefix(f"/{store.bucket}").removeprefix("/")
        headers = {name.lower(): _text(value) for name, value in request.headers.items()}
        query = parse_qs(parts.query, keep_blank_values=True)
        sent.append(Sent(event_name.rpartition(".")[2], key, query, headers))

    for client in (store._client.transfers, store._client.reads, store._client.unretried):
        client.meta.events.register("before-send.s3", note)
    return sent


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
