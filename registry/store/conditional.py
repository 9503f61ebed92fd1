"""Conditional writes whose reply may be lost: the one loop that every `create` and `swap` goes through.

S3 applies such a write to at most one of several writers. But a reply can be lost after the write was applied; sent
again it would be refused, and a race that was won would look lost. So botocore never retries here, and after anything
but a clear answer the key is read. It holds

    the bytes that were sent             mine: the write was applied, won;
    another object                       another's: a writer was first, lost (`KeyExists`);
    nothing, or what was there before    not applied yet: the same bytes are sent again, until the deadline
                                         (`OutcomeUnknown`). A first try that arrives late does no harm: it is
                                         refused, or it is these very bytes.

So the bytes must be unique to their writer (they hold a nonce), or mean the same whoever wrote them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from hashlib import sha256

from registry.errors import (
    BadManifest,
    KeyExists,
    ObjectNotFound,
    OutcomeUnknown,
    StoreUnreachable,
    UloraError,
    first_line,
)
from registry.parallel import time_left, time_limit
from registry.store.client import S3Client, base64_text
from registry.store.object_info import StoredObject
from registry.store.reading import ObjectReader

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


class ConditionalWriter:
    """Writes small objects below one prefix, each only under a condition on what is there."""

    def __init__(self, client: S3Client, reader: ObjectReader) -> None:
        self._client = client
        self._reader = reader

    def create(self, key: str, body: bytes) -> None:
        """Write where nothing is."""
        self._write(key, body, replaces=None)

    def swap(self, key: str, body: bytes, etag: str) -> None:
        """Write in place of the object with this ETag."""
        self._write(key, body, replaces=etag)

    def put_once(self, key: str, body: bytes, etag: str | None) -> None:
        """Send the write once, and do not look what became of it: only for `_write` and for probes of a server.

        Raises:
            StoreUnreachable: there was no clear answer. One with a code of `CONDITION_FAILED` is a refusal, but maybe
                of bytes that were sent before.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        s3 = self._client.unretried
        parameters = {
            **self._client.at(key), "Body": body, "ContentType": "application/json",
            "ChecksumSHA256": base64_text(sha256(body).digest()), **condition,
        }  # fmt: skip
        self._client.call(key, lambda: s3.put_object(**parameters), self._client.deadlines.attempt)

    def _write(self, key: str, body: bytes, *, replaces: str | None) -> None:
        """Send a write until it is clear what became of it; `replaces` is the ETag of what it replaces, if anything.

        Raises:
            KeyExists, OutcomeUnknown, StoreDenied, StoreUnreachable, BucketNotFound: see `ObjectStore.create`.
        """
        _ = self._client.unretried  # finding credentials is not part of the write
        with time_limit(self._client.deadlines.write):
            self._write_in_time(key, body, replaces)

    def _write_in_time(self, key: str, body: bytes, replaces: str | None) -> None:
        may_be_applied, answer = False, ""
        for pause in _pauses():
            try:
                self.put_once(key, body, replaces)
                return
            except UloraError as error:
                # After one unclear answer no later one is clear: only the key itself can tell.
                may_be_applied = may_be_applied or _may_be_applied(error)
                if not may_be_applied:
                    if self._is_applied(error, key, body):
                        return
                    raise
                answer = first_line(error) if time_left() or not answer else answer
            found = self._read_back(key)
            if found is not None and found.body == body:
                return
            if found is not None and found.etag != replaces:
                raise KeyExists(key)
            if not time_left():
                raise OutcomeUnknown(
                    f"a write of {key} was sent, but the store did not say whether it was applied; at last: {answer}",
                    hint="look with `ulora status` and run the same command again: it is safe",
                )
            time.sleep(min(pause, time_left()))

    def _is_applied(self, error: UloraError, key: str, body: bytes) -> bool:
        """Whether a refused write was applied: something in front of the store may refuse what it has passed on."""
        if isinstance(error, StoreUnreachable):  # it was not sent
            return False
        found = self._read_back(key)
        return found is not None and found.body == body

    def _read_back(self, key: str) -> StoredObject | None:
        """What is at a key after an undecided write; None when nothing is, or the store can't say right now."""
        try:
            return self._reader.get_once(key, self._client.deadlines.attempt)
        except BadManifest:  # it is too large to be ours
            raise
        except UloraError:
            return None


def _may_be_applied(error: UloraError) -> bool:
    """Whether a write may be applied after its first answer; some servers answer 404 for a condition on nothing."""
    return isinstance(error, ObjectNotFound) or (isinstance(error, StoreUnreachable) and error.was_sent)


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE)
