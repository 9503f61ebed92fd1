"""Objects in S3, and the one rule for conditional writes whose reply may be lost.

The only module that imports boto3.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

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
from urllib3.exceptions import HTTPError as TransportError

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
from registry.formats import canonical
from registry.store import layout

FORMAT = 1
_URL = re.compile(r"s3://([A-Za-z0-9][A-Za-z0-9._-]{2,62})/?((?<=/)[^/.][^/]*(?:/[^/.][^/]*)*)?/?")
"""No part of a prefix is empty or begins with a dot: some servers would take `..` for the folder above."""
_CHUNK = 1024 * 1024
_READS = 3
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
_WRITES = ("PutObject", "CreateMultipartUpload", "CopyObject")
_AWS = (".amazonaws.com", ".amazonaws.com.cn")
_LOST = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}


@dataclass(frozen=True)
class ObjectInfo:
    """What the server says of an object. `size` is in bytes; `sha256` in hex, None when it keeps none.

    `sha256` is the server's own full-object checksum, or for a multipart object the digest its writer declared (each
    part was checked by the server against its own). `modified` is when it was last written, and where one object was
    asked for `read_at` when the server said so: by the server's clock, to the second.
    """

    key: str
    size: int
    sha256: str | None = None
    etag: str = ""
    modified: datetime | None = None
    read_at: datetime | None = None


@dataclass(frozen=True)
class StoredObject:
    """An object's bytes, when they were written and their age in seconds, by the server's own clock.

    `etag` is a condition for `swap`.
    """

    body: bytes
    modified: datetime
    age: float
    etag: str = ""


@dataclass(frozen=True)
class Encryption:
    """How the server encrypts what is written: `AES256` (SSE-S3) or `aws:kms`, with a key of one's own or AWS's."""

    algorithm: str
    kms_key_id: str | None = None

    def add_to(self, params: dict[str, Any], **_: object) -> dict[str, Any]:
        """The parameters of a write, with this encryption."""
        key = {"SSEKMSKeyId": self.kms_key_id} if self.kms_key_id else {}
        return {**params, "ServerSideEncryption": self.algorithm, **key}


@dataclass(frozen=True)
class Contents:
    """What the bytes of an object really are. `etag` is that of the read: a condition for replacing just these."""

    sha256: str
    size: int
    etag: str


@dataclass(frozen=True)
class Rights:
    """What the identity in use may do here; None where it could not be found out."""

    read: bool | None
    list: bool | None
    create: bool | None
    delete: bool | None


@dataclass(frozen=True)
class LifecycleRule:
    """A lifecycle rule of the bucket that is switched on. `prefix` is below the bucket; `does` is in words."""

    id: str
    prefix: str
    does: str


class ObjectStore:
    """The objects below one `s3://BUCKET/PREFIX`. Threads may share it."""

    def __init__(
        self,
        url: str,
        *,
        endpoint_url: str | None = None,
        deadline: float = 15.0,
        profile: str | None = None,
        encryption: Encryption | None = None,
    ) -> None:
        """Args:
            url: `s3://BUCKET/PREFIX`.
            encryption: asked for with every write; None for the bucket's own default.
            endpoint_url: the S3 server; None for boto3's own choice.
            profile: whose credentials in AWS's own files to use; None for boto3's own choice.
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
        self.url: str = url.rstrip("/")
        self.bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._endpoint_url = endpoint_url
        self._deadline = deadline
        self._profile = profile
        self._encryption = encryption
        self._creating_clients = threading.RLock()

    @property
    def address(self) -> str:
        """The same for every two that are the same store, whatever they were opened with."""
        return f"{self._reads.meta.endpoint_url}/{self.bucket}/{self._prefix}"

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

        Where a connection breaks in the middle, the rest is asked for, a few times in all.

        Raises:
            ObjectNotFound: there is none.
            CorruptBlob: it is not `size` bytes long, by what the server announces or by what arrives.
            StoreUnreachable: the server does not answer, or its connections broke again and again.
        """
        arrived = 0
        for attempt in range(1, _READS + 1):
            with self._errors(key), closing(self._body(key, size, arrived)) as body:
                try:
                    for chunk in body.iter_chunks(_CHUNK):
                        arrived += len(chunk)
                        yield chunk
                except (BotoCoreError, TransportError, OSError):
                    if attempt == _READS:
                        raise
                else:
                    return

    def head(self, key: str) -> ObjectInfo | None:
        """What the server says of an object, None when there is none."""
        try:
            with self._errors(key):
                reply = self._reads.head_object(Bucket=self.bucket, Key=self._prefix + key, ChecksumMode="ENABLED")
        except ObjectNotFound:
            return None
        checksum = reply.get("ChecksumSHA256", "")
        whole = base64.b64decode(checksum).hex() if checksum and "-" not in checksum else None
        return ObjectInfo(
            key, reply["ContentLength"], whole or reply.get("Metadata", {}).get("sha256"),
            reply["ETag"], _whole_second(reply["LastModified"]), _whole_second(_date(reply)),
        )  # fmt: skip

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix`, in the order of their keys."""
        with self._errors(prefix):
            pages = self._reads.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for entry in page.get("Contents", []):
                    key = entry["Key"].removeprefix(self._prefix)
                    yield ObjectInfo(key, entry["Size"], None, entry["ETag"], _whole_second(entry["LastModified"]))

    def first(self, prefix: str) -> str | None:
        """The first key that starts with `prefix`, None when there is none. One round trip."""
        with self._errors(prefix):
            page = self._reads.list_objects_v2(Bucket=self.bucket, Prefix=self._prefix + prefix, MaxKeys=1)
        entries = page.get("Contents", [])
        return entries[0]["Key"].removeprefix(self._prefix) if entries else None

    def folders(self, prefix: str) -> Iterator[str]:
        """The names of the folders directly below a prefix that ends with a slash."""
        with self._errors(prefix):
            pages = self._reads.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self._prefix + prefix, Delimiter="/"
            )
            for page in pages:
                for entry in page.get("CommonPrefixes", []):
                    yield entry["Prefix"].removeprefix(self._prefix + prefix).rstrip("/")

    def now(self) -> datetime:
        """The server's own clock, to the second below."""
        with self._errors("the clock"):
            reply = self._reads.list_objects_v2(Bucket=self.bucket, Prefix=self._prefix, MaxKeys=1)
        return _whole_second(_date(reply))

    def contents(self, key: str, progress: Callable[[int], None] = lambda done: None) -> Contents:
        """Read all bytes of an object, whatever they are, and say what they are.

        Raises:
            ObjectNotFound: there is none.
        """
        digest, size = sha256(), 0
        with self._errors(key):
            reply = self._client.get_object(Bucket=self.bucket, Key=self._prefix + key)
            with closing(reply["Body"]) as body:
                for chunk in body.iter_chunks(_CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
                    progress(len(chunk))
        return Contents(digest.hexdigest(), size, reply["ETag"])

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
        self._write(key, body, before=None, IfNoneMatch="*")

    def swap(self, key: str, body: bytes, etag: str | None) -> None:
        """Put other bytes in place of the object of which `etag` was read; None: of nothing. Only for `gc.json`.

        `body` must be unique to this caller. A lost reply is looked into as `create` does.

        Raises:
            KeyExists: another writer was first. Nothing changed.
            OutcomeUnknown: the deadline passed without a clear answer.
            StoreDenied, StoreUnreachable, BucketNotFound.
        """
        if etag is None:
            self.create(key, body)
            return
        self._write(key, body, before=etag, IfMatch=etag)

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
            self._send(key, path, digest, size, condition={"IfNoneMatch": "*"}, progress=progress)
        except _Undecided as undecided:
            info = self.head(key)
            if info is None:
                raise StoreUnreachable(str(undecided), hint=undecided.hint) from undecided
            if (info.size, info.sha256) != (size, digest):
                raise CorruptBlob(
                    f"{key} is in the store, but its bytes are not the ones its name says",
                    hint="`ulora verify VERSION --repair DIR` puts the right ones there, from the bundle or any copy",
                ) from undecided

    def replace(self, key: str, path: Path, digest: str, size: int, etag: str) -> None:
        """Put a file whose sha256 is `digest` in place of an object that was found damaged: only for `verify --repair`.

        Nothing is written unless the object is still the one of which `etag` was read.

        Raises:
            KeyExists: it is another one by now, and not this file's bytes either. Nothing changed.
            CorruptBlob: the file does not have this digest (it changed meanwhile).
        """
        try:
            self._send(key, path, digest, size, condition={"IfMatch": etag})
        except (_Undecided, ObjectNotFound) as undecided:  # some servers answer 404 for a condition on nothing
            info = self.head(key)
            if info and (info.size, info.sha256) == (size, digest):
                return  # this write, or another one with the same bytes
            if info and isinstance(undecided, _Undecided) and undecided.code not in _LOST:
                raise StoreUnreachable(str(undecided), hint=undecided.hint) from undecided
            raise KeyExists(key) from undecided

    def delete(self, key: str) -> None:
        """Delete an object. Deleting what is not there is fine."""
        with self._errors(key):
            # Sent once, and given up within seconds: gc counts on no deletion being under way for long, nor being sent
            # again when this machine wakes up.
            self._once.delete_object(Bucket=self.bucket, Key=self._prefix + key)

    # --- who ---------------------------------------------------------------------------------------------------------

    def caller(self) -> str | None:
        """The ARN of the identity in use; None where AWS's STS does not say within about two seconds.

        Only AWS is asked, or what AWS_ENDPOINT_URL_STS names: other servers' keys are none of its business. Never on
        the path of a rollback.
        """
        host = urlsplit(self._reads.meta.endpoint_url).hostname or ""
        if not (host.endswith(_AWS) or "AWS_ENDPOINT_URL_STS" in os.environ):
            return None
        config = Config(connect_timeout=1, read_timeout=2, retries={"total_max_attempts": 1})
        with suppress(BotoCoreError, ClientError, ValueError), self._creating_clients:
            region = self._session.region_name or "us-east-1"
            sts = self._session.client("sts", config=config, region_name=region)
            return str(sts.get_caller_identity()["Arn"])
        return None

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
        self._expect_refusal(layout.FORMAT_KEY, self._check_format())

    def check_target(self) -> None:
        """Check that this prefix is a store of a format we write. Nothing is sent.

        Raises:
            ObjectNotFound, StoreUnfit: as `check_writable`.
        """
        self._check_format()

    def _check_format(self) -> bytes:
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
        return body

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

    def rights(self) -> Rights:
        """What this identity may do, found out without leaving anything behind; the conditions make it harmless.

        Raises:
            StoreUnreachable, BucketNotFound.
        """
        found: list[bytes] = []
        may_read = _may(lambda: found.append(self.get(layout.FORMAT_KEY).body))
        return Rights(
            read=may_read,
            list=_may(lambda: self.first(layout.PROBE_PREFIX)),
            # Sent where it must be refused for being there already: only once it is known to be.
            create=_may(lambda: self._expect_refusal(layout.FORMAT_KEY, found[0])) if found else None,
            delete=_may(lambda: self.delete(f"{layout.PROBE_PREFIX}{secrets.token_hex(8)}")),
        )

    def versioning(self) -> str:
        """Whether the bucket keeps what is overwritten or deleted: `Enabled`, `Suspended` or `off`.

        Raises:
            UloraError: the server, or a policy, does not say.
        """
        with self._errors("the bucket's versioning"):
            return str(self._reads.get_bucket_versioning(Bucket=self.bucket).get("Status", "off"))

    def lifecycle(self) -> tuple[LifecycleRule, ...]:
        """The bucket's rules that may expire or move away objects of this store, by their prefix; our objects have no
        tags, so rules that ask for one are left out.

        Raises:
            UloraError: the server, or a policy, does not say.
        """
        with self._errors("the bucket's lifecycle rules"):
            try:
                rules = self._reads.get_bucket_lifecycle_configuration(Bucket=self.bucket).get("Rules", [])
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") != "NoSuchLifecycleConfiguration":
                    raise
                return ()
        return tuple(rule for rule in map(_rule, rules) if rule and _overlap(rule.prefix, self._prefix))

    def unfinished_uploads(self) -> tuple[float, ...]:
        """The ages, in seconds, of up to 1,000 uploads in parts that were never completed.

        Raises:
            UloraError: the server, or a policy, does not say.
        """
        with self._errors("the bucket's uploads"):
            reply = self._reads.list_multipart_uploads(Bucket=self.bucket, Prefix=self._prefix, MaxUploads=1000)
        now = datetime.now(UTC)
        return tuple((now - upload["Initiated"]).total_seconds() for upload in reply.get("Uploads", []))

    def abort_uploads(self, prefix: str, before: datetime) -> int:
        """Drop the uploads in parts below a prefix that were begun before a time; return how many. Only for gc."""
        with self._errors("the bucket's uploads"):
            place: Any = {"Bucket": self.bucket, "Prefix": self._prefix + prefix}
            pages = self._reads.get_paginator("list_multipart_uploads").paginate(**place)
            uploads = [upload for page in pages for upload in page.get("Uploads", [])]
            stale = [upload for upload in uploads if upload["Initiated"] < before]
            for upload in stale:
                with suppress(self._reads.exceptions.NoSuchUpload):
                    self._reads.abort_multipart_upload(
                        Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
        return len(stale)

    def _expect_refusal(self, key: str, body: bytes) -> None:
        try:
            with self._errors(key):
                self._put(key, body, IfNoneMatch="*")
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
            size = reply.get("ContentLength")
            if size is None or size > limit:
                reply["Body"].close()
                found = "of unknown length" if size is None else f"{size} bytes"
                raise BadManifest(f"{key} is {found}, more than the {limit} bytes that are allowed")
            return StoredObject(reply["Body"].read(), reply["LastModified"], _age(reply), reply["ETag"])

    def _body(self, key: str, size: int, start: int) -> Any:
        """The body of a reply with an object's bytes from `start` on."""
        rest = {"Range": f"bytes={start}-"} if start else {}
        reply = self._client.get_object(Bucket=self.bucket, Key=self._prefix + key, **rest)
        announced = reply.get("ContentLength")
        if announced != size - start:
            reply["Body"].close()
            raise CorruptBlob(f"{key} is {start + (announced or 0)} bytes long, not {size}")
        return reply["Body"]

    def _put(self, key: str, body: bytes, **condition: str) -> None:
        self._once.put_object(
            Bucket=self.bucket, Key=self._prefix + key, Body=body, ContentType="application/json",
            ChecksumSHA256=_base64(sha256(body).digest()), **condition,
        )  # fmt: skip

    def _write(self, key: str, body: bytes, *, before: str | None, **condition: str) -> None:
        """Send a conditional write until it is clear what became of it; `before` is the ETag that it replaces, if any.

        Raises:
            KeyExists, OutcomeUnknown, StoreDenied, StoreUnreachable, BucketNotFound: see `create` and `swap`.
        """
        give_up = time.monotonic() + self._deadline
        pause = 0.05
        maybe_applied = False
        while True:
            try:
                with self._errors(key):
                    self._put(key, body, **condition)
                return
            except _Undecided as undecided:
                maybe_applied = maybe_applied or undecided.was_sent
                if not maybe_applied:
                    raise StoreUnreachable(str(undecided), hint=undecided.hint) from undecided
            except StoreDenied:
                # The first try may have been applied all the same: only the key itself can tell.
                if not maybe_applied:
                    raise
            except ObjectNotFound:  # some servers answer 404 for a condition on nothing
                maybe_applied = True
            found = self._look_back(key)
            if found is not None and found.body == body:
                return
            if found is not None and found.etag != before:
                raise KeyExists(key)
            if time.monotonic() > give_up:
                raise OutcomeUnknown(
                    f"a write of {key} was sent, but the store did not say whether it was applied",
                    hint="look with `ulora status` and run the same command again: it is safe",
                )
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _look_back(self, key: str) -> StoredObject | None:
        """What is at a key after an undecided write; None when nothing is, or the store can't say right now."""
        try:
            # By the client that does not try for minutes: the deadline counts here too.
            return self._get(self._once, key, canonical.MAX_DOCUMENT)
        except (ObjectNotFound, StoreUnreachable):
            return None

    def _send(
        self,
        key: str,
        path: Path,
        digest: str,
        size: int,
        *,
        condition: Mapping[str, str],
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Send a file in one PUT or in parts, under a condition on what is there."""
        with _opened(path) as body, _named(body, size), self._errors(key):
            if size <= PART_BYTES:
                self._client.put_object(
                    Bucket=self.bucket, Key=self._prefix + key, Body=body,
                    ChecksumSHA256=_base64(bytes.fromhex(digest)), **condition,
                )  # fmt: skip
                progress(size)
            else:
                self._upload_parts(key, body, digest, condition, progress)

    def _upload_parts(
        self, key: str, body: BinaryIO, digest: str, condition: Mapping[str, str], progress: Callable[[int], None]
    ) -> None:
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
                raise CorruptBlob(f"{key} was announced with another digest")
            self._client.complete_multipart_upload(**place, MultipartUpload={"Parts": parts}, **condition)
        except BaseException:
            with suppress(BotoCoreError, ClientError):
                self._client.abort_multipart_upload(**place)
            raise

    @cached_property
    def _session(self) -> boto3.session.Session:
        return boto3.session.Session(profile_name=self._profile)

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
            client = self._session.client(
                "s3", endpoint_url=self._endpoint_url, config=common.merge(config),
                region_name=self._session.region_name or "us-east-1",
            )  # fmt: skip
        if self._encryption:
            # By an event, so that no write that somebody adds can forget it.
            for operation in _WRITES:
                client.meta.events.register(f"provide-client-params.s3.{operation}", self._encryption.add_to)
        return client

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
        # urllib3's own error comes up raw where the body of an error reply breaks off.
        except (HTTPClientError, ConnectionError, IncompleteReadError, TransportError, OSError) as error:
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


def _may(act: Callable[[], object]) -> bool | None:
    """Whether something is allowed: refused is no, anything but a clear answer is not known."""
    try:
        act()
    except StoreDenied:
        return False
    except (StoreUnreachable, BucketNotFound):
        raise
    except (ObjectNotFound, StoreUnfit):
        return True
    except UloraError:
        return None
    return True


_UNREADABLE_CLASSES = ("GLACIER", "DEEP_ARCHIVE")


def _rule(rule: Mapping[str, Any]) -> LifecycleRule | None:
    """A lifecycle rule, None for one that is off, touches no current object, or asks for a tag."""
    conditions = {**rule.get("Filter", {}), **rule.get("Filter", {}).get("And", {})}
    expiry = rule.get("Expiration", {})
    when = f"after {expiry['Days']} days" if "Days" in expiry else f"on {expiry['Date']}" if "Date" in expiry else ""
    moved = [str(each.get("StorageClass")) for each in rule.get("Transitions", [])]
    cold = next((name for name in moved if name in _UNREADABLE_CLASSES), "")
    does = f"expires objects {when}" if when else f"moves objects to {cold}" if cold else ""
    if rule.get("Status") != "Enabled" or not does or "Tag" in conditions or conditions.get("Tags"):
        return None
    return LifecycleRule(str(rule.get("ID", "")), str(conditions.get("Prefix", rule.get("Prefix", ""))), does)


def _overlap(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadBundle(f"{path} can't be read: {error.strerror}", hint="run the same command again") from error
    with file:
        yield file


@contextmanager
def _named(body: BinaryIO, size: int) -> Iterator[None]:
    """Where a file was not sent because it is not what it was, name it: people do not know it by its key."""
    try:
        yield
    except (CorruptBlob, _Undecided) as error:
        if isinstance(error, _Undecided) and os.fstat(body.fileno()).st_size == size:
            raise
        raise CorruptBlob(
            f"{body.name} changed while it was read or uploaded", hint="run it again when nobody writes there"
        ) from error


def _age(reply: Any) -> float:
    return float((_date(reply) - reply["LastModified"]).total_seconds())


def _date(reply: Any) -> datetime:
    """When the server answered, by its own clock if it says so."""
    headers = reply["ResponseMetadata"].get("HTTPHeaders", {})
    return parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)


def _whole_second(when: datetime) -> datetime:
    """The second that a time is in, which is all that servers agree to tell of a time of writing."""
    return when.astimezone(UTC).replace(microsecond=0)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
