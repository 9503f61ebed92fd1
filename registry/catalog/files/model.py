"""The MLflow model of a snapshot, as code: MLflow stores this file's text and runs it, nothing is pickled.

Its one artifact, `bundle`, is the version's folder: every file at its manifest path, and `version.json`, the manifest.
Loading it checks the files against that; asking it for a prediction says that there is none to be had.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

MANIFEST = "version.json"
ARTIFACT = "bundle"
"""The artifact's key in `context.artifacts`."""
EXTRAS = "mlflow"
"""What of `ulora-registry` it needs."""
PINNED = ("mlflow", "pandas")


class Files(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A snapshot behind `mlflow.pyfunc`: its artifacts are its use."""

    _version = ""

    def load_context(self, context: Any) -> None:
        """Check the version's files against its manifest.

        Raises:
            CorruptBlob: a file is missing, or not what the manifest says.
        """
        from registry.errors import CorruptBlob
        from registry.versions.manifest import Manifest

        folder = Path(context.artifacts[ARTIFACT])
        manifest = Manifest.parse((folder / MANIFEST).read_bytes())
        for file in manifest.files:
            path = folder / file.path
            data = path.read_bytes() if path.is_file() else None
            if data is None or hashlib.sha256(data).hexdigest() != file.sha256:
                raise CorruptBlob(
                    f"{manifest.version}: {file.path} among the model's artifacts is not what the manifest says",
                    hint="take it from the store instead: ulora restore",
                )
        self._version = manifest.version

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Refuse: a snapshot answers nothing.

        Raises:
            BadInput: always.
        """
        from registry.errors import BadInput

        raise BadInput(
            f"{self._version} is a snapshot of files: it holds no model, so it predicts nothing",
            hint=f"`ulora restore {self._version} --target DIR` brings its files back",
        )


def signature() -> ModelSignature:
    """What MLflow's registries ask for, though nothing is ever answered."""
    nothing = Schema([ColSpec(DataType.string, "nothing")])
    return ModelSignature(inputs=nothing, outputs=nothing)


def input_example() -> pd.DataFrame:
    """One row, which is refused."""
    return pd.DataFrame({"nothing": [""]})


mlflow.models.set_model(Files())
