"""The latency of single images through router, adapter and OOD detector, and the throughput in batches.

Times of two runs differ by the load of the machine. So two versions are compared in one run only: they answer the same
images in turns, another one first in each round.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import numpy as np

from benchmarks import plots
from benchmarks.bootstrap import quantile_interval
from benchmarks.curves import percentiles
from benchmarks.inputs import Data, Model, Progress, name_of, sample, test_images
from benchmarks.ratios import ratio_metrics
from registry.evidence.results import Measurement, Metric
from registry.machine.hardware import Machine, this_machine

WARM_UP = 10
MIN_REPETITIONS = 50
MAX_REPETITIONS = 300
MIN_ROUNDS, MAX_ROUNDS = 300, 600
"""Of two versions: a ratio of 95th percentiles needs more than a percentile does."""
MAX_SECONDS = 20.0
"""After this time for each version the measurement stops once there are `MIN_REPETITIONS`, or `MIN_ROUNDS`."""
BATCH = 8
"""The batch size for the throughput."""
BATCH_REPETITIONS = 10
_QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


def latency(
    model: Model,
    data: Data,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    against: Model | None = None,
    rounds: int | None = None,
) -> Measurement:
    """`latency_ms_mean`, `_p50`, `_p95` and `_p99` of single images, and `throughput_fps` in batches of 8.

    With `against`, another version, both answer each image in turns, and `latency_ratio_p50` and `_p95` compare them;
    in `rounds`, or as many as fit in `MAX_SECONDS` of each, `MIN_ROUNDS` to `MAX_ROUNDS`.

    Images are in memory as the bytes of their files, so that decoding is measured and the disk is not. The router
    chooses the target, as for a request without one.

    Raises:
        BadInput: when there is no test image of any of the version's targets.
    """
    chosen = sample(test_images(model, data), MAX_REPETITIONS, seed)
    images = [image.read() for image in chosen]
    np.random.default_rng(seed).shuffle(images)  # files are sorted by target, and targets differ in cost
    machine = describe(model.device)
    times, *others = time_in_turns([model, against] if against else [model], images, progress, rounds)
    marks = {name: float(np.quantile(times, q)) for name, q in _QUANTILES.items()}
    around = quantile_interval(times, _QUANTILES["p95"], seed)
    metrics = [Metric.of("latency_ms_mean", float(times.mean()), n=len(times), unit="ms")]
    for name, value in marks.items():
        low, high = (around.low, around.high) if name == "p95" else (None, None)
        metrics.append(Metric.of(f"latency_ms_{name}", value, n=len(times), low=low, high=high, unit="ms"))
    metrics.append(Metric.of("throughput_fps", _throughput(model, images), n=BATCH * BATCH_REPETITIONS, unit="1/s"))
    for theirs in others:
        metrics += ratio_metrics(times, theirs, seed)
    return Measurement(
        metrics=tuple(metrics),
        data_sha256=data.digest("test"),
        data_name=name_of(data),
        data_n=len(images),
        plot=plots.latency_ecdf(
            times, marks, f"{model.runtime} on {model.device}, one image at a time, n={len(times)}"
        ),
        curves={"latency_ms_by_percentile": percentiles(times)},
        machine=machine,
        notes={"warm_up": WARM_UP, "batch": 1, "throughput_batch": BATCH},
    )


def time_in_turns(
    models: Sequence[Model], images: Sequence[bytes], progress: Progress | None, asked: int | None = None
) -> list[np.ndarray]:
    """Milliseconds of each version in each round, [rounds]; the images are used in turn, one in a round.

    Args:
        asked: so many rounds, however long they take.
    """
    least, most = (MIN_REPETITIONS, MAX_REPETITIONS) if len(models) == 1 else (MIN_ROUNDS, MAX_ROUNDS)
    least, most = (asked or least), (asked or most)
    times: list[list[float]] = [[] for _ in models]
    for number in range(WARM_UP):
        for model in models:
            model.predict([images[number % len(images)]])
    began, rounds = time.perf_counter(), 0
    while rounds < least or (rounds < most and time.perf_counter() - began < MAX_SECONDS * len(models)):
        for turn in range(len(models)):
            place = (rounds + turn) % len(models)
            times[place].append(_time_of(models[place], images[rounds % len(images)]))
        rounds += 1
        if progress:
            progress(rounds, most)
    return [np.array(each) for each in times]


def _time_of(model: Model, image: bytes) -> float:
    start = time.perf_counter_ns()
    model.predict([image])
    return (time.perf_counter_ns() - start) / 1e6


def describe(device: str) -> Machine:
    """The machine, with what torch computes on, if that is loaded."""
    torch = sys.modules.get("torch")
    if not torch:
        return this_machine()
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    return this_machine(threads=int(torch.get_num_threads()), accelerator=name)


def _throughput(model: Model, images: Sequence[bytes]) -> float:
    batch = [images[number % len(images)] for number in range(BATCH)]
    model.predict(batch)
    start = time.perf_counter()
    for _ in range(BATCH_REPETITIONS):
        model.predict(batch)
    return BATCH * BATCH_REPETITIONS / (time.perf_counter() - start)
