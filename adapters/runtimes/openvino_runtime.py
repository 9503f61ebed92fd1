"""Runtimes on OpenVINO, for processors: `openvino-fp32`, `openvino-bf16` and `openvino-int8`.

Torch computes the tokens and pools them; the blocks between are graphs (`adapters.runtimes.openvino_graph`). The memory
of a slot of the bank is bound to a graph's inputs, so that changing the adapter changes addresses only: nothing is
compiled or copied.

One graph for all blocks is about a tenth faster than a graph per block, but features can be taken only at the end of a
graph. So a runtime starts with one graph; the first pass that stops at a block splits the graph there, and the first
adapter that changes a module adds its inputs. Both happen when a version is loaded and tested, under a lock; running
passes continue with the graphs that they have. Neither changes a result by a bit.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from adapters.backbone.features import pool
from adapters.bank.slots import Slot
from adapters.runtimes.openvino_graph import AdaptedModules, Precision, build_graph, check_supported, openvino_package
from adapters.runtimes.threads import most_threads
from adapters.runtimes.torch_runtime import TorchRuntime
from registry.errors import BadInput
from registry.versions.manifest import BackboneRef

GROUP = 128
"""How many activations share an int8 scale."""

PRECISIONS = {
    "openvino-fp32": Precision("f32"),
    "openvino-bf16": Precision("bf16"),
    "openvino-int8": Precision("f32", GROUP),
}


def openvino_fp32(ref: BackboneRef, model: nn.Module, device: str) -> OpenVinoRuntime:
    """float32 throughout."""
    return OpenVinoRuntime("openvino-fp32", ref, model, device)


def openvino_bf16(ref: BackboneRef, model: nn.Module, device: str) -> OpenVinoRuntime:
    """bfloat16 inside of blocks: fast on processors with AVX512-BF16 or AMX, refused on others."""
    return OpenVinoRuntime("openvino-bf16", ref, model, device)


def openvino_int8(ref: BackboneRef, model: nn.Module, device: str) -> OpenVinoRuntime:
    """Linear modules multiply int8, adapters float32: fast on processors with AVX512-VNNI or AMX."""
    return OpenVinoRuntime("openvino-int8", ref, model, device)


class OpenVinoRuntime(TorchRuntime):
    """A backbone whose blocks OpenVINO computes. The float32 weights stay in memory: graphs are built from them again
    when a
    version needs other splits or inputs, and a DoRA's gain is computed from them.
    """

    def __init__(self, name: str, ref: BackboneRef, model: nn.Module, device: str) -> None:
        """
        Raises:
            BadInput: when `device` is not a processor or can't compute in this precision, or OpenVINO runtimes do not
                support a part of the backbone.
            MissingDependency: when OpenVINO is not installed.
        """
        _check_device(name, device)
        super().__init__(name, ref, model, device)
        check_supported(self.blocks)
        self.graphs = Graphs(self, PRECISIONS[name])

    @torch.no_grad()
    def start(self, pixels: torch.Tensor, slots: Sequence[Slot | None]) -> OpenVinoForwardPass:  # type: ignore[override]
        """Start a forward pass; see `adapters.runtimes.interface.Runtime.start`."""
        return OpenVinoForwardPass(self, pixels, slots)


class OpenVinoForwardPass:
    """See `adapters.runtimes.interface.ForwardPass`."""

    def __init__(self, runtime: OpenVinoRuntime, pixels: torch.Tensor, slots: Sequence[Slot | None]) -> None:
        self._runtime = runtime
        self._slots = list(slots)
        self._prefix = runtime.family.prefix_tokens(runtime.ref.config)
        tokens, beside = runtime.embed(pixels)
        self._tokens = tokens.contiguous().numpy()
        self._rotary = [
            _with_prefix(table, self._prefix, fill)
            for table, fill in zip(beside.get("position_embeddings", ()), (1.0, 0.0), strict=False)
        ]
        self._block = 0

    @property
    def block(self) -> int:
        """How many blocks the batch has passed."""
        return self._block

    def advance(self, block: int) -> None:
        """Compute up to and including block number `block`."""
        for graph in self._runtime.graphs.between(
            self._block, block, AdaptedModules.of(self._slots), self._tokens.shape[1]
        ):
            self._tokens = graph(self._tokens, self._slots, self._rotary)
        self._block = max(self._block, block)

    @torch.no_grad()
    def pooled(self, pooling: str, norm: bool) -> torch.Tensor:
        """Features of the remaining rows after the current block."""
        tokens = torch.from_numpy(self._tokens)
        return pool(self._runtime.norm(tokens) if norm else tokens, pooling, self._prefix)

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows but these."""
        self._slots = [self._slots[row] for row in rows.tolist()]
        self._tokens = self._tokens[rows.numpy()]


