"""The stage of the fault matrix."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from registry.devstack.s3_server import S3Server
from tests.conftest import TrackingServer
from tests.faults.scenarios import write_shared
from tests.faults.stage import Stage


@pytest.fixture(scope="session")
def stage(mlflow_server: TrackingServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """This worker's stage, with an S3 server of its own, which dies in some cases."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "shared").mkdir()
    write_shared(folder / "shared")
    s3 = S3Server(folder / "s3")
    try:
        with Stage(s3.start(), mlflow_server.url, folder) as stage:
            yield stage
    finally:
        s3.kill()
