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

from adapters.backbone import hub
from adapters.backbone.families import Family, family_named, family_of_config
from adapters.backbone.plain import plain
from registry.errors import BackboneNotFound, BadInput, BadManifest, BadWeights, CorruptBlob, MissingBlob
from registry.formats import canonical
from registry.versions.manifest import BackboneRef
from registry.versions.weights import read_header

if TYPE_CHECKING:
    import torch

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
SHARDS = "model.safetensors.index.json"
FOLDERS_VARIABLE = "ULORA_BACKBONES"
TINY = Path(__file__).parents[1] / "tiny"
"""The folder of the two tiny backbones that ship with this package: `dinov2-tiny` and `dinov3-tiny`."""

FetchBlob = Callable[[str], Path | None]
"""Gives a verified local file of the bytes with a sha256 that the store's mirror holds, None if it holds none."""

_BOUNDS = {
    "hidden_size": range(1, 2**16),
    "num_hidden_layers": range(1, 1000),
    "num_attention_heads": range(1, 2**12),
    "patch_size": range(1, 2**10),
    "num_register_tokens": range(2**10),
    "image_size": range(1, 2**16),
}
"""Bounds of a configuration's numbers, far above those of any backbone that there is."""

_LFS_POINTER = b"version https://git-lfs"
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
        BadManifest: the configuration is not JSON, or no backbone's.
        BadInput: its `model_type` is no known family, or its weights are in several files.
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
        BadManifest: the configuration is not JSON, or no backbone's.
        BadWeights: the weights are no sound file, or do not fit the configuration.
        CorruptBlob: as `find`.
    """
    ref, weights = _meant(spec, revision, known)
    return ref, weights or find(ref, fetch=fetch)


def reference(spec: Path | str, *, known: Sequence[BackboneRef] = ()) -> BackboneRef:
    """What people mean by a backbone; weights that are known by their digest are not fetched. Else as `resolve`."""
    return _meant(spec, None, known)[0]


def _meant(spec: Path | str, revision: str | None, known: Sequence[BackboneRef]) -> tuple[BackboneRef, Path | None]:
    """What is meant, and its weights if it is not a known one."""
    if Path(spec).is_dir():
        if revision is not None:
            raise BadInput(f"{spec} is a folder, and a folder has no revisions", hint="leave --revision out")
        return _checked(ref_of_folder(spec), Path(spec))
    name = hub.modern_id(str(spec))
    if mirrored := _known(name, revision, known):
        return mirrored, None
    if "/" not in name:
        folder = _named_folder(name)
        return _checked(ref_of_folder(folder), folder)
    folder = _cached_folder(name, revision) or _downloaded_folder(name, revision)
    return _checked(ref_of_folder(folder, name=name.rpartition("/")[2], hub_id=name, revision=folder.name), folder)


def _checked(ref: BackboneRef, folder: Path) -> tuple[BackboneRef, Path]:
    """A backbone whose weights fit its configuration, by their names and shapes alone, and the file of them.

    Raises:
        BadManifest: the configuration is no backbone's.
        BadWeights: they do not fit, or are no sound file.
    """
    import torch

    weights = folder / WEIGHTS
    with weights.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise BadWeights(f"{weights} is a pointer of Git LFS, not the weights", hint="run `git lfs pull` there")
    stated = {span.name: torch.empty(span.shape, device="meta") for span in read_header(weights, str(weights))}
    wanted = {name: tensor.shape for name, tensor in shapes(ref).state_dict().items()}
    try:
        found = {name: tensor.shape for name, tensor in family_named(ref.family).modern_tensors(stated).items()}
    except ValueError as error:
        raise BadWeights(f"{weights} can't be read as {ref.family}: {error}") from error
    wrong = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if wrong:
        what = {name: (_shape(found.get(name)), _shape(wanted.get(name))) for name in wrong[:3]}
        listed = ", ".join(f"{name} is {is_}, not {ought}" for name, (is_, ought) in what.items())
        raise BadWeights(f"{weights} does not fit the {CONFIG} beside it: {listed}"[:500])
    return ref, weights


def _shape(shape: Sequence[int] | None) -> str:
    return "missing" if shape is None else str(list(shape))


def find(ref: BackboneRef, folders: Sequence[Path | str] = (), fetch: FetchBlob | None = None) -> Path:
    """The weights file of a backbone, its digest checked.

    Args:
        folders: searched first; each is a backbone's folder, or holds one called `ref.name`.
        fetch: gives it from the store's mirror.

    Raises:
        BackboneNotFound: it is in none of the places, which the message lists.
        CorruptBlob: a place has weights of this name, but with another digest, and no place has the right ones.
        CorruptBlob, MissingBlob: as `fetch` says, where no place has them, the hub neither.
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
    damage: CorruptBlob | MissingBlob | None = None
    if fetch is not None:
        try:
            if mirrored := fetch(ref.sha256):  # hashed by who gives it
                return mirrored
        except (CorruptBlob, MissingBlob) as error:
            damage = error
        searched.append("the store's mirror")
    try:
        return _from_hub(ref, searched)
    except BackboneNotFound as error:
        if damage:
            raise damage from error
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
    tensors = _shared_tensors(ref, folders, device, fetch)
    try:
        model: Any = shapes(ref)
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


def shapes(ref: BackboneRef) -> torch.nn.Module:
    """The module tree of a backbone without its weights.

    Raises:
        BadManifest: its configuration is no backbone's.
    """
    import torch

    config = ref.config
    image = config.get("image_size")
    side = image[0] if isinstance(image, list) and len(image) == 2 and image[0] == image[1] else image
    numbers = config if image is None else config | {"image_size": side}
    for name, bounds in _BOUNDS.items():
        if name in numbers and not (type(numbers[name]) is int and numbers[name] in bounds):
            raise BadManifest(f"the configuration of {ref.name} is no backbone's: {name} is {str(config[name])[:40]!r}")
    try:
        with torch.device("meta"):
            model: torch.nn.Module = family_named(ref.family).new_model(config)
    except BadInput:
        raise
    except Exception as error:  # transformers raises whatever an odd field leads it to
        raise BadManifest(f"the configuration of {ref.name} is no backbone's: {error}"[:400]) from error
    return model


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


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = plain(canonical.decode(canonical.read_file(path, str(path)), str(path)))
    except ValueError as error:
        raise BadManifest(f"{path}: {error}") from error
    return config


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
