"""Load a version from its verified files, or a bundle that is not a version yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pydantic import ValidationError

from adapters import bundle
from adapters.answer.components import read_components
from adapters.answer.loaded import LoadedVersion
from adapters.backbone.locate import FetchWeights
from adapters.bundle import BundleFiles
from adapters.runtimes.gate import runtime_for
from adapters.runtimes.interface import REFERENCE, Runtime
from adapters.runtimes.open_runtime import open_runtime
from registry.errors import BadInput, BadManifest, first_line
from registry.versions.manifest import BackboneRef, Manifest, first_problem

FLAVOR = "dino-lora"
UNBOUND = "unbound"
"""The version's name in the answers of a bundle that is not a version yet."""


def load(
    manifest: Manifest,
    files: Mapping[str, Path],
    *,
    device: str = "cpu",
    runtime: str | None = None,
    backbone_folders: Sequence[Path | str] = (),
    fetch: FetchWeights | None = None,
) -> LoadedVersion:
    """Load a version from its verified files.

    Args:
        manifest: the version's manifest.
        files: manifest path -> the verified file on this disk, whatever its name there.
        device: a torch device, e.g. `cpu` or `cuda:0`.
        runtime: a name of `adapters.runtimes.open_runtime.RUNTIMES`; torch in float32 by default, and (with a warning)
            if the runtime was judged on other weights than those of the version.
        backbone_folders: searched for the backbone before the usual places (`adapters.backbone.locate`).
        fetch: fetches the backbone's weights from the store if they are not on this machine.

    Raises:
        BadInput: when there is no such device or runtime, or the version did not pass the runtime's gate.
        BackboneNotFound: when the backbone is in no known place.
        CorruptBlob: when only a backbone with another digest was found.
        BadWeights: when a file is truncated, or does not fit the backbone or other files.
        BadManifest, MissingBlob: when a document is malformed or missing.
    """
    if manifest.flavor != FLAVOR or manifest.backbone is None:
        raise BadManifest(f"{manifest.version} is {manifest.flavor!r}, not {FLAVOR}, or names no backbone")
    chosen = runtime_for(manifest, BundleFiles(files), runtime or REFERENCE)
    opened = _open(manifest.backbone, chosen, device, backbone_folders, fetch)
    weights = {name: component.weights_sha256 for name, component in manifest.components.items()}
    components = read_components(BundleFiles(files), opened)
    return LoadedVersion(manifest.version, manifest.content_sha256, components, weights)


def load_bundle(
    files: Mapping[str, Path],
    *,
    device: str = "cpu",
    runtime: str | None = None,
    backbone_folders: Sequence[Path | str] = (),
    fetch: FetchWeights | None = None,
) -> LoadedVersion:
    """Load a bundle's files before `create` makes a version of them.

    The gate of a runtime is not applied, because a runtime is judged on what this returns.

    Args:
        files: bundle path -> the file on this disk.
        device, runtime, backbone_folders, fetch: as for `load`.

    Raises:
        BadInput: when there is no such device or runtime.
        BackboneNotFound: when the backbone is in no known place.
        CorruptBlob: when only a backbone with another digest was found.
        BadWeights: when a file is truncated, or does not fit the backbone or other files.
        BadManifest, MissingBlob: when a document is malformed or missing.
    """
    try:
        backbone = BackboneRef.model_validate(BundleFiles(files).document(bundle.BACKBONE))
    except ValidationError as error:
        raise BadManifest(f"{bundle.BACKBONE} does not follow the format: {first_problem(error)}") from error
    opened = _open(backbone, runtime, device, backbone_folders, fetch)
    return LoadedVersion(UNBOUND, "", read_components(BundleFiles(files), opened), {})


def _open(
    backbone: BackboneRef,
    runtime: str | None,
    device: str,
    folders: Sequence[Path | str],
    fetch: FetchWeights | None,
) -> Runtime:
    check_device(device)
    return open_runtime(backbone, name=runtime or REFERENCE, device=device, folders=folders, fetch=fetch)


@torch.no_grad()
def check_device(device: str) -> None:
    """Check that torch can compute on a device.

    Raises:
        BadInput: when there is no such device, or this build of torch does not support it.
    """
    try:
        torch.empty(1, device=device).item()  # the device `meta` has shapes, but no values
    except (RuntimeError, AssertionError) as error:
        problem = first_line(error, 200)
        raise BadInput(f"device {device[:40]!r} can't be used: {problem}", hint="cpu is always available") from error
