"""Runtimes on OpenVINO, for processors: `openvino-fp32`, `openvino-bf16` and `openvino-int8`.

Torch makes the tokens and pools them; the blocks between are graphs (`adapters.runtimes.openvino_graph`). A slot of the
bank is bound to a graph's inputs where it lies, so that another adapter is other addresses: nothing is compiled or
copied.

Graphs are cut only where somebody looks: one graph is faster than a graph per block by about a tenth, and cuts are
needed where versions take features. So a runtime begins with one graph for all blocks; the first pass that stops at a
block cuts there, and the first adapter that changes a module adds its inputs. Both happen when a version is loaded and
tested, under a lock; passes on their way go on with the graphs that they have. Neither changes a result by a bit.
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

from adapters.answer.features import pool
from adapters.bank.bank import Slot
from adapters.runtimes.openvino_graph import Form, Precision, check, draw, openvino_package
from adapters.runtimes.runtimes import TorchRuntime
from registry.errors import BadInput
from registry.versions.manifest import BackboneRef

GROUP = 128
"""Of activations that share an int8 scale."""

PRECISIONS = {
    "openvino-fp32": Precision("f32"),
    "openvino-bf16": Precision("bf16"),
    "openvino-int8": Precision("f32", GROUP),
}


def openvino_fp32(ref: BackboneRef, model: nn.Module, device: str) -> OpenVinoRuntime:
    """float32 all through."""
    return OpenVinoRuntime("openvino-fp32", ref, model, device)


def openvino_bf16(ref: BackboneRef, model: nn.Module, device: str) -> OpenVinoRuntime:
    """bfloat16 inside of blocks; fast on processors that multiply it (AVX512-BF16, AMX), refused on others."""
    return OpenVinoRuntime("openvino-bf16", ref, model, device)


def openvino_int8(ref: BackboneRef, model: nn.Module, device: str) -> OpenVinoRuntime:
    """Linear modules multiply int8, the adapters on them float32; fast on processors with AVX512-VNNI or AMX."""
    return OpenVinoRuntime("openvino-int8", ref, model, device)


class OpenVinoRuntime(TorchRuntime):
    """A backbone whose blocks OpenVINO computes. The float32 weights stay in memory: graphs are made from them anew
    when a version needs other cuts or inputs, and a DoRA's gain is computed from them.
    """

    def __init__(self, name: str, ref: BackboneRef, model: nn.Module, device: str) -> None:
        """
        Raises:
            BadInput: `device` is no processor, it can't compute in this precision, or the backbone has a part that
                OpenVINO runtimes do not know.
            MissingDependency: OpenVINO is not installed.
        """
        _check_device(name, device)
        super().__init__(name, ref, model, device)
        check(self.blocks)
        self.graphs = Graphs(self, PRECISIONS[name])

    @torch.no_grad()
    def start(self, pixels: torch.Tensor, slots: Sequence[Slot | None]) -> OpenVinoPass:  # type: ignore[override]
        """Begin a pass; see `adapters.runtimes.runtimes.Runtime.start`."""
        return OpenVinoPass(self, pixels, slots)


class OpenVinoPass:
    """See `adapters.runtimes.runtimes.Pass`."""

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
        """How many blocks it went through."""
        return self._block

    def advance(self, block: int) -> None:
        """Go on until `block` blocks are behind it."""
        for graph in self._runtime.graphs.between(self._block, block, Form.of(self._slots), self._tokens.shape[1]):
            self._tokens = graph(self._tokens, self._slots, self._rotary)
        self._block = max(self._block, block)

    @torch.no_grad()
    def pooled(self, pooling: str, norm: bool) -> torch.Tensor:
        """Features of the rows that are left, where it stands now."""
        tokens = torch.from_numpy(self._tokens)
        return pool(self._runtime.norm(tokens) if norm else tokens, pooling, self._prefix)

    def keep(self, rows: torch.Tensor) -> None:
        """Let only these rows go on."""
        self._slots = [self._slots[row] for row in rows.tolist()]
        self._tokens = self._tokens[rows.numpy()]


@dataclass(frozen=True)
class _Plan:
    """All blocks as graphs: where they are cut, which modules adapters may change, and the graphs, in order."""

    cuts: tuple[int, ...]
    form: Form
    graphs: tuple[Graph, ...]

    def covers(self, cuts: set[int], form: Form) -> bool:
        """Whether these stops and adapters can do with it."""
        return cuts <= set(self.cuts) and self.form | form == self.form


class Graphs:
    """The blocks of a backbone as graphs, each block in exactly one; they change as described above.

    Each number of tokens has graphs of its own: a fixed shape is faster, and versions on one backbone seldom take
    images of different sizes.
    """

    def __init__(self, runtime: TorchRuntime, precision: Precision) -> None:
        self._layers = list(runtime.blocks)
        self._names: dict[nn.Module, str] = {module: name for name, module in runtime.bank.linears.items()}
        self._rotary = runtime.family.rotary
        self._precision = precision
        self._growing = threading.Lock()
        self._plans: dict[int, _Plan] = {}

    def between(self, first: int, last: int, form: Form, tokens: int) -> tuple[Graph, ...]:
        """The graphs that lead from block `first` to block `last`, none if it is not behind `first`.

        Args:
            form: what the adapters on the way need.
            tokens: of an image.
        """
        if last <= first:
            return ()
        plan = self._plans.get(tokens)
        if plan is None or not plan.covers({first, last}, form):
            with self._growing:
                plan = self._plans[tokens] = self._grown(tokens, {first, last}, form)
        return plan.graphs[plan.cuts.index(first) : plan.cuts.index(last)]

    def _grown(self, tokens: int, cuts: set[int], form: Form) -> _Plan:
        """A plan with more cuts or inputs; graphs that stay the same are kept."""
        plan = self._plans.get(tokens, _Plan((0, len(self._layers)), Form(), ()))
        if plan.graphs and plan.covers(cuts, form):  # another thread was first
            return plan
        wanted, places = plan.form | form, tuple(sorted(cuts.union(plan.cuts)))
        kept = {graph.key: graph for graph in plan.graphs}
        graphs = []
        for first, last in pairwise(places):
            inside = self._modules(first, last)
            key = (first, last, wanted.within(list(inside.values())))
            graphs.append(kept.get(key) or self._new_graph(key, inside, tokens))
        return _Plan(places, wanted, tuple(graphs))

    def _new_graph(self, key: tuple[int, int, Form], modules: Mapping[nn.Module, str], tokens: int) -> Graph:
        first, last, form = key
        model = draw(self._layers[first:last], modules, form, self._precision, rotary=self._rotary, tokens=tokens)
        adapted = {name: module for module, name in modules.items() if name in form.low_rank}
        return Graph(key, _compiled(model, self._precision), adapted)  # type: ignore[arg-type]

    def _modules(self, first: int, last: int) -> dict[nn.Module, str]:
        inside = [module for layer in self._layers[first:last] for module in layer.modules()]
        return {module: self._names[module] for module in inside if module in self._names}


class Graph:
    """Consecutive blocks, compiled. Threads share it."""

    def __init__(self, key: tuple[int, int, Form], compiled: Any, adapted: Mapping[str, nn.Linear]) -> None:
        """
        Args:
            key: first block, last block (not in it), and what adapters may change.
            adapted: the linear modules of the form.
        """
        self.key = key
        self._compiled = compiled
        self._form = key[2]
        self._unchanged = {name: _unchanging(module) for name, module in adapted.items()}
        self._idle: deque[_Request] = deque()  # append and pop are atomic: threads need no lock

    def __call__(self, tokens: np.ndarray, slots: Sequence[Slot | None], rotary: Sequence[np.ndarray]) -> np.ndarray:
        """What the blocks make of a batch: [N, T, D] float32, a new array.

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
        """An adapter's tensors where they lie in the bank, in the order of the graph's inputs."""
        return [_tensor(array) for name in sorted(self._unchanged) for array in self._parts(name, slot)]

    def _parts(self, name: str, slot: Slot | None) -> list[np.ndarray]:
        parts = list(self._unchanged[name])
        stack = slot.page.stacks.get(name) if slot else None
        if stack is not None and slot is not None:
            scale = stack.scale[slot.index : slot.index + 1]
            parts[:3] = [tensor.numpy() for tensor in (stack.a[slot.index], stack.b[slot.index], scale)]
            if stack.dora is not None:
                parts[3] = stack.dora.gain[slot.index].numpy()
        return parts if name in self._form.gain else parts[:3]


class _Request:
    """One computation of a graph at a time, with memory of its own, and the adapter that is bound to it."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._holds_any = False
        self._slot: weakref.ref[Slot] | None = None

    def holds(self, slot: Slot | None) -> bool:
        """Whether this adapter is bound. Compared is the slot, not its place in the bank, which may be filled again."""
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
        """Compute from these first inputs into the memory of `output`."""
        for number, tensor in enumerate(inputs):
            self._request.set_input_tensor(number, tensor)
        self._request.set_output_tensor(output)
        self._request.infer()


def _compiled(model: Any, precision: Precision) -> Any:
    """The graph, ready to run on as many threads as torch uses now."""
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": precision.hint,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": precision.group,
    }
    return openvino_package().Core().compile_model(model, "CPU", settings)


def _unchanging(module: nn.Linear) -> list[np.ndarray]:
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
