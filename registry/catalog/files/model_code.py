"""The code that MLflow stores with each version of the flavor `files` and runs to load it. Nothing is pickled.

Every logged model has a copy of this file, which later releases can't change. So it imports only `load_files` of
`registry.flavors` from this project.
"""

from __future__ import annotations

from typing import Any

import mlflow
import pandas as pd

from registry.flavors import load_files


class Files(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A snapshot as `mlflow.pyfunc` loads it."""

    def load_context(self, context: Any) -> None:
        """Check the snapshot's files."""
        self._snapshot = load_files(context.artifacts["bundle"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Refuse to predict."""
        return self._snapshot.predict(model_input)


mlflow.models.set_model(Files())
