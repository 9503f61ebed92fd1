"""A replica's metrics for Prometheus, made of its tally when they are asked for.

Needs prometheus-client, which is in the extra `serve`. `GET /metrics` of `ulora serve` gives them. A program that
follows a channel by itself registers them where its own are:

    prometheus_client.REGISTRY.register(ReplicaCollector(live))

Labels are versions in memory, their own targets, outcomes, status codes, and the texts of `ulora_build_info`; never
keys or ids, nor texts of clients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from registry.serving.follow import Live
from registry.serving.health import Health
from registry.serving.tally import Distribution, Tally

_PACKAGE = "ulora-registry"


def replica_metrics(live: Live) -> CollectorRegistry:
    """The metrics of one replica and of its process, apart from those of others in this process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ReplicaCollector(live))
    ProcessCollector(registry=registry)
    return registry


class ReplicaCollector(Collector):
    """Makes the metrics of a replica, which has to be started."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def describe(self) -> list[Metric]:
        """Nothing: the names are known only by `collect`."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        health = self._live.health()
        with self._live.tally.unchanged():
            counted = list(_counted(self._live.tally))
        yield from counted
        yield from _states(health)
        yield _gauge(
            "ulora_waiting_bytes", "Bytes that bodies and images that wait hold.", self._live.scheduler.budget.taken
        )
        yield _build(health)


def _counted(tally: Tally) -> Iterator[Metric]:
    yield _histogram("ulora_batch_rows", "Images computed together.", tally.batches)
    yield _histogram("ulora_queue_duration_seconds", "From admission of an image until it is computed.", tally.queued)
    yield _histogram("ulora_compute_duration_seconds", "Of one pass over images computed together.", tally.computed)
    yield from _by_version(tally)
    yield CounterMetricFamily("ulora_shadow_shed", "Images that a canary was not asked for want of time.", tally.shed)
    swaps = CounterMetricFamily(
        "ulora_swaps", "Changes of the record that is served; failed: tries to load a version.", labels=["result"]
    )
    for result, count in tally.swaps.items():
        swaps.add_metric([result], count)
    yield swaps


def _by_version(tally: Tally) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "ulora_requests", "Answers to requests for predictions.", labels=["version", "arm", "code"]
    )
    durations = HistogramMetricFamily(
        "ulora_request_duration_seconds",
        "From a request's headers to the end of its answer.",
        labels=["version", "arm"],
    )
    predictions = CounterMetricFamily(
        "ulora_predictions", "Images answered.", labels=["version", "arm", "target", "outcome"]
    )
    feedback = CounterMetricFamily(
        "ulora_feedback", "True labels, by what became of them.", labels=["version", "arm", "result"]
    )
    for name, counts in tally.versions.items():
        for (arm, code), count in counts.requests.items():
            requests.add_metric([name, arm, str(code)], count)
        for arm, durations_of_arm in counts.durations.items():
            durations.add_metric([name, arm], _buckets(durations_of_arm), durations_of_arm.sum)
        for labels, count in counts.predictions.items():
            predictions.add_metric([name, *labels], count)
        for label, count in counts.feedback.items():
            feedback.add_metric([name, *label], count)
    yield from (requests, durations, predictions, feedback)


def _states(health: Health) -> Iterator[Metric]:
    yield _gauge("ulora_generation", "Generation of the record that is served.", health.generation)
    yield _gauge("ulora_newest_generation", "Newest generation that was read.", health.newest)
    yield _gauge("ulora_ready", "1 if requests should be sent to this replica.", health.ready)
    yield _gauge("ulora_rollback_ready", "1 if the next rollback target is in memory.", health.rollback_ready)
    yield _gauge("ulora_log_age_seconds", "Since the channel's log was last read.", health.last_seen)
    yield _gauge("ulora_queued_rows", "Images that wait.", health.queued)
    yield _gauge("ulora_max_batch_rows", "Images that are computed together at most.", health.max_batch)
    yield _gauge("ulora_compute_running_seconds", "How long the present batch has been computed.", health.compute)
    resident = GaugeMetricFamily("ulora_resident_versions", "1 for each version in memory.", labels=["version"])
    for name in health.resident:
        resident.add_metric([name], 1)
    yield resident


def _build(health: Health) -> Metric:
    facts = {
        "version": _package_version(),
        "model": health.model,
        "channel": health.channel,
        "runtime": health.runtime or "",
        "device": health.device,
    }
    build = InfoMetricFamily("ulora_build", "What this replica is.")
    build.add_metric([], facts)
    return build


def _package_version() -> str:
    try:
        return version(_PACKAGE)
    except PackageNotFoundError:  # a checkout that is not installed
        return ""


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _histogram(name: str, text: str, distribution: Distribution) -> Metric:
    return HistogramMetricFamily(name, text, buckets=_buckets(distribution), sum_value=distribution.sum)


def _buckets(distribution: Distribution) -> Sequence[tuple[str, float]]:
    return [("+Inf" if bound == math.inf else str(float(bound)), count) for bound, count in distribution.cumulative()]
