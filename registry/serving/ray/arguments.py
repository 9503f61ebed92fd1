"""What may be said to `registry.serving.ray:app`, on the command line of `serve run` or as `args` of a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from registry.errors import BadInput
from registry.formats.document import first_problem
from registry.names import check_channel
from registry.serving.http.options import HttpOptions
from registry.serving.options import LiveOptions
from registry.serving.pace import SIZES

_LIVE = ("device", "runtime", "max_batch", "deadline", "max_pixels", "max_staleness", "waiting_bytes")
_HTTP = (
    "tokens", "fleet_key_file", "rate_limit", "compute_limit", "max_images", "max_body", "cors_origins", "cache_bytes",
)  # fmt: skip


class RayArguments(BaseModel):
    """How replicas on Ray serve a channel, and how many there are.

    Those of the first two groups mean what the options of `ulora serve` with the same names mean; which model and store
    it is comes from the settings of the actor's process.

    Attributes:
        min_replicas, max_replicas: Ray keeps as many as the requests need.
        target_ongoing_requests: those of a replica, mean over `look_back_seconds`, above which Ray starts another one.
            What a replica refuses for want of time is not ongoing, so this has to be less than what it admits: its
            images a second times `deadline`.
        max_ongoing_requests: those that a replica gets at a time; others wait in Ray's proxy. None for twice the
            largest batch, so that one fills while one is computed.
        upscale_seconds, downscale_seconds: how long it must be too many, or too few, until their number changes.
        num_cpus, num_gpus: what Ray reserves for a replica. It computes with one thread for each of the cores.
        health_check_seconds: between two checks of a replica's liveness.
        shutdown_seconds: from when Ray sends a replica nothing new until it is killed; running requests end in it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    channel: str = "production"
    device: str = Field(default="cpu", max_length=100)
    runtime: str | None = Field(default=None, max_length=100)
    max_batch: int | None = Field(default=None, ge=1, le=1024)
    deadline: float = Field(default=LiveOptions.deadline, gt=0, le=600)
    max_pixels: int | None = Field(default=None, ge=1)
    max_staleness: float | None = Field(default=None, gt=0)
    waiting_bytes: int = Field(default=LiveOptions.waiting_bytes, ge=128 * 1024 * 1024)

    tokens: Path | None = None
    fleet_key_file: Path | None = None
    rate_limit: str | None = Field(default=None, max_length=100)
    compute_limit: float = Field(default=HttpOptions.compute_limit, gt=0)
    max_images: int = Field(default=HttpOptions.max_images, ge=1, le=1024)
    max_body: int = Field(default=HttpOptions.max_body, ge=1024, le=1024 * 1024 * 1024)
    cors_origins: tuple[str, ...] = ()
    cache_bytes: int = Field(default=0, ge=0)

    min_replicas: int = Field(default=1, ge=1, le=10_000)
    max_replicas: int = Field(default=4, ge=1, le=10_000)
    target_ongoing_requests: float = Field(default=4.0, gt=0)
    max_ongoing_requests: int | None = Field(default=None, ge=2, le=100_000)
    look_back_seconds: float = Field(default=30.0, gt=0)
    upscale_seconds: float = Field(default=10.0, ge=0)
    downscale_seconds: float = Field(default=600.0, ge=0)
    num_cpus: float = Field(default=1.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    health_check_seconds: float = Field(default=10.0, gt=0)
    shutdown_seconds: float = Field(default=20.0, gt=0)

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
        """The arguments, checked. The values may be text, as a command line has them.

        Raises:
            BadInput: one is unknown or invalid, or they contradict each other.
        """
        try:
            arguments = cls.model_validate(dict(given))
        except ValidationError as error:
            raise BadInput(
                f"an argument of registry.serving.ray:app is invalid: {first_problem(error)}",
                hint=f"there are {', '.join(cls.model_fields)}",
            ) from error
        check_channel(arguments.channel)
        return arguments

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is less than min_replicas {self.min_replicas}")
        if self.max_batch and self.ongoing < 2 * self.max_batch:
            raise ValueError(
                f"max_ongoing_requests {self.ongoing} is less than twice max_batch {self.max_batch}: batches would not "
                "be filled while one is computed"
            )
        return self

    @property
    def ongoing(self) -> int:
        """Requests that a replica gets at a time."""
        return self.max_ongoing_requests or 2 * (self.max_batch or max(SIZES))

    def live_options(self) -> LiveOptions:
        """How a replica follows, and computes."""
        return LiveOptions(**{name: getattr(self, name) for name in _LIVE})

    def http_options(self) -> HttpOptions:
        """What it answers."""
        return HttpOptions(**{name: getattr(self, name) for name in _HTTP})

    def deployment(self) -> dict[str, Any]:
        """The options of `serve.deployment`. A YAML file may replace each of them."""
        return {
            "max_ongoing_requests": self.ongoing,
            "ray_actor_options": {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus},
            "health_check_period_s": self.health_check_seconds,
            "graceful_shutdown_timeout_s": self.shutdown_seconds,
            "graceful_shutdown_wait_loop_s": min(1.0, self.shutdown_seconds / 4),
            "autoscaling_config": {
                "min_replicas": self.min_replicas,
                "max_replicas": self.max_replicas,
                "target_ongoing_requests": self.target_ongoing_requests,
                "look_back_period_s": self.look_back_seconds,
                "upscale_delay_s": self.upscale_seconds,
                "downscale_delay_s": self.downscale_seconds,
            },
        }
