"""Read and list objects. `registry.store.objects.ObjectStore` says what each method promises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from hashlib import sha256
from typing import Any

from botocore.exceptions import BotoCoreError
from urllib3.exceptions import HTTPError as TransportError

from registry.errors import BadManifest, CorruptBlob, ObjectNotFound
from registry.formats import canonical
from registry.progress import Progress
from registry.store.client import S3Client
from registry.store.object_info import Contents, ObjectInfo, StoredObject, answered_at

_CHUNK = 1024 * 1024
_TRIES = 3


class ObjectReader:
    """Reads below one prefix."""

    def __init__(self, client: S3Client) -> None:
        self._client = client

    def get(self, key: str, limit: int = canonical.MAX_DOCUMENT, *, retry: bool = True) -> StoredObject:
        """Read a whole object; without `retry` a server that does not answer is asked once only."""
        client = self._client.reads if retry else self._client.unretried
        with self._client.errors(key):
            reply = client.get_object(**self._client.at(key))
            size = reply.get("ContentLength")
            if size is None or size > limit:
                reply["Body"].close()
                found = "of unknown length" if size is None else f"{size} bytes"
                raise BadManifest(f"{key} is {found}, more than the {limit} bytes that are allowed")
            return StoredObject.of_get(reply, reply["Body"].read())

    def stream(self, key: str, size: int) -> Iterator[bytes]:
        """An object's bytes in chunks; after a broken connection the rest is asked for."""
        arrived = 0
        for attempt in range(1, _TRIES + 1):
            with self._client.errors(key), closing(self._body(key, size, arrived)) as body:
                try:
                    for chunk in body.iter_chunks(_CHUNK):
                        arrived += len(chunk)
                        yield chunk
                except (BotoCoreError, TransportError, OSError):
                    if attempt == _TRIES:
                        raise
                else:
                    return

    def contents(self, key: str, progress: Progress) -> Contents:
        """Read all bytes of an object and return their digest and size."""
        digest, size = sha256(), 0
        with self._client.errors(key):
            reply = self._client.transfers.get_object(**self._client.at(key))
            with closing(reply["Body"]) as body:
                for chunk in body.iter_chunks(_CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
                    progress(len(chunk))
        return Contents(digest.hexdigest(), size, reply["ETag"])

    def head(self, key: str) -> ObjectInfo | None:
        """What the server says of an object."""
        try:
            with self._client.errors(key):
                reply = self._client.reads.head_object(**self._client.at(key), ChecksumMode="ENABLED")
        except ObjectNotFound:
            return None
        return ObjectInfo.of_head(key, reply)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix`."""
        with self._client.errors(prefix):
            for page in self._pages(prefix):
                for entry in page.get("Contents", []):
                    yield ObjectInfo.of_listing(self._key(entry), entry)

    def folders(self, prefix: str) -> Iterator[str]:
        """The names of the folders directly below a prefix."""
        with self._client.errors(prefix):
            for page in self._pages(prefix, Delimiter="/"):
                for entry in page.get("CommonPrefixes", []):
                    yield entry["Prefix"].removeprefix(self._client.prefix + prefix).rstrip("/")

    def first(self, prefix: str) -> str | None:
        """The first key that starts with `prefix`."""
        with self._client.errors(prefix):
            page = self._first_page(prefix)
        entries = page.get("Contents", [])
        return self._key(entries[0]) if entries else None

    def now(self) -> datetime:
        """The server's own clock."""
        with self._client.errors("the clock"):
            return answered_at(self._first_page(""))

    def _body(self, key: str, size: int, start: int) -> Any:
        """The body of a reply with an object's bytes from `start` on."""
        rest = {"Range": f"bytes={start}-"} if start else {}
        reply = self._client.transfers.get_object(**self._client.at(key), **rest)
        announced = reply.get("ContentLength")
        if announced != size - start:
            reply["Body"].close()
            raise CorruptBlob(f"{key} is {start + (announced or 0)} bytes long, not {size}")
        return reply["Body"]

    def _pages(self, prefix: str, **options: str) -> Any:
        pages = self._client.reads.get_paginator("list_objects_v2")
        return pages.paginate(Bucket=self._client.bucket, Prefix=self._client.prefix + prefix, **options)

    def _first_page(self, prefix: str) -> Any:
        return self._client.reads.list_objects_v2(
            Bucket=self._client.bucket, Prefix=self._client.prefix + prefix, MaxKeys=1
        )

    def _key(self, entry: Any) -> str:
        return str(entry["Key"]).removeprefix(self._client.prefix)
