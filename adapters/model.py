"""A version of the flavor `dino-lora` as an MLflow model: a table of images in, a table of predictions out.

Stable: models logged in MLflow import exactly `load_model` from this module and call `predict` on what it returns. They
never move, and they keep their arguments and their meaning.

The entry point group `ulora.models` names this module. `CODE` is the file that MLflow stores as the model's code. The
model's one artifact, `bundle`, is the version's folder: every file at its manifest path, and `version.json`, the
manifest. Its files are hashed before they are used. That finds accidents, not attackers: MLflow runs stored code.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from registry.errors import BadInput, CorruptBlob, MissingBlob, MissingDependency
from registry.versions.manifest import FileEntry, Manifest

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

    from adapters.answer.loaded import LoadedVersion

CODE = Path(__file__).with_name("model_code.py")
MANIFEST = "version.json"


class TableModel:
    """A loaded version that takes and returns tables."""

    def __init__(self, version: LoadedVersion) -> None:
        self._version = version

    def predict(self, table: pd.DataFrame) -> pd.DataFrame:
        """Predict for each row.

        Args:
            table: column `image`, a file's bytes or their base64; optional column `target`, the router chooses where it
                is missing or empty.

        Returns:
            One row each: version, target, label, confidence, ood_score, is_ood, outcome, target_confidence. A missing
            text is empty, a missing score is -1.

        Raises:
            BadInput: there is no column `image`.
        """
        if "image" not in table.columns:
            raise BadInput("the input has no column `image`", hint="send a table with the column image, base64 text")
        images = [_image_bytes(value) for value in table["image"]]
        named = table["target"] if "target" in table.columns else [None] * len(images)
        targets = [value if isinstance(value, str) and value else None for value in named]
        return pd.DataFrame([_row(prediction) for prediction in self._version.predict(images, target=targets)])


def load_model(folder: str) -> TableModel:
    """Check the files of a version's folder against its manifest, load it, and run its self-test.

    Raises:
        CorruptBlob, MissingBlob: a file is not what the manifest says.
        MissingDependency: another package is imported as `adapters`.
        BackboneNotFound, BadWeights, LoadFailed, SelfTestFailed: see `adapters.answer.loading.load`.
    """
    _check_adapters_is_ours()
    from adapters.answer.loading import load

    manifest, files = _checked_files(Path(folder))
    version = load(manifest, files)
    version.self_test()
    return TableModel(version)


def signature() -> ModelSignature:
    """The model's input and output columns."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    inputs = [ColSpec(DataType.string, "image"), ColSpec(DataType.string, "target", required=False)]
    texts, numbers = ("version", "target", "label", "outcome"), ("confidence", "ood_score", "target_confidence")
    outputs = [ColSpec(DataType.string, name) for name in texts]
    outputs += [ColSpec(DataType.double, name) for name in numbers] + [ColSpec(DataType.boolean, "is_ood")]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def input_example() -> pd.DataFrame:
    """One row that the model accepts: a tiny PNG in base64, no target."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((28, 28)).save(buffer, format="PNG")
    return pd.DataFrame({"image": [base64.b64encode(buffer.getvalue()).decode("ascii")]})


def _stored(folder: Path, entry: FileEntry) -> Path:
    path = folder / entry.artifact_path
    return path if path.is_file() else folder / entry.path  # as earlier releases stored it


def _checked_files(folder: Path) -> tuple[Manifest, dict[str, Path]]:
    if not (folder / MANIFEST).is_file():
        raise MissingBlob(
            f"{MANIFEST} is missing among the model's artifacts in MLflow, so its files can't be checked",
            hint="load the version from the store instead: registry.load(NAME)",
        )
    manifest = Manifest.parse((folder / MANIFEST).read_bytes())
    files = {entry.path: _stored(folder, entry) for entry in manifest.files}
    for entry in manifest.files:
        path = files[entry.path]
        if not path.is_file():
            raise MissingBlob(
                f"{manifest.version}: {entry.path} is missing among the model's artifacts",
                hint=f"load it from the store instead: registry.load({manifest.version!r})",
            )
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                raise CorruptBlob(
                    f"{manifest.version}: {entry.path} among the model's artifacts does not match the manifest",
                    hint="load it from the store instead; `ulora verify` checks that copy",
                )
    return manifest, files


def _image_bytes(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    try:
        return base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError):
        return b""  # not an image: the row's outcome says so


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
    """Two packages installed into one folder `adapters` leave this module in place, but not the rest of it."""
    import adapters

    if getattr(adapters, "DISTRIBUTION", None) != "ulora-registry":
        raise MissingDependency(
            f"another package is imported as `adapters`, from {adapters.__file__}",
            hint="pip uninstall adapters, then pip install --force-reinstall --no-deps ulora-registry",
        )
