"""The options of `Registry.test` and `ulora test`. Nothing heavy is imported here, as the command line reads it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from registry.errors import BadInput

TOKEN = "ULORA_TOKEN"  # noqa: S105  the name of a variable
"""The variable that holds the token for what is deployed."""
MAX_REQUESTS, MAX_TIMEOUT = 10_000, 86_400.0
"""Of one test: of a latency as many requests, and seconds for the team's own tests."""


@dataclass(frozen=True)
class TestOptions:
    """What is tested of a version, before it is deployed or after.

    Attributes:
        channel: whose gates are judged, as `promote` would.
        drill: promote it and roll it back in a scratch channel.
        tests: a folder of the team's own pytest files.
        timeout: seconds that these may take in all.
        device, runtime: what computes the answers of the version here.
        deployed: the URL of a replica, or of what stands before several: then what answers there is tested instead.
        data: a folder of images to send there; the inputs of the version's recorded outputs when left out.
        requests: how many are sent to measure the latency.
        max_latency: milliseconds that the 95th percentile may take; None for any.
        token: for the replica, if it asks for one.
        record: keep the result as evidence.
        offline: do not show it in MLflow.
    """

    __test__: ClassVar[bool] = False
    """For pytest, which takes every class with such a name for tests."""

    channel: str = "production"
    drill: bool = False
    tests: Path | None = None
    timeout: float = 600.0
    device: str = "cpu"
    runtime: str | None = None
    deployed: str | None = None
    data: Path | None = None
    requests: int = 50
    max_latency: float | None = None
    token: str = field(default="", repr=False)
    record: bool = True
    offline: bool = False

    def __post_init__(self) -> None:
        """Raises: BadInput: options for before and after the deployment are mixed, or a number is out of its bounds."""
        if self.deployed is not None and (self.drill or self.tests is not None):
            raise BadInput("--drill and --tests are for before the deployment", hint="run it once without --deployed")
        if self.deployed is None and (self.data is not None or self.max_latency is not None):
            raise BadInput("--data and --max-latency are for what is deployed", hint="add --deployed URL")
        if not 1 <= self.requests <= MAX_REQUESTS:
            raise BadInput(f"{self.requests} requests are not 1 to {MAX_REQUESTS:,}", hint="change --requests")
        if self.max_latency is not None and not 0 < self.max_latency < math.inf:
            raise BadInput(f"{self.max_latency:g} is no time", hint="give --max-latency in milliseconds, above 0")
        if not 0 < self.timeout <= MAX_TIMEOUT:
            raise BadInput("a time is not above 0, or too long", hint=f"--timeout is {MAX_TIMEOUT:g} s at most")
