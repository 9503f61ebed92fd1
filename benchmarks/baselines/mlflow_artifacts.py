"""`mlflow.log_artifacts` and `download_artifacts`: each version is a run whose artifacts are the files.

Two ways, both as documented: straight to S3 (the experiment's artifact location is in the bucket), which saves a hop,
and through the tracking server, which is the default of `mlflow server`. MLflow sends one file after the other, and has
no setting for that; it fetches in parallel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.shipping import NotOffered, Place


class MlflowShipper:
    """An experiment with a run for each version."""

    def __init__(self, place: Place, *, straight: bool) -> None:
        from mlflow import MlflowClient

        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # what is printed there is the result
        self._place = place
        self._client = MlflowClient(place.mlflow_url)
        location = f"s3://{place.bucket}/{place.name}" if straight else None
        self._experiment = self._client.create_experiment(place.name, location)
        self._runs: dict[str, str] = {}

    def publish(self, source: Path, version: str) -> None:
        """All files: a run knows nothing of another's."""
        run = self._client.create_run(self._experiment, run_name=version).info.run_id
        with self._endpoint():
            self._client.log_artifacts(run, str(source))
        self._client.set_terminated(run)
        self._runs[version] = run

    def fetch(self, version: str) -> Path:
        """All files."""
        folder = self._place.folder / version
        folder.mkdir(exist_ok=True)
        with self._endpoint():
            self._client.download_artifacts(self._runs[version], "", str(folder))
        return folder

    def copy(self, version: str) -> None:
        """MLflow has none."""
        raise NotOffered("MLflow copies no artifacts")

    @contextmanager
    def _endpoint(self) -> Iterator[None]:
        """MLflow's S3 client looks at the environment only."""
        before = os.environ.get("MLFLOW_S3_ENDPOINT_URL")
        os.environ["MLFLOW_S3_ENDPOINT_URL"] = self._place.s3_url
        try:
            yield
        finally:
            if before is None:
                os.environ.pop("MLFLOW_S3_ENDPOINT_URL")
            else:
                os.environ["MLFLOW_S3_ENDPOINT_URL"] = before
