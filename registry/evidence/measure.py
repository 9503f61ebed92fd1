"""Run benchmarks on a version: find them by name, open the test data, make evidence of what they measured.

Benchmarks and data formats are found through entry points, so that another kind of model needs no change here: the
group `ulora.benchmarks` maps a name to a function `(loaded, data) -> Measurement`, the group `ulora.data` maps a flavor
to a function `(folder) -> data`. A benchmark that can compare two versions in one run also takes `against`: another
loaded version, or None.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry import plugins
from registry.errors import BadInput, no_folder
from registry.evidence.data_check import shortages, summary
from registry.evidence.gates import Candidate
from registry.evidence.outcomes import packed
from registry.evidence.policy import Policy
from registry.evidence.results import BenchmarkRun, ComparedVersion, Evidence, Measurement
from registry.formats import canonical
from registry.machine import clock, provenance
from registry.versions.manifest import Manifest

Benchmark = Callable[..., Measurement]


def find_benchmarks(only: Sequence[str] = ()) -> dict[str, Benchmark]:
    """The benchmarks with these names, or all that are installed.

    Raises:
        BadInput: no benchmark has one of the names.
        MissingDependency: one needs a package that is not installed.
    """
    installed = plugins.installed(plugins.BENCHMARKS)
    unknown = [name for name in only if name not in installed]
    if unknown:
        known = ", ".join(installed) or "none is installed"
        raise BadInput(f"there is no benchmark {unknown[0]!r}", hint=f"there are: {known}")
    return {name: plugins.plugin(plugins.BENCHMARKS, name) for name in dict.fromkeys(only or installed)}


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
    return [*report.warnings, *summary(shortages(policy, report, candidate, only))]


@dataclass(frozen=True)
class Measured:
    """What is kept of one benchmark.

    Attributes:
        outcomes: the bytes of what was answered for each image, which the evidence names; empty if there are none.
        measurement: what the benchmark returned, with plots and curves.
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
    """

    manifest: Manifest
    loaded: Any
    against: Any = None
    compared: ComparedVersion | None = None


def compares(benchmark: Benchmark) -> bool:
    """Whether a benchmark can measure two versions in turns."""
    return "against" in inspect.signature(benchmark).parameters


def measure(name: str, benchmark: Benchmark, subject: Subject, data: Any, *, who: str) -> Measured:
    """Run one benchmark on a loaded version."""
    began, manifest, loaded = time.perf_counter(), subject.manifest, subject.loaded
    is_compared = subject.compared is not None and compares(benchmark)
    measurement = benchmark(loaded, data, against=subject.against) if is_compared else benchmark(loaded, data)
    run = BenchmarkRun(
        benchmark=name,
        model=manifest.model,
        version=manifest.version,
        content_sha256=manifest.content_sha256,
        device=loaded.device,
        runtime=loaded.runtime,
        timestamp=clock.timestamp(),
        seconds=round(time.perf_counter() - began, 3),
        libraries=provenance.libraries(),
        who=who,
        against=subject.compared if is_compared else None,
    )
    outcomes = packed(measurement.outcomes)
    digest = canonical.sha256(outcomes) if outcomes else ""
    return Measured(Evidence.of(measurement, run, digest), outcomes, measurement)
