"""Objects in S3, and the one rule for conditional writes whose reply may be lost.

The only module that imports boto3.
"""

from __future__ import annotations

import base64
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
)

from registry import canonical
from registry.errors import (
    BadBundle,
    BadManifest,
    BadSetting,
    BucketNotFound,
    CorruptBlob,
    KeyExists,
    ObjectNotFound,
    OutcomeUnknown,
    StoreDenied,
    StoreUnfit,
    StoreUnreachable,
    UloraError,
)
from registry.store import layout

FORMAT = 1
_URL = re.compile(r"s3://([A-Za-z0-9][A-Za-z0-9._-]{2,62})/?((?<=/)[^/.][^/]*(?:/[^/.][^/]*)*)?/?")
"""No part of a prefix is empty or begins with a dot: some servers would take `..` for the folder above."""
_CHUNK = 1024 * 1024
PART_BYTES = 64 * 1024 * 1024
"""Files up to this size are one PUT; larger ones are multipart with parts of this size (S3 allows 10,000 of them)."""

_DENIED = {
    "AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken",
    "ExpiredTokenException", "AuthorizationHeaderMalformed", "RequestTimeTooSkewed",
}  # fmt: skip
_MISSING = {"NoSuchKey", "404", "NotFound", "NoSuchUpload"}
_WRONG_BYTES = {
    "BadDigest",
    "XAmzContentChecksumMismatch",
    "InvalidDigest",
    "XAmzContentSHA256Mismatch",
}
_LOST = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}


@dataclass(frozen=True)
class ObjectInfo:
    """What the server says of an object. `size` is in bytes; `sha256` in hex, None when it keeps none.

    `sha256` is the server's own full-object checksum, or for a multipart object the digest its writer declared (each
    part was checked by the server against its own).
    """

    key: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True)
class StoredObject:
    """An object's bytes, and its age in seconds by the server's own clock."""

    body: bytes
    age: float


