"""The memory that versions take, measured in a separate process: `python -m benchmarks.footprint`.

`benchmarks.residents` and `benchmarks.workload` start it, because memory of earlier work in the same process can't be
separated. It prints one JSON object.

Memory is the resident set size, after garbage collection and after free heap is returned. The proportional set size
would be fairer for libraries that several processes map, but it changes when other processes start or end.
"""

from __future__ import annotations

import ctypes
import gc
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import click

from registry.errors import LoadFailed
from registry.machine.programs import PIPE, start

ROWS = 8
_STATUS = Path("/proc/self/status")

Done = TypeVar("Done")


@dataclass(frozen=True)
class Footprint:
    """The measurements of a fresh process.

    Attributes:
        backbone: bytes with the backbone in memory, used once, and no version.
        loaded: bytes with the versions too, before they are used: what a batch leaves in the heap and in libraries'
            buffers varies from run to run by more than a version takes.
        used: bytes after a mixed batch.
        peak: the largest number of bytes.
        bank: bytes of the bank's pages.
        held: bytes that the versions report: their slots, heads and detectors.
        seconds: step -> how long it took.
        outcomes: outcome -> how many rows of the first mixed batch had it.
        stages_ms: stage of a mixed batch -> milliseconds, the median of its rounds.
    """

    backbone: int
    loaded: int
    used: int
    peak: int
    bank: int
    held: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    stages_ms: Mapping[str, float] = field(default_factory=dict)


def in_fresh_process(backbone: Path, bundles: Sequence[Path], *, threads: int, rounds: int = 0) -> Footprint:
    """Load bundles in a separate process.

    Args:
        backbone: the folder of the backbone of all of them.
        rounds: how often a mixed batch is timed, stage by stage.

    Raises:
        LoadFailed: when the process fails.
    """
    options = ["--backbone", str(backbone), "--threads", str(threads), "--rounds", str(rounds)]
    command = [sys.executable, "-m", "benchmarks.footprint", *options, *map(str, bundles)]
    with start(command, stdout=PIPE, stderr=PIPE, text=True) as process:
        out, err = process.communicate()
    if process.returncode:
        last = (err.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise LoadFailed(f"a process that loads {len(bundles)} bundles failed: {last[:400]}")
    return Footprint(**json.loads(out))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--backbone", type=click.Path(path_type=Path), required=True, help="The backbone's folder.")
@click.option("--threads", type=int, default=1, show_default=True, help="Torch's threads.")
@click.option("--rounds", type=int, default=0, show_default=True, help="How often a mixed batch is timed.")
@click.argument("bundles", type=click.Path(exists=True, path_type=Path), nargs=-1, required=True)
def main(*, backbone: Path, threads: int, rounds: int, bundles: tuple[Path, ...]) -> None:
    """Load BUNDLES of one backbone and print as JSON what they take."""
    click.echo(json.dumps(vars(observe(backbone, bundles, threads, rounds))))


def observe(backbone: Path, bundles: Sequence[Path], threads: int, rounds: int) -> Footprint:
    """Load bundles in this process and measure."""
    import torch

    from adapters.answer.loading import load_bundle
    from adapters.backbone.resolve import ref_of_folder
    from adapters.runtimes.open_runtime import open_runtime
    from benchmarks import stages
    from benchmarks.synthetic import SyntheticBackbone, files_of

    torch.set_num_threads(threads)
    seconds: dict[str, float] = {}
    files = [files_of(bundle) for bundle in bundles]
    ref = _timed(seconds, "hash the backbone", lambda: ref_of_folder(backbone))
    runtime = _timed(seconds, "open the backbone", lambda: open_runtime(ref, folders=[backbone]))
    stages.use(runtime, SyntheticBackbone(ref, backbone).pixels(ROWS))
    before = memory()
    versions = _timed(
        seconds, "load the versions", lambda: [load_bundle(one, backbone_folders=[backbone]) for one in files]
    )
    loaded = memory()
    rows = stages.rows(versions, ROWS)
    answers = _timed(seconds, "predict the first mixed batch", lambda: stages.predict(rows))
    return Footprint(
        backbone=before,
        loaded=loaded,
        used=memory(),
        peak=peak(),
        bank=runtime.bank.nbytes,
        held=sum(sum(version.memory.values()) for version in versions),
        seconds=seconds,
        outcomes=Counter(answer.outcome for answer in answers),
        stages_ms=stages.measure(rows, rounds) if rounds else {},
    )


def memory() -> int:
    """The current resident set size in bytes; on other systems than Linux the peak."""
    gc.collect()
    _give_back_free_heap()
    return _status("VmRSS") or _most_ever()


def peak() -> int:
    """The peak resident set size in bytes."""
    return _status("VmHWM") or _most_ever()


def _status(name: str) -> int:
    """A value of /proc/self/status in bytes; 0 on other systems than Linux."""
    if not _STATUS.exists():
        return 0
    lines = (line.split() for line in _STATUS.read_text().splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == f"{name}:"), 0)


def _most_ever() -> int:
    # On Linux this counts what the parent had too, before it became this process.
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _give_back_free_heap() -> None:
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not
        if trim is not None:
            trim(0)


def _timed(seconds: dict[str, float], what: str, do: Callable[[], Done]) -> Done:
    start = time.perf_counter()
    made = do()
    seconds[what] = round(time.perf_counter() - start, 4)
    return made


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.footprint")
