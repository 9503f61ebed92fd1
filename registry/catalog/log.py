"""Versions in MLflow: log one as a model, find it again, record evidence on it.

A version is found by its tags `ulora.version` and `ulora.content_sha256`, so everything here can be run again after a
crash or by two people at once and ends in one registered version. It takes both: two versions may have equal content,
and two stores that share an MLflow server may give one name to different content.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

from registry.catalog.connection import HASTY, PATIENT, PING, Connection, Limits
from registry.errors import CatalogRefused, CatalogUnreachable, MissingDependency, VersionNotFound
from registry.machine.scratch import scratch
from registry.names import VersionName, check_model, is_version_name
from registry.versions.manifest import Manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient

VERSION_TAG = "ulora.version"
CONTENT_TAG = "ulora.content_sha256"
MANIFEST_TAG = "ulora.manifest_sha256"
FAMILY_TAG = "ulora.family"
VERDICT_TAG = "ulora.verdict"
METRIC_TAG = "ulora.metric."
EVIDENCE_TAG = "ulora.evidence_sha256"
BENCHMARK_TAG = "ulora.benchmark"

DISTRIBUTION = "ulora-registry"
LOADERS = "ulora.loaders"
_MODEL_DESCRIPTION = (
    "Versions are made, gated, promoted and rolled back with `ulora` (ulora-registry). "
    "Stages and aliases here mirror the log that serving follows: `ulora promote` and `ulora rollback` change them."
)
_PINNED = ("mlflow", "torch", "transformers", "peft", "safetensors", "scikit-learn", "numpy", "pandas", "pillow")
_MODELS = "models:/"
_MAX_DESCRIPTION = 5000
_MAX_VERSIONS = 10_000
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class CatalogVersion:
    """A version as MLflow knows it.

    Attributes:
        number: MLflow's version number within the model.
        model_id: the LoggedModel that holds its artifacts and metrics, None for one registered by other means.
        tags: the version's tags.
        stage: `None`, `Staging`, `Production` or `Archived`.
        url: its page.
    """

    number: int
    model_id: str | None
    tags: Mapping[str, str]
    stage: str
    url: str

    @property
    def version(self) -> str | None:
        """The version's name, None for one that was not registered by this package, whatever its tags may say."""
        name, digest = self.tags.get(VERSION_TAG, ""), self.tags.get(CONTENT_TAG, "")
        return name if is_version_name(name) and _DIGEST.fullmatch(digest) else None

    @property
    def content_sha256(self) -> str | None:
        """The digest of its content, None for one that was not registered by this package."""
        return self.tags[CONTENT_TAG] if self.version else None

    def shows(self, result: Result) -> bool:
        """Whether its tags hold a result's metrics."""
        return all(self.tags.get(name) == value for name, value in _metric_tags(result).items())


@dataclass(frozen=True)
class Result:
    """One benchmark's result, as MLflow is to show it.

    Attributes:
        evidence_sha256: digest of the evidence in the store; a result is recorded once.
        metrics: values by name; those that are not finite are left out, as MLflow can't hold them.
        params: what it was measured on, e.g. the device.
        plots: files by name, e.g. `ood.png`.
    """

    benchmark: str
    evidence_sha256: str
    metrics: Mapping[str, float]
    params: Mapping[str, str] = field(default_factory=dict)
    plots: Mapping[str, bytes] = field(default_factory=dict)


