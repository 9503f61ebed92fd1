"""References: LoggedModels that hold a version's manifest, and get its files from the store when they are loaded.

Stable: such models in MLflow import exactly `referenced_model` from this module. It never moves, and it keeps its
argument and its meaning.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

from registry.catalog.artifact_names import MANIFEST_NAME, restore_names, write_bundle, write_files
from registry.catalog.held_files import MANIFEST
from registry.errors import BadManifest, CorruptBlob, LoadFailed, MissingBlob, UloraError, Unreachable, disk_errors
from registry.formats import canonical
from registry.formats.addresses import without_password
from registry.machine.scratch import scratch_of
from registry.plugins import MODELS, plugin
from registry.settings import cache_folder
from registry.store.blobs import Blobs
from registry.store.objects import ObjectStore
from registry.versions.manifest import Manifest

CODE = Path(__file__).with_name("reference_code.py")
"""The file that MLflow stores as the code of a reference."""


@dataclass(frozen=True)
class Reference:
    """Where the files of a version are, as its LoggedModel says it. It holds no credentials.

    Attributes:
        store: `s3://BUCKET/PREFIX`.
        endpoint_url: the S3 server, None for AWS's own choice.
    """

    store: str
    endpoint_url: str | None = None

    def config(self, flavor: str) -> dict[str, str]:
        """The configuration that MLflow keeps with the model and hands to its code."""
        return {"flavor": flavor, "store": self.store, "endpoint_url": without_password(self.endpoint_url or "")}

    @classmethod
    def found(cls, config: Mapping[str, Any]) -> Reference:
        """Where to look: the environment overrules what the model says. Another store has a server of its own."""
        said = str(config["store"])
        store = os.environ.get("ULORA_STORE") or said
        server = str(config.get("endpoint_url") or "") if store.rstrip("/") == said.rstrip("/") else ""
        return cls(store, os.environ.get("ULORA_S3_ENDPOINT") or server or None)


def code_of(flavor: Any) -> Path:
    """The file with the code of a flavor's models; see `logged_model`."""
    return Path(str(getattr(flavor, "CODE", flavor.__file__)))


def referenced_model(config: Mapping[str, Any]) -> Any:
    """The model of a flavor as MLflow would make it from the flavor's code, which gets its files from the store first.

    Args:
        config: what `Reference.config` returned when the model was logged.

    Raises:
        MissingDependency: nothing is installed that says how the flavor is logged.
        LoadFailed: its code makes no model of the class that references can be.
    """
    model = _model_of(str(config["flavor"]))
    load = model.load_context

    def load_context(context: Any) -> None:
        context.artifacts["bundle"] = str(_fetch(Path(context.artifacts["bundle"]), Reference.found(config), model))
        load(context)

    model.load_context = load_context
    return model


def complete(folder: Path, uri: str, blobs: Blobs) -> None:
    """Add the files of a version to a downloaded reference; other models, and copies, stay as they are.

    The files come from the caller's own store, whatever the model says: who may write to MLflow must not choose
    another server for this process.

    Args:
        folder: of the model.
        uri: of the model, for errors.

    Raises:
        CorruptBlob: the reference lost its manifest, or a file of this store is not what it should be.
        MissingBlob: this store does not have a file.
    """
    if not (folder / CODE.name).is_file():
        return
    bundle = (folder / MANIFEST).parent
    try:
        manifest = _manifest(folder / MANIFEST)
        if all((bundle / file.artifact_path).is_file() or (bundle / file.path).is_file() for file in manifest.files):
            return  # a copy, in the place of a reference that was never finished
        files = blobs.fetch(manifest.files, of=manifest.version)
    except BadManifest as error:
        raise CorruptBlob(str(error), hint="the model in MLflow was changed or is damaged") from error
    except MissingBlob as error:
        raise MissingBlob(
            f"{uri} is a reference, and this store does not have its files: {error}",
            hint="`ulora store copy` brings a version from one store to another",
        ) from error
    write_files(manifest, {file.path: files[file.sha256] for file in manifest.files}, bundle)
    restore_names(bundle)


def _fetch(bundle: Path, place: Reference, owner: object) -> Path:
    """The folder that a copy in MLflow would have; it ends with `owner`."""
    manifest = _manifest(bundle / MANIFEST_NAME)
    try:
        blobs = Blobs(ObjectStore(place.store, endpoint_url=place.endpoint_url), cache_folder())
        files = blobs.fetch(manifest.files, of=manifest.version)
    except UloraError as error:
        raise type(error)(
            f"MLflow holds a reference to {manifest.version}, and its files can't be had from {_words(place)}: {error}",
            hint=_hint(error, manifest.version),
        ) from error
    folder = scratch_of(owner, "ulora-model-")
    with disk_errors(folder):
        write_bundle(manifest, {file.path: files[file.sha256] for file in manifest.files}, folder)
    return folder


def _manifest(path: Path) -> Manifest:
    if not path.is_file():
        raise CorruptBlob(
            f"{MANIFEST_NAME} is missing among the model's artifacts in MLflow, so its files are not known",
            hint="the store has the version: registry.load(NAME), or `ulora restore`",
        )
    return Manifest.parse(canonical.read_file(path, MANIFEST_NAME), MANIFEST_NAME)


def _words(place: Reference) -> str:
    return f"{place.store} at {place.endpoint_url}" if place.endpoint_url else place.store


def _hint(error: UloraError, version: str) -> str:
    if isinstance(error, Unreachable):
        return (
            "a reference needs the store and the right to read it: set AWS's credentials; ULORA_STORE and "
            f"ULORA_S3_ENDPOINT overrule the place. {error.hint}"
        ).strip()
    if isinstance(error, MissingBlob):
        return f"a forgotten version can't be loaded; `ulora verify {version}` says what the store lacks"
    return error.hint


def _model_of(flavor: str) -> Any:
    from mlflow.models import model as models
    from mlflow.pyfunc import PythonModel

    _run(code_of(plugin(MODELS, flavor)))
    made = models.__mlflow_model__  # what the code gave to `mlflow.models.set_model`
    if not isinstance(made, PythonModel):
        raise LoadFailed(
            f"the code of the flavor {flavor} makes a {type(made).__name__}, and references need a PythonModel",
            hint="set mlflow_artifacts to copy",
        )
    return made


def _run(code: Path) -> ModuleType:
    """Run a file as a module of its own each time, as MLflow runs the code of a model."""
    name = f"ulora_flavor_{uuid4().hex}"
    spec = spec_from_file_location(name, code)
    if spec is None or spec.loader is None:
        raise LoadFailed(f"{code} is not a file of Python code")
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
