"""How many requests a caller may send in a time.

throttled-py counts: its GCRA lets requests pass evenly, keeps one number for each caller, and its memory has a bound.
"""

from __future__ import annotations

import ipaddress
import math
import re

from registry.errors import BadSetting, MissingDependency, Overloaded

MAX_CALLERS = 10_000
"""Callers that are counted; then the one that asked longest ago is forgotten."""
_RATE = re.compile(r"([1-9][0-9]{0,6})/(second|minute|hour)")


class RateLimit:
    """A bound on the requests of each caller."""

    def __init__(self, rate: str) -> None:
        """Args:
            rate: such as `100/second`. As many may come at once.

        Raises:
            BadSetting: it is not a rate.
            MissingDependency: throttled-py is not installed.
        """
        match = _RATE.fullmatch(rate)
        if match is None:
            raise BadSetting(f"{rate[:40]!r} is not a rate", hint="such as 100/second, 500/minute or 10000/hour")
        try:
            from throttled import Throttled, per_hour, per_min, per_sec
            from throttled.store import MemoryStore
        except ModuleNotFoundError as error:
            raise MissingDependency("--rate-limit needs throttled-py", hint="pip install throttled-py") from error
        quota = {"second": per_sec, "minute": per_min, "hour": per_hour}[match[2]](int(match[1]))
        store = MemoryStore(options={"MAX_SIZE": MAX_CALLERS})
        self._rate = rate
        self._throttle = Throttled(using="gcra", quota=quota, store=store)

    def check(self, caller: str) -> None:
        """Count one request.

        Raises:
            Overloaded: it is one too many.
        """
        counted = self._throttle.limit(caller)
        if counted.limited:
            raise Overloaded(
                f"more than {self._rate} of one caller", retry_after=max(1, math.ceil(counted.state.retry_after))
            )


def caller_of_address(host: str) -> str:
    """What stands for the callers at an address: itself, or of IPv6 the network of 64 bits that one customer has."""
    if ":" not in host:
        return host
    try:
        return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False))
    except ValueError:
        return host
