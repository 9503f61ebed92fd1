"""The code that MLflow stores with a version that is a reference, and runs to load it. Nothing is pickled.

Every such model has a copy of this file, which later releases can't change. So it imports only `referenced_model` of
`registry.catalog.reference` from this project. MLflow hands over the configuration that was logged with the model.
"""

from __future__ import annotations

import mlflow

try:
    from registry.catalog.reference import referenced_model
except ImportError as error:
    raise ImportError(
        f"{error}. This model is a reference to files in a store, and needs the package ulora-registry: "
        "pip install 'ulora-registry[dino,mlflow]'"
    ) from error

mlflow.models.set_model(referenced_model(mlflow.models.ModelConfig().to_dict()))
