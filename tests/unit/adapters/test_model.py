"""The MLflow model answers as the loaded version does, and refuses artifacts that are not what they were."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from adapters import model
from adapters.answer.loading import load
from registry.errors import BadInput, CorruptBlob, MissingBlob
from tests.support.bundles import manifest_of, png, read_bundle, write_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A version's folder: its files at their manifest paths, and `version.json`."""
    folder = write_bundle(tmp_path / "version")
    manifest = manifest_of(folder)
    (folder / model.MANIFEST).write_bytes(manifest.to_bytes())
    return folder


def opened(folder: Path) -> model.TableModel:
    return model.load_model(str(folder))


def rows(*images: bytes, **columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"image": [base64.b64encode(image).decode() for image in images], **columns})


def test_mlflow_saves_code_that_predicts_as_the_version_does(folder: Path, tmp_path: Path) -> None:
    saved = tmp_path / "model"
    mlflow.pyfunc.save_model(
        saved,
        python_model=str(model.CODE),
        artifacts={"bundle": str(folder)},
        signature=model.signature(),
        input_example=model.input_example(),
        pip_requirements=["ulora-registry"],  # otherwise MLflow loads the model once more to guess them
    )
    assert not list(saved.rglob("*.pkl"))
    answers = mlflow.pyfunc.load_model(str(saved)).predict(rows(png(1), png(2), b"?", target=["low", "", "low"]))

    files = {path: place for path, place in read_bundle(folder).items() if path != model.MANIFEST}
    version = load(manifest_of_version(folder), files)
    expected = version.predict([png(1), png(2), b"?"], target=["low", None, "low"])
    assert list(answers["label"]) == [prediction.label or "" for prediction in expected]
    assert list(answers["target"]) == [prediction.target for prediction in expected]
    assert list(answers["outcome"]) == [prediction.outcome for prediction in expected]
    assert list(answers["confidence"]) == pytest.approx([prediction.confidence for prediction in expected])
    assert set(answers.columns) == set(model.signature().outputs.input_names())


def manifest_of_version(folder: Path) -> object:
    from registry.versions.manifest import Manifest

    return Manifest.parse((folder / model.MANIFEST).read_bytes())


def test_the_target_column_is_optional_and_may_have_gaps(folder: Path) -> None:
    made = opened(folder)
    routed = made.predict(rows(png(1)))
    assert made.predict(rows(png(1), target=[float("nan")])).equals(routed)
    assert made.predict(rows(png(1)).assign(target=None)).equals(routed)


def test_bytes_do_as_well_as_base64(folder: Path) -> None:
    made = opened(folder)
    assert made.predict(pd.DataFrame({"image": [png(1)]})).equals(made.predict(rows(png(1))))


def test_the_input_example_is_answered(folder: Path) -> None:
    assert opened(folder).predict(model.input_example())["outcome"][0] != "corrupt_image"


def test_text_that_is_no_base64_is_a_corrupt_image(folder: Path) -> None:
    answer = opened(folder).predict(pd.DataFrame({"image": ["not base64!"]}))
    assert list(answer["outcome"]) == ["corrupt_image"]


def test_a_table_without_images_is_refused(folder: Path) -> None:
    with pytest.raises(BadInput, match="no column `image`"):
        opened(folder).predict(pd.DataFrame({"picture": ["x"]}))


def test_a_flipped_byte_among_the_artifacts_is_refused(folder: Path) -> None:
    path = folder / "adapters" / "mid" / "head.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptBlob, match=r"adapters/mid/head\.safetensors"):
        opened(folder)


def test_a_missing_artifact_is_refused(folder: Path) -> None:
    (folder / "router" / "head.json").unlink()
    with pytest.raises(MissingBlob, match=r"router/head\.json"):
        opened(folder)


@pytest.mark.acceptance
@pytest.mark.parametrize("beside", [False, True], ids=["instead of ours", "merged with ours"])
def test_another_package_named_adapters_is_detected(folder: Path, tmp_path: Path, *, beside: bool) -> None:
    (tmp_path / "foreign" / "adapters").mkdir(parents=True)
    (tmp_path / "foreign" / "adapters" / "__init__.py").write_text(
        f"__path__.append({str(Path(model.__file__).parent)!r})" if beside else ""
    )
    script = f"""
import runpy, sys
from types import SimpleNamespace
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
from registry.errors import MissingDependency
try:
    names = runpy.run_path({str(model.CODE)!r})
    names["DinoLora"]().load_context(SimpleNamespace(artifacts={{"bundle": {str(folder)!r}}}))
except (ImportError, MissingDependency) as error:
    print(error, getattr(error, "hint", ""))
"""
    root = str(Path(model.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "foreign"), root])}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "another package is imported as `adapters`" in done.stdout
    assert "pip uninstall adapters" in done.stdout
