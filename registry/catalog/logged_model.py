"""The LoggedModel of a version: the MLflow model whose artifacts are the version's files, or a reference to them.

How a flavor is logged is said by the module that the entry point group `ulora.models` names for it. It offers:

* `signature()` and `input_example()`, as `mlflow.pyfunc.save_model` takes them;
* `CODE`, optional: the file that MLflow stores as the model's code ("models from code"); the module itself if left out.
  Its model has one artifact, `bundle`: the version's files at their manifest paths, and `version.json`, the manifest.
  That of a reference holds the manifest only, and the model gets the same folder when it is loaded: see `reference`;
* `EXTRAS`, optional: the extras of ulora-registry that it needs, with commas between them;
* `PINNED`, optional: the packages whose installed versions become requirements of the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.catalog import tags
from registry.catalog.artifact_names import write_bundle, write_manifest
from registry.catalog.held_files import Holds, refuse
from registry.catalog.model_upload import upload
from registry.catalog.reference import CODE, Reference, code_of
from registry.catalog.runs import experiment_id
from registry.catalog.summary import params
from registry.errors import CatalogRefused
from registry.formats.local_file import LocalFile
from registry.machine.scratch import scratch
from registry.plugins import DISTRIBUTION, MODELS, entry_point, plugin
from registry.versions.manifest import Manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient

Files = Mapping[str, LocalFile] | Reference
"""A version's verified files on disk by manifest path, to be copied to MLflow; or where they are, for a reference."""
_LEAST = "3.17"
_NO_SUCH_CALL = ("ENDPOINT_NOT_FOUND", "NOT_FOUND", "NOT_IMPLEMENTED", "RESOURCE_DOES_NOT_EXIST")
_EXTRAS = "dino,mlflow"
_PINNED = ("mlflow", "torch", "transformers", "peft", "safetensors", "scikit-learn", "numpy", "pandas", "pillow")


def check_logged_models(client: MlflowClient, server: str) -> None:
    """Check that a server has LoggedModels, which hold the versions' files.

    Raises:
        CatalogRefused: it has none, as servers before MLflow 3.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.search_logged_models(["0"], max_results=1)
    except MlflowException as error:
        if error.error_code not in _NO_SUCH_CALL and "404" not in str(error):
            raise
        raise CatalogRefused(
            f"the MLflow server {server} has no LoggedModels, so it can't hold versions; nothing was done",
            hint=f"use a server of MLflow {_LEAST} or later; or --offline, and `ulora reconcile` when there is one",
        ) from error


def log_once(
    client: MlflowClient,
    identity: Mapping[str, str],
    manifest: Manifest,
    files: Files,
    run_id: str,
    holds: Holds,
) -> str:
    """Log a version of a store as a LoggedModel, unless it was done before.

    What an earlier try left unfinished is finished; if there are several, the others are deleted. What only says that
    it is the version gets a note of that, and is not used.

    Args:
        identity: the tags that identify the version.
        run_id: the version's summary run, shown as the source.
        holds: see `held_files`.

    Returns:
        Its id.

    Raises:
        MissingDependency: nothing is installed that says how the flavor is logged.
    """
    from mlflow.entities import LoggedModelStatus

    flavor = plugin(MODELS, manifest.flavor)
    experiment = experiment_id(client, manifest.model)
    query = f"tags.`{tags.VERSION}` = '{manifest.version}' and tags.`{tags.CONTENT}` = '{manifest.content_sha256}'"
    same = [each for each in client.search_logged_models([experiment], query) if _is_of(each.tags, identity)]
    finished = [str(each.model_id) for each in same if each.status == LoggedModelStatus.READY]
    ready = [each for each in finished if holds(client, each, manifest)]
    for each in finished:
        if each not in ready:
            refuse(client, each, manifest.version)
    left = sorted(str(each.model_id) for each in same if each.status != LoggedModelStatus.READY)
    if not ready:
        model_id = left.pop(0) if left else _create(client, experiment, identity, manifest, run_id)
        model = client.get_logged_model(model_id)
        with scratch("ulora-log-") as folder:
            _save(manifest, flavor, files, folder, model_id, str(model.artifact_location))
            upload(client, model_id, folder / "model")
        client.finalize_logged_model(model_id, "READY")
        ready = [model_id]
    for each in left:
        client.delete_logged_model(each)
    client.set_logged_model_tags(ready[0], dict(identity))
    return ready[0]


def _is_of(said: Mapping[str, str], identity: Mapping[str, str]) -> bool:
    """Whether a LoggedModel was made for a version: earlier releases did not say the manifest."""
    if tags.REFUSED in said:
        return False
    return said.get(tags.STORE) == identity[tags.STORE] and said.get(tags.MANIFEST) in (identity[tags.MANIFEST], None)


def _create(client: MlflowClient, experiment: str, identity: Mapping[str, str], manifest: Manifest, run_id: str) -> str:
    made = client.create_logged_model(
        experiment, name=manifest.name.alias, source_run_id=run_id, tags=dict(identity), params=params(manifest)
    )
    return str(made.model_id)


def _save(manifest: Manifest, flavor: Any, files: Files, folder: Path, model_id: str, location: str) -> None:
    """Write the model's folder, `folder/model`, as `mlflow.pyfunc.log_model` would, without running the model."""
    import mlflow.pyfunc
    from mlflow.models import Model

    code, config = code_of(flavor), None
    if isinstance(files, Reference):
        code, config = CODE, files.config(manifest.flavor)
        write_manifest(manifest, folder / "bundle")
    else:
        write_bundle(manifest, files, folder / "bundle")
    mlflow.pyfunc.save_model(
        path=folder / "model",
        mlflow_model=Model(artifact_path=location, model_uuid=model_id, model_id=model_id),
        python_model=str(code),
        model_config=config,
        artifacts={"bundle": str(folder / "bundle")},
        signature=flavor.signature(),
        input_example=flavor.input_example(),
        # Given, because MLflow would load the model to find them.
        pip_requirements=_requirements(manifest.flavor, flavor),
        metadata={
            "version": manifest.version,
            "content_sha256": manifest.content_sha256,
            "artifacts": "reference" if config else "copy",
        },
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
