"""Files by raw boto3 (`benchmarks.baselines.raw_s3`): the least that any way to publish and fetch has to do.

Nothing is hashed beyond the signature, nothing is compared, no name is bound. It is told which files changed, and sends
those; a copy is made by the server.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.baselines.raw_s3 import get_all, put_all, raw_client
from benchmarks.release import files_below
from benchmarks.shipping import Place
from registry.parallel import WORKERS


class RawShipper:
    """A prefix for each version's own files."""

    def __init__(self, place: Place) -> None:
        self._place, self._client = place, raw_client(place.s3_url)
        self._client.list_buckets()
        self._there: dict[str, tuple[int, int]] = {}
        self._keys: dict[str, str] = {}

    def publish(self, source: Path, version: str) -> None:
        """PUT those that are not the same file on the disk as before."""
        files = files_below(source)
        marks = {path: (file.stat().st_ino, file.stat().st_size) for path, file in files.items()}
        changed = {path: file for path, file in files.items() if self._there.get(path) != marks[path]}
        prefix = f"{self._place.name}/{version}/"
        put_all(self._client, self._place.bucket, prefix, changed)
        self._there |= marks
        self._keys |= {path: prefix + path for path in changed}

    def fetch(self, version: str) -> Path:
        """GET those of the version."""
        folder = self._place.folder / "raw"
        prefix = f"{self._place.name}/{version}/"
        wanted = {key: folder / path for path, key in self._keys.items() if key.startswith(prefix)}
        get_all(self._client, self._place.bucket, wanted)
        return folder

    def copy(self, version: str) -> None:
        """By the server, in parallel."""
        bucket, prefix = self._place.bucket, f"{self._place.name}/{version}/"

        def copy(key: str) -> None:
            self._client.copy_object(
                Bucket=bucket, Key=f"{self._place.name}-copy/{key}", CopySource={"Bucket": bucket, "Key": key}
            )

        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(copy, [key for key in self._keys.values() if key.startswith(prefix)]))
