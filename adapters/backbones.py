"""Find a backbone's weights on this machine, check them, and keep one copy in memory whatever runs on it.

Versions name their backbone by digest and never hold it. It is looked for offline first: in folders that the caller
gives, in those of `ULORA_BACKBONES`, among the tiny ones that ship with this package, in Hugging Face's cache.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from adapters.families import family_named, family_of_config
from registry import canonical
from registry.errors import BackboneNotFound, BadManifest, BadWeights, CorruptBlob
from registry.manifest import BackboneRef

if TYPE_CHECKING:
    import torch

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FOLDERS_VARIABLE = "ULORA_BACKBONES"
TINY = Path(__file__).parent / "tiny"
"""The folder of the two tiny backbones that ship with this package: `dinov2-tiny` and `dinov3-tiny`."""


class _Tensors(dict[str, "torch.Tensor"]):
    """A backbone's tensors; a class of its own because plain dicts can't be referred to weakly."""


_lock = threading.Lock()
_loaded: WeakValueDictionary[tuple[str, str], _Tensors] = WeakValueDictionary()  # alive while a model uses them


def ref_of_folder(path: Path | str, *, hub_id: str | None = None, revision: str | None = None) -> BackboneRef:
    """The reference to the backbone in a folder with `config.json` and `model.safetensors`; reads and hashes it.

    Raises:
        BackboneNotFound: one of the two files is missing.
        BadManifest: the configuration is not JSON.
        BadInput: its `model_type` is no known family.
    """
    folder = Path(path)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise BackboneNotFound(f"{folder} has no {name}", hint=f"a backbone's folder holds {CONFIG} and {WEIGHTS}")
    config = canonical.decode((folder / CONFIG).read_bytes(), f"{folder / CONFIG}")
    return BackboneRef(
        family=family_of_config(config).name,
        sha256=_sha256(folder / WEIGHTS),
        name=folder.resolve().name,
        hub_id=hub_id,
        revision=revision,
        config=config,
    )


def find(ref: BackboneRef, folders: Sequence[Path | str] = ()) -> Path:
    """The weights file of a backbone, its digest checked.

    Args:
        folders: searched first; each is a backbone's folder, or holds one called `ref.name`.

    Raises:
        BackboneNotFound: it is in none of the places, which the message lists.
        CorruptBlob: a place has weights of this name, but with another digest, and no place has the right ones.
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
    named = [path for path in wrong if path.parent.name == ref.name]
    if named:
        raise CorruptBlob(
            f"{named[0]} is not the backbone {ref.name} that the version was made on: it does not hash to {ref.sha256}",
            hint="fetch the backbone again, or give the folder of the right one",
        )
    raise BackboneNotFound(
        f"the backbone {ref.name} (sha256 {ref.sha256[:12]}…) is in none of: {', '.join(searched)}",
        hint=_how_to_get(ref),
    )


def new_model(ref: BackboneRef, *, folders: Sequence[Path | str] = (), device: str = "cpu") -> torch.nn.Module:
    """A fresh module tree of a backbone, in evaluation mode and frozen, on the one copy of its weights in memory.

    Each version wraps its own tree; the tensors are shared by all of them and by all threads.

    Raises:
        BackboneNotFound, CorruptBlob: as `find`.
        BadWeights: the weights do not fit the configuration.
    """
    import torch

    family = family_named(ref.family)
    tensors = _shared_tensors(ref, folders, device)
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


def _shared_tensors(ref: BackboneRef, folders: Sequence[Path | str], device: str) -> _Tensors:
    key = (ref.sha256, device)
    with _lock:  # held while reading, so that two threads do not read the same gigabyte twice
        tensors = _loaded.get(key)
        if tensors is None:
            tensors = _loaded[key] = _read(find(ref, folders), device)
        return tensors


def _read(weights: Path, device: str) -> _Tensors:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(weights)
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
    named = [Path(part) for part in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if part]
    for folder in [*map(Path, folders), *named]:
        if Path(ref.name).name == ref.name:  # a name from a manifest never leads out of the folder
            yield folder / ref.name
        yield folder
    yield from sorted(path for path in TINY.iterdir() if path.is_dir() and path.name == ref.name)
    yield from _hub_cache(ref)


def _hub_cache(ref: BackboneRef) -> Iterator[Path]:
    if ref.hub_id is None:
        return
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(ref.hub_id, WEIGHTS, revision=ref.revision)
    except ValueError as error:
        raise BadManifest(f"{ref.hub_id[:80]!r} is not the name of a repository on the hub") from error
    if isinstance(cached, str):
        yield Path(cached).parent


def _how_to_get(ref: BackboneRef) -> str:
    if ref.hub_id is None:
        return f"put {CONFIG} and {WEIGHTS} into DIR/{ref.name} and set {FOLDERS_VARIABLE}=DIR"
    at = f" --revision {ref.revision}" if ref.revision else ""
    return f"run: hf download {ref.hub_id}{at} (or copy it into DIR/{ref.name} and set {FOLDERS_VARIABLE}=DIR)"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
