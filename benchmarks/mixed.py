"""The cost of different adapters for the rows of a batch: `python -m benchmarks.mixed`.

The same 8 images go through the backbone, first with an adapter for each row, then with one for all. The baseline is
PEFT: its mixed batches (`adapter_names=`), and its forward pass with one active adapter. The same run checks that all
compute the same, by the largest difference between our mixed batch and PEFT's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import torch

from adapters.bank.peft_files import read_adapter
from adapters.bank.slots import Slot
from adapters.runtimes.interface import Runtime
from adapters.runtimes.open_runtime import open_runtime
from benchmarks.baselines.peft import PeftBaseline
from benchmarks.comparison import (
    Budget,
    Result,
    Times,
    Turn,
    option_json,
    option_rounds,
    option_size,
    option_threads,
    run,
    say,
    take_turns,
)
from benchmarks.synthetic import MODULES, SyntheticBackbone, lora_files, make_backbone, write_lora

ROWS = 8
RANK = 16
LIMIT = 1.1
"""A mixed batch may take this many times as long as the same batch with one adapter."""

EXAMPLES = """
\b
Examples:
  python -m benchmarks.mixed                          ViT-B/14, 224 pixels: minutes
  python -m benchmarks.mixed --threads 1 --json
  python -m benchmarks.mixed --size tiny --rounds 20  seconds; a look at whether it runs
"""


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@option_size(["vit-b", "tiny"], "vit-b")
@option_rounds(7)
@option_threads
@option_json
def main(*, size: str, rounds: int, threads: int, as_json: bool) -> None:
    """A batch of 8 rows from 8 adapters, against the same batch from 1."""
    run(lambda: mixed(size, rounds), threads=threads, as_json=as_json)


def mixed(size: str, rounds: int) -> Result:
    """Measure LoRAs on queries and values, and LoRAs on all linear modules."""
    with tempfile.TemporaryDirectory() as folder:
        backbone = make_backbone(Path(folder), size)
        results = [_measure(backbone, Path(folder), modules, rounds) for modules in MODULES]
    return Result(
        benchmark="mixed",
        setting={"size": size, "rows": ROWS, "rank": RANK, "pixels": backbone.side, "rounds": rounds},
        times={name: times for result in results for name, times in result.times.items()},
        figures={name: value for result in results for name, value in result.figures.items()},
        budgets=[budget for result in results for budget in result.budgets],
    )


def _measure(backbone: SyntheticBackbone, folder: Path, modules: str, rounds: int) -> Result:
    say(f"adapters on {modules}: making, loading, measuring")
    names = [f"a{number}" for number in range(ROWS)]
    chosen = MODULES[modules][backbone.ref.family]
    folders = {
        name: write_lora(folder / modules / name, backbone, chosen, RANK, seed) for seed, name in enumerate(names)
    }
    runtime = open_runtime(backbone.ref, folders=[backbone.folder])
    family, linears = backbone.family, runtime.bank.linears
    slots = runtime.bank.add([read_adapter(lora_files(one), "adapter", family, linears) for one in folders.values()])
    baseline = PeftBaseline(backbone.ref, backbone.folder, folders)
    baseline.activate(names[0])
    pixels = backbone.pixels(ROWS)
    turns: dict[str, Turn] = {
        f"{modules}: ours, {ROWS} adapters": lambda: cls_tokens(runtime, pixels, slots),
        f"{modules}: ours, 1 adapter": lambda: cls_tokens(runtime, pixels, slots[:1] * ROWS),
        f"{modules}: ours, no adapter": lambda: cls_tokens(runtime, pixels, [None] * ROWS),
        f"{modules}: PEFT, {ROWS} adapters": lambda: baseline.mixed(pixels, names),
        f"{modules}: PEFT, 1 adapter": lambda: baseline.single(pixels),
    }
    times = take_turns(turns, rounds)
    ours, base = cls_tokens(runtime, pixels, slots), cls_tokens(runtime, pixels, [None] * ROWS)
    differences = {
        f"{modules}: adapters change features by": float((ours - base).abs().max()),
        f"{modules}: ours differs from PEFT by": float((ours - baseline.mixed(pixels, names)).abs().max()),
    }
    return _result(modules, times, differences)


def _result(modules: str, times: Mapping[str, Times], differences: Mapping[str, float]) -> Result:
    ours_mixed, ours_one, ours_none, peft_mixed, peft_one = times.values()
    return Result(
        benchmark="mixed",
        setting={},
        times=times,
        figures={
            f"{modules}: PEFT mixed / PEFT single": peft_mixed.over(peft_one),
            f"{modules}: ours mixed / PEFT mixed": ours_mixed.over(peft_mixed),
            f"{modules}: ours single / PEFT single": ours_one.over(peft_one),
            f"{modules}: ours single / no adapter": ours_one.over(ours_none),
            **differences,
        },
        budgets=[Budget(f"{modules}: mixed batch / single batch", ours_mixed.over(ours_one), "at most", LIMIT)],
    )


def cls_tokens(runtime: Runtime, pixels: torch.Tensor, slots: Sequence[Slot | None]) -> torch.Tensor:
    """The normalised CLS tokens [N, D] after the last block."""
    forward_pass = runtime.start(pixels, slots)
    forward_pass.advance(int(runtime.ref.config["num_hidden_layers"]))
    return forward_pass.pooled("cls", norm=True)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.mixed")
