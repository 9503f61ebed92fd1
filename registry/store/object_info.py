"""What the store says of an object, and settings of a store: plain values, made from the replies of S3."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

Reply = Mapping[str, Any]
"""A reply of S3, as boto3 gives it."""


@dataclass(frozen=True)
class ObjectInfo:
    """What the server says of an object. `size` is in bytes; `sha256` in hex, None when it keeps none.

    `sha256` is the server's own full-object checksum, or for a multipart object the digest its writer declared (each
    part was checked by the server against its own). `modified` is when it was last written, and `read_at` when the
    server answered, set by `head` only. Both are by the server's clock, to the second.
    """

    key: str
    size: int
    sha256: str | None = None
    etag: str = ""
    modified: datetime | None = None
    read_at: datetime | None = None

    @classmethod
    def of_head(cls, key: str, reply: Reply) -> ObjectInfo:
        """From the reply to a HEAD with `ChecksumMode`."""
        checksum = reply.get("ChecksumSHA256", "")
        whole = base64.b64decode(checksum).hex() if checksum and "-" not in checksum else None
        digest = whole or reply.get("Metadata", {}).get("sha256")
        modified = whole_second(reply["LastModified"])
        return cls(key, reply["ContentLength"], digest, reply["ETag"], modified, answered_at(reply))

    @classmethod
    def of_listing(cls, key: str, entry: Reply) -> ObjectInfo:
        """From an entry of a listing, which has no checksum."""
        return cls(key, entry["Size"], None, entry["ETag"], whole_second(entry["LastModified"]))


@dataclass(frozen=True)
class StoredObject:
    """An object's bytes, when they were written and their age in seconds, by the server's own clock.

    `etag` is a condition for `swap`.
    """

    body: bytes
    modified: datetime
    age: float
    etag: str = ""

    @classmethod
    def of_get(cls, reply: Reply, body: bytes) -> StoredObject:
        """From the reply to a GET, and its body."""
        age = float((_date(reply) - reply["LastModified"]).total_seconds())
        return cls(body, reply["LastModified"], age, reply["ETag"])


@dataclass(frozen=True)
class Contents:
    """The digest and size of an object's bytes as they were read, whatever its key says.

    `etag` is that of the read: a condition for replacing just these bytes.
    """

    sha256: str
    size: int
    etag: str


@dataclass(frozen=True)
class Encryption:
    """How the server encrypts what is written: `AES256` (SSE-S3) or `aws:kms`, with the key named here or AWS's own."""

    algorithm: str
    kms_key_id: str | None = None

    def add_to(self, params: dict[str, Any], **_: object) -> dict[str, Any]:
        """The parameters of a write, with this encryption."""
        key = {"SSEKMSKeyId": self.kms_key_id} if self.kms_key_id else {}
        return {**params, "ServerSideEncryption": self.algorithm, **key}


@dataclass(frozen=True)
class Rights:
    """What the identity in use may do in this store; None where it could not be found out."""

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


def answered_at(reply: Reply) -> datetime:
    """When the server answered, by its own clock if it says so, to the second."""
    return whole_second(_date(reply))


def whole_second(when: datetime) -> datetime:
    """The second that a time is in. Servers differ in what they tell below a second."""
    return when.astimezone(UTC).replace(microsecond=0)


def _date(reply: Reply) -> datetime:
    return header_time(reply["ResponseMetadata"].get("HTTPHeaders", {})) or datetime.now(UTC)


def header_time(headers: Mapping[str, str]) -> datetime | None:
    """The server's clock by its header `date`, UTC; None if there is none. Behind a proxy there may be two in one."""
    with suppress(ValueError, TypeError):
        found = parsedate_to_datetime(headers["date"].partition(" GMT")[0] + " GMT") if "date" in headers else None
        return found.astimezone(UTC) if found else None
    return None
