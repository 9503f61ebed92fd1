"""Raw boto3: what a rollback and a publication cost at least, without any of this package's code.

Its best settings: one client for all calls, as many connections as calls at a time, no checksums beyond those that the
signature needs, and as many files at a time as this package sends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry.parallel import WORKERS


def raw_client(endpoint_url: str | None = None) -> Any:
    """A client of boto3; the environment says which server and whose keys."""
    import boto3
    from botocore.config import Config

    config = Config(
        max_pool_connections=2 * WORKERS,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.client("s3", config=config, endpoint_url=endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3"))


class RawLog:
    """A log of records below a prefix, by the three calls that a rollback is made of."""

    def __init__(self, client: Any, bucket: str, prefix: str, body: bytes) -> None:
        """Args:
        body: of each record.
        """
        self._client, self._bucket, self._prefix, self._body = client, bucket, prefix, body
        self._put(10**12)

    def roll_back(self) -> None:
        """LIST one key, GET it, PUT the one before it, which must not exist."""
        found = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        key = found["Contents"][0]["Key"]
        self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        self._put(int(key.rpartition("/")[2]) - 1)

    def _put(self, number: int) -> None:
        key = f"{self._prefix}{number:013}"
        self._client.put_object(Bucket=self._bucket, Key=key, Body=self._body, IfNoneMatch="*")


def put_all(client: Any, bucket: str, prefix: str, files: Mapping[str, Path]) -> None:
    """PUT files in parallel, each whole, below a prefix."""

    def put(item: tuple[str, Path]) -> None:
        with item[1].open("rb") as body:
            client.put_object(Bucket=bucket, Key=prefix + item[0], Body=body)

    with _pool() as pool:
        list(pool.map(put, _largest_first(files)))


def get_all(client: Any, bucket: str, keys: Mapping[str, Path]) -> None:
    """GET keys in parallel into files."""

    def get(item: tuple[str, Path]) -> None:
        item[1].parent.mkdir(parents=True, exist_ok=True)
        with item[1].open("wb") as file:
            for chunk in client.get_object(Bucket=bucket, Key=item[0])["Body"].iter_chunks(1024 * 1024):
                file.write(chunk)

    with _pool() as pool:
        list(pool.map(get, keys.items()))


def _largest_first(files: Mapping[str, Path]) -> list[tuple[str, Path]]:
    """So that no large file is left alone at the end."""
    return sorted(files.items(), key=lambda item: item[1].stat().st_size, reverse=True)


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(WORKERS)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
