"""What the pages of one process share: the registry, the options, what was read. One process serves one dashboard."""

from __future__ import annotations

from dataclasses import dataclass, field

from registry.api import Registry
from registry.dashboard.kept import KeptReads
from registry.dashboard.options import DashboardOptions
from registry.errors import BadInput


@dataclass(frozen=True)
class Dashboard:
    """The registry that is shown, and how."""

    registry: Registry
    options: DashboardOptions = field(default_factory=DashboardOptions)
    kept: KeptReads = field(default_factory=KeptReads)


_CURRENT: list[Dashboard] = []


def show(dashboard: Dashboard) -> None:
    """Let the pages show this one from now on."""
    _CURRENT[:] = [dashboard]


def current() -> Dashboard:
    """The one that the pages show.

    Raises:
        BadInput: none is: the script was not started by `ulora dashboard`.
    """
    if not _CURRENT:
        raise BadInput("no registry is shown", hint="start it with `ulora dashboard`")
    return _CURRENT[0]
