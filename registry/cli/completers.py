"""What a shell completes: versions, channels, benchmarks. It is quick, and silent when something is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import click
from click.shell_completion import CompletionItem

from registry.names import CHANNELS
from registry.parallel import time_limit, within
from registry.plugins import ASKED, BENCHMARKS, installed

_SECONDS = 2.0
"""A person waits at the prompt for no longer."""


def complete_versions(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the model's versions in the store; none if it does not answer in time."""
    with suppress(Exception), time_limit(_SECONDS):
        return _beginning(within(_SECONDS, lambda: _versions(context)), incomplete)
    return []


def complete_channels(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The channels that every model has."""
    return _beginning(CHANNELS, incomplete)


def complete_benchmarks(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The installed benchmarks, after those that a list with commas has already."""
    before, comma, last = incomplete.rpartition(",")
    with suppress(Exception):
        left = [name for name in (*installed(BENCHMARKS), *installed(ASKED)) if name not in before.split(",")]
        return _beginning([f"{before}{comma}{name}" for name in left], f"{before}{comma}{last}")
    return []


def _versions(context: click.Context) -> list[str]:
    from registry.settings import Settings
    from registry.wiring import Wiring

    given = context.params
    settings = Settings.load(model=given.get("model"), store=given.get("store"))
    return [str(name) for name in Wiring(settings).bindings.names()]


def _beginning(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