class ObjectStore:
    """The objects below one `s3://BUCKET/PREFIX`. Threads may share it."""

    def __init__(self, url: str, *, endpoint_url: str | None = None, deadline: float = 15.0) -> None:
        """Args:
            url: `s3://BUCKET/PREFIX`.
            endpoint_url: the S3 server; None for boto3's own choice.
            deadline: seconds after which an undecided conditional write is given up as `OutcomeUnknown`.

        Raises:
            BadSetting: the URL is no S3 URL.
        """
        match = _URL.fullmatch(url)
        if match is None:
            raise BadSetting(
                f"{url[:200]!r} is not a store",
                hint="a store reads s3://BUCKET/PREFIX; a bucket's name has 3 to 63 letters, digits, dots or dashes",
            )
        bucket, prefix = match.groups()
        self.url = url.rstrip("/")
        self.bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._endpoint_url = endpoint_url
        self._deadline = deadline
        self._creating_clients = threading.RLock()

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, key: str, limit: int = canonical.MAX_DOCUMENT) -> StoredObject:
        """Read a whole object of at most `limit` bytes.

        Raises:
            ObjectNotFound: there is none.
            BadManifest: it is larger than `limit`.
            StoreDenied, StoreUnreachable, BucketNotFound.
        """
        return self._get(self._reads, key, limit)

    def stream(self, key: str, size: int) -> Iterator[bytes]:
        """An object's bytes in chunks. The caller checks what it reads.

        Raises:
            ObjectNotFound: there is none.
            CorruptBlob: it is not `size` bytes long, by what the server announces or by what arrives.
            StoreUnreachable: the connection broke.
        """
        with self._errors(key):
            reply = self._client.get_object(Bucket=self.bucket, Key=self._prefix + key)
            with closing(reply["Body"]) as body:
                if reply["ContentLength"] != size:
                    raise CorruptBlob(f"{key} is {reply['ContentLength']} bytes long, not {size}")
                yield from body.iter_chunks(_CHUNK)

    def head(self, key: str) -> ObjectInfo | None:
        """What the server says of an object, None when there is none."""
        try:
            with self._errors(key):
                reply = self._reads.head_object(Bucket=self.bucket, Key=self._prefix + key, ChecksumMode="ENABLED")
        except ObjectNotFound:
            return None
        checksum = reply.get("ChecksumSHA256", "")
        whole = base64.b64decode(checksum).hex() if checksum and "-" not in checksum else None
        return ObjectInfo(key, reply["ContentLength"], whole or reply.get("Metadata", {}).get("sha256"))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix`, in the order of their keys."""
        with self._errors(prefix):
            pages = self._reads.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for entry in page.get("Contents", []):
                    yield ObjectInfo(entry["Key"].removeprefix(self._prefix), entry["Size"])

    def first(self, prefix: str) -> str | None:
        """The first key that starts with `prefix`, None when there is none. One round trip."""
        with self._errors(prefix):
            page = self._reads.list_objects_v2(Bucket=self.bucket, Prefix=self._prefix + prefix, MaxKeys=1)
        entries = page.get("Contents", [])
        return entries[0]["Key"].removeprefix(self._prefix) if entries else None

    # --- writing -----------------------------------------------------------------------------------------------------

    def create(self, key: str, body: bytes) -> None:
        """Create an object that does not exist yet.

        `body` must be unique to this caller (it holds a nonce), or mean the same whoever wrote it.

        A reply can be lost after the server applied the write, so after anything but a clear answer the key is read:
        these bytes there = created; others = lost; nothing = the same bytes are sent again, until the deadline.

        Raises:
            KeyExists: other bytes are there. Nothing changed.
            OutcomeUnknown: the deadline passed without a clear answer.
            StoreDenied, StoreUnreachable, BucketNotFound.
        """
        give_up = time.monotonic() + self._deadline
        pause = 0.05
        maybe_applied = False
        while True:
            try:
                with self._errors(key):
                    self._put_if_absent(key, body)
                return
            except _Undecided as undecided:
                maybe_applied = maybe_applied or undecided.was_sent
                if not maybe_applied:
                    raise StoreUnreachable(str(undecided), hint=undecided.hint) from undecided
            except StoreDenied:
                # The first try may have been applied all the same: only the key itself can tell.
                if not maybe_applied:
                    raise
            found = self._read_back(key)
            if found == body:
                return
            if found is not None:
                raise KeyExists(key)
            if time.monotonic() > give_up:
                raise OutcomeUnknown(
                    f"a write of {key} was sent, but the store did not say whether it was applied",
                    hint="look with `ulora status` and run the same command again: it is safe",
                )
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def overwrite(self, key: str, body: bytes) -> None:
        """Write an object whatever was there: only for a replica's own heartbeat."""
        with self._errors(key):
            self._once.put_object(Bucket=self.bucket, Key=self._prefix + key, Body=body)

    def upload(
        self, key: str, path: Path, digest: str, size: int, progress: Callable[[int], None] = lambda done: None
    ) -> None:
        """Create an object from a file whose sha256 is `digest`. That it is there already with this digest is fine.

        `progress` is told of the bytes of each part that has arrived.

        Raises:
            CorruptBlob: the file does not have this digest (it changed meanwhile), or the store holds other bytes.
            BadBundle: the file can't be read any more.
        """
        try:
            with _opened(path) as body, self._errors(key):
                if size <= PART_BYTES:
                    self._client.put_object(
                        Bucket=self.bucket, Key=self._prefix + key, Body=body,
                        ChecksumSHA256=_base64(bytes.fromhex(digest)), IfNoneMatch="*",
                    )  # fmt: skip
                    progress(size)
                else:
                    self._upload_parts(key, body, digest, progress)
        except _Undecided as undecided:
            info = self.head(key)
            if info is None:
                raise StoreUnreachable(str(undecided), hint=undecided.hint) from undecided
            if (info.size, info.sha256) != (size, digest):
                raise CorruptBlob(
                    f"{key} is in the store, but its bytes are not the ones its name says",
                    hint="restore or delete that object in the bucket, then create the version again from its bundle",
                ) from undecided

    def delete(self, key: str) -> None:
        """Delete an object. Deleting what is not there is fine."""
        with self._errors(key):
            self._client.delete_object(Bucket=self.bucket, Key=self._prefix + key)

    # --- the store itself --------------------------------------------------------------------------------------------

    def create_bucket(self) -> None:
        """Create the bucket; that it is ours already is fine."""
        region = self._client.meta.region_name
        location: Any = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        try:
            with self._errors("bucket"):
                self._client.create_bucket(Bucket=self.bucket, **location)
        except UloraError as error:
            if "BucketAlreadyOwnedByYou" not in str(error) and "BucketAlreadyExists" not in str(error):
                raise

    def is_initialised(self) -> bool:
        """Whether somebody made this prefix a store.

        Raises:
            BucketNotFound, StoreDenied, StoreUnreachable.
        """
        return self.first(layout.FORMAT_KEY) == layout.FORMAT_KEY

    def initialise(self) -> None:
        """Make this prefix a store: probe it, then create `format.json`. Doing it twice is fine."""
        self.probe()
        try:
            self.create(layout.FORMAT_KEY, canonical.encode({"format": FORMAT}))
        except KeyExists:
            self.check_writable()

    def check_writable(self) -> None:
        """Check that this prefix is a store of a format we write, on a server that honours conditional writes.

        Sends the very bytes that are there under `IfNoneMatch: *`, which must be refused: harmless where it is not.

        Raises:
            ObjectNotFound: nobody ran `ulora store init` here.
            StoreUnfit: another format, or a server that ignores the condition.
        """
        try:
            body = self.get(layout.FORMAT_KEY).body
        except ObjectNotFound as error:
            error.hint = f"`ulora store init` makes {self.url} a store"
            raise
        found = canonical.decode(body, layout.FORMAT_KEY).get("format")
        if found != FORMAT:
            raise StoreUnfit(
                f"{self.url} has format {found!r}, this release knows {FORMAT}", hint="upgrade ulora-registry"
            )
        self._expect_refusal(layout.FORMAT_KEY, body)

    def probe(self) -> None:
        """Check, on keys of its own, that conditional writes work and that listings are ordered and up to date.

        Raises:
            StoreUnfit: the server breaks one of them.
        """
        folder = f"{layout.PROBE_PREFIX}{secrets.token_hex(8)}/"
        keys = [f"{folder}{letter}" for letter in "bca"]
        try:
            for key in keys:
                self.create(key, key.encode())
            self._expect_refusal(keys[0], keys[0].encode())
            listed = [info.key for info in self.list(folder)]
            if listed != sorted(keys) or self.first(folder) != min(keys):
                raise StoreUnfit(f"{self.url} does not list keys in order right after they were written")
        finally:
            for key in keys:
                with suppress(UloraError):
                    self.delete(key)

    def _expect_refusal(self, key: str, body: bytes) -> None:
        try:
            with self._errors(key):
                self._put_if_absent(key, body)
        except _Undecided as refused:
            if refused.code in _LOST:
                return
            raise StoreUnreachable(str(refused), hint=refused.hint) from refused
        raise StoreUnfit(
            f"{self.url} ignores `If-None-Match: *`: two writers could overwrite each other unseen",
            hint="use AWS S3, MinIO, SeaweedFS or another server with conditional writes",
        )

    # --- parts -------------------------------------------------------------------------------------------------------

    def _get(self, client: Any, key: str, limit: int) -> StoredObject:
        with self._errors(key):
            reply = client.get_object(Bucket=self.bucket, Key=self._prefix + key)
            if reply["ContentLength"] > limit:
                reply["Body"].close()
                raise BadManifest(f"{key} is {reply['ContentLength']} bytes, more than the {limit} that are allowed")
            return StoredObject(reply["Body"].read(), _age(reply))

    def _put_if_absent(self, key: str, body: bytes) -> None:
        self._once.put_object(
            Bucket=self.bucket, Key=self._prefix + key, Body=body, IfNoneMatch="*", ContentType="application/json",
            ChecksumSHA256=_base64(sha256(body).digest()),
        )  # fmt: skip

    def _read_back(self, key: str) -> bytes | None:
        """The bytes at a key after an undecided write; None when none are there or the store can't say right now."""
        try:
            # By the client that does not try for minutes: the deadline counts here too.
            return self._get(self._once, key, canonical.MAX_DOCUMENT).body
        except (ObjectNotFound, StoreUnreachable):
            return None

    def _upload_parts(self, key: str, body: BinaryIO, digest: str, progress: Callable[[int], None]) -> None:
        place: Any = {"Bucket": self.bucket, "Key": self._prefix + key}
        upload = self._client.create_multipart_upload(**place, ChecksumAlgorithm="SHA256", Metadata={"sha256": digest})
        place["UploadId"] = upload["UploadId"]
        whole = sha256()
        parts: list[dict[str, Any]] = []
        try:
            while chunk := body.read(PART_BYTES):
                whole.update(chunk)
                checksum = _base64(sha256(chunk).digest())
                number = len(parts) + 1
                done = self._client.upload_part(**place, PartNumber=number, Body=chunk, ChecksumSHA256=checksum)
                parts.append({"PartNumber": number, "ETag": done["ETag"], "ChecksumSHA256": checksum})
                progress(len(chunk))
            if whole.hexdigest() != digest:
                raise CorruptBlob(f"{body.name} changed while it was read", hint="run the same command again")
            self._client.complete_multipart_upload(**place, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
        except BaseException:
            with suppress(BotoCoreError, ClientError):
                self._client.abort_multipart_upload(**place)
            raise

    @cached_property
    def _session(self) -> boto3.session.Session:
        return boto3.session.Session()

    @cached_property
    def _client(self) -> Any:
        """For the bytes of blobs, which may be many and may be sent again: their name is their digest."""
        return self._make_client(Config(retries={"mode": "standard", "total_max_attempts": 4}, read_timeout=30))

    @cached_property
    def _reads(self) -> Any:
        """For small reads. A person waits for them, so a server that hangs is given up within seconds."""
        return self._make_client(Config(retries={"mode": "standard", "total_max_attempts": 3}, read_timeout=5))

    @cached_property
    def _once(self) -> Any:
        """For conditional writes: never retried by botocore, which would report a won race as lost."""
        return self._make_client(Config(retries={"total_max_attempts": 1}, read_timeout=5))

    def _make_client(self, config: Config) -> Any:
        common = Config(
            signature_version="s3v4", connect_timeout=3, max_pool_connections=32,
            request_checksum_calculation="when_required", response_checksum_validation="when_required",
        )  # fmt: skip
        with self._creating_clients, self._errors("client"):
            return self._session.client(
                "s3", endpoint_url=self._endpoint_url, config=common.merge(config),
                region_name=self._session.region_name or "us-east-1",
            )  # fmt: skip

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Turn botocore's errors into ours; those after which a write may or may not be applied become `_Undecided`."""
        try:
            yield
        except ClientError as error:
            raise self._from_reply(error, key) from error
        except (NoCredentialsError, PartialCredentialsError, NoRegionError) as error:
            raise StoreDenied(
                f"no credentials for {self.url}: {error}",
                hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            ) from error
        except (HTTPClientError, ConnectionError, IncompleteReadError, OSError) as error:
            was_sent = not isinstance(error, EndpointConnectionError | ConnectTimeoutError)
            raise _Undecided(
                f"the store {self._place} does not answer: {_first_line(error)}",
                hint="is the server up, and is its address right? (ULORA_S3_ENDPOINT or AWS_ENDPOINT_URL)",
                was_sent=was_sent,
            ) from error
        except (BotoCoreError, ValueError) as error:
            raise BadSetting(f"the store {self.url} can't be used: {_first_line(error)}") from error

    def _from_reply(self, error: ClientError, key: str) -> UloraError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code == "NoSuchBucket":
            return BucketNotFound(
                f"there is no bucket {self.bucket!r}", hint="create it, or `ulora store init --create-bucket`"
            )
        if code == "InvalidBucketName":
            return BadSetting(
                f"{self.bucket!r} is not a bucket's name", hint="3 to 63 lower-case letters, digits, dots or dashes"
            )
        if code in _MISSING:
            return ObjectNotFound(key)
        if code in _DENIED or status in (401, 403):
            return StoreDenied(
                f"{self.url} refuses access to {key} ({code})", hint="check the AWS credentials in use and their rights"
            )
        if code in _WRONG_BYTES and status == 400:
            return CorruptBlob(
                f"the store refused {key}: the bytes it got are not the ones announced ({code})",
                hint="run the same command again",
            )
        if code in _LOST or status >= 500 or status in (408, 409, 412, 429):
            return _Undecided(
                f"the store {self._place} answered {status} {code} for {key}", code=code, hint="try again"
            )
        return UloraError(f"the store {self._place} answered {status} {code} for {key}: {_first_line(error)}")

    @property
    def _place(self) -> str:
        return f"{self.url} at {self._endpoint_url}" if self._endpoint_url else self.url


class _Undecided(StoreUnreachable):
    """The server gave no clear yes: a write may or may not have been applied."""

    def __init__(self, message: str, *, hint: str = "", code: str = "", was_sent: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.was_sent = was_sent


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadBundle(f"{path} can't be read: {error.strerror}", hint="run the same command again") from error
    with file:
        yield file


def _age(reply: Any) -> float:
    headers = reply["ResponseMetadata"].get("HTTPHeaders", {})
    now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
    return float((now - reply["LastModified"]).total_seconds())


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
