"""Read and list objects. `registry.store.objects.ObjectStore` says what each method promises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from hashlib import sha256
from typing import Any

from botocore.exceptions import BotoCoreError
from urllib3.exceptions import HTTPError as TransportError

from registry.errors import BadManifest, CorruptBlob, ObjectNotFound, StoreUnreachable
from registry.formats import canonical
from registry.parallel import within, within_or_ended
from registry.progress import Progress
from registry.store.client import S3Client
from registry.store.object_info import Contents, ObjectInfo, StoredObject, answered_at

_CHUNK = 1024 * 1024
_PIECE = 64 * 1024
"""Bytes that must arrive within `deadlines.stall`: about 1 KB/s at least, on each of up to 16 connections."""
_TRIES = 3
_MAX_EMPTY_PAGES = 1000
"""S3 may answer pages without keys before others."""


class ObjectReader:
    """Reads below one prefix."""

    def __init__(self, client: S3Client) -> None:
        self._client = client

    def get(self, key: str, limit: int = canonical.MAX_DOCUMENT) -> StoredObject:
        """Read a whole object."""
        s3 = self._client.reads
        return self._client.call(key, lambda: self._whole(s3, key, limit))

    def get_once(self, key: str, seconds: float) -> StoredObject:
        """Read a whole object; a server that does not answer is asked once only, and within `seconds`."""
        s3 = self._client.unretried
        return self._client.call(key, lambda: self._whole(s3, key, canonical.MAX_DOCUMENT), seconds)

    def stream(self, key: str, size: int) -> Iterator[bytes]:
        """An object's bytes in chunks; after a broken connection the rest is asked for."""
        arrived = 0
        for attempt in range(1, _TRIES + 1):
            with self._client.errors(key), self._opened(key, arrived) as reply:
                announced = reply.get("ContentLength")
                if announced != size - arrived:
                    raise CorruptBlob(f"{key} is {arrived + (announced or 0)} bytes long, not {size}")
                try:
                    while chunk := self._chunk(reply["Body"]):
                        arrived += len(chunk)
                        yield chunk
                except (BotoCoreError, TransportError, OSError) as error:
                    if attempt == _TRIES or isinstance(error, TimeoutError):
                        raise
                else:
                    return

    def contents(self, key: str, progress: Progress) -> Contents:
        """Read all bytes of an object and return their digest and size."""
        digest, size = sha256(), 0
        with self._client.errors(key), self._opened(key) as reply:
            while chunk := self._chunk(reply["Body"]):
                digest.update(chunk)
                size += len(chunk)
                progress(len(chunk))
        return Contents(digest.hexdigest(), size, reply["ETag"])

    def head(self, key: str) -> ObjectInfo | None:
        """What the server says of an object."""
        s3 = self._client.reads
        try:
            reply = self._client.call(key, lambda: s3.head_object(**self._client.at(key), ChecksumMode="ENABLED"))
            with self._client.errors(key):
                return ObjectInfo.of_head(key, reply)
        except ObjectNotFound:
            return None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix`, but for those that stand for a folder: consoles make them."""
        for page in self._pages(prefix):
            for entry in page.get("Contents", []):
                if not str(entry["Key"]).endswith("/"):
                    with self._client.errors(prefix):
                        found = ObjectInfo.of_listing(self._key(entry), entry)
                    yield found

    def folders(self, prefix: str) -> Iterator[str]:
        """The names of the folders directly below a prefix."""
        for page in self._pages(prefix, Delimiter="/"):
            for entry in page.get("CommonPrefixes", []):
                yield entry["Prefix"].removeprefix(self._client.prefix + prefix).rstrip("/")

    def first(self, prefix: str) -> str | None:
        """The first key that starts with `prefix`, but for that of an object that stands for the folder itself."""
        page = self._first_page(prefix, prefix)
        if not page.get("Contents") and page["IsTruncated"]:  # S3 may answer a page without keys before others
            return next((info.key for info in self.list(prefix)), None)
        return self._key(page["Contents"][0]) if page.get("Contents") else None

    def now(self) -> datetime:
        """The server's own clock."""
        return answered_at(self._first_page("", "the clock"))

    def _whole(self, s3: Any, key: str, limit: int) -> StoredObject:
        reply = s3.get_object(**self._client.at(key))
        with closing(reply["Body"]) as body:
            size = reply.get("ContentLength")
            if size is None:
                raise StoreUnreachable(
                    f"what the store answered for {key} is not an answer of S3: it does not say its length",
                    hint="is there a proxy or a login page in front of it?",
                )
            if size > limit:
                raise BadManifest(f"{key} is {size} bytes, more than the {limit} bytes that are allowed")
            whole = body.read(limit + 1)
            if len(whole) > limit:  # more than was announced
                raise BadManifest(f"{key} has more than the {limit} bytes that are allowed")
            body.read(1)  # at the end botocore compares what has arrived with what was announced
            return StoredObject.of_get(reply, whole)

    @contextmanager
    def _opened(self, key: str, start: int = 0) -> Iterator[Any]:
        """The reply with an object's bytes from `start` on, whose body is still to be read."""
        rest = {"Range": f"bytes={start}-"} if start else {}
        s3 = self._client.transfers
        reply = within_or_ended(self._client.deadlines.stall, lambda: s3.get_object(**self._client.at(key), **rest))
        try:
            yield reply
        except TimeoutError:
            # Another thread still reads the body, and to close it would be to wait for that: end its connection.
            with suppress(Exception):
                reply["Body"]._raw_stream.shutdown()
            raise
        except BaseException:
            reply["Body"].close()
            raise
        reply["Body"].close()

    def _chunk(self, body: Any) -> bytes:
        """The next bytes of a body; empty at its end.

        Raises:
            TimeoutError: it does not get on.
        """
        pieces: list[bytes] = []

        def read() -> None:
            for _ in range(_CHUNK // _PIECE):
                if not (piece := body.read(_PIECE)):
                    return
                pieces.append(piece)

        within(self._client.deadlines.stall, read, moved=lambda: len(pieces))
        return b"".join(pieces)

    def _pages(self, prefix: str, **options: str) -> Iterator[Any]:
        s3 = self._client.reads
        pages = iter(
            s3.get_paginator("list_objects_v2").paginate(
                Bucket=self._client.bucket, Prefix=self._client.prefix + prefix, **options
            )
        )
        last, empty = "", 0
        while page := self._client.call(prefix, lambda: next(pages, None)):
            named = sorted(_names(self._checked(page, prefix, last)))
            last, empty = (named[-1], 0) if named else (last, empty + 1)
            if empty > _MAX_EMPTY_PAGES:
                raise _no_listing(prefix, "pages without keys follow each other without end")
            yield page

    def _first_page(self, prefix: str, what: str) -> Any:
        s3 = self._client.reads
        place = {"Bucket": self._client.bucket, "Prefix": self._client.prefix + prefix}
        if prefix.endswith("/"):
            place["StartAfter"] = place["Prefix"]
        return self._checked(self._client.call(what, lambda: s3.list_objects_v2(**place, MaxKeys=1)), prefix)

    def _checked(self, page: Any, prefix: str, last: str = "") -> Any:
        """A page of a listing, if it is one of this prefix: another one would pass for all there is.

        Args:
            last: the last key of the page before.
        """
        whole = self._client.prefix + prefix
        if (page.get("Name"), page.get("Prefix") or "") != (self._client.bucket, whole):
            raise _no_listing(prefix, f"it is one of {page.get('Name')!r} below {page.get('Prefix')!r}")
        if page["IsTruncated"] and not page.get("NextContinuationToken"):
            raise _no_listing(prefix, "a page says that more follows, but not where")
        if not all(name.startswith(whole) for name in _names(page)):
            raise _no_listing(prefix, "a page has keys that were not asked for")
        if not all(name > last for name in _names(page)):
            raise _no_listing(prefix, "a page has keys that are not after those of the page before")
        return page

    def _key(self, entry: Any) -> str:
        return str(entry["Key"]).removeprefix(self._client.prefix)


def _names(page: Any) -> list[str]:
    """The keys and folders of a page of a listing."""
    entries = (*page.get("Contents", []), *page.get("CommonPrefixes", []))
    return [str(entry.get("Key") or entry.get("Prefix")) for entry in entries]


def _no_listing(prefix: str, problem: str) -> StoreUnreachable:
    return StoreUnreachable(
        f"what the store answered for {prefix} is not a listing of S3: {problem[:200]}",
        hint="is there a proxy in front of it, or is it a server that only looks like S3?",
    )