@dataclass(frozen=True)
class _GraphSet:
    """All blocks as graphs, in order; where they are split, and the modules that adapters may change."""

    cuts: tuple[int, ...]
    adapted: AdaptedModules
    graphs: tuple[Graph, ...]

    def covers(self, cuts: set[int], adapted: AdaptedModules) -> bool:
        """Whether passes that stop at these blocks, with these adapters, can use it."""
        return cuts <= set(self.cuts) and self.adapted | adapted == self.adapted


class Graphs:
    """The blocks of a backbone as graphs, each block in exactly one. They are split and extended as described above.

    Each number of tokens has its own graphs: a fixed shape is faster, and versions on one backbone seldom take images
    of different sizes.
    """

    def __init__(self, runtime: TorchRuntime, precision: Precision) -> None:
        self._layers = list(runtime.blocks)
        self._names: dict[nn.Module, str] = {module: name for name, module in runtime.bank.linears.items()}
        self._rotary = runtime.family.rotary
        self._precision = precision
        self._extending = threading.Lock()
        self._graph_sets: dict[int, _GraphSet] = {}

    def between(self, first: int, last: int, adapted: AdaptedModules, tokens: int) -> tuple[Graph, ...]:
        """The graphs from block `first` to block `last`; none if `last` is not after `first`.

        Args:
            adapted: the modules that the adapters of the batch change.
            tokens: how many tokens an image has.
        """
        if last <= first:
            return ()
        graphs_now = self._graph_sets.get(tokens)
        if graphs_now is None or not graphs_now.covers({first, last}, adapted):
            with self._extending:
                graphs_now = self._graph_sets[tokens] = self._extended(tokens, {first, last}, adapted)
        return graphs_now.graphs[graphs_now.cuts.index(first) : graphs_now.cuts.index(last)]

    def _extended(self, tokens: int, cuts: set[int], adapted: AdaptedModules) -> _GraphSet:
        """A set with more splits or inputs; graphs that do not change are reused."""
        graphs_now = self._graph_sets.get(tokens, _GraphSet((0, len(self._layers)), AdaptedModules(), ()))
        if graphs_now.graphs and graphs_now.covers(cuts, adapted):  # another thread was first
            return graphs_now
        wanted, splits = graphs_now.adapted | adapted, tuple(sorted(cuts.union(graphs_now.cuts)))
        kept = {graph.key: graph for graph in graphs_now.graphs}
        graphs = []
        for first, last in pairwise(splits):
            inside = self._modules(first, last)
            key = (first, last, wanted.within(list(inside.values())))
            graphs.append(kept.get(key) or self._new_graph(key, inside, tokens))
        return _GraphSet(splits, wanted, tuple(graphs))

    def _new_graph(self, key: tuple[int, int, AdaptedModules], modules: Mapping[nn.Module, str], tokens: int) -> Graph:
        first, last, adapted = key
        model = build_graph(
            self._layers[first:last], modules, adapted, self._precision, rotary=self._rotary, tokens=tokens
        )
        linears = {name: module for module, name in modules.items() if name in adapted.low_rank}
        return Graph(key, _compiled(model, self._precision), linears)  # type: ignore[arg-type]

    def _modules(self, first: int, last: int) -> dict[nn.Module, str]:
        inside = [module for layer in self._layers[first:last] for module in layer.modules()]
        return {module: self._names[module] for module in inside if module in self._names}


