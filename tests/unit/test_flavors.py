"""A snapshot as an MLflow model: it loads from the stored code, checks its files, and refuses to predict."""

from __future__ import annotations

import os
from pathlib import Path

import mlflow
import pytest

from registry.catalog.files import model
from registry.errors import BadInput, CorruptBlob
from registry.flavors import MANIFEST, load_files
from tests.support.bundles import manifest_of, write_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A version's folder: its files at their manifest paths, and `version.json`."""
    folder = write_bundle(tmp_path / "version")
    (folder / MANIFEST).write_bytes(manifest_of(folder).to_bytes())
    return folder


def test_mlflow_loads_the_stored_code_and_prediction_is_refused(folder: Path, tmp_path: Path) -> None:
    saved = tmp_path / "model"
    mlflow.pyfunc.save_model(
        saved,
        python_model=str(model.CODE),
        artifacts={"bundle": str(folder)},
        signature=model.signature(),
        input_example=model.input_example(),
        pip_requirements=["ulora-registry"],  # given, because MLflow would load the model to find them
    )
    assert not list(saved.rglob("*.pkl"))
    loaded = mlflow.pyfunc.load_model(str(saved))
    with pytest.raises(BadInput, match="can't predict"):
        loaded.predict(model.input_example())


@pytest.mark.parametrize(
    "damage",
    [lambda path: path.unlink(), lambda path: path.write_bytes(b"?"), lambda path: os.truncate(path, 1 << 40)],
    ids=["missing", "changed", "of any size"],
)
def test_a_changed_or_missing_file_is_refused(folder: Path, damage) -> None:
    damage(folder / "router" / "head.json")
    with pytest.raises(CorruptBlob, match=r"router/head\.json"):
        load_files(str(folder))
