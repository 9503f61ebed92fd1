"""The bucket around a store: create it, and read its versioning, lifecycle rules and unfinished uploads."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from registry.errors import ObjectNotFound, UloraError
from registry.store.client import S3Client
from registry.store.object_info import LifecycleRule

_UPLOADS = "the bucket's uploads"
_UNREADABLE_CLASSES = ("GLACIER", "DEEP_ARCHIVE")


class Bucket:
    """The bucket of one store. Reading its settings raises `UloraError` where the server, or a policy, does not say."""

    def __init__(self, client: S3Client) -> None:
        self._client = client

    def create(self) -> None:
        """Create the bucket; it may exist already."""
        s3 = self._client.transfers
        region = s3.meta.region_name
        location: Any = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        try:
            self._client.call("bucket", lambda: s3.create_bucket(Bucket=self._client.bucket, **location))
        except UloraError as error:
            if "BucketAlreadyOwnedByYou" not in str(error) and "BucketAlreadyExists" not in str(error):
                raise

    def versioning(self) -> str:
        """`Enabled`, `Suspended` or `off`."""
        s3, bucket = self._client.reads, self._client.bucket
        reply = self._client.call("the bucket's versioning", lambda: s3.get_bucket_versioning(Bucket=bucket))
        return str(reply.get("Status", "off"))

    def lifecycle(self) -> tuple[LifecycleRule, ...]:
        """The rules that may expire or move away objects of this store, by their prefix."""
        s3 = self._client.reads

        def read() -> Any:
            try:
                return s3.get_bucket_lifecycle_configuration(Bucket=self._client.bucket)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") != "NoSuchLifecycleConfiguration":
                    raise
                return {}

        rules = map(_lifecycle_rule, self._client.call("the bucket's lifecycle rules", read).get("Rules", []))
        return tuple(rule for rule in rules if rule and _overlap(rule.prefix, self._client.prefix))

    def unfinished_uploads(self) -> tuple[float, ...]:
        """The ages, in seconds, of up to 1,000 uploads in parts that were never completed."""
        s3, place = self._client.reads, {"Bucket": self._client.bucket, "Prefix": self._client.prefix}
        reply = self._client.call(_UPLOADS, lambda: s3.list_multipart_uploads(**place, MaxUploads=1000))
        now = datetime.now(UTC)
        return tuple((now - upload["Initiated"]).total_seconds() for upload in reply.get("Uploads", []))

    def abort_uploads(self, prefix: str, before: datetime) -> int:
        """Abort the uploads in parts below a prefix that were begun before a time; return how many."""
        s3, place = self._client.reads, {"Bucket": self._client.bucket, "Prefix": self._client.prefix + prefix}
        pages = iter(s3.get_paginator("list_multipart_uploads").paginate(**place))
        uploads: list[Any] = []
        while page := self._client.call(_UPLOADS, lambda: next(pages, None)):
            uploads += page.get("Uploads", [])
        stale = [upload for upload in uploads if upload["Initiated"] < before]
        for upload in stale:
            named = {"Bucket": self._client.bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
            with suppress(ObjectNotFound):
                self._client.call(_UPLOADS, partial(s3.abort_multipart_upload, **named))
        return len(stale)


def _lifecycle_rule(rule: Mapping[str, Any]) -> LifecycleRule | None:
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
