"""The metrics that the benchmarks of this package report, and which benchmark measures which."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from registry import plugins

METRICS = {
    "accuracy": ("accuracy", "balanced_accuracy", "macro_f1", "ece"),
    "routing": ("crop_routing_accuracy", "crop_routing_recall"),
    "ood": (
        *(
            f"{kind}_{name}"
            for kind in ("ood", "ood_near")
            for name in ("auroc", "fpr95", "aupr_in", "aupr_out", "detection_rate")
        ),
        "ood_false_alarm_rate",
    ),
    "latency": (
        *("latency_ms_mean", "latency_ms_p50", "latency_ms_p95", "latency_ms_p99", "throughput_fps"),
        *("latency_ratio_p50", "latency_ratio_p95"),
    ),
    "memory": ("adapter_memory_mb", "adapters_memory_mb_total"),
    "tests": (
        *("version_tests", "version_tests_verify", "version_tests_golden", "version_tests_team", "version_tests_drill"),
        "drill_seconds",
    ),
    "deployed": (
        "deployed_tests",
        *(f"deployed_tests_{name}" for name in ("live", "ready", "version", "digest", "answers", "errors", "latency")),
        *("deployed_latency_ms_p50", "deployed_latency_ms_p95"),
    ),
}
"""Benchmark -> its metrics. Another package's benchmark names its metrics after itself: `energy`, `energy_joules`.

`tests` and `deployed` are what `ulora test` records."""

_TEST_OPTIONS = {
    "version_tests_team": " --tests DIR", "version_tests_drill": " --drill", "drill_seconds": " --drill",
    **dict.fromkeys(METRICS["deployed"], " --deployed URL"),
}  # fmt: skip
"""What `ulora test` needs to record a metric."""

RATIOS = frozenset({"latency_ratio_p50", "latency_ratio_p95"})
"""Metrics of a version divided by those of another one, measured in turns in one run: `ulora measure V --against W`."""

MIN_ROUNDS, MAX_ROUNDS = 50, 20_000
"""Of one measurement of ratios, as far as people may ask: more would take hours."""

_BENCHMARK_OF = {metric: benchmark for benchmark, metrics in METRICS.items() for metric in metrics}


def benchmark_of(metric: str) -> str:
    """The name of the benchmark that measures a metric; the metric's first word if none of this package does."""
    return _BENCHMARK_OF.get(metric, metric.split("_", 1)[0])


def is_of_a_test(metric: str) -> bool:
    """Whether `ulora test` records a metric, and no benchmark."""
    return benchmark_of(metric) in ("tests", "deployed")


def recording_command(metric: str, version: object) -> str:
    """The command that records a metric of a version's tests."""
    return f"ulora test {version}{_TEST_OPTIONS.get(metric, '')}"


def is_time(metric: str) -> bool:
    """Whether a metric depends on the machine: a time, or one of a benchmark of another package, of which nothing is
    known."""
    benchmark = benchmark_of(metric)
    return benchmark == "latency" or benchmark not in METRICS


def is_time_of_one_run(metric: str) -> bool:
    """Whether a metric is a time, or a rate, that says nothing beside that of another run: the load differs."""
    return benchmark_of(metric) == "latency" and metric not in RATIOS


def ratio_for(metric: str) -> str:
    """The ratio to ask for instead of the difference of a time between two runs."""
    return "latency_ratio_p95" if metric.endswith(("_p95", "_p99")) else "latency_ratio_p50"


def check_metric(name: str) -> str:
    """Return the name of a metric unchanged if an installed benchmark reports it.

    Raises:
        ValueError: none does; the message suggests a similar name.
    """
    if name not in _BENCHMARK_OF:
        installed = (*plugins.installed(plugins.BENCHMARKS), *plugins.installed(plugins.ASKED))
        own = [benchmark for benchmark in installed if benchmark not in METRICS]
        if not any(name == benchmark or name.startswith(f"{benchmark}_") for benchmark in own):
            raise ValueError(f"there is no metric {name!r}{did_you_mean(name, _BENCHMARK_OF)}")
    return name


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` with the known word that is most similar; which there are, if none is similar."""
    every = list(known)
    close = get_close_matches(word, every, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else f"; there are: {', '.join(every)}"
