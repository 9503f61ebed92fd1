"""Evidence and candidates for the tests beside this file."""

from registry.evidence.candidate import Candidate
from registry.evidence.results import BenchmarkRun, ComparedVersion, Evidence, Measurement, Metric
from registry.names import VersionName

CONTENT = "c" * 64
STABLE_CONTENT = "d" * 64
STABLE_MANIFEST = "b" * 64
DATA = "e" * 64
NOW = "2026-11-21T12:00:00Z"
TARGETS = ("low", "mid")


def candidate(
    name: str = "v2.0.0", content: str = CONTENT, targets: tuple[str, ...] = TARGETS, model: str = "digits"
) -> Candidate:
    return Candidate(model, VersionName.parse(name), content, targets)


def stable(targets: tuple[str, ...] = TARGETS) -> Candidate:
    return Candidate("digits", VersionName.parse("v1.0.0"), STABLE_CONTENT, targets, manifest_sha256=STABLE_MANIFEST)


def evidence(
    benchmark: str,
    *metrics: Metric,
    content: str = CONTENT,
    timestamp: str = "2026-11-21T10:00:00Z",
    device: str = "cpu",
    runtime: str = "torch-fp32",
    data: str = DATA,
    measurement: Measurement | None = None,
    against: ComparedVersion | None = None,
) -> Evidence:
    return Evidence.of(
        measurement or Measurement(tuple(metrics), data, "digits, test", 100),
        BenchmarkRun(
            benchmark=benchmark,
            model="digits",
            version="v2.0.0",
            content_sha256=content,
            device=device,
            runtime=runtime,
            timestamp=timestamp,
            seconds=1.5,
            libraries={"torch": "2.13.0"},
            who="tester",
            against=against,
        ),
    )