class Catalog:
    """One MLflow server as the catalog that people look at. Opens nothing until it is used.

    Every method raises `CatalogUnreachable` when the server does not answer within seconds, and `CatalogRefused` when
    it refuses.
    """

    def __init__(
        self,
        tracking_uri: str | None,
        aliases: Mapping[str, str] = MappingProxyType({"staging": "staging", "production": "production"}),
        limits: Limits = PATIENT,
    ) -> None:
        """Args:
        tracking_uri: the MLflow server; None when there is none, and then every method raises.
        aliases: the MLflow alias that shows each mirrored channel's stable version.
        limits: how long each conversation waits.
        """
        self.connection = Connection(tracking_uri, limits)
        self.aliases = dict(aliases)

    def hasty(self) -> Catalog:
        """The same catalog for work that its caller may walk away from: it gives up within seconds."""
        return Catalog(self.connection.uri, self.aliases, HASTY)

    def ping(self, timeout: int = PING.timeout) -> None:
        """Check that the server answers us.

        Raises:
            CatalogUnreachable: it does not, within `timeout` seconds.
        """
        with self.connection.open(replace(PING, timeout=timeout)) as client:
            client.search_experiments(max_results=1)

    def log(self, manifest: Manifest, manifest_sha256: str, files: Mapping[str, Path]) -> CatalogVersion:
        """Log a version as a model and register it; one that is registered already is only found.

        Args:
            manifest: the version.
            manifest_sha256: digest of the manifest's bytes in the store.
            files: the version's verified files on disk, by manifest path.
        """
        with self.connection.open() as client:
            found = self._find(client, manifest.model, manifest.version, manifest.content_sha256)
            if found is None:
                _create_registered_model(client, manifest.model)
                model_id = _logged_model(client, manifest, files)
                found = self._register(client, manifest, manifest_sha256, model_id)
            _set_missing_alias(client, manifest, found.number)
            return found

    def find(self, model: str, version: str, content_sha256: str) -> CatalogVersion | None:
        """The registered version with this name and content, None when there is none."""
        with self.connection.open() as client:
            return self._find(client, model, version, content_sha256)

    def versions(self, model: str) -> tuple[CatalogVersion, ...]:
        """All registered versions of a model by number, those of others included; empty when there is no such model."""
        with self.connection.open() as client:
            return self._search(client, _query(model))

    def record_evidence(self, manifest: Manifest, result: Result) -> str:
        """Show one benchmark's result: a run linked to the version's LoggedModel, and `ulora.metric.*` tags.

        A result that was recorded already is only found. Returns the run's id.

        Raises:
            VersionNotFound: the version is not in MLflow.
        """
        with self.connection.open() as client:
            version = self._require(client, manifest.model, manifest.version, manifest.content_sha256)
            experiment_id = _experiment(client, manifest.model)
            run_id = _recorded_run(client, experiment_id, result.evidence_sha256)
            if run_id is None:
                run_id = _record_run(client, experiment_id, version, result)
            tags = _metric_tags(result)
            _set_tags(client, manifest.model, version, tags)
            return run_id

    def set_tags(self, model: str, version: str, content_sha256: str, tags: Mapping[str, str]) -> None:
        """Set a version's tags, such as `VERDICT_TAG`; only those that differ are written, as each costs a slow call.

        Raises:
            VersionNotFound: the version is not in MLflow.
        """
        with self.connection.open() as client:
            _set_tags(client, model, self._require(client, model, version, content_sha256), tags)

    def add_file(self, model: str, version: str, content_sha256: str, name: str, body: bytes) -> None:
        """Put a file beside a version's artifacts, such as the script that goes back to it; an older one is replaced.

        Raises:
            VersionNotFound: the version is not in MLflow.
        """
        with self.connection.open() as client, scratch("ulora-file-") as folder:
            found = self._require(client, model, version, content_sha256)
            if found.model_id is not None:
                (folder / name).write_bytes(body)
                client.log_model_artifacts(found.model_id, str(folder))

    def lacks_file(self, model: str, version: str, content_sha256: str, name: str) -> bool:
        """Whether `add_file` has something to do; not for a version that is not in MLflow."""
        with self.connection.open() as client:
            found = self._find(client, model, version, content_sha256)
            if found is None or found.model_id is None:
                return False
            return all(file.path != name for file in client.list_logged_model_artifacts(found.model_id))

    def download(self, uri: str, folder: Path) -> Path:
        """Download `models:/NAME/7` or `models:/NAME@alias` into a folder that does not exist yet.

        Returns the folder inside it that holds the version's files.

        Raises:
            BadInput, VersionNotFound: there is no such version.
        """
        from registry.catalog.download import download

        return download(self.connection, uri, folder)

    def url(self, model: str, number: int) -> str:
        """The page of a version in MLflow's UI; for a database without a server, the version's URI."""
        server = self.connection.name.rstrip("/")
        return (
            f"{server}/#/models/{model}/versions/{number}" if server.startswith("http") else f"models:/{model}/{number}"
        )

    def _find(self, client: MlflowClient, model: str, version: str, content_sha256: str) -> CatalogVersion | None:
        found = self._search(client, _identified(model, version, content_sha256))
        return found[0] if found else None

    def _require(self, client: MlflowClient, model: str, version: str, content_sha256: str) -> CatalogVersion:
        found = self._find(client, model, version, content_sha256)
        if found is None:
            raise VersionNotFound(
                f"{model} has no {version} with content {content_sha256[:12]} in MLflow", hint="run `ulora reconcile`"
            )
        return found

    def _search(self, client: MlflowClient, query: str) -> tuple[CatalogVersion, ...]:
        found: list[CatalogVersion] = []
        token = None
        while True:
            page = client.search_model_versions(query, max_results=_MAX_VERSIONS, page_token=token)
            found += [self._version(each) for each in page]
            token = page.token
            if not token:
                return tuple(sorted(found, key=lambda version: version.number))

    def _version(self, version: Any) -> CatalogVersion:
        number, source = int(version.version), str(version.source)
        # MLflow's SQL store keeps no model_id; the source names it.
        model_id = source.removeprefix(_MODELS) if source.startswith(f"{_MODELS}m-") else None
        return CatalogVersion(
            number, model_id, dict(version.tags), version.current_stage, self.url(version.name, number)
        )

    def _register(
        self, client: MlflowClient, manifest: Manifest, manifest_sha256: str, model_id: str
    ) -> CatalogVersion:
        created = client.create_model_version(
            manifest.model,
            f"{_MODELS}{model_id}",
            tags=_version_tags(manifest, manifest_sha256),
            description=_description(manifest),
            await_creation_for=0,
            model_id=model_id,
        )
        # Another creator, or a retry whose first reply was lost, may have registered the same version: the lowest
        # number stays. Numbers are given in order, so whoever has a higher one sees the lower one here.
        same = self._search(client, _identified(manifest.model, manifest.version, manifest.content_sha256))
        for extra in same[1:]:
            if extra.model_id == model_id:
                client.delete_model_version(manifest.model, str(extra.number))
        return same[0] if same else self._version(created)


