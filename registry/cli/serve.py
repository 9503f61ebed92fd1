"""`ulora serve`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.logs import FORMATS, start_logging
from registry.cli.options import AGE, device_option, options_as, registry_options, runtime_option, version_or_channel
from registry.cli.output import Output
from registry.cli.serve_options import content_options
from registry.cli.signals import sigterm_interrupts

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.decorators import FC

    from registry.api import Registry
    from registry.serving.http.options import HttpOptions
    from registry.serving.options import LiveOptions


def _seconds(context: click.Context, parameter: click.Parameter, age: timedelta | None) -> float | None:
    return None if age is None else age.total_seconds()


FILE = click.Path(dir_okay=False, path_type=Path)


def _seconds_option(name: str, default: float, help_text: str) -> Callable[[FC], FC]:
    seconds = click.FloatRange(min=0, min_open=True, max=3600)
    return click.option(name, default=default, show_default=True, metavar="SECONDS", type=seconds, help=help_text)


@click.command("serve", short_help="Answer predictions over HTTP, following a channel.")
@version_or_channel("Serve this version for good, and follow no channel.")
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
    "--drain",
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="After SIGTERM it is not ready, but still answers, for so long; at most half of --grace.",
)
@_seconds_option("--header-seconds", 10.0, "For the head of a request to arrive.")
@_seconds_option("--body-seconds", 30.0, "For the body of a request to arrive, and for an answer to be read.")
@_seconds_option("--idle-seconds", 75.0, "After which a connection without a request is closed.")
@click.option(
    "--max-connections",
    default=4096,
    show_default=True,
    metavar="N",
    type=click.IntRange(min=1),
    help="Connections at most; fewer where the process may open few files.",
)
@click.option("--tokens", type=FILE, help="Bearer tokens, a line each: NAME SCOPES TOKEN.")
@click.option(
    "--fleet-key-file", type=FILE, help="Keys that sign receipts, the same on all replicas; see docs/trials.md."
)
@click.option(
    "--observe-every",
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    type=click.FloatRange(min=0.1, max=30),
    help="Time between two writes of what is counted in a trial; without one it is six times as long.",
)
@click.option("--rate-limit", metavar="N/UNIT", help="Requests of one token or address at most, such as 100/second.")
@click.option("--ssl-certfile", type=FILE, help="A PEM certificate with its chain: HTTPS, and no HTTP.")
@click.option("--ssl-keyfile", type=FILE, help="Its PEM key, if that is not in the same file.")
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
    registry: Registry, out: Output, *, channel: str, version: str | None, http: HttpOptions, log_format: str,
    options: LiveOptions,
) -> None:  # fmt: skip
    """Serve what a channel names: POST /predict, POST /predict/batch, GET /health, GET /version. Every answer says its
    version.

    A promotion or rollback is followed within about a second, without failing a request. Ctrl-C ends it cleanly, and
    SIGTERM after --drain; both within --grace, and a second one of them at once.

    If the store does not answer at the start, it begins with what it served last on this machine, and catches up later.

    With --version it follows no channel: no promotion and no rollback reaches it. For two versions behind a balancer;
    see docs/trials.md, "A/B by two ports".

    Standard error has a line for each change of version, failed load, refused signature and change of state.

    \b
    Example:
      ulora serve --channel production --port 8000
      curl -F image=@leaf.jpg http://127.0.0.1:8000/predict
      ulora serve --version v5.5.3-performance --port 8001
    """
    if version is not None and http.fleet_key_file:
        raise click.UsageError("--fleet-key-file is for a replica that follows a channel: no other takes labels")
    from registry.serving.http.certificates import read_certificate
    from registry.serving.http.rate_limit import RateLimit
    from registry.serving.http.tokens import read_tokens
    from registry.serving.listening import check_free
    from registry.trials.receipts import FleetKeys

    check_free(http.host, http.port)
    read_certificate(http.ssl_certfile, http.ssl_keyfile)
    read_tokens(http.tokens)
    FleetKeys.from_setting(file=http.fleet_key_file)
    if http.rate_limit:
        RateLimit(http.rate_limit)

    from registry.machine.programs import start_watchdog
    from registry.serving.http.server import serve
    from registry.serving.pauses import shorten_collections

    start_logging(log_format)
    start_watchdog(http.grace)
    live = registry.pinned(version, options) if version is not None else registry.follow(channel, options)
    with sigterm_interrupts(), live:  # a first load may take minutes
        shorten_collections()
        serve(live, http, lambda url: out.answer({"url": url, "version": live.version}, f"{live.version} at {url}"))
