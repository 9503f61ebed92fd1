"""The options of `ulora serve` that say what it answers over HTTP, and which requests are too large."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import click

_ORIGIN = re.compile(r"https?://[a-z0-9.\-\[\]:]+", re.ASCII)
Command = TypeVar("Command", bound=Callable[..., None])


def content_options(command: Command) -> Command:
    """Fields of `HttpOptions` and `LiveOptions`: limits of requests, cache, browsers, liveness."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _check_origins(context: click.Context, parameter: click.Parameter, origins: tuple[str, ...]) -> tuple[str, ...]:
    """Browsers send an origin without a path and compare it letter by letter: another text would never match."""
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise click.BadParameter(f"{origin[:100]!r} is not an origin, such as https://app.example or *")
    return origins


_OPTIONS = (
    click.option(
        "--max-images",
        default=32,
        show_default=True,
        metavar="N",
        type=click.IntRange(1, 1024),
        help="Images of one request at most.",
    ),
    click.option(
        "--max-body",
        default=64 * 1024 * 1024,
        show_default=True,
        metavar="BYTES",
        type=click.IntRange(1024, 1024 * 1024 * 1024),
        help="Of a request at most; above it, 413.",
    ),
    click.option(
        "--max-pixels",
        metavar="N",
        type=click.IntRange(min=1),
        help="Of an image; the version's own limit when left out. More are refused before they are decoded.",
    ),
    click.option(
        "--cache-bytes",
        default=0,
        show_default=True,
        metavar="BYTES",
        type=click.IntRange(min=0),
        help="Memory for answers, given again for the same image, target and version.",
    ),
    click.option(
        "--cors-origin",
        "cors_origins",
        metavar="ORIGIN",
        multiple=True,
        callback=_check_origins,
        help="Whose pages may read answers in a browser, e.g. https://app.example; * for any. Repeatable.",
    ),
    click.option(
        "--compute-limit",
        default=120.0,
        show_default=True,
        metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=True),
        help="What one batch may take until /health/live is 503.",
    ),
)