class Graph:
    """Consecutive blocks, compiled. Threads share it."""

    def __init__(self, key: tuple[int, int, AdaptedModules], compiled: Any, adapted: Mapping[str, nn.Linear]) -> None:
        """
        Args:
            key: first block, last block (exclusive), and the modules that adapters may change.
            adapted: these modules by name.
        """
        self.key = key
        self._compiled = compiled
        self._adapted_modules = key[2]
        self._identity = {name: _identity_tensors(module) for name, module in adapted.items()}
        self._idle: deque[_Request] = deque()  # append and pop are atomic: no lock is needed

    def __call__(self, tokens: np.ndarray, slots: Sequence[Slot | None], rotary: Sequence[np.ndarray]) -> np.ndarray:
        """Compute the blocks for a batch: [N, T, D] float32, a new array.

        Args:
            tokens: [N, T, D] float32.
            slots: the adapter of each row, None for none.
            rotary: cosines and sines [T, head size], if the blocks take them.
        """
        request = self._request()
        results = np.empty_like(tokens)
        beside = [_tensor(table) for table in rotary]
        for row, slot in enumerate(slots):
            if not request.holds(slot):
                request.hold(slot, self._adapter(slot), 1 + len(beside))
            request.run([_tensor(tokens[row : row + 1]), *beside], _tensor(results[row : row + 1]))
        self._idle.append(request)
        return results

    def _request(self) -> _Request:
        try:
            return self._idle.pop()
        except IndexError:
            return _Request(self._compiled.create_infer_request())

    def _adapter(self, slot: Slot | None) -> list[Any]:
        """An adapter's tensors in the memory of the bank, in the order of the graph's inputs."""
        return [_tensor(array) for name in sorted(self._identity) for array in self._module_tensors(name, slot)]

    def _module_tensors(self, name: str, slot: Slot | None) -> list[np.ndarray]:
        tensors = list(self._identity[name])
        stack = slot.page.stacks.get(name) if slot else None
        if stack is not None and slot is not None:
            scale = stack.scale[slot.index : slot.index + 1]
            tensors[:3] = [tensor.numpy() for tensor in (stack.a[slot.index], stack.b[slot.index], scale)]
            if stack.dora is not None:
                tensors[3] = stack.dora.gain[slot.index].numpy()
        return tensors if name in self._adapted_modules.gain else tensors[:3]


class _Request:
    """An inference request with its own buffers, and the adapter that is bound to it."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._holds_any = False
        self._slot: weakref.ref[Slot] | None = None

    def holds(self, slot: Slot | None) -> bool:
        """Whether this adapter is bound. Slots are compared, not positions in the bank, which may be reused."""
        if self._slot is None:
            return self._holds_any and slot is None
        return slot is not None and self._slot() is slot

    def hold(self, slot: Slot | None, tensors: Sequence[Any], first: int) -> None:
        """Bind an adapter's tensors to the inputs from number `first` on."""
        for number, tensor in enumerate(tensors, first):
            self._request.set_input_tensor(number, tensor)
        self._slot = None if slot is None else weakref.ref(slot)
        self._holds_any = True

    def run(self, inputs: Sequence[Any], output: Any) -> None:
        """Compute with these first inputs into the memory of `output`."""
        for number, tensor in enumerate(inputs):
            self._request.set_input_tensor(number, tensor)
        self._request.set_output_tensor(output)
        self._request.infer()


def _compiled(model: Any, precision: Precision) -> Any:
    """Compile a graph for as many threads as torch may use, and for no more than there are cores."""
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": most_threads(),
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": precision.hint,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": precision.group,
    }
    return openvino_package().Core().compile_model(model, "CPU", settings)


def _identity_tensors(module: nn.Linear) -> list[np.ndarray]:
    """A, B, scale and gain that leave a module's outputs as they are."""
    return [
        np.zeros((1, module.in_features), np.float32),
        np.zeros((module.out_features, 1), np.float32),
        np.zeros(1, np.float32),
        np.ones(module.out_features, np.float32),
    ]


def _with_prefix(table: torch.Tensor, prefix: int, fill: float) -> np.ndarray:
    """Cosines or sines [T, size] of all tokens from those of the patches: CLS and registers are not rotated."""
    return torch.cat([torch.full((prefix, table.shape[1]), fill), table]).numpy()


def _tensor(array: np.ndarray) -> Any:
    return openvino_package().Tensor(array, shared_memory=True)


def _check_device(name: str, device: str) -> None:
    if device != "cpu":
        raise BadInput(f"{name} runs on processors, not on {device[:40]!r}", hint="use device cpu, or a torch runtime")
    can = openvino_package().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if PRECISIONS[name].hint == "bf16" and "BF16" not in can:
        raise BadInput(f"{name}: this processor does not multiply bfloat16", hint="use openvino-int8 or openvino-fp32")
