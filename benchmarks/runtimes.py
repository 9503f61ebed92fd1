"""The speed of each runtime, compared with torch in float32: `python -m benchmarks.runtimes`.

One image goes through a backbone with a LoRA (rank 16 on q and v), on each runtime in turn, round after round, so that
other load on the machine affects all of them.

Speed only: weights and images are random. Whether a runtime may answer for a version is decided on its own weights and
on real images, by `ulora fit --runtimes` (`adapters.fitting.runtime_reports`). openvino-int8 had a cosine of .9994 to
float32 with random weights, and .9983 with real ones.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from safetensors.torch import save_file

from adapters.backbone.families import FAMILIES, family_named
from adapters.backbone.locate import CONFIG, TINY, WEIGHTS
from adapters.backbone.resolve import ref_of_folder
from adapters.bank.lora_weights import LoraModule, LoraWeights
from adapters.bank.slots import Slot
from adapters.runtimes.gate import MIN_COSINE
from adapters.runtimes.interface import REFERENCE, Runtime
from adapters.runtimes.open_runtime import RUNTIMES, open_runtime
from registry.errors import BadInput
from registry.formats import canonical
from registry.versions.manifest import BackboneRef

BUDGET = 2.5
"""How many times as fast as torch in float32 the fastest runtime should be."""
BASIS = "speed only: random weights and images say nothing about answers"
RANK = 16
IMAGES = 4
"""How many random images features are compared on; the first one is timed."""

_VIT_B: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "dinov2": _VIT_B | {"model_type": "dinov2", "patch_size": 14, "mlp_ratio": 4},
    "dinov3": _VIT_B
    | {"model_type": "dinov3_vit", "patch_size": 16, "intermediate_size": 3072, "num_register_tokens": 4},
}


@dataclass(frozen=True)
class RuntimeResult:
    """A runtime's result.

    Attributes:
        runtime: its name.
        ms: median milliseconds for one image; None if it can't run here.
        ratio: the median over rounds of the reference's time divided by its own.
        cosine: the smallest cosine of features to the reference's, on random images.
        same_function: whether `cosine` is high enough for both to compute the same, but for rounding.
        detail: why it can't run here.
    """

    runtime: str
    ms: float | None = None
    ratio: float | None = None
    cosine: float | None = None
    same_function: bool = False
    detail: str = ""


@dataclass(frozen=True)
class Contender:
    """A runtime with an adapter in its bank, and the images."""

    runtime: Runtime
    slot: Slot
    depth: int
    images: torch.Tensor

    def features(self, count: int) -> torch.Tensor:
        """CLS and the mean of the patches, concatenated: [count, 2 D]."""
        forward_pass = self.runtime.start(self.images[:count], [self.slot] * count)
        forward_pass.advance(self.depth)
        return forward_pass.pooled("cls+mean", norm=True)

    def milliseconds(self) -> float:
        """The time for one image."""
        start = time.perf_counter()
        self.features(1)
        return (time.perf_counter() - start) * 1000


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--size", type=click.Choice(["vit-b", "tiny"]), default="vit-b", show_default=True, help="Of the backbone."
)
@click.option(
    "--family", type=click.Choice(sorted(CONFIGS)), default="dinov2", show_default=True, help="Of the backbone."
)
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="For each runtime.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=11, show_default=True, help="Timed rounds.")
@click.option("--only", multiple=True, help="A runtime to measure; all by default. May be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(*, size: str, family: str, threads: int, rounds: int, only: Sequence[str], as_json: bool) -> None:
    """Compare the runtimes' speed and features with those of torch in float32."""
    unknown = sorted(set(only) - set(RUNTIMES))
    if unknown:
        message = f"{unknown[0]} is not a runtime; the runtimes are {', '.join(RUNTIMES)}"
        raise click.BadParameter(message, param_hint="--only")
    names = [name for name in RUNTIMES if not only or name in only]
    torch.set_num_threads(threads)
    with backbone(size, family) as folder:
        rows = measure(names, folder, rounds)
    report = summary(rows) | {"size": size, "family": family, "threads": threads, "rounds": rounds}
    click.echo(json.dumps(report) if as_json else "\n".join(_lines(report)))


