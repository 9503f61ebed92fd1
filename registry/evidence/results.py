"""The results of benchmarks: metrics with their intervals, and the evidence that holds them.

Evidence is immutable, and:

* it is stored under the sha256 of its canonical bytes (`Evidence.sha256`);
* it is about one content (`content_sha256`), one benchmark, one device, one runtime and one set of test data;
* no number in it is NaN or infinite: the value of such a metric is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from registry.errors import BadInput
from registry.evidence.outcomes import ImageOutcome
from registry.evidence.stats import wilson
from registry.formats import canonical
from registry.formats.document import Document, DocumentPart, Sha256
from registry.machine.hardware import Machine
from registry.names import MAX_TARGET, VersionName, check_model, check_target

MAX_METRICS = 10_000
PROPORTION = "proportion"
"""The unit of a metric that is a proportion of `n` independent samples: the n that decides can be computed."""
_PURE_UNITS = ("", PROPORTION, "area", "ratio")


def check_utc(text: str) -> str:
    """Return an ISO 8601 time in UTC unchanged.

    Raises:
        ValueError: it is not such a time, or has no time zone, or another one.
    """
    if datetime.fromisoformat(text).utcoffset() != timedelta(0):
        raise ValueError(f"{text!r} is not in UTC")
    return text


def named(check: Callable[[str], object]) -> AfterValidator:
    """A check of `registry.names` as a validator: a document with an invalid name is an invalid document."""

    def validate(text: str) -> str:
        try:
            check(text)
        except BadInput as error:
            raise ValueError(str(error)) from error
        return text

    return AfterValidator(validate)


UtcTime = Annotated[str, Field(max_length=40), AfterValidator(check_utc)]
VersionText = Annotated[str, named(VersionName.parse)]
ModelName = Annotated[str, named(check_model)]
TargetName = Annotated[str, Field(max_length=MAX_TARGET), named(check_target)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Word = Annotated[str, Field(min_length=1, max_length=200)]


class Metric(DocumentPart):
    """One measured number. Make one with `Metric.of` or `Metric.proportion`.

    Attributes:
        name: what was measured, e.g. `accuracy`.
        value: the number, None if it is NaN or infinite.
        low: lower end of its 95% interval, None if it has none.
        high: upper end.
        n: number of samples: images, or repetitions for a latency. Of the smaller class where two are compared.
        target: the target; None is the aggregate over all targets.
        unit: `proportion`, `area`, `ms`, `MB`, `1/s` …
        freedom: of a ratio: degrees of freedom of the Student's t by which the ends at other confidences are farther
            from the value, on a scale of logarithms; None where these are not known.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,99}$")
    value: Number | None
    low: Number | None = None
    high: Number | None = None
    n: int = Field(ge=0)
    target: TargetName | None = None
    unit: str = Field(default="", max_length=40)
    freedom: float | None = Field(default=None, ge=1, le=1e6)

    @property
    def shown_unit(self) -> str:
        """The unit as it stands behind the value, with a space; empty where the value is a plain number."""
        return f" {self.unit}" if self.unit not in _PURE_UNITS else ""

    @classmethod
    def of(
        cls,
        name: str,
        value: float | None,
        *,
        n: int,
        low: float | None = None,
        high: float | None = None,
        target: str | None = None,
        unit: str = "",
    ) -> Self:
        """A metric from a computed number; NaN and infinity become None."""
        return cls(
            name=name, value=_finite(value), low=_finite(low), high=_finite(high), n=int(n), target=target, unit=unit
        )

    @classmethod
    def proportion(cls, name: str, successes: int, n: int, *, target: str | None = None) -> Self:
        """A proportion of n samples with its Wilson interval; the value is None if n is 0."""
        interval = wilson(successes, n)
        value = successes / n if n else None
        return cls.of(name, value, n=n, low=interval.low, high=interval.high, target=target, unit=PROPORTION)


@dataclass(frozen=True)
class Measurement:
    """What a benchmark function returns.

    Attributes:
        metrics: the numbers.
        data_sha256: digest of the test data.
        data_name: the name of the test data.
        data_n: the number of test images.
        plot: a plot (PNG), or None; `plots` are more of them, by name.
        curves: numbers along an axis, name -> step -> value, with the same names and steps for every version.
        outcomes: what the version answered for each image; empty if the benchmark asks no questions about images.
        machine: what it was measured on, of a benchmark of times.
        notes: short facts, e.g. the data set that was used as out-of-distribution images.
    """

    metrics: tuple[Metric, ...]
    data_sha256: str
    data_name: str
    data_n: int
    plot: bytes | None = None
    plots: Mapping[str, bytes] = field(default_factory=dict)
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    outcomes: tuple[ImageOutcome, ...] = ()
    machine: Machine | None = None
    notes: Mapping[str, str | int | float] = field(default_factory=dict)