def _query(model: str) -> str:
    return f"name = '{check_model(model)}'"


def _identified(model: str, version: str, content_sha256: str) -> str:
    name = VersionName.parse(version)
    return f"{_query(model)} and tag.`{VERSION_TAG}` = '{name}' and tag.`{CONTENT_TAG}` = '{content_sha256}'"


def _create_registered_model(client: MlflowClient, model: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model, tags={"ulora.managed": "true"}, description=_MODEL_DESCRIPTION)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _experiment(client: MlflowClient, model: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(model)
    if found is None:
        try:
            return str(client.create_experiment(model))
        except MlflowException as error:
            found = client.get_experiment_by_name(model)
            if found is None:
                raise CatalogUnreachable(f"MLflow could not create the experiment {model}") from error
    if found.lifecycle_stage == "deleted":
        raise CatalogRefused(
            f"the MLflow experiment {model} is deleted", hint="restore it: `mlflow experiments restore`"
        )
    return str(found.experiment_id)


def _logged_model(client: MlflowClient, manifest: Manifest, files: Mapping[str, Path]) -> str:
    """The id of a version's LoggedModel: one left by a crash, else a new one."""
    from mlflow.entities import LoggedModelStatus

    experiment_id = _experiment(client, manifest.model)
    query = f"tags.`{VERSION_TAG}` = '{manifest.version}' and tags.`{CONTENT_TAG}` = '{manifest.content_sha256}'"
    for found in client.search_logged_models([experiment_id], filter_string=query):
        if found.status == LoggedModelStatus.READY:
            return str(found.model_id)
    model = client.create_logged_model(
        experiment_id,
        name=manifest.name.alias,
        tags={CONTENT_TAG: manifest.content_sha256, VERSION_TAG: manifest.version},
        params=_params(manifest),
    )
    with scratch("ulora-log-") as folder:
        _save(manifest, files, folder, str(model.model_id), str(model.artifact_location))
        client.log_model_artifacts(model.model_id, str(folder / "model"))
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def _save(manifest: Manifest, files: Mapping[str, Path], folder: Path, model_id: str, location: str) -> None:
    """Write the model's folder, `folder/model`, as `mlflow.pyfunc.log_model` would, without running the model."""
    import mlflow.pyfunc
    from mlflow.models import Model

    code = _model_code(manifest.flavor)
    write_bundle(manifest, files, folder / "bundle")
    mlflow.pyfunc.save_model(
        path=folder / "model",
        mlflow_model=Model(artifact_path=location, model_uuid=model_id, model_id=model_id),
        python_model=code.__file__,
        artifacts={"bundle": str(folder / "bundle")},
        signature=code.signature(),
        input_example=code.input_example(),
        # Given, so that MLflow does not load the model to guess them.
        pip_requirements=_requirements(manifest.flavor, code),
        metadata={"version": manifest.version, "content_sha256": manifest.content_sha256},
    )


def write_bundle(manifest: Manifest, files: Mapping[str, Path], folder: Path) -> None:
    """Lay out a version as a folder: its files at their manifest paths (hard links if possible) and `version.json`."""
    for entry in manifest.files:
        target = folder / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(files[entry.path].resolve(), target)
        except OSError:
            shutil.copyfile(files[entry.path], target)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "version.json").write_bytes(manifest.to_bytes())


