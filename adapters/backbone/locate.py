"""Find the weights file of a backbone: in folders on this machine, in the store, on the Hugging Face hub.

Versions name their backbone by digest and do not contain it. The places are searched in this order: folders that the
caller gives, the folders of `ULORA_BACKBONES`, the tiny backbones that ship with this package, the Hugging Face cache,
the store, and last the hub. A file is used only if it hashes to the digest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from adapters.backbone import hub
from registry.errors import BackboneNotFound, BadInput, BadManifest, CorruptBlob, MissingBlob
from registry.versions.manifest import BackboneRef

WEIGHTS = "model.safetensors"

CONFIG = "config.json"

SHARDS = "model.safetensors.index.json"

FOLDERS_VARIABLE = "ULORA_BACKBONES"

TINY = Path(__file__).parents[1] / "tiny"
"""The folder of the two tiny backbones that ship with this package: `dinov2-tiny` and `dinov3-tiny`."""

FetchWeights = Callable[[str], Path | None]
"""Returns the verified local file of the blob with a sha256, or None if the store does not have it."""


def find_weights(ref: BackboneRef, folders: Sequence[Path | str] = (), fetch: FetchWeights | None = None) -> Path:
    """Find the weights file of a backbone and check its digest.

    Args:
        folders: searched first; each is a backbone's folder, or contains one with the name `ref.name`.
        fetch: fetches the file from the store.

    Raises:
        BackboneNotFound: when no place has it; the message lists the places.
        CorruptBlob: when a place has weights of this name with another digest, and no place has the right ones; or
            when the store's copy is damaged.
        MissingBlob: when the store lists the backbone but lacks the blob.
        BadManifest: when the hub id or the revision in the reference is malformed.
    """
    searched: list[str] = []
    wrong: list[Path] = []
    for place in _places(ref, folders):
        weights = place / WEIGHTS
        searched.append(str(place))
        if weights.is_file():
            if sha256_of_file(weights) == ref.sha256:
                return weights
            wrong.append(weights)
            searched[-1] += " (other weights)"
    damage: CorruptBlob | MissingBlob | None = None
    if fetch is not None:
        try:
            if stored := fetch(ref.sha256):  # `fetch` has checked the digest
                return stored
        except (CorruptBlob, MissingBlob) as error:
            damage = error
        searched.append("the store")
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


def _places(ref: BackboneRef, folders: Sequence[Path | str]) -> Iterator[Path]:
    """Folders on this machine that may contain it, in the order in which they are searched."""
    for folder in [*map(Path, folders), *folders_of_environment()]:
        if Path(ref.name).name == ref.name:  # a name from a manifest must not lead out of the folder
            yield folder / ref.name
        yield folder
    yield from sorted(path for path in TINY.iterdir() if path.is_dir() and path.name == ref.name)
    if (hub_id := _hub_id(ref)) and (cached := hub.cached(hub_id, WEIGHTS, ref.revision)):
        yield cached.parent


def folders_of_environment() -> list[Path]:
    """The folders that `ULORA_BACKBONES` lists, in its order."""
    return [Path(part) for part in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if part]


def _from_hub(ref: BackboneRef, searched: list[str]) -> Path:
    """Download the weights of a backbone."""
    hub_id = _hub_id(ref)
    if hub_id is None:
        hint = f"put {CONFIG} and {WEIGHTS} into DIR/{ref.name}, then run `ulora backbone add DIR/{ref.name}` once"
        raise _not_found(ref, searched, f"{hint}, or set {FOLDERS_VARIABLE}=DIR on this machine")
    try:
        weights = hub.download(hub_id, WEIGHTS, ref.revision)
    except BackboneNotFound as error:
        raise _not_found(ref, [*searched, f"the hub ({error})"], error.hint) from error
    if sha256_of_file(weights) != ref.sha256:
        hint = "find the revision that the version was made with: the repository has changed since then"
        raise _not_found(ref, [*searched, f"the hub ({hub_id} has other weights)"], hint)
    return weights


def _hub_id(ref: BackboneRef) -> str | None:
    """The current name of its repository on the hub."""
    if ref.hub_id is None:
        return None
    try:
        hub.check(ref.hub_id, ref.revision)
    except BadInput as error:  # in a manifest, a malformed name is damage and not a typing error
        raise BadManifest(f"the reference to the backbone {ref.name[:80]}: {error}") from error
    return hub.modern_id(ref.hub_id)


def _not_found(ref: BackboneRef, searched: Sequence[str], hint: str) -> BackboneNotFound:
    places = ", ".join(searched) or str(TINY)
    return BackboneNotFound(
        f"the backbone {ref.name} (sha256 {ref.sha256[:12]}…) was not found in: {places}", hint=hint
    )


def sha256_of_file(path: Path) -> str:
    """The sha256 of a file, in hex. Raises OSError if it can't be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
