"""An MLflow model with many versions, and the alias that is set on it.

Registering 10,000 versions through MLflow takes more than ten minutes, so they are inserted into the table of its own
database by its own classes. Its best settings: SQLite on the local disk, one worker, one client that is kept.
"""

from __future__ import annotations

import time
from pathlib import Path

_BATCH = 1000


class MlflowVersions:
    """A registered model of MLflow with so many versions."""

    def __init__(self, database: Path, model: str, count: int) -> None:
        """Args:
        database: the SQLite file of the server.
        """
        from mlflow import MlflowClient

        self._client, self._model, self._count = MlflowClient(), model, count
        self._turn = 0
        self._client.create_registered_model(model)
        _insert(database, model, count)

    def set_alias(self) -> None:
        """Let the alias name another one of the newest versions."""
        self._turn += 1
        number = str(self._count - self._turn % min(2, self._count))
        self._client.set_registered_model_alias(self._model, "production", number)

    def resolve(self) -> None:
        """Ask which version the alias names."""
        self._client.get_model_version_by_alias(self._model, "production")


def _insert(database: Path, model: str, count: int) -> None:
    import sqlalchemy
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion

    engine = sqlalchemy.create_engine(f"sqlite:///{database}", connect_args={"timeout": 60})
    now = int(time.time() * 1000)
    rows = [
        {
            "name": model, "version": number, "creation_time": now, "last_updated_time": now,
            "current_stage": "None", "source": f"s3://bucket/{number}", "status": "READY",
        }
        for number in range(1, count + 1)
    ]  # fmt: skip
    with engine.begin() as connection:
        for start in range(0, count, _BATCH):
            connection.execute(sqlalchemy.insert(SqlModelVersion), rows[start : start + _BATCH])
    engine.dispose()
