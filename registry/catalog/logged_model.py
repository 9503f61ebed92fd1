"""The LoggedModel of a version: the MLflow model whose artifacts are the version's files.

How a flavor is logged is said by the module that the entry point group `ulora.models` names for it. It offers:

* `signature()` and `input_example()`, as `mlflow.pyfunc.save_model` takes them;
* `CODE`, optional: the file that MLflow stores as the model's code ("models from code"); the module itself if left out.
  Its model has one artifact, `bundle`: the version's files at their manifest paths, and `version.json`, the manifest;
* `EXTRAS`, optional: the extras of ulora-registry that it needs, with commas between them;
* `PINNED`, optional: the packages whose installed versions become requirements of the model.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.catalog import tags
from registry.catalog.runs import experiment_id
from registry.machine.scratch import scratch
from registry.plugins import DISTRIBUTION, MODELS, entry_point, plugin
from registry.versions.manifest import Manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient

_EXTRAS = "dino,mlflow"
_PINNED = ("mlflow", "torch", "transformers", "peft", "safetensors", "scikit-learn", "numpy", "pandas", "pillow")


def log_once(client: MlflowClient, store: str, manifest: Manifest, files: Mapping[str, Path]) -> str:
    """Log a version of a store as a LoggedModel, unless an earlier try that was interrupted has done it.

    Returns its id.

    Raises:
        MissingDependency: nothing is installed that says how the flavor is logged.
    """
    from mlflow.entities import LoggedModelStatus

    experiment = experiment_id(client, manifest.model)
    its_tags = {tags.STORE: store, tags.VERSION: manifest.version, tags.CONTENT: manifest.content_sha256}
    query = f"tags.`{tags.VERSION}` = '{manifest.version}' and tags.`{tags.CONTENT}` = '{manifest.content_sha256}'"
    for found in client.search_logged_models([experiment], filter_string=query):
        if found.status == LoggedModelStatus.READY and found.tags.get(tags.STORE) == store:
            return str(found.model_id)
    model = client.create_logged_model(
        experiment,
        name=manifest.name.alias,
        tags=its_tags,
        params=_params(manifest),
    )
    with scratch("ulora-log-") as folder:
        _save(manifest, files, folder, str(model.model_id), str(model.artifact_location))
        client.log_model_artifacts(model.model_id, str(folder / "model"))
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def write_bundle(manifest: Manifest, files: Mapping[str, Path], folder: Path) -> None:
    """Write a version to a folder: its files at their manifest paths (hard links if possible) and `version.json`."""
    for entry in manifest.files:
        target = folder / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(files[entry.path].resolve(), target)
        except OSError:
            shutil.copyfile(files[entry.path], target)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "version.json").write_bytes(manifest.to_bytes())


def _save(manifest: Manifest, files: Mapping[str, Path], folder: Path, model_id: str, location: str) -> None:
    """Write the model's folder, `folder/model`, as `mlflow.pyfunc.log_model` would, without running the model."""
    import mlflow.pyfunc
    from mlflow.models import Model

    flavor = plugin(MODELS, manifest.flavor)
    write_bundle(manifest, files, folder / "bundle")
    mlflow.pyfunc.save_model(
        path=folder / "model",
        mlflow_model=Model(artifact_path=location, model_uuid=model_id, model_id=model_id),
        python_model=str(getattr(flavor, "CODE", flavor.__file__)),
        artifacts={"bundle": str(folder / "bundle")},
        signature=flavor.signature(),
        input_example=flavor.input_example(),
        # Given, because MLflow would load the model to find them.
        pip_requirements=_requirements(manifest.flavor, flavor),
        metadata={"version": manifest.version, "content_sha256": manifest.content_sha256},
    )


def _requirements(name: str, flavor: Any) -> list[str]:
    """The pip requirements of a flavor's models: this package, the flavor's package, and the pinned ones."""
    dist = entry_point(MODELS, name).dist
    theirs = [f"{dist.name}=={dist.version}"] if dist and dist.name != DISTRIBUTION else []
    ours = f"{DISTRIBUTION}[{getattr(flavor, 'EXTRAS', _EXTRAS)}]=={metadata.version(DISTRIBUTION)}"
    pinned = _installed(getattr(flavor, "PINNED", _PINNED))
    return [ours, *theirs, *(f"{each}=={_public_version(each)}" for each in pinned)]


def _installed(names: Iterable[str]) -> list[str]:
    return [name for name in names if any(True for _ in metadata.distributions(name=name))]


def _public_version(name: str) -> str:
    # Only some indexes have `2.13.0+cpu`; all have 2.13.0.
    return metadata.version(name).partition("+")[0]


def _params(manifest: Manifest) -> dict[str, str]:
    return {
        "version": manifest.version,
        "flavor": manifest.flavor,
        "backbone": manifest.backbone.name if manifest.backbone else "none",
        "targets": str(sum(name.startswith("adapters/") for name in manifest.components)),
        "files": str(len(manifest.files)),
        "megabytes": f"{manifest.size / 1e6:.2f}",
    }
