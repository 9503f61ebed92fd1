"""The memory of N resident versions: `python -m benchmarks.residents`.

1, 2, 4 and 8 versions of three targets on one ViT-B backbone, each number in a separate process
(`benchmarks.footprint`), which measures the backbone alone, used once, and then with the versions. The budget: backbone
+ N x the adapters' bytes x 1.2. `bank` is what the bank reports, `held` what the versions report.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.comparison import Budget, Result, option_json, option_size, option_threads, run, say
from benchmarks.footprint import Footprint, in_fresh_process
from benchmarks.synthetic import MODULES, make_backbone, write_bundle

TARGETS = ("apple", "grape", "tomato")
RANK = 16
COUNTS = (1, 2, 4, 8)
LIMIT = 1.2
"""A version may take this many times the bytes of its adapters' files."""

_MB = 1e6

EXAMPLES = """
\b
Examples:
  python -m benchmarks.residents                     ViT-B/14, LoRAs on all linear modules: about a minute
  python -m benchmarks.residents --modules q,v --json
  python -m benchmarks.residents --size tiny         a look at whether it runs
"""


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@option_size(["vit-b", "tiny"], "vit-b")
@click.option(
    "--modules",
    type=click.Choice(list(MODULES)),
    default="all-linear",
    show_default=True,
    help="What the LoRAs are on.",
)
@option_threads
@option_json
def main(*, size: str, modules: str, threads: int, as_json: bool) -> None:
    """Memory of 1, 2, 4 and 8 versions in one process, against the bytes of their adapters."""
    run(lambda: residents(size, modules, threads), threads=threads, as_json=as_json)


def residents(size: str, modules: str, threads: int, counts: Sequence[int] = COUNTS) -> Result:
    """Measure these numbers of versions in a process each."""
    with tempfile.TemporaryDirectory() as folder:
        backbone = make_backbone(Path(folder), size)
        say(f"making {max(counts)} versions of {len(TARGETS)} targets")
        bundles = [Path(folder) / f"v{number}" for number in range(max(counts))]
        for seed, bundle in enumerate(bundles):
            write_bundle(
                bundle, backbone, targets=TARGETS, modules=MODULES[modules][backbone.ref.family], rank=RANK, seed=seed
            )
        bytes_each = adapter_bytes(bundles[0])
        seen = {}
        for count in counts:
            say(f"a process with {count} versions")
            seen[count] = in_fresh_process(backbone.folder, bundles[:count], threads=threads)
    setting = {"size": size, "modules": modules, "rank": RANK, "targets": len(TARGETS)}
    return result_of(seen, bytes_each, setting)


def result_of(seen: Mapping[int, Footprint], bytes_each: int, setting: Mapping[str, Any]) -> Result:
    """Compare footprints with the budget.

    Args:
        seen: number of versions -> the footprint of a process with them.
        bytes_each: the size of a version's adapters as files.
    """
    return Result(
        benchmark="residents",
        setting=setting,
        figures={
            "adapter bytes of a version, MB": bytes_each / _MB,
            "versions": {str(count): _described(one, count, bytes_each) for count, one in seen.items()},
        },
        budgets=[
            *(
                _budget("growth of the process", count, one.loaded - one.backbone, bytes_each)
                for count, one in seen.items()
            ),
            *(_budget("memory that they report", count, one.held, bytes_each) for count, one in seen.items()),
        ],
    )


def adapter_bytes(bundle: Path) -> int:
    """Bytes of the tensor files of a bundle's adapters."""
    return sum(path.stat().st_size for path in (bundle / "adapters").rglob("*.safetensors"))


def _described(one: Footprint, count: int, bytes_each: int) -> dict[str, float]:
    """The numbers behind the ratios, in MB."""
    numbers = {
        "backbone": one.backbone,
        "with versions": one.loaded,
        "allowed": one.backbone + count * bytes_each * LIMIT,
        "after a batch": one.used,
        "bank": one.bank,
        "held": one.held,
        "peak": one.peak,
    }
    return {name: round(value / _MB, 1) for name, value in numbers.items()}


def _budget(what: str, count: int, size: int, bytes_each: int) -> Budget:
    return Budget(f"{count} versions, {what} / adapter bytes", size / (count * bytes_each), "at most", LIMIT)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.residents")
