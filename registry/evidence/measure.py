"""Run benchmarks on a version: find them by name, open the test data, make evidence of what they measured.

Benchmarks and data formats are found through entry points, so that another kind of model needs no change here: the
group `ulora.benchmarks` maps a name to a function `(loaded, data) -> Measurement`, `ulora.asked` too; those
run only when they are asked for by name. A function that has a parameter `progress` is given one, to be called with
(done, total); one that has `against` can compare two versions in one run, and is given another loaded version, or
None. The group `ulora.data` maps a flavor to a function `(folder) -> data`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from registry import plugins
from registry.errors import BadInput, no_folder
from registry.evidence.candidate import Candidate
from registry.evidence.data_check import in_short, shortages
from registry.evidence.outcomes import packed
from registry.evidence.policy import Policy
from registry.evidence.results import BenchmarkRun, ComparedVersion, Evidence, Measurement
from registry.formats import canonical
from registry.machine import clock, provenance
from registry.progress import Say, say_nothing
from registry.versions.manifest import Manifest

Benchmark = Callable[..., Measurement]
SAY_AFTER = 10.0
"""Seconds between two lines on how far a benchmark is."""


def find_benchmarks(only: Sequence[str] = ()) -> dict[str, Benchmark]:
    """The benchmarks with these names, or all that run unasked.

    Raises:
        BadInput: no benchmark has one of the names.
        MissingDependency: one needs a package that is not installed.
    """
    unasked = plugins.installed(plugins.BENCHMARKS)
    group = dict.fromkeys(plugins.installed(plugins.ASKED), plugins.ASKED) | dict.fromkeys(unasked, plugins.BENCHMARKS)
    unknown = [name for name in only if name not in group]
    if unknown:
        known = ", ".join(sorted(group)) or "none is installed"
        raise BadInput(f"there is no benchmark {unknown[0]!r}", hint=f"there are: {known}")
    return {name: plugins.plugin(group[name], name) for name in dict.fromkeys(only or unasked)}


def data_folder(folder: Path | None) -> Path:
    """The folder of the test data. Imports nothing.

    Raises:
        BadInput: no folder is set, or it does not exist.
    """
    if folder is None:
        raise BadInput("no test data is set", hint="pass --data DIR or set ULORA_DATA")
    if not folder.is_dir():
        raise BadInput(no_folder(folder), hint="pass --data DIR or set ULORA_DATA")
    return folder


def open_data(flavor: str, folder: Path | None, rename: Path | None = None) -> Any:
    """The test data in a folder, as the flavor's benchmarks take it.

    Args:
        rename: a file that says what the folders mean; the flavor decides what it may say.

    Raises:
        BadInput: no folder is set, it does not exist, or the data can't be used.
        MissingDependency: nothing is installed that reads test data for the flavor.
    """
    found = data_folder(folder)
    opened = plugins.plugin(plugins.DATA, flavor)
    return opened(found) if rename is None else opened(found, rename)


def check_data(data: Any, policy: Policy | None, candidate: Candidate, only: Sequence[str] = ()) -> list[str]:
    """What is odd about test data, and which images the gates will miss for a version, a sentence each; nothing where
    no package checks the data of its flavor.

    Args:
        data: what `open_data` returned.
        policy: None where it is not known.
        only: the benchmarks that will run; all when empty.

    Raises:
        BadInput: the data can't be used.
    """
    if candidate.flavor not in plugins.installed(plugins.DATA_CHECKS):
        return []
    report = plugins.plugin(plugins.DATA_CHECKS, candidate.flavor).check(data)
    if policy is None:
        return list(report.warnings)
    return [*report.warnings, *in_short(shortages(policy, report, candidate, only))]


@dataclass(frozen=True)
class Measured:
    """What is kept of one benchmark.

    Attributes:
        outcomes: the bytes of what was answered for each image, which the evidence names; empty if there are none.
        measurement: as the benchmark returned it, with what it drew.
    """

    evidence: Evidence
    outcomes: bytes
    measurement: Measurement


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        loaded: the version in memory.
        against: another one, which benchmarks of times measure in turns with it; `compared` names it.
        rounds: how many of these turns; None leaves it to the benchmark.
    """

    manifest: Manifest
    loaded: Any
    against: Any = None
    compared: ComparedVersion | None = None
    rounds: int | None = None


def compares(benchmark: Benchmark) -> bool:
    """Whether a benchmark can measure two versions in turns."""
    return "against" in signature(benchmark).parameters


def measure(
    name: str, benchmark: Benchmark, subject: Subject, data: Any, *, who: str, say: Say = say_nothing
) -> Measured:
    """Run one benchmark on a loaded version; now and then `say` is told how far it is."""
    began, manifest = time.perf_counter(), subject.manifest
    is_compared = subject.compared is not None and compares(benchmark)
    beside: dict[str, Any] = {"against": subject.against} if is_compared else {}
    if is_compared and subject.rounds and "rounds" in signature(benchmark).parameters:
        beside["rounds"] = subject.rounds
    if "progress" in signature(benchmark).parameters:
        beside["progress"] = _now_and_then(name, say)
    measurement = benchmark(subject.loaded, data, **beside)
    run = BenchmarkRun(
        benchmark=name,
        model=manifest.model,
        version=manifest.version,
        content_sha256=manifest.content_sha256,
        device=subject.loaded.device,
        runtime=subject.loaded.runtime,
        timestamp=clock.timestamp(),
        seconds=round(time.perf_counter() - began, 3),
        libraries=provenance.libraries(),
        who=who,
        against=subject.compared if is_compared else None,
    )
    outcomes = packed(measurement.outcomes)
    digest = canonical.sha256(outcomes) if outcomes else ""
    return Measured(Evidence.of(measurement, run, digest), outcomes, measurement)


def _now_and_then(name: str, say: Say) -> Callable[[int, int], None]:
    """What a benchmark calls with (done, total): a line after every `SAY_AFTER` seconds."""
    said = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= SAY_AFTER and done < total:
            said = time.monotonic()
            say(f"{name}: {done} of {total}")

    return tell
