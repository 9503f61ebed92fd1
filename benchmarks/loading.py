"""How long an adapter takes from its file to its slot in the bank: `python -m benchmarks.loading`.

The files are in the page cache. The unit is the time of reading their bytes (`open().read()`), because loading must
read all of them too. Two cases: into a free slot of an existing page, and into a new page. The baseline is PEFT's
`load_adapter` on the same file (not at 57 MB, where its model would be the 1.2 GB of a ViT-L).

`floor` is the unavoidable time: one copy of the file's mapped tensors, and one check that the numbers are finite. The
rest is bookkeeping per tensor.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import torch

from adapters import bundle
from adapters.bank.peft_files import read_adapter
from adapters.bank.slots import Bank, Slot
from benchmarks.baselines.peft import PeftBaseline
from benchmarks.comparison import (
    Budget,
    Result,
    Times,
    option_json,
    option_rounds,
    option_threads,
    run,
    say,
    take_turns,
)
from benchmarks.synthetic import MODULES, SyntheticBackbone, lora_files, made_of, make_backbone, write_lora

LIMIT = 3.0
"""Loading may take this many times as long as reading the file's bytes."""


@dataclass(frozen=True)
class AdapterCase:
    """An adapter to load: backbone, modules and rank; and whether PEFT loads it too."""

    size: str
    modules: str
    rank: int
    has_baseline: bool = True


ADAPTERS = {
    "2.4 MB": AdapterCase("vit-b", "q,v", 16),
    "10.6 MB": AdapterCase("vit-b", "all-linear", 16),
    "57 MB": AdapterCase("vit-l", "all-linear", 32, has_baseline=False),
}
TINY = {"tiny": AdapterCase("tiny", "q,v", 4)}

EXAMPLES = """
\b
Examples:
  python -m benchmarks.loading                       adapters of 2.4, 10.6 and 57 MB
  python -m benchmarks.loading --rounds 50 --json
  python -m benchmarks.loading --size tiny           seconds; a look at whether it runs
"""


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--size", type=click.Choice(["real", "tiny"]), default="real", show_default=True, help="Which adapters.")
@option_rounds(21)
@option_threads
@option_json
def main(*, size: str, rounds: int, threads: int, as_json: bool) -> None:
    """From an adapter's file to its slot in the bank, against reading the file's bytes."""
    run(lambda: loading(size, rounds), threads=threads, as_json=as_json)


def loading(size: str, rounds: int) -> Result:
    """Measure the adapters of `ADAPTERS`, or a tiny one."""
    results = []
    for name, adapter in (TINY if size == "tiny" else ADAPTERS).items():
        say(f"{name}: {adapter.modules}, rank {adapter.rank}, on {adapter.size}")
        with tempfile.TemporaryDirectory() as folder:
            results.append(_measure(name, adapter, Path(folder), rounds))
    return Result(
        benchmark="loading",
        setting={"size": size, "rounds": rounds},
        times={name: times for result in results for name, times in result.times.items()},
        figures={name: value for result in results for name, value in result.figures.items()},
        budgets=[budget for result in results for budget in result.budgets],
    )


def _measure(name: str, adapter: AdapterCase, folder: Path, rounds: int) -> Result:
    backbone = make_backbone(folder, adapter.size) if adapter.has_baseline else made_of(adapter.size)
    place = write_lora(
        folder / "adapter", backbone, MODULES[adapter.modules][backbone.ref.family], adapter.rank, seed=1
    )
    weights = place / bundle.ADAPTER_WEIGHTS
    loader = _AdapterLoader(backbone, place)
    turns: dict[str, Callable[[], object]] = {
        "read": weights.read_bytes,
        "ours, into a free slot": loader.into_free_slot,
        "ours, into a new page": loader.into_new_page,
        "floor": loader.copy,
    }
    if adapter.has_baseline:
        turns["PEFT, load_adapter"] = _baseline_load(backbone, place)
    times = dict(zip(turns, take_turns(turns, rounds, warm_up=2).values(), strict=True))
    read = times["read"]
    return Result(
        benchmark="loading",
        setting={},
        times={f"{name}: {what}": taken for what, taken in times.items()},
        figures=_figures(name, weights.stat().st_size, times),
        budgets=[
            Budget(f"{name}: {what} / read", times[f"ours, {what}"].over(read), "at most", LIMIT)
            for what in ("into a free slot", "into a new page")
        ],
    )


def _figures(name: str, size: int, times: dict[str, Times]) -> dict[str, float]:
    read = times["read"]
    figures = {"bytes": float(size), "floor / read": times["floor"].over(read)}
    if "PEFT, load_adapter" in times:
        figures["PEFT / read"] = times["PEFT, load_adapter"].over(read)
    return {f"{name}: {what}": value for what, value in figures.items()}


class _AdapterLoader:
    """Loads one adapter, as `adapters.answer.components` does, into a bank without other adapters."""

    def __init__(self, backbone: SyntheticBackbone, folder: Path) -> None:
        self._family = backbone.family
        self._linears = backbone.family.linears_of(backbone.skeleton())
        self._files = lora_files(folder)
        self._bank = Bank(self._linears)

    def into_free_slot(self) -> Slot:
        """From the second time on, the slot of the previous load is free."""
        return self._into(self._bank)

    def into_new_page(self) -> Slot:
        """Into newly allocated memory."""
        return self._into(Bank(self._linears))

    def copy(self) -> list[torch.Tensor]:
        """The unavoidable work on the numbers."""
        flat = self._files.weights_file(f"adapter/{bundle.ADAPTER_WEIGHTS}").floats().clone()
        return [flat, flat.sum().isfinite()]

    def _into(self, bank: Bank) -> Slot:
        return bank.add([read_adapter(self._files, "adapter", self._family, bank.linears)])[0]


def _baseline_load(backbone: SyntheticBackbone, folder: Path) -> Callable[[], object]:
    """PEFT loading the adapter beside another one, and deleting it at the start of the next turn."""
    baseline = PeftBaseline(backbone.ref, backbone.folder, {"first": folder})
    baseline.load("more", folder)

    def load() -> None:
        baseline.unload("more")
        baseline.load("more", folder)

    return load


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.loading")
