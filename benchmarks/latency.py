"""The latency of single images through router, adapter and OOD detector, and the throughput in batches."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Sequence

import numpy as np

from benchmarks import plots
from benchmarks.bootstrap import quantile_interval
from benchmarks.inputs import Data, Model, Progress, name_of, sample, test_images
from registry.evidence.results import Measurement, Metric

WARM_UP = 10
MIN_REPETITIONS = 50
MAX_REPETITIONS = 300
MAX_SECONDS = 20.0
"""After this time the measurement stops once there are `MIN_REPETITIONS`."""
BATCH = 8
"""The batch size for the throughput."""
BATCH_REPETITIONS = 10
_QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


def latency(model: Model, data: Data, *, seed: int = 0, progress: Progress | None = None) -> Measurement:
    """`latency_ms_mean`, `_p50`, `_p95` and `_p99` of single images, and `throughput_fps` in batches of 8.

    Images are in memory as the bytes of their files, so that decoding is measured and the disk is not. The router
    chooses the target, as for a request without one.

    Raises:
        BadInput: when there is no test image of any of the version's targets.
    """
    chosen = sample(test_images(model, data), MAX_REPETITIONS, seed)
    images = [image.path.read_bytes() for image in chosen]
    np.random.default_rng(seed).shuffle(images)  # files are sorted by target, and targets differ in cost
    times = time_singles(model, images, progress)
    marks = {name: float(np.quantile(times, q)) for name, q in _QUANTILES.items()}
    around = quantile_interval(times, _QUANTILES["p95"], seed)
    metrics = [Metric.of("latency_ms_mean", float(times.mean()), n=len(times), unit="ms")]
    for name, value in marks.items():
        low, high = (around.low, around.high) if name == "p95" else (None, None)
        metrics.append(Metric.of(f"latency_ms_{name}", value, n=len(times), low=low, high=high, unit="ms"))
    metrics.append(Metric.of("throughput_fps", _throughput(model, images), n=BATCH * BATCH_REPETITIONS, unit="1/s"))
    return Measurement(
        metrics=tuple(metrics),
        data_sha256=data.digest("test"),
        data_name=name_of(data),
        data_n=len(images),
        plot=plots.latency_ecdf(
            times, marks, f"{model.runtime} on {model.device}, one image at a time, n={len(times)}"
        ),
        notes=_machine() | {"warm_up": WARM_UP, "throughput_batch": BATCH},
    )


def time_singles(model: Model, images: Sequence[bytes], progress: Progress | None) -> np.ndarray:
    """Milliseconds of each repetition, [MIN_REPETITIONS..MAX_REPETITIONS]; the images are used in turn."""
    for number in range(WARM_UP):
        model.predict([images[number % len(images)]])
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < MIN_REPETITIONS or (len(times) < MAX_REPETITIONS and time.perf_counter() - began < MAX_SECONDS):
        image = images[len(times) % len(images)]
        start = time.perf_counter_ns()
        model.predict([image])
        times.append((time.perf_counter_ns() - start) / 1e6)
        if progress:
            progress(len(times), MAX_REPETITIONS)
    return np.array(times)


def _throughput(model: Model, images: Sequence[bytes]) -> float:
    batch = [images[number % len(images)] for number in range(BATCH)]
    model.predict(batch)
    start = time.perf_counter()
    for _ in range(BATCH_REPETITIONS):
        model.predict(batch)
    return BATCH * BATCH_REPETITIONS / (time.perf_counter() - start)


def _machine() -> dict[str, str | int | float]:
    """Properties of the machine that the results depend on."""
    notes: dict[str, str | int | float] = {
        "machine": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count() or 1,
    }
    torch = sys.modules.get("torch")
    if torch:
        notes["torch_threads"] = int(torch.get_num_threads())
    return notes
