"""A version over a dataset of Ray Data: images in, rows of predictions out, as many actors beside each other as wanted.

It is a step of a pipeline and nothing else: Ray reads, distributes and writes. What was done before an interruption is
known only to what writes: `docs/ray.md` has both ways to go on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.errors import BadInput, IntegrityError, first_line
from registry.serving.loaders import Prediction
from registry.serving.ray.opening import OpenRegistry, from_settings

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

COLUMNS: Mapping[str, str] = {
    "version": "string", "manifest_sha256": "string", "target": "string", "label": "string", "confidence": "double",
    "ood_score": "double", "is_ood": "bool", "outcome": "string", "target_confidence": "double",
    "probabilities": "string", "detail": "string", "error": "string",
}  # fmt: skip
"""What a row gains, and the type of each. `probabilities` is a JSON object. `error` says why there is no prediction,
and is null if there is one; `version` and `manifest_sha256` are there in any case."""


@dataclass(frozen=True)
class DatasetOptions:
    """How a dataset is predicted.

    Attributes:
        images: the column with an image file's bytes, or with its path, which every actor has to be able to open.
            Bytes are not in the rows that come out.
        targets: the column that names the target (crop) of each image, or null; None lets the router choose for all.
        device, runtime: see `Registry.load`.
        batch_size: images that are computed together.
        actors: processes that hold the version; Ray starts as many as it has room for, at least the first number.
        num_cpus, num_gpus: what Ray reserves for each of them.
    """

    images: str = "bytes"
    targets: str | None = None
    device: str = "cpu"
    runtime: str | None = None
    batch_size: int = 32
    actors: tuple[int, int] = (1, 1)
    num_cpus: float = 1.0
    num_gpus: float = 0.0


def predict_dataset(
    dataset: Dataset, version: str, options: DatasetOptions | None = None, *, registry: OpenRegistry = from_settings
) -> Dataset:
    """Predict every row of a dataset by one version; nothing is computed before the result is read or written.

    Each actor loads the version once, verified and self-tested, and refuses it if its manifest is not the one that was
    named here. A row that has no prediction says why; it does not end the run. With a column of paths that holds for
    every row of a disk that is unmounted meanwhile.

    Args:
        dataset: rows with an image each, e.g. of `ray.data.read_binary_files(…, include_paths=True)`.
        registry: opens the registry, here and in each actor; by default that of the process's settings.

    Returns:
        The rows with `COLUMNS`, without the images' bytes.

    Raises:
        BadVersionName, VersionNotFound: there is no such version.
        MissingBlob, CorruptBlob, BadManifest: its manifest is damaged.
        BadSetting, BadInput: a setting or an option is invalid.
    """
    import ray.data

    wanted = options or DatasetOptions()
    least, most = wanted.actors
    if not 1 <= least <= most or wanted.batch_size < 1:
        raise BadInput(f"{most} actors, at least {least}, with batches of {wanted.batch_size} are not possible")
    manifest = registry().manifest(version)
    return dataset.map_batches(
        DatasetActor, fn_constructor_args=(registry, manifest.version, manifest.sha256, wanted),
        batch_format="pyarrow", batch_size=wanted.batch_size, num_cpus=wanted.num_cpus, num_gpus=wanted.num_gpus,
        compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most),
    )  # fmt: skip


class DatasetActor:
    """A version in the memory of an actor of Ray Data, which calls it with one batch after the other."""

    def __init__(self, registry: OpenRegistry, version: str, manifest_sha256: str, options: DatasetOptions) -> None:
        """Raises:
        IntegrityError: the name stands for another manifest here.
        UloraError: see `Registry.load`.
        """
        opened = registry()
        found = opened.manifest(version).sha256
        if found != manifest_sha256:
            raise IntegrityError(
                f"{version} has the manifest {found[:12]} here, not {manifest_sha256[:12]}",
                hint="let all machines use the same store",
            )
        self._named = {"version": version, "manifest_sha256": manifest_sha256}
        self._options = options
        self._loaded = opened.load(version, device=options.device, runtime=options.runtime)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The batch with its predictions.

        Raises:
            BadInput: a column is missing, or has a name of `COLUMNS`.
        """
        import pyarrow as pa

        images = self._column(batch, self._options.images)
        targets = self._column(batch, self._options.targets) if self._options.targets else [None] * len(images)
        if taken := sorted(COLUMNS.keys() & set(batch.column_names)):
            raise BadInput(
                f"the dataset has columns that the predictions need: {', '.join(taken)}",
                hint=f'rename them, e.g. dataset.rename_columns({{"{taken[0]}": "true_{taken[0]}"}})',
            )
        rows = [self._row(answer) for answer in self._answers(images, targets)]
        kind = batch.schema.field(self._options.images).type
        has_paths = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        out = batch if has_paths else batch.drop_columns([self._options.images])
        for name, type_name in COLUMNS.items():
            values = pa.array([row[name] for row in rows], pa.type_for_alias(type_name))
            out = out.append_column(name, values)
        return out

    def _column(self, batch: pa.Table, name: str) -> list[Any]:
        if name not in batch.column_names:
            raise BadInput(
                f"the dataset has no column {name}, but {', '.join(batch.column_names)}",
                hint="name it: DatasetOptions(images=…, targets=…)",
            )
        values: list[Any] = batch.column(name).to_pylist()
        return values

    def _answers(self, images: Sequence[Any], targets: Sequence[str | None]) -> Sequence[Prediction | Exception]:
        """For each image its prediction or its error. They are computed together, unless one of them can't be."""
        try:
            return self._loaded.predict(list(images), target=list(targets))
        except (BadInput, TypeError):
            return [self._alone(image, target) for image, target in zip(images, targets, strict=True)]

    def _alone(self, image: Any, target: str | None) -> Prediction | Exception:
        try:
            answer: Prediction = self._loaded.predict(image, target=target)
            return answer
        except (BadInput, TypeError) as error:
            return error

    def _row(self, answer: Prediction | Exception) -> dict[str, Any]:
        if isinstance(answer, Exception):
            return {**dict.fromkeys(COLUMNS), **self._named, "error": first_line(answer)}
        found = answer.to_dict()
        shares = json.dumps(found.get("probabilities") or {}, ensure_ascii=False)
        return {**{name: found.get(name) for name in COLUMNS}, "probabilities": shares, **self._named, "error": None}
