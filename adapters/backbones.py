"""Find a backbone's weights, check them, and keep one copy in memory whatever runs on it.

Versions name their backbone by digest and never hold it. It is looked for near first: in folders that the caller gives,
in those of `ULORA_BACKBONES`, among the tiny ones that ship with this package, in Hugging Face's cache; then in the
mirror of the store, and last on the hub. Whatever is found is used only if it hashes to the digest.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from adapters import hub
from adapters.families import Family, family_named, family_of_config
from registry import canonical
from registry.errors import BackboneNotFound, BadInput, BadManifest, BadWeights, CorruptBlob
from registry.manifest import BackboneRef

if TYPE_CHECKING:
    import torch

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
SHARDS = "model.safetensors.index.json"
FOLDERS_VARIABLE = "ULORA_BACKBONES"
TINY = Path(__file__).parent / "tiny"
"""The folder of the two tiny backbones that ship with this package: `dinov2-tiny` and `dinov3-tiny`."""

FetchBlob = Callable[[str], Path | None]
"""Gives a verified local file of the bytes with a sha256 that the store's mirror holds, None if it holds none."""

_DIGEST_START = 12
"""Digits of a digest that name a mirrored backbone."""


class _Tensors(dict[str, "torch.Tensor"]):
    """A backbone's tensors; a class of its own because plain dicts can't be referred to weakly."""


_lock = threading.Lock()
_loaded: WeakValueDictionary[tuple[str, str], _Tensors] = WeakValueDictionary()  # alive while a model uses them


def ref_of_folder(
    path: Path | str, *, name: str | None = None, hub_id: str | None = None, revision: str | None = None
) -> BackboneRef:
    """The reference to the backbone in a folder with `config.json` and `model.safetensors`; reads and hashes it.

    Args:
        name: what to call it; like the folder when left out.

    Raises:
        BackboneNotFound: one of the two files is missing.
        BadManifest: the configuration is not JSON.
        BadInput: its `model_type` is no known family, or its weights are in several files.
    """
    folder = Path(path)
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            if (folder / SHARDS).is_file():
                raise _in_several_files(str(folder))
            raise BackboneNotFound(f"{folder} has no {file}", hint=f"a backbone's folder holds {CONFIG} and {WEIGHTS}")
    config = canonical.decode((folder / CONFIG).read_bytes(), f"{folder / CONFIG}")
    return BackboneRef(
        family=family_of_config(config).name,
        sha256=_sha256(folder / WEIGHTS),
        name=name or folder.resolve().name,
        hub_id=hub_id,
        revision=revision,
        config=config,
    )


def resolve(
    spec: Path | str, *, revision: str | None = None, fetch: FetchBlob | None = None, known: Sequence[BackboneRef] = ()
) -> tuple[BackboneRef, Path]:
    """What people mean by a backbone, and its weights file on this machine, downloaded if need be.

    Args:
        spec: a folder with `config.json` and `model.safetensors`; or the name, the hub id or the beginning of the
            digest of one that is `known`; or a name in the folders of `ULORA_BACKBONES` or among the tiny ones that
            ship; or a repository on the hub, whose cache is looked into before it is asked. A name of older documents
            (`hub.OLD_NAMES`) gives a warning and what is meant by it.
        revision: of the repository: a commit, a branch or a tag; `main` when left out.
        fetch: gives the weights of what is known.
        known: the backbones in the store's mirror.

    Raises:
        BackboneNotFound: it is nowhere; of one on the hub it says why (gated, missing, offline) and how to mirror it.
        BadInput: it can't be meant: several known ones are called so, a folder has no revisions, no known family, or
            weights in several files.
        BadManifest: the configuration is not JSON.
        CorruptBlob: as `find`.
    """
    if Path(spec).is_dir():
        if revision is not None:
            raise BadInput(f"{spec} is a folder, and a folder has no revisions", hint="leave --revision out")
        return ref_of_folder(spec), Path(spec) / WEIGHTS
    name = hub.modern_id(str(spec))
    if mirrored := _known(name, revision, known):
        return mirrored, find(mirrored, fetch=fetch)
    if "/" not in name:
        folder = _named_folder(name)
        return ref_of_folder(folder), folder / WEIGHTS
    folder = _cached_folder(name, revision) or _downloaded_folder(name, revision)
    ref = ref_of_folder(folder, name=name.rpartition("/")[2], hub_id=name, revision=folder.name)
    return ref, folder / WEIGHTS