class ComparedVersion(DocumentPart):
    """A version that another one was measured in turns with, in one run."""

    version: VersionText
    manifest_sha256: Sha256


@dataclass(frozen=True)
class BenchmarkRun:
    """One run of a benchmark on a version. For its attributes see `Evidence`."""

    benchmark: str
    model: str
    version: str
    content_sha256: str
    device: str
    runtime: str
    timestamp: str
    seconds: float
    libraries: Mapping[str, str]
    who: str
    against: ComparedVersion | None = None


class MeasuredOn(DocumentPart):
    """The test data of some evidence: its digest, name, and number of images."""

    name: Word
    sha256: Sha256
    n: int = Field(ge=0)


class Evidence(Document):
    """One benchmark's result for one version. See the module's docstring for what always holds.

    Attributes:
        device: the device, e.g. `cpu` or `cuda:0`.
        runtime: the runtime that computed it, e.g. `torch-fp32`.
        timestamp: when it ended, UTC, ISO 8601.
        seconds: how long the benchmark took.
        libraries: versions of the packages that were used.
        who: who measured.
        notes: the measurement's notes.
        outcomes: the sha256 of the outcomes for each image, in the store; None if none are kept.
        machine: what times were measured on; None if there are none, or an earlier release measured them.
        against: the version that the ratios compare with; None if there are none.
    """

    LIMIT: ClassVar[int] = 4 * 1024 * 1024

    format: Literal[1]
    benchmark: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")
    model: ModelName
    version: VersionText
    content_sha256: Sha256
    metrics: tuple[Metric, ...] = Field(max_length=MAX_METRICS)
    data: MeasuredOn
    device: Word
    runtime: Word
    timestamp: UtcTime
    seconds: float = Field(ge=0, allow_inf_nan=False)
    libraries: dict[Word, Word] = Field(default_factory=dict, max_length=1000)
    who: str = Field(default="", max_length=500)
    notes: dict[Word, Any] = Field(default_factory=dict, max_length=1000)
    outcomes: Sha256 | None = None
    machine: Machine | None = None
    against: ComparedVersion | None = None

    @classmethod
    def of(cls, measurement: Measurement, run: BenchmarkRun, outcomes: str = "") -> Self:
        """The evidence that holds a measurement; `outcomes` is the digest of those that are kept.

        Raises:
            pydantic.ValidationError: a field is out of its bounds, which is an error of the benchmark.
        """
        more: dict[str, Any] = {"outcomes": outcomes or None, "machine": measurement.machine, "against": run.against}
        return cls(
            format=1,
            benchmark=run.benchmark,
            model=run.model,
            version=run.version,
            content_sha256=run.content_sha256,
            metrics=measurement.metrics,
            data=MeasuredOn(name=measurement.data_name, sha256=measurement.data_sha256, n=measurement.data_n),
            device=run.device,
            runtime=run.runtime,
            timestamp=run.timestamp,
            seconds=run.seconds,
            libraries=dict(run.libraries),
            who=run.who[:500],
            notes=dict(measurement.notes),
            **{name: value for name, value in more.items() if value is not None},
        )

    def without_outcomes(self) -> Self:
        """The same evidence, naming no outcomes."""
        kept = self.model_dump(mode="json", exclude_unset=True, exclude={"outcomes"})
        return type(self).model_validate_json(canonical.encode(kept))

    @property
    def order(self) -> tuple[datetime, str]:
        """The sort key from the oldest to the newest; the digest makes the order of equal times the same everywhere."""
        return datetime.fromisoformat(self.timestamp), self.sha256

    def metric(self, name: str, target: str | None = None) -> Metric | None:
        """The metric with this name for this target (None: the aggregate), or None."""
        return next((metric for metric in self.metrics if (metric.name, metric.target) == (name, target)), None)

    @model_validator(mode="after")
    def _measures_each_once(self) -> Self:
        keys = [(metric.name, metric.target) for metric in self.metrics]
        if len(set(keys)) != len(keys):
            raise ValueError("a metric is given twice for the same target")
        return self


ReadOutcomes = Callable[[Evidence], Sequence[ImageOutcome]]
"""Gives what a version answered for each image of a measurement; nothing where that was not kept."""


def newest(evidence: Iterable[Evidence]) -> dict[tuple[str, str, str], Evidence]:
    """The newest evidence by (benchmark, device, runtime). All of it must be about one content: this is not checked."""
    return {(one.benchmark, one.device, one.runtime): one for one in sorted(evidence, key=lambda one: one.order)}


def _finite(value: float | None) -> float | None:
    number = None if value is None else float(value)
    return number if number is not None and math.isfinite(number) else None