def _loader(flavor: str) -> metadata.EntryPoint:
    for entry_point in metadata.entry_points(group=LOADERS, name=flavor):
        return entry_point
    raise MissingDependency(
        f"no installed package can load versions of flavor {flavor!r}", hint="pip install 'ulora-registry[dino]'"
    )


def _model_code(flavor: str) -> ModuleType:
    """The flavor's MLflow model, the module `model` beside its loader: offers `signature()` and `input_example()`."""
    loader = _loader(flavor)
    package = loader.module.rpartition(".")[0]
    try:
        parent = importlib.import_module(package)
        if _distribution(loader)[0] == DISTRIBUTION and getattr(parent, "DISTRIBUTION", None) != DISTRIBUTION:
            raise MissingDependency(
                f"another package is imported as {package!r}, from {parent.__file__}",
                hint=f"pip uninstall {package}, then pip install --force-reinstall --no-deps {DISTRIBUTION}",
            )
        return importlib.import_module(f"{package}.model")
    except ImportError as error:
        raise MissingDependency(
            f"{package}.model can't be imported: {error}", hint="pip install 'ulora-registry[dino]'"
        ) from error


def _distribution(loader: metadata.EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution that brings a loader."""
    return (loader.dist.name, loader.dist.version) if loader.dist else ("", "")


def _requirements(flavor: str, code: ModuleType) -> list[str]:
    """What a version's model needs: all that is pinned here, unless the flavor's model says what it needs."""
    name, version = _distribution(_loader(flavor))
    theirs = [f"{name}=={version}"] if name != DISTRIBUTION else []
    ours = f"{DISTRIBUTION}[{getattr(code, 'EXTRAS', 'dino,mlflow')}]=={metadata.version(DISTRIBUTION)}"
    pinned = _installed(getattr(code, "PINNED", _PINNED))
    return [ours, *theirs, *(f"{each}=={_public_version(each)}" for each in pinned)]


def _installed(names: Iterable[str]) -> list[str]:
    return [name for name in names if any(True for _ in metadata.distributions(name=name))]


def _public_version(name: str) -> str:
    # `2.13.0+cpu` is what a particular index calls it; others have 2.13.0.
    return metadata.version(name).partition("+")[0]


def _version_tags(manifest: Manifest, manifest_sha256: str) -> dict[str, str]:
    return {
        VERSION_TAG: manifest.version,
        CONTENT_TAG: manifest.content_sha256,
        MANIFEST_TAG: manifest_sha256,
        FAMILY_TAG: manifest.backbone.family if manifest.backbone else "none",
    }


def _params(manifest: Manifest) -> dict[str, str]:
    return {
        "version": manifest.version,
        "flavor": manifest.flavor,
        "backbone": manifest.backbone.name if manifest.backbone else "none",
        "targets": str(sum(name.startswith("adapters/") for name in manifest.components)),
        "files": str(len(manifest.files)),
        "megabytes": f"{manifest.size / 1e6:.2f}",
    }


def _description(manifest: Manifest) -> str:
    backbone = f"`{manifest.backbone.name}` ({manifest.backbone.family})" if manifest.backbone else "none"
    facts = (
        f"| | |\n|---|---|\n| version | `{manifest.version}` |\n| backbone | {backbone} |\n"
        f"| components | {', '.join(f'`{name}`' for name in sorted(manifest.components)[:50])} |\n"
        f"| size | {manifest.size / 1e6:.2f} MB in {len(manifest.files)} files |\n| made | {manifest.timestamp} |\n"
        f"| content | `{manifest.content_sha256}` |\n"
    )
    return "\n\n".join(part for part in (manifest.description[:_MAX_DESCRIPTION], facts) if part)


def _set_missing_alias(client: MlflowClient, manifest: Manifest, number: int) -> None:
    """Give a version its name as an alias, unless another version holds that alias."""
    from mlflow.exceptions import MlflowException

    alias = manifest.name.alias
    try:
        client.get_model_version_by_alias(manifest.model, alias)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        client.set_registered_model_alias(manifest.model, alias, str(number))


def _recorded_run(client: MlflowClient, experiment_id: str, evidence_sha256: str) -> str | None:
    query = f"tags.`{EVIDENCE_TAG}` = '{evidence_sha256}' and attributes.status = 'FINISHED'"
    for run in client.search_runs([experiment_id], filter_string=query, max_results=1):
        return str(run.info.run_id)
    return None


def _record_run(client: MlflowClient, experiment_id: str, version: CatalogVersion, result: Result) -> str:
    """Make a run of a result. It is FINISHED only when everything is in it, so that a half-written one is not found.

    Inside `mlflow run` the result goes into the run that it opened, and that it ends.
    """
    from mlflow.entities import LoggedModelInput, Metric, Param

    name = version.version or f"#{version.number}"
    tags = {EVIDENCE_TAG: result.evidence_sha256, VERSION_TAG: name, BENCHMARK_TAG: result.benchmark}
    opened = _opened_run(client)
    if opened:
        for key, value in tags.items():
            client.set_tag(opened, key, value)
    run_id = opened or str(
        client.create_run(experiment_id, tags=tags, run_name=f"{name} {result.benchmark}").info.run_id
    )
    if version.model_id is not None:
        client.log_inputs(run_id, models=[LoggedModelInput(version.model_id)])
    now = time.time_ns() // 1_000_000
    client.log_batch(
        run_id,
        metrics=[
            Metric(name, value, now, 0, model_id=version.model_id, run_id=run_id)
            for name, value in _finite(result.metrics).items()
        ],
        params=[Param(name, value) for name, value in result.params.items()],
    )
    with scratch("ulora-plots-") as folder:
        for name, data in result.plots.items():
            (folder / Path(name).name).write_bytes(data)
        client.log_artifacts(run_id, str(folder))
    if not opened:
        client.set_terminated(run_id)
    return run_id


def _opened_run(client: MlflowClient) -> str | None:
    """The run that `mlflow run` opened for this process on this server, if it did."""
    from mlflow.exceptions import MlflowException

    run_id = os.environ.get("MLFLOW_RUN_ID")
    try:
        return str(client.get_run(run_id).info.run_id) if run_id else None
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def _metric_tags(result: Result) -> dict[str, str]:
    """A result's metrics over all targets as tags; those of single targets, `accuracy.tomato`, are on the LoggedModel:
    MLflow's list of versions shows every tag, and writing one is slow."""
    return {METRIC_TAG + name: f"{value:.6g}" for name, value in _finite(result.metrics).items() if "." not in name}


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def _set_tags(client: MlflowClient, model: str, version: CatalogVersion, tags: Mapping[str, str]) -> None:
    for name, value in tags.items():
        if version.tags.get(name) != value:
            client.set_model_version_tag(model, str(version.number), name, value)
