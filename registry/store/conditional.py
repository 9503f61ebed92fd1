"""Conditional writes whose reply may be lost: the one loop that every `create` and `swap` goes through.

S3 applies such a write to at most one of several writers. But a reply can be lost after the write was applied; sent
again it would be refused, and a race that was won would look lost. So botocore never retries here, and after anything
but a clear answer the key is read. It holds

    the bytes that were sent             mine: the write was applied, won;
    another object                       another's: a writer was first, lost (`KeyExists`);
    nothing, or what was there before    not applied yet: the same bytes are sent again, until the deadline
                                         (`OutcomeUnknown`). A first try that arrives late does no harm: it is
                                         refused, or it is these very bytes;
    no object of ours, or no answer      nobody knows: as above.

So the bytes must be unique to their writer (they hold a nonce), or mean the same whoever wrote them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Final, Literal, TypeAlias

from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)

from registry.errors import (
    KeyExists,
    ObjectNotFound,
    OutcomeUnknown,
    StoreUnreachable,
    UloraError,
    first_line,
)
from registry.formats import canonical
from registry.parallel import time_left, time_limit
from registry.store.client import S3Client, base64_text
from registry.store.object_info import StoredObject
from registry.store.reading import ObjectReader

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9]*")
"""Of S3's own errors."""
_BEFORE_IT_IS_SENT = (
    NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, NoRegionError, SSOError, TokenRetrievalError,
)  # fmt: skip
_Unclear: TypeAlias = Literal["nothing", "unknown"]
_NOTHING: Final = "nothing"
_UNKNOWN: Final = "unknown"


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
        is_undecided, answer = False, ""
        for pause in _pauses():
            try:
                self.put_once(key, body, replaces)
                return
            except UloraError as error:
                # After one unclear answer no later one is clear: only the key itself can tell.
                refusal = None if is_undecided or _may_be_applied(error) else error
                if isinstance(refusal, StoreUnreachable):  # it was not sent
                    raise
                answer = first_line(error) if time_left() or not answer else answer
            found = self._read_back(key, body)
            if isinstance(found, StoredObject) and found.body == body:
                return  # something in front of the store may even refuse what it has passed on
            if refusal and (found != _UNKNOWN or is_of_s3(refusal)):
                raise refusal
            if isinstance(found, StoredObject) and found.etag != replaces:
                raise KeyExists(key)
            if not time_left():
                raise OutcomeUnknown(
                    f"a write of {key} was sent, but the store did not say whether it was applied; at last: {answer}",
                    hint="look with `ulora status` or `ulora list`; if nothing has changed, run the same command again",
                )
            is_undecided = True
            time.sleep(min(pause, time_left()))

    def _read_back(self, key: str, body: bytes) -> StoredObject | _Unclear:
        """What is at a key after a write of `body` that was not clearly applied."""
        try:
            found = self._reader.get_once(key, self._client.deadlines.attempt)
        except ObjectNotFound:
            return _NOTHING
        except UloraError:  # also one that says that it is too large to be ours
            return _UNKNOWN
        # Every document here is canonical; a page in the place of the store is not, whatever it says of itself.
        return found if canonical.is_document(found.body) or not canonical.is_document(body) else _UNKNOWN


def is_of_s3(refusal: UloraError) -> bool:
    """Whether a refusal is S3's own, which has a code in words, or was made before anything was sent."""
    cause = refusal.__cause__
    if isinstance(cause, ClientError):
        return _CODE.fullmatch(str(cause.response.get("Error", {}).get("Code", ""))) is not None
    return isinstance(cause, _BEFORE_IT_IS_SENT)


def _may_be_applied(error: UloraError) -> bool:
    """Whether a write may be applied after its first answer; some servers answer 404 for a condition on nothing."""
    return isinstance(error, ObjectNotFound) or (isinstance(error, StoreUnreachable) and error.was_sent)


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE)