def find(ref: BackboneRef, folders: Sequence[Path | str] = (), fetch: FetchBlob | None = None) -> Path:
    """The weights file of a backbone, its digest checked.

    Args:
        folders: searched first; each is a backbone's folder, or holds one called `ref.name`.
        fetch: gives it from the store's mirror.

    Raises:
        BackboneNotFound: it is in none of the places, which the message lists.
        CorruptBlob: a place has weights of this name, but with another digest, and no place has the right ones.
        BadManifest: the hub's name or revision in the reference is none.
    """
    searched: list[str] = []
    wrong: list[Path] = []
    for place in _places(ref, folders):
        weights = place / WEIGHTS
        searched.append(str(place))
        if weights.is_file():
            if _sha256(weights) == ref.sha256:
                return weights
            wrong.append(weights)
            searched[-1] += " (other weights)"
    if fetch is not None:
        if mirrored := fetch(ref.sha256):  # hashed by who gives it
            return mirrored
        searched.append("the store's mirror")
    try:
        return _from_hub(ref, searched)
    except BackboneNotFound as error:
        named = [path for path in wrong if path.parent.name == ref.name]
        if not named:
            raise
        raise CorruptBlob(
            f"{named[0]} is not the backbone {ref.name} that the version was made on: it does not hash to {ref.sha256}",
            hint="fetch the backbone again, or give the folder of the right one",
        ) from error


def new_model(
    ref: BackboneRef, *, folders: Sequence[Path | str] = (), device: str = "cpu", fetch: FetchBlob | None = None
) -> torch.nn.Module:
    """A fresh module tree of a backbone, in evaluation mode and frozen, on the one copy of its weights in memory.

    Each version wraps its own tree; the tensors are shared by all of them and by all threads.

    Raises:
        BackboneNotFound, CorruptBlob, BadManifest: as `find`.
        BadWeights: the weights do not fit the configuration.
    """
    import torch

    family = family_named(ref.family)
    tensors = _shared_tensors(ref, folders, device, fetch)
    try:
        with torch.device("meta"):
            model = family.new_model(ref.config)
        missing, unexpected = model.load_state_dict(tensors, strict=False, assign=True)
    except (RuntimeError, TypeError, ValueError) as error:
        raise BadWeights(f"the weights of {ref.name} do not fit its configuration: {error}"[:500]) from error
    if missing or unexpected:
        raise BadWeights(
            f"the weights of {ref.name} do not fit its configuration: "
            f"missing {sorted(missing)[:3]}, unexpected {sorted(unexpected)[:3]}"
        )
    _fill_computed_buffers(model, device)
    model.shared_tensors = tensors  # keeps the one copy alive for the next version
    frozen: torch.nn.Module = model.eval().requires_grad_(False)
    return frozen


def _shared_tensors(ref: BackboneRef, folders: Sequence[Path | str], device: str, fetch: FetchBlob | None) -> _Tensors:
    key = (ref.sha256, device)
    with _lock:
        tensors = _loaded.get(key)
    if tensors is not None:
        return tensors
    weights = find(ref, folders, fetch)  # outside the lock: a download must not keep other backbones from loading
    with _lock:  # held while reading, so that two threads do not read the same gigabyte twice
        tensors = _loaded.get(key)
        if tensors is None:
            tensors = _loaded[key] = _read(weights, family_named(ref.family), device)
        return tensors


