"""What computes a backbone with adapters on it: torch in float32 is the reference, others stand beside it.

A process holds one runtime per (backbone digest, device, name), with one copy of the weights and one bank, whatever
versions and threads use it. A batch goes through as a `Pass`, block by block, so that features can be taken anywhere
and rows can leave early.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeAlias
from weakref import WeakValueDictionary

import torch
from torch import nn

from adapters.answer.features import pool
from adapters.backbone import backbones
from adapters.backbone.families import Family, family_named
from adapters.bank.bank import Bank, Selection, Slot
from registry.errors import BadInput
from registry.versions.manifest import BackboneRef

REFERENCE = "torch-fp32"

FetchBlob: TypeAlias = Callable[[str], Path | None]
"""Gives the verified file of a sha256 from the store, or None when the store has no such blob."""

_selected: ContextVar[Selection | None] = ContextVar("selected", default=None)


class Pass(Protocol):
    """A batch on its way through a backbone."""

    @property
    def block(self) -> int:
        """How many blocks it went through."""

    def advance(self, block: int) -> None:
        """Go on until `block` blocks are behind it."""

    def pooled(self, pooling: str, norm: bool) -> torch.Tensor:
        """Features of the rows that are left, where it stands now: [n, width] float32; see `features.Tap`."""

    def keep(self, rows: torch.Tensor) -> None:
        """Let only these go on: [k] positions among the rows that are left, in order."""


class Runtime(Protocol):
    """A backbone in memory with the bank of adapters on it. Threads share it."""

    @property
    def name(self) -> str:
        """E.g. `torch-fp32`."""

    @property
    def device(self) -> str:
        """Where it runs, e.g. `cpu`."""

    @property
    def ref(self) -> BackboneRef:
        """Which backbone it is."""

    @property
    def bank(self) -> Bank:
        """The adapters on it."""

    def start(self, pixels: torch.Tensor, slots: Sequence[Slot | None]) -> Pass:
        """Begin a pass.

        Args:
            pixels: [N, 3, H, W] float32, normalised.
            slots: the adapter of each row, None for the backbone alone.
        """


class TorchRuntime:
    """A backbone computed by torch, in the type of its weights."""

    def __init__(self, name: str, ref: BackboneRef, model: nn.Module, device: str) -> None:
        self.name = name
        self.ref = ref
        self.device = device
        self.family: Family = family_named(ref.family)
        self.model = model
        self.blocks: Sequence[nn.Module] = model.get_submodule(self.family.blocks)  # type: ignore[assignment]
        self.norm = model.get_submodule(self.family.norm)
        self.bank = Bank(self.family.linears_of(model))  # type: ignore[arg-type]
        for module_name, linear in self.bank.linears.items():
            linear.register_forward_hook(_changing(module_name))

    @torch.no_grad()
    def start(self, pixels: torch.Tensor, slots: Sequence[Slot | None]) -> TorchPass:
        """Begin a pass; see `Runtime.start`."""
        return TorchPass(self, pixels.to(next(self.model.parameters()).dtype), slots)

    def embed(self, pixels: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        """The tokens [N, T, D] that enter the first block, and what every block takes beside them."""
        tokens = self.model.get_submodule("embeddings")(pixels)
        if self.family.rotary is None:
            return tokens, {}
        return tokens, {"position_embeddings": self.model.get_submodule(self.family.rotary)(pixels)}


class TorchPass:
    """See `Pass`."""

    def __init__(self, runtime: TorchRuntime, pixels: torch.Tensor, slots: Sequence[Slot | None]) -> None:
        self._runtime = runtime
        self._slots = list(slots)
        self._selection = Selection(self._slots, runtime.device)
        self._tokens, self._beside = runtime.embed(pixels)
        self._prefix = runtime.family.prefix_tokens(runtime.ref.config)
        self._block = 0

    @property
    def block(self) -> int:
        """How many blocks it went through."""
        return self._block

    @torch.no_grad()
    def advance(self, block: int) -> None:
        """Go on until `block` blocks are behind it."""
        with _selecting(self._selection):
            for layer in self._runtime.blocks[self._block : block]:  # type: ignore[attr-defined]
                self._tokens = layer(self._tokens, **self._beside)
        self._block = max(self._block, block)

    @torch.no_grad()
    def pooled(self, pooling: str, norm: bool) -> torch.Tensor:
        """Features of the rows that are left, where it stands now."""
        tokens = self._runtime.norm(self._tokens) if norm else self._tokens
        return pool(tokens.float(), pooling, self._prefix)

    @torch.no_grad()
    def keep(self, rows: torch.Tensor) -> None:
        """Let only these rows go on."""
        self._slots = [self._slots[row] for row in rows.tolist()]
        self._selection = Selection(self._slots, self._runtime.device)
        self._tokens = self._tokens[rows]


@contextmanager
def _selecting(selection: Selection) -> Iterator[None]:
    """In this thread, linear modules go through the adapters that are selected."""
    token = _selected.set(selection)
    try:
        yield
    finally:
        _selected.reset(token)


def _changing(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor | None]:
    """A forward hook that applies the adapters to one linear module."""

    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
        selection = _selected.get()
        return None if selection is None else selection.change(name, module, inputs[0], output)  # type: ignore[arg-type]

    return hook


def _torch_fp32(ref: BackboneRef, model: nn.Module, device: str) -> Runtime:
    return TorchRuntime(REFERENCE, ref, model, device)


Factory: TypeAlias = Callable[[BackboneRef, nn.Module, str], Runtime]
"""Makes a runtime from a backbone in float32; the tensors may be shared with others and are not written."""

RUNTIMES: Mapping[str, str] = {
    REFERENCE: "adapters.runtimes.runtimes:_torch_fp32",
    "torch-bf16": "adapters.runtimes.reduced:torch_bf16",
    "torch-int8": "adapters.runtimes.reduced:torch_int8",
    "openvino-fp32": "adapters.runtimes.openvino_runtime:openvino_fp32",
    "openvino-bf16": "adapters.runtimes.openvino_runtime:openvino_bf16",
    "openvino-int8": "adapters.runtimes.openvino_runtime:openvino_int8",
}
"""Name -> where its factory is; imported when it is asked for."""

_opening: defaultdict[tuple[str, str, str], threading.Lock] = defaultdict(threading.Lock)
_open: WeakValueDictionary[tuple[str, str, str], Runtime] = WeakValueDictionary()


def open_runtime(
    ref: BackboneRef,
    *,
    name: str = REFERENCE,
    device: str = "cpu",
    folders: Sequence[Path | str] = (),
    fetch: FetchBlob | None = None,
) -> Runtime:
    """The runtime of a backbone, opened now or shared with whoever opened it before.

    Raises:
        BadInput: there is no runtime of this name.
        BackboneNotFound, CorruptBlob, BadWeights: as `adapters.backbone.backbones.new_model`.
        MissingDependency: the runtime needs a package that is not installed.
    """
    if name not in RUNTIMES:
        raise BadInput(f"{name[:80]!r} is no runtime", hint=f"there are {', '.join(RUNTIMES)}")
    key = (ref.sha256, device, name)
    with _opening[key]:  # held while opening, so that two threads do not read the same gigabyte twice
        runtime = _open.get(key)
        if runtime is None:
            module, _, factory = RUNTIMES[name].partition(":")
            make: Factory = getattr(import_module(module), factory)
            with torch.inference_mode(False):  # whoever shares it need not be in the caller's mode
                model = backbones.new_model(ref, folders=folders, device=device, fetch=fetch)
                runtime = _open[key] = make(ref, model, device)
        return runtime
