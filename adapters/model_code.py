"""The code that MLflow stores with each version of the flavor `dino-lora` and runs to load it. Nothing is pickled.

Every logged model has a copy of this file, which later releases can't change. So it imports only `load_model` of
`adapters.model` from this project.
"""

from __future__ import annotations

from typing import Any

import mlflow
import pandas as pd

try:
    from adapters.model import load_model
except ImportError as error:
    raise ImportError(
        f"{error}. This model needs the package ulora-registry: pip install 'ulora-registry[dino,mlflow]'. If that is "
        "installed, another package is imported as `adapters`: pip uninstall adapters, then install it again"
    ) from error


class DinoLora(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A version as `mlflow.pyfunc` loads it."""

    def load_context(self, context: Any) -> None:
        """Load the version."""
        self._model = load_model(context.artifacts["bundle"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Predict for each row."""
        return self._model.predict(model_input)


mlflow.models.set_model(DinoLora())
