"""Ways to publish a version, copy it to another place, and fetch it: what each contender of the transfers offers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from registry.api import Registry
from registry.errors import LoadFailed
from registry.settings import Settings
from registry.store.blobs import Blobs
from registry.usecases.options import CopyOptions, CreateOptions

FIRST, NEXT = "v1.1.1", "v1.1.2"


@dataclass(frozen=True)
class Place:
    """Where a contender works: servers, and a name below which nothing is yet.

    Attributes:
        s3_url, mlflow_url: may be those of proxies that count.
        folder: for what it fetches; the caller deletes it.
    """

    s3_url: str
    mlflow_url: str
    bucket: str
    name: str
    folder: Path


class Shipper(Protocol):
    """One way, at one place."""

    def publish(self, source: Path, version: str) -> None:
        """Make a folder's files a version that others can fetch."""

    def fetch(self, version: str) -> Path:
        """Have the files of a version on this disk; those of an earlier one are there. Returns their folder."""

    def copy(self, version: str) -> None:
        """Copy a version to another place on the same server.

        Raises:
            NotOffered: it can't.
        """


class NotOffered(LoadFailed):
    """A rival has no such function."""


MakeShipper = Callable[[Place], Shipper]


class OurShipper:
    """This package: `create`, `store copy`, and the fetch that a replica does before it loads."""

    def __init__(self, place: Place, *, offline: bool = True) -> None:
        """Args:
        offline: without MLflow's copy of the files.
        """
        self._place, self._offline = place, offline
        store = f"s3://{place.bucket}/{place.name}"
        settings = Settings.load(model=f"bench-{place.name}", store=store, tracking_uri=place.mlflow_url)
        self._registry = Registry(settings=replace(settings, endpoint_url=place.s3_url, cache=place.folder / "own"))
        self._registry.store.initialise()
        self._copy = Registry(settings=replace(self._registry.settings, store=f"{store}-copy"))
        self._copy.store.initialise()
        self._cache = place.folder / "cache"

    def publish(self, source: Path, version: str) -> None:
        """As a snapshot: the files are of no flavor that this package reads."""
        self._registry.create(version, options=CreateOptions(project=source), offline=self._offline)

    def fetch(self, version: str) -> Path:
        """Into the cache, verified; then links to its files by their paths, which a replica does not need."""
        manifest = self._registry.manifest(version)
        found = Blobs(self._registry.store, self._cache).fetch(manifest.files)
        target = self._place.folder / version
        for file in manifest.files:
            path = target / file.path.removeprefix("project/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.hardlink_to(found[file.sha256])
        return target

    def copy(self, version: str) -> None:
        """`ulora store copy` to another prefix of the bucket."""
        options = CopyOptions(endpoint_url=self._place.s3_url)
        self._registry.copy_to(version, self._copy.settings.store, options)


def check_same(source: Path, fetched: Path, paths: Mapping[str, Path]) -> None:
    """Check that what was fetched are the files that were published.

    Raises:
        LoadFailed: it is not.
    """
    for path in paths:
        with suppress(OSError):
            if (fetched / path).read_bytes() == (source / path).read_bytes():
                continue
        raise LoadFailed(f"{fetched / path} is not the file that was published")


def clean(folder: Path) -> None:
    """Delete what was fetched."""
    shutil.rmtree(folder, ignore_errors=True)
