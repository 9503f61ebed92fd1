"""The table of runtimes by name, and opening one.

A process has one runtime per backbone digest, device and name, with one copy of the weights and one bank, shared by all
versions and threads.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TypeAlias
from weakref import WeakValueDictionary

import torch
from torch import nn

from adapters.backbone.build import new_model
from adapters.backbone.locate import FetchWeights
from adapters.runtimes.interface import REFERENCE, Runtime
from registry.errors import BadInput
from registry.versions.manifest import BackboneRef

Factory: TypeAlias = Callable[[BackboneRef, nn.Module, str], Runtime]
"""Makes a runtime from a backbone in float32. The tensors may be shared with others and must not be written."""

RUNTIMES: Mapping[str, str] = {
    REFERENCE: "adapters.runtimes.torch_runtime:torch_fp32",
    "torch-bf16": "adapters.runtimes.torch_low_precision:torch_bf16",
    "torch-int8": "adapters.runtimes.torch_low_precision:torch_int8",
    "openvino-fp32": "adapters.runtimes.openvino_runtime:openvino_fp32",
    "openvino-bf16": "adapters.runtimes.openvino_runtime:openvino_bf16",
    "openvino-int8": "adapters.runtimes.openvino_runtime:openvino_int8",
}
"""Name -> its factory, imported on first use."""

_opening: defaultdict[tuple[str, str, str], threading.Lock] = defaultdict(threading.Lock)

_open: WeakValueDictionary[tuple[str, str, str], Runtime] = WeakValueDictionary()


def open_runtime(
    ref: BackboneRef,
    *,
    name: str = REFERENCE,
    device: str = "cpu",
    folders: Sequence[Path | str] = (),
    fetch: FetchWeights | None = None,
) -> Runtime:
    """Open the runtime of a backbone, or return the one that is open already.

    Raises:
        BadInput: when there is no runtime of this name.
        BackboneNotFound: when the backbone is in no known place.
        CorruptBlob: when only weights with another digest were found.
        BadWeights: when the weights do not fit the configuration.
        MissingDependency: when the runtime needs a package that is not installed.
    """
    if name not in RUNTIMES:
        raise BadInput(f"{name[:80]!r} is not a runtime", hint=f"the runtimes are {', '.join(RUNTIMES)}")
    key = (ref.sha256, device, name)
    with _opening[key]:  # held while opening, so that two threads do not read the same file twice
        runtime = _open.get(key)
        if runtime is None:
            module, _, factory = RUNTIMES[name].partition(":")
            make: Factory = getattr(import_module(module), factory)
            with torch.inference_mode(False):  # other users of the runtime may not be in inference mode
                model = new_model(ref, folders=folders, device=device, fetch=fetch)
                runtime = _open[key] = make(ref, model, device)
        return runtime
