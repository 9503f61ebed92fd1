"""What becomes of the checks of `ulora test`: one result each, all of them, and the evidence that they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from registry.errors import CheckFailed, GateRefused, UloraError, first_line
from registry.evidence.check_lines import check_lines
from registry.evidence.results import BenchmarkRun, Evidence, Measurement, Metric
from registry.evidence.verdict import Verdict
from registry.formats import canonical
from registry.formats.html import HtmlTable
from registry.machine import clock, provenance
from registry.versions.manifest import Manifest

STORED, DEPLOYED = "tests", "deployed"
"""What the evidence of a version's tests, and of those of what is deployed, has as its benchmark."""
SHARES: Final = {STORED: "version_tests", DEPLOYED: "deployed_tests"}
"""The metric that is the share of checks that passed; that of one check has the check's name behind it."""
_MAX_LINES = 50
_MAX_SAID = 1000
CheckOutcome = Literal["passed", "failed", "refused", "skipped"]


class CheckSkipped(Exception):
    """A check can't be made here, or was not asked for; the message says why. It is no failure.

    Attributes:
        runtime: what computed answers all the same.
    """

    def __init__(self, message: str, runtime: str = "") -> None:
        super().__init__(message)
        self.runtime = runtime


@dataclass(frozen=True)
class CheckPassed:
    """What a check that passes returns.

    Attributes:
        said: what was found, in one line.
        n: how many single tests it stands for.
        metrics: numbers to be kept beside it.
        runtime: what computed answers for it; empty if nothing did.
    """

    said: str
    n: int = 1
    metrics: tuple[Metric, ...] = ()
    runtime: str = ""


@dataclass(frozen=True)
class CheckResult(HtmlTable):
    """What became of one check.

    Attributes:
        said: what was found, or why it failed.
        lines: the same in detail.
        seconds: how long it took.
        n: how many single tests it stands for.
        metrics, runtime: see `CheckPassed`.
        error: why it failed, None if it did not.
    """

    name: str
    outcome: CheckOutcome
    said: str
    lines: tuple[str, ...] = ()
    seconds: float = 0.0
    n: int = 1
    metrics: tuple[Metric, ...] = ()
    runtime: str = ""
    error: UloraError | None = field(default=None, repr=False)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        found: dict[str, Any] = {"check": self.name, "outcome": self.outcome, "said": self.said, "lines": self.lines}
        found["seconds"] = self.seconds
        if self.error:
            found |= {"error": type(self.error).__name__, "hint": self.error.hint}
        return found


@dataclass(frozen=True)
class VersionTest(HtmlTable):
    """What a test of a version found.

    Attributes:
        deployed: the URL that was tested; empty where the version itself was.
        checks: in the order in which they were made.
        evidence: the digest of the evidence that was kept; None if none was.
    """

    model: str
    version: str
    deployed: str
    checks: tuple[CheckResult, ...]
    evidence: str | None = None

    @property
    def failure(self) -> UloraError | None:
        """The error of the first check that did not pass; None if there is none."""
        return next((one.error for one in self.checks if one.error), None)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "model": self.model,
            "version": self.version,
            "deployed": self.deployed,
            "passed": self.failure is None,
            "checks": [one.document() for one in self.checks],
            "evidence": self.evidence,
        }


def run_check(name: str, check: Callable[[], CheckPassed]) -> CheckResult:
    """Make one check. What it raises, unless it is no error of this package, is its result."""
    began = time.perf_counter()

    def result(outcome: CheckOutcome, said: str, lines: Sequence[str] = (), **more: Any) -> CheckResult:
        seconds = round(time.perf_counter() - began, 3)
        return CheckResult(name, outcome, said[:_MAX_SAID], tuple(lines)[:_MAX_LINES], seconds, **more)

    try:
        found = check()
    except CheckSkipped as skipped:
        return result("skipped", str(skipped), runtime=skipped.runtime)
    except GateRefused as error:
        verdict = error.verdict
        refusals = check_lines(verdict, refusals_only=True) if isinstance(verdict, Verdict) else ()
        return result("refused", first_line(error, _MAX_SAID), refusals, error=error)
    except UloraError as error:
        lines = error.lines if isinstance(error, CheckFailed) else ()
        return result("failed", first_line(error, _MAX_SAID), lines, error=error)
    return result("passed", found.said, n=found.n, metrics=found.metrics, runtime=found.runtime)


def evidence_of(
    benchmark: str, manifest: Manifest, checks: Sequence[CheckResult], *, runtime: str, device: str, who: str,
    about: Mapping[str, str],
) -> Evidence | None:  # fmt: skip
    """The evidence that the checks of a version are; None if none was made.

    Args:
        benchmark: `STORED` or `DEPLOYED`.
        about: what else was tested, by name, e.g. the digest of the team's test files.
    """
    made = [one for one in checks if one.outcome != "skipped"]
    if not made:
        return None
    names = {one.name: one.outcome for one in made}
    digest = canonical.sha256(canonical.encode({"checks": sorted(names), **about}))
    measurement = Measurement(
        metrics=tuple(_metrics(SHARES[benchmark], made)), data_sha256=digest, data_name=f"ulora test, {benchmark}",
        data_n=len(made), notes={**about, **{f"check {one.name}": f"{one.outcome}: {one.said}"[:300] for one in made}},
    )  # fmt: skip
    run = BenchmarkRun(
        benchmark=benchmark, model=manifest.model, version=manifest.version, content_sha256=manifest.content_sha256,
        device=device, runtime=runtime, timestamp=clock.timestamp(), seconds=round(sum(one.seconds for one in made), 3),
        libraries=provenance.libraries(), who=who,
    )  # fmt: skip
    return Evidence.of(measurement, run)


def _metrics(share: str, made: Sequence[CheckResult]) -> Iterator[Metric]:
    """The share of checks that passed, each check for itself (1 or 0), and what else was measured."""
    passed = sum(one.outcome == "passed" for one in made)
    yield Metric.of(share, passed / len(made), n=len(made))
    for one in made:
        yield Metric.of(f"{share}_{one.name}", float(one.outcome == "passed"), n=one.n)
        yield from one.metrics
