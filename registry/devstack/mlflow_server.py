"""The embedded MLflow tracking server."""

from __future__ import annotations

import sys

from registry.devstack.ports import HOST
from registry.devstack.server import INSTANCE_HEADER, Server, environment_without
from registry.errors import CatalogUnreachable


class MlflowServer(Server):
    """An MLflow tracking server on SQLite that serves its artifacts itself. One worker, no telemetry, no job runner."""

    name = "mlflow"
    failure = CatalogUnreachable

    @property
    def backend_store_uri(self) -> str:
        """Where it keeps what it is told."""
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def env(self) -> dict[str, str]:
        """What MLflow reads."""
        return {"MLFLOW_TRACKING_URI": self.url}

    def _command(self) -> list[str]:
        return [
            sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(self.port), "--workers", "1",
            "--uvicorn-opts", f"--header {INSTANCE_HEADER}:{self._instance}",
            "--backend-store-uri", self.backend_store_uri,
            "--artifacts-destination", str(self.folder / "artifacts"),
        ]  # fmt: skip

    def _child_env(self) -> dict[str, str]:
        return environment_without("MLFLOW_", "AWS_") | {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_SERVER_JOB_ENABLE_PERIODIC_TASKS": "false",
        }

    def _answers(self) -> bool:
        return self._repeats_instance("/health")
