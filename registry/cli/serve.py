"""`ulora serve`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from registry.cli.logs import FORMATS, start_logging
from registry.cli.options import AGE, channel_option, device_option, options_as, registry_options, runtime_option
from registry.cli.output import Output
from registry.cli.serve_options import content_options
from registry.cli.signals import sigterm_interrupts

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.serving.http.options import HttpOptions
    from registry.serving.options import LiveOptions


def _seconds(context: click.Context, parameter: click.Parameter, age: timedelta | None) -> float | None:
    return None if age is None else age.total_seconds()


@click.command("serve", short_help="Answer predictions over HTTP, following a channel.")
@channel_option("production")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes any free one.")
@click.option(
    "--grace",
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="How long it may take to end; after that it is killed.",
)
@click.option(
    "--max-cache-age",
    type=AGE,
    default="7d",
    show_default=True,
    callback=_seconds,
    help="If the store does not answer at the start: the oldest state of this machine to begin with.",
)
@click.option(
    "--max-staleness",
    type=AGE,
    callback=_seconds,
    help="Not ready after so long without the store; never when left out.",
)
@click.option(
    "--deadline",
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    type=click.FloatRange(min=0.001, max=600),
    help="Of a request without X-Request-Timeout-Ms: refused with 429 if it can't be answered by then.",
)
@click.option(
    "--max-batch",
    metavar="N",
    type=click.IntRange(1, 1024),
    help="Images that are computed together at most; found out at the start when left out.",
)
@click.option(
    "--waiting-bytes",
    default=512 * 1024 * 1024,
    show_default=True,
    metavar="BYTES",
    type=click.IntRange(min=128 * 1024 * 1024),
    help="What the bodies and images of waiting requests may hold together; above it, 429.",
)
@content_options
@click.option("--log-format", type=click.Choice(FORMATS), default="text", show_default=True, help="Of its log lines.")
@device_option
@runtime_option
@registry_options
@options_as("registry.serving.options:LiveOptions")
@options_as("registry.serving.http.options:HttpOptions", "http")
def serve_command(
    registry: Registry, out: Output, *, channel: str, http: HttpOptions, log_format: str, options: LiveOptions
) -> None:
    """Serve what a channel names: POST /predict, POST /predict/batch, GET /health, GET /version. Every answer says its
    version.

    A promotion or rollback is followed within about a second, without failing a request. Ctrl-C and SIGTERM end it
    cleanly, and in any case within --grace.

    If the store does not answer at the start, it begins with what it served last on this machine, and catches up later.

    Standard error has a line for each change of version, failed load, refused signature and change of state.

    \b
    Example:
      ulora serve --channel production --port 8000
      curl -F image=@leaf.jpg http://127.0.0.1:8000/predict
    """
    from registry.serving.listening import check_free

    check_free(http.host, http.port)

    from registry.machine.programs import start_watchdog
    from registry.serving.http.server import serve

    start_logging(log_format)
    start_watchdog(http.grace)
    with sigterm_interrupts(), registry.follow(channel, options) as live:  # a first load may take minutes
        serve(live, http, lambda url: out.answer({"url": url, "version": live.version}, f"{live.version} at {url}"))
