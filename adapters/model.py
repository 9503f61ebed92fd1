"""The MLflow model of a version, as code: MLflow stores this file's text and runs it, nothing is pickled.

Its one artifact, `bundle`, is the version's folder: every file at its manifest path, and `version.json`, the manifest.
Files are hashed before they are used. That finds accidents, not attackers: MLflow runs what it stores.
"""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

if TYPE_CHECKING:
    from adapters.answer.loaded import LoadedVersion
    from registry.versions.manifest import Manifest

MANIFEST = "version.json"
ARTIFACT = "bundle"
"""The artifact's key in `context.artifacts`."""


class DinoLora(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A version behind `mlflow.pyfunc`: a table of images in, a table of predictions out."""

    _version: LoadedVersion | None = None

    def load_context(self, context: Any) -> None:
        """Check the version's files against its manifest, load it, and check its recorded outputs.

        Raises:
            CorruptBlob, MissingBlob: a file is not what the manifest says.
            MissingDependency: `adapters` is not ours.
            As `adapters.answer.loading.load`.
        """
        _check_adapters_is_ours()
        from adapters.answer.loading import load

        manifest, files = _checked_files(Path(context.artifacts[ARTIFACT]))
        self._version = load(manifest, files)
        self._version.self_test()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Answer for each row.

        Args:
            model_input: column `image`, a file's bytes or their base64; optional column `target`, the router chooses
                where it is missing or empty.

        Returns:
            One row each: version, target, label, confidence, ood_score, is_ood, outcome, target_confidence. What there
            is none of is an empty text, and a score of -1.

        Raises:
            BadInput: there is no column `image`.
        """
        from registry.errors import BadInput

        if self._version is None:
            raise RuntimeError("MLflow calls load_context before predict")
        if "image" not in model_input.columns:
            raise BadInput("the input has no column `image`", hint="send a table with the column image, base64 text")
        images = [_image_bytes(value) for value in model_input["image"]]
        named = model_input["target"] if "target" in model_input.columns else [None] * len(images)
        targets = [value if isinstance(value, str) and value else None for value in named]
        return pd.DataFrame([_row(prediction) for prediction in self._version.predict(images, targets)])


def signature() -> ModelSignature:
    """The model's input and output columns."""
    inputs = [ColSpec(DataType.string, "image"), ColSpec(DataType.string, "target", required=False)]
    texts, numbers = ("version", "target", "label", "outcome"), ("confidence", "ood_score", "target_confidence")
    outputs = [ColSpec(DataType.string, name) for name in texts]
    outputs += [ColSpec(DataType.double, name) for name in numbers] + [ColSpec(DataType.boolean, "is_ood")]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def input_example() -> pd.DataFrame:
    """One row that the model takes: a tiny PNG in base64, no target."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((28, 28)).save(buffer, format="PNG")
    return pd.DataFrame({"image": [base64.b64encode(buffer.getvalue()).decode("ascii")]})


def _checked_files(folder: Path) -> tuple[Manifest, dict[str, Path]]:
    import hashlib

    from registry.errors import CorruptBlob, MissingBlob
    from registry.versions.manifest import Manifest

    manifest = Manifest.parse((folder / MANIFEST).read_bytes())
    files = {entry.path: folder / entry.path for entry in manifest.files}
    for entry in manifest.files:
        path = files[entry.path]
        if not path.is_file():
            raise MissingBlob(
                f"{manifest.version}: the model's artifacts lack {entry.path}", hint="run ulora reconcile"
            )
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                raise CorruptBlob(
                    f"{manifest.version}: {entry.path} among the model's artifacts is not what the manifest says",
                    hint="load it from the store instead: ulora verify tells whether that copy is whole",
                )
    return manifest, files


def _image_bytes(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    try:
        return base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError):
        return b""  # no image: the row's outcome will say so


def _row(prediction: Any) -> dict[str, Any]:
    score = prediction.ood_score
    return {
        "version": prediction.version,
        "target": prediction.target or "",
        "label": prediction.label or "",
        "outcome": prediction.outcome,
        "confidence": prediction.confidence,
        "ood_score": -1.0 if score is None else score,
        "target_confidence": prediction.target_confidence,
        "is_ood": prediction.is_ood,
    }


def _check_adapters_is_ours() -> None:
    from registry.errors import MissingDependency

    try:
        import adapters
    except ImportError as error:
        raise MissingDependency(
            "this model needs the package ulora-registry", hint="pip install 'ulora-registry[dino,mlflow]'"
        ) from error
    if getattr(adapters, "DISTRIBUTION", None) != "ulora-registry":
        raise MissingDependency(
            f"another package is imported as `adapters`, from {adapters.__file__}",
            hint="uninstall the other one (pip uninstall adapters), or use an environment of its own",
        )


mlflow.models.set_model(DinoLora())
