"""How long does an adapter take from its file to its slot in the bank? `python -m benchmarks.loading`.

The files are in the page cache. Reading their bytes (`open().read()`) is the measure: loading has to look at all of
them as well. Two cases: into a slot that an earlier version left, and into a page that the bank makes for it. The rival
is PEFT's `load_adapter` on the same file (not at 57 MB, where its model would be the 1.2 GB of a ViT-L).

`floor` is what the numbers alone cost: one copy of the file's tensors as they are mapped, and one look for numbers that
are not finite. What is above it is bookkeeping per tensor.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import torch

from adapters import bundle
from adapters.bank.bank import Bank, Slot
from adapters.bank.lora import read_adapter
from benchmarks.made import MODULES, Made, lora_files, made_of, make_backbone, write_lora
from benchmarks.peers.peft import PeftRival
from benchmarks.ratios import (
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

LIMIT = 3.0
"""Loading may take this many times what reading the file's bytes takes."""


@dataclass(frozen=True)
class Adapter:
    """An adapter to be loaded: on which backbone, where, of which rank; and whether PEFT loads it too."""

    size: str
    modules: str
    rank: int
    has_rival: bool = True


ADAPTERS = {
    "2.4 MB": Adapter("vit-b", "q,v", 16),
    "10.6 MB": Adapter("vit-b", "all-linear", 16),
    "57 MB": Adapter("vit-l", "all-linear", 32, has_rival=False),
}
TINY = {"tiny": Adapter("tiny", "q,v", 4)}

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


def _measure(name: str, adapter: Adapter, folder: Path, rounds: int) -> Result:
    made = make_backbone(folder, adapter.size) if adapter.has_rival else made_of(adapter.size)
    place = write_lora(folder / "adapter", made, MODULES[adapter.modules][made.ref.family], adapter.rank, seed=1)
    weights = place / bundle.ADAPTER_WEIGHTS
    loader = _Loader(made, place)
    turns: dict[str, Callable[[], object]] = {
        "read": weights.read_bytes,
        "ours, into a free slot": loader.into_free_slot,
        "ours, into a new page": loader.into_new_page,
        "floor": loader.copy,
    }
    if adapter.has_rival:
        turns["PEFT, load_adapter"] = _rival_load(made, place)
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


class _Loader:
    """Loads one adapter, as `adapters.answer.components` does, into a bank that holds nothing else."""

    def __init__(self, made: Made, folder: Path) -> None:
        self._family = made.family
        self._linears = made.family.linears_of(made.skeleton())
        self._files = lora_files(folder)
        self._bank = Bank(self._linears)

    def into_free_slot(self) -> Slot:
        """From the second time on: the slot of the time before is free again."""
        return self._into(self._bank)

    def into_new_page(self) -> Slot:
        """Into memory that the system has to find first."""
        return self._into(Bank(self._linears))

    def copy(self) -> list[torch.Tensor]:
        """What any loader has to do with the numbers."""
        flat = self._files.weights_file(f"adapter/{bundle.ADAPTER_WEIGHTS}").floats().clone()
        return [flat, flat.sum().isfinite()]

    def _into(self, bank: Bank) -> Slot:
        return bank.add([read_adapter(self._files, "adapter", self._family, bank.linears)])[0]


def _rival_load(made: Made, folder: Path) -> Callable[[], object]:
    """PEFT loading the adapter beside another one, and forgetting it at the start of the next turn."""
    rival = PeftRival(made.ref, made.folder, {"first": folder})
    rival.load("more", folder)

    def load() -> None:
        rival.unload("more")
        rival.load("more", folder)

    return load


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.loading")
