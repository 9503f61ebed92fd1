"""From what a person writes (a folder, a name, a hub id, a digest) to the reference of a backbone and its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters.backbone import hub
from adapters.backbone.build import shapes
from adapters.backbone.families import family_named, family_of_config
from adapters.backbone.locate import (
    CONFIG,
    SHARDS,
    TINY,
    WEIGHTS,
    FetchWeights,
    find_weights,
    folders_of_environment,
    sha256_of_file,
)
from adapters.backbone.sanitise import sanitise
from registry.errors import BackboneNotFound, BadInput, BadManifest, BadWeights
from registry.formats import canonical
from registry.versions.manifest import BackboneRef
from registry.versions.weights import read_header

_LFS_POINTER = b"version https://git-lfs"

_DIGEST_START = 12
"""How many digits of a digest are enough to name a backbone in the store."""


def ref_of_folder(
    path: Path | str, *, name: str | None = None, hub_id: str | None = None, revision: str | None = None
) -> BackboneRef:
    """The reference to the backbone in a folder with `config.json` and `model.safetensors`; hashes the weights.

    Args:
        name: its name; the folder's name by default.

    Raises:
        BackboneNotFound: when one of the two files is missing.
        BadManifest: when the configuration is not JSON, or not that of a backbone.
        BadInput: when its `model_type` is unknown, or its weights are in several files.
    """
    folder = Path(path)
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            if (folder / SHARDS).is_file():
                raise _in_several_files(str(folder))
            raise BackboneNotFound(f"{folder} has no {file}", hint=f"a backbone's folder holds {CONFIG} and {WEIGHTS}")
    config = _read_config(folder / CONFIG)
    return BackboneRef(
        family=family_of_config(config).name,
        sha256=sha256_of_file(folder / WEIGHTS),
        name=name or folder.resolve().name,
        hub_id=hub_id,
        revision=revision,
        config=config,
    )


def resolve(
    spec: Path | str,
    *,
    revision: str | None = None,
    fetch: FetchWeights | None = None,
    known: Sequence[BackboneRef] = (),
) -> tuple[BackboneRef, Path]:
    """The reference of the backbone that a person names, and its weights file on this machine, downloaded if needed.

    Args:
        spec: a folder with `config.json` and `model.safetensors`; or the name, the hub id or the beginning of the
            digest of one that is `known`; or a name in the folders of `ULORA_BACKBONES` or of a tiny one that ships
            with this package; or a repository on the hub, whose cache is searched first. An outdated name
            (`hub.OLD_NAMES`) gives a warning and is replaced.
        revision: of the repository: a commit, a branch or a tag; `main` by default.
        fetch: fetches the weights of a known backbone from the store.
        known: the backbones in the store.

    Raises:
        BackboneNotFound: when it is in no known place; for one on the hub the message says why (gated, missing,
            offline) and how to add it to the store.
        BadInput: when several known ones have this name, a revision is given for a folder, the family is unknown, or
            the weights are in several files.
        BadManifest: when the configuration is not JSON, or not that of a backbone.
        BadWeights: when the weights are malformed, or do not fit the configuration.
        CorruptBlob: when only weights with another digest were found.
    """
    ref, weights = _named(spec, revision, known)
    return ref, weights or find_weights(ref, fetch=fetch)


def reference(spec: Path | str, *, known: Sequence[BackboneRef] = ()) -> BackboneRef:
    """The reference of the backbone that a person names, without fetching the weights of a known one.

    Args:
        spec, known: as for `resolve`.

    Raises:
        BackboneNotFound, BadInput, BadManifest, BadWeights: when it can't be resolved; see `resolve`.
    """
    return _named(spec, None, known)[0]


def _named(spec: Path | str, revision: str | None, known: Sequence[BackboneRef]) -> tuple[BackboneRef, Path | None]:
    """The reference, and its weights if it is not a known one."""
    if Path(spec).is_dir():
        if revision is not None:
            raise BadInput(f"{spec} is a folder, which has no revisions", hint="leave out --revision")
        return _checked(ref_of_folder(spec), Path(spec))
    name = hub.modern_id(str(spec))
    if stored := _known(name, revision, known):
        return stored, None
    if "/" not in name:
        folder = _named_folder(name)
        return _checked(ref_of_folder(folder), folder)
    folder = _cached_folder(name, revision) or _downloaded_folder(name, revision)
    return _checked(ref_of_folder(folder, name=name.rpartition("/")[2], hub_id=name, revision=folder.name), folder)


def _checked(ref: BackboneRef, folder: Path) -> tuple[BackboneRef, Path]:
    """Check that the weights fit the configuration, by names and shapes; returns the reference and the weights file.

    Raises:
        BadManifest: when the configuration is not that of a backbone.
        BadWeights: when the weights do not fit, or are malformed.
    """
    import torch

    weights = folder / WEIGHTS
    with weights.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise BadWeights(f"{weights} is a Git LFS pointer, not the weights", hint="run `git lfs pull` there")
    stated = {span.name: torch.empty(span.shape, device="meta") for span in read_header(weights, str(weights))}
    wanted = {name: tensor.shape for name, tensor in shapes(ref).state_dict().items()}
    try:
        found = {name: tensor.shape for name, tensor in family_named(ref.family).modern_tensors(stated).items()}
    except ValueError as error:
        raise BadWeights(f"{weights} can't be read as {ref.family}: {error}") from error
    wrong = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if wrong:
        shown = {name: (_shape(found.get(name)), _shape(wanted.get(name))) for name in wrong[:3]}
        listed = ", ".join(f"{name} is {actual}, not {expected}" for name, (actual, expected) in shown.items())
        raise BadWeights(f"{weights} does not fit the {CONFIG} beside it: {listed}"[:500])
    return ref, weights


def _shape(shape: Sequence[int] | None) -> str:
    return "missing" if shape is None else str(list(shape))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = sanitise(canonical.decode(canonical.read_file(path, str(path)), str(path)))
    except ValueError as error:
        raise BadManifest(f"{path}: {error}") from error
    return config


def _known(name: str, revision: str | None, known: Sequence[BackboneRef]) -> BackboneRef | None:
    """The known backbone with this name, this hub id, or a digest that begins with it."""
    found = {
        ref.sha256: ref
        for ref in known
        if name in (ref.name, ref.hub_id) or (len(name) >= _DIGEST_START and ref.sha256.startswith(name))
        if revision in (None, ref.revision)
    }
    if len(found) > 1:
        raise BadInput(
            f"{len(found)} backbones have the name {name}", hint=f"give the digest instead: {', '.join(sorted(found))}"
        )
    return next(iter(found.values()), None)


def _named_folder(name: str) -> Path:
    for folder in [*folders_of_environment(), TINY]:
        if Path(name).name == name and (folder / name / CONFIG).is_file():
            return folder / name
    raise BackboneNotFound(
        f"{name[:80]!r} is neither a folder nor a known backbone",
        hint="give a folder, a repository such as facebook/dinov2-base, or a name that `ulora backbone list` shows",
    )


def _cached_folder(hub_id: str, revision: str | None) -> Path | None:
    """The snapshot of a repository in the cache, None if it lacks one of the two files."""
    config, weights = (hub.cached(hub_id, name, revision) for name in (CONFIG, WEIGHTS))
    return weights.parent if config and weights else None


def _downloaded_folder(hub_id: str, revision: str | None) -> Path:
    """Download both files of the same commit; returns their folder in the cache."""
    folder = hub.download(hub_id, CONFIG, revision).parent
    try:
        hub.download(hub_id, WEIGHTS, folder.name)
    except BackboneNotFound as error:
        if _is_in_several_files(hub_id, folder.name):
            raise _in_several_files(hub_id) from error
        raise
    return folder


def _is_in_several_files(hub_id: str, commit: str) -> bool:
    try:
        return hub.download(hub_id, SHARDS, commit).is_file()
    except BackboneNotFound:
        return False


def _in_several_files(where: str) -> BadInput:
    return BadInput(
        f"{where} has its weights in several files; a backbone must have one weights file",
        hint=f"write all of its tensors into one {WEIGHTS} (safetensors.torch.save_file), and add its folder",
    )
