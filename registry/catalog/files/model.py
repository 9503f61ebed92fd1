"""How MLflow logs a version of the flavor `files`; the entry point group `ulora.models` names this module."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

CODE = Path(__file__).with_name("model_code.py")
EXTRAS = "mlflow"
PINNED = ("mlflow", "pandas")


def signature() -> ModelSignature:
    """A signature, which MLflow's registries require although a snapshot never predicts."""
    nothing = Schema([ColSpec(DataType.string, "nothing")])
    return ModelSignature(inputs=nothing, outputs=nothing)


def input_example() -> pd.DataFrame:
    """One row, for which a prediction is refused."""
    return pd.DataFrame({"nothing": [""]})
