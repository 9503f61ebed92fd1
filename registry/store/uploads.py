"""Upload files under their sha256, in one PUT or in parts; the server checks every byte against it.

Unlike a document, a blob has one right content, which its name says. So botocore may send it again, and a reply that
was lost is settled by the digest that the server keeps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import Context
from functools import partial
from hashlib import sha256
from io import BytesIO
from typing import Any, BinaryIO

from botocore.exceptions import BotoCoreError, ClientError

from registry.errors import BadBundle, CorruptBlob, KeyExists, ObjectNotFound, StoreUnreachable
from registry.formats.local_file import LocalFile
from registry.parallel import within
from registry.progress import Progress, no_progress
from registry.store.client import S3Client, base64_text
from registry.store.error_table import CONDITION_FAILED
from registry.store.reading import ObjectReader

PART_BYTES = 64 * 1024 * 1024
"""Files up to this size are one PUT; larger ones are multipart with parts of this size (S3 allows 10,000 of them)."""

_COMPLETION_SECONDS = 600.0
"""S3 may take minutes to put the parts of a large object together, by its documentation of CompleteMultipartUpload."""


class Uploader:
    """Uploads files below one prefix."""

    def __init__(self, client: S3Client, reader: ObjectReader) -> None:
        self._client = client
        self._reader = reader

    def upload(self, key: str, file: LocalFile, digest: str, size: int, progress: Progress) -> bool:
        """Create an object from a file; see `ObjectStore.upload`."""
        try:
            self._send(key, file, digest, size, condition={"IfNoneMatch": "*"}, progress=progress)
        except StoreUnreachable as undecided:
            info = self._reader.head(key)
            if info is None:
                raise
            if (info.size, info.sha256) != (size, digest):
                raise CorruptBlob(
                    f"{key} is in the store, but its bytes are not the ones its name says",
                    hint="`ulora verify VERSION --repair DIR` puts the right ones there, from the bundle or any copy",
                ) from undecided
            return False
        return True

    def replace(self, key: str, file: LocalFile, digest: str, size: int, etag: str) -> None:
        """Put a file in place of the object with this ETag; see `ObjectStore.replace`."""
        try:
            self._send(key, file, digest, size, condition={"IfMatch": etag}, progress=no_progress)
        except (StoreUnreachable, ObjectNotFound) as undecided:  # some servers answer 404 if the object is not there
            info = self._reader.head(key)
            if info and (info.size, info.sha256) == (size, digest):
                return  # this write, or another one with the same bytes
            if info and isinstance(undecided, StoreUnreachable) and undecided.code not in CONDITION_FAILED:
                raise
            raise KeyExists(key) from undecided

    def _send(
        self, key: str, file: LocalFile, digest: str, size: int, *, condition: Mapping[str, str], progress: Progress
    ) -> None:
        """Send a file in one PUT or in parts, under a condition on what is there."""
        with _opened(file) as body, _changes_named(file, body, size), self._client.errors(key):
            if size <= PART_BYTES:
                checksum = base64_text(bytes.fromhex(digest))
                s3, target = self._client.transfers, self._client.at(key)
                self._while_moving(
                    body, lambda: s3.put_object(**target, Body=body, ChecksumSHA256=checksum, **condition)
                )
                progress(size)
            else:
                self._send_parts(key, body, digest, condition, progress)

    def _send_parts(
        self, key: str, body: BinaryIO, digest: str, condition: Mapping[str, str], progress: Progress
    ) -> None:
        s3, target = self._client.transfers, self._client.at(key)
        started = self._client.call(
            key, lambda: s3.create_multipart_upload(**target, ChecksumAlgorithm="SHA256", Metadata={"sha256": digest})
        )
        target["UploadId"] = started["UploadId"]
        whole = sha256()
        parts: list[dict[str, Any]] = []
        try:
            while chunk := body.read(PART_BYTES):
                whole.update(chunk)
                parts.append(self._send_part(target, len(parts) + 1, chunk))
                progress(len(chunk))
            if whole.hexdigest() != digest:
                raise CorruptBlob(f"{key} was announced with another digest")
            complete = partial(s3.complete_multipart_upload, **target, MultipartUpload={"Parts": parts}, **condition)
            within(_COMPLETION_SECONDS, complete)
        except BaseException:
            with suppress(BotoCoreError, ClientError, OSError):
                # In a context of its own: also after Ctrl-C, and when the caller's time is over.
                Context().run(within, self._client.deadlines.call, lambda: s3.abort_multipart_upload(**target))
            raise

    def _send_part(self, target: Mapping[str, str], number: int, chunk: bytes) -> dict[str, Any]:
        """Send one part, and return what the completion must say of it."""
        s3, checksum = self._client.transfers, base64_text(sha256(chunk).digest())
        body = BytesIO(chunk)  # sent in pieces; each has a time-out, which bytes would have as a whole
        done = self._while_moving(
            body, lambda: s3.upload_part(**target, PartNumber=number, Body=body, ChecksumSHA256=checksum)
        )
        return {"PartNumber": number, "ETag": done["ETag"], "ChecksumSHA256": checksum}

    def _while_moving(self, body: BinaryIO, send: Callable[[], Any]) -> Any:
        """Send a body for as long as some of it is read in every `deadlines.stall` seconds.

        Raises:
            TimeoutError: it does not get on, or the answer does not come.
        """
        return within(self._client.deadlines.stall, send, moved=lambda: body.closed or body.tell())


@contextmanager
def _opened(file: LocalFile) -> Iterator[BinaryIO]:
    try:
        opened = file.open("rb")
    except OSError as error:
        raise BadBundle(f"{file} can't be read: {error.strerror}", hint="run the same command again") from error
    with opened:
        yield opened


@contextmanager
def _changes_named(file: LocalFile, body: BinaryIO, size: int) -> Iterator[None]:
    """Name the file if it was not sent because it changed: people do not know it by its key."""
    try:
        yield
    except (CorruptBlob, StoreUnreachable) as error:
        if isinstance(error, StoreUnreachable) and os.fstat(body.fileno()).st_size == size:
            raise
        raise CorruptBlob(
            f"{file} changed while it was read or uploaded", hint="run it again when nobody writes there"
        ) from error