def measure(names: Sequence[str], folder: Path, rounds: int) -> list[RuntimeResult]:
    """Run the contenders in turn.

    Args:
        names: of runtimes; the reference always runs.
        folder: the backbone's.
        rounds: how often each is timed, after one round that is not.
    """
    ref, absent = ref_of_folder(folder), []
    contenders: dict[str, Contender] = {}
    for name in dict.fromkeys([REFERENCE, *names]):
        try:
            contenders[name] = _contender(name, ref, folder)
        except BadInput as error:  # MissingDependency too
            absent.append(RuntimeResult(name, detail=str(error)))
    expected = contenders[REFERENCE].features(IMAGES)
    cosines = {name: _cosine(one.features(IMAGES), expected) for name, one in contenders.items()}
    times = [{name: one.milliseconds() for name, one in contenders.items()} for _ in range(rounds + 1)][1:]
    rows = [
        RuntimeResult(
            runtime=name,
            ms=median(each[name] for each in times),
            ratio=median(each[REFERENCE] / each[name] for each in times),
            cosine=cosines[name],
            same_function=cosines[name] >= MIN_COSINE,
        )
        for name in contenders
    ]
    return rows + absent


def summary(rows: Sequence[RuntimeResult]) -> dict[str, Any]:
    """The fastest runtime that computes the same, besides the reference, and whether it meets the budget."""
    passing = [row for row in rows if row.same_function and row.runtime != REFERENCE and row.ratio is not None]
    best = max(passing, key=lambda row: row.ratio or 0.0, default=None)
    return {
        "benchmark": "runtimes",
        "basis": BASIS,
        "best": best.runtime if best else None,
        "ratio": best.ratio if best else None,
        "budget": BUDGET,
        "met": bool(best and best.ratio and best.ratio >= BUDGET),
        "runtimes": [asdict(row) for row in rows],
    }


@contextmanager
def backbone(size: str, family: str) -> Iterator[Path]:
    """The folder of a backbone: a tiny one of this package, or a ViT-B with random weights."""
    if size == "tiny":
        yield TINY / f"{family}-tiny"
        return
    config = dict(CONFIGS[family])
    torch.manual_seed(0)
    weights = {name: tensor.contiguous() for name, tensor in FAMILIES[family].new_model(config).state_dict().items()}
    with TemporaryDirectory(prefix="ulora-runtimes-") as parent:
        folder = Path(parent) / f"{family}-{size}"
        folder.mkdir()
        save_file(weights, folder / WEIGHTS)
        (folder / CONFIG).write_bytes(canonical.encode(config))
        yield folder


def _contender(name: str, ref: BackboneRef, folder: Path) -> Contender:
    runtime = open_runtime(ref, name=name, folders=[folder])
    slot = runtime.bank.add([_adapter(runtime)])[0]
    side = family_named(ref.family).preprocessing(ref.config)["crop"]
    images = torch.randn(IMAGES, 3, side, side, generator=torch.Generator().manual_seed(1))
    return Contender(runtime, slot, int(ref.config["num_hidden_layers"]), images)


def _adapter(runtime: Runtime) -> LoraWeights:
    """The same for all runtimes: random from a seed, and large enough to change features."""
    random = torch.Generator().manual_seed(2)
    modules = {}
    for name, linear in runtime.bank.linears.items():
        if name.endswith((".q_proj", ".v_proj")):
            a = torch.randn(RANK, linear.in_features, generator=random) * linear.in_features**-0.5
            b = torch.randn(linear.out_features, RANK, generator=random) * 0.1
            modules[name] = LoraModule(a, b, scale=1.0)
    return LoraWeights.of(modules)


def _cosine(some: torch.Tensor, others: torch.Tensor) -> float:
    return float(torch.cosine_similarity(some, others).min())


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    yield f"{report['size']} {report['family']}, one image, {report['threads']} threads, {report['rounds']} rounds"
    for row in report["runtimes"]:
        if row["ms"] is None:
            yield f"{row['runtime']:16} not available: {row['detail']}"
        else:
            other = "" if row["same_function"] else f"  computes something else: cosine {row['cosine']:.5f}"
            yield f"{row['runtime']:16}{row['ms']:8.1f} ms  {row['ratio']:5.2f}x{other}"
    met = "met" if report["met"] else "not met"
    yield report["basis"]
    yield f"fastest: {report['best']} at {report['ratio'] or 0:.2f}x, budget {report['budget']}x: {met}"


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.runtimes")