def _read(weights: Path, family: Family, device: str) -> _Tensors:
    """The tensors under their names of today: the hub's files were written by transformers 4."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = family.modern_tensors(load_file(weights))
    except (SafetensorError, ValueError) as error:
        raise BadWeights(f"{weights} is no sound safetensors file: {error}") from error
    return _Tensors({name: tensor.to(device, torch.float32) for name, tensor in tensors.items()})


def _fill_computed_buffers(model: Any, device: str) -> None:
    # Buffers that are computed and not stored (DINOv3's rotary frequencies) are still on the meta device here.
    import torch

    for module in model.modules():
        empty = [name for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta]
        for name in empty:
            setattr(module, name, torch.empty_like(getattr(module, name), device=device))
        if empty:
            with torch.no_grad():
                model._init_weights(module)


def _places(ref: BackboneRef, folders: Sequence[Path | str]) -> Iterator[Path]:
    """Folders of this machine that may hold it, the nearest first."""
    for folder in [*map(Path, folders), *_folders_of_environment()]:
        if Path(ref.name).name == ref.name:  # a name from a manifest never leads out of the folder
            yield folder / ref.name
        yield folder
    yield from sorted(path for path in TINY.iterdir() if path.is_dir() and path.name == ref.name)
    if (hub_id := _hub_id(ref)) and (cached := hub.cached(hub_id, WEIGHTS, ref.revision)):
        yield cached.parent


def _folders_of_environment() -> list[Path]:
    return [Path(part) for part in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if part]


def _from_hub(ref: BackboneRef, searched: list[str]) -> Path:
    """The weights of a backbone that no nearer place holds."""
    hub_id = _hub_id(ref)
    if hub_id is None:
        hint = f"put {CONFIG} and {WEIGHTS} into DIR/{ref.name}, then `ulora backbone add DIR/{ref.name}` once for all"
        raise _not_found(ref, searched, f"{hint}, or set {FOLDERS_VARIABLE}=DIR on this machine")
    try:
        weights = hub.download(hub_id, WEIGHTS, ref.revision)
    except BackboneNotFound as error:
        raise _not_found(ref, [*searched, f"the hub ({error})"], error.hint) from error
    if _sha256(weights) != ref.sha256:
        hint = "find out which revision the version was made on: the repository has changed since"
        raise _not_found(ref, [*searched, f"the hub ({hub_id} has other weights)"], hint)
    return weights


def _hub_id(ref: BackboneRef) -> str | None:
    """Its repository's name of today."""
    if ref.hub_id is None:
        return None
    try:
        hub.check(ref.hub_id, ref.revision)
    except BadInput as error:  # what people may mistype is, in a manifest, damage
        raise BadManifest(f"the reference to the backbone {ref.name[:80]}: {error}") from error
    return hub.modern_id(ref.hub_id)


def _not_found(ref: BackboneRef, searched: Sequence[str], hint: str) -> BackboneNotFound:
    places = ", ".join(searched) or str(TINY)
    return BackboneNotFound(f"the backbone {ref.name} (sha256 {ref.sha256[:12]}…) is in none of: {places}", hint=hint)


def _known(name: str, revision: str | None, known: Sequence[BackboneRef]) -> BackboneRef | None:
    """The known backbone that is called so, has this hub id, or a digest that begins so."""
    found = {
        ref.sha256: ref
        for ref in known
        if name in (ref.name, ref.hub_id) or (len(name) >= _DIGEST_START and ref.sha256.startswith(name))
        if revision in (None, ref.revision)
    }
    if len(found) > 1:
        raise BadInput(
            f"{len(found)} backbones are called {name}", hint=f"give the digest instead: {', '.join(sorted(found))}"
        )
    return next(iter(found.values()), None)


def _named_folder(name: str) -> Path:
    for folder in [*_folders_of_environment(), TINY]:
        if Path(name).name == name and (folder / name / CONFIG).is_file():
            return folder / name
    raise BackboneNotFound(
        f"{name[:80]!r} is no folder and no backbone that is known",
        hint="give a folder, a repository such as facebook/dinov2-base, or a name that `ulora backbone list` shows",
    )


def _cached_folder(hub_id: str, revision: str | None) -> Path | None:
    """The snapshot of a repository in the cache, if both files are there."""
    config, weights = (hub.cached(hub_id, name, revision) for name in (CONFIG, WEIGHTS))
    return weights.parent if config and weights else None


def _downloaded_folder(hub_id: str, revision: str | None) -> Path:
    """The snapshot of a repository in the cache, downloaded: both files of the same commit."""
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
        f"{where} has its weights in several files, and a backbone's digest is that of one",
        hint=f"write all of its tensors into one {WEIGHTS} (safetensors.torch.save_file), and add the folder of that",
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
