"""`ulora dashboard`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.options import options_as, registry_options
from registry.cli.output import Output, place
from registry.cli.signals import sigterm_interrupts

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.dashboard.options import DashboardOptions


@click.command("dashboard", short_help="Show channels, versions, history and health in a browser.")
@click.option("--host", default="127.0.0.1", show_default=True, help="There is no login: put a proxy before others.")
@click.option("--port", default=8501, show_default=True, type=click.IntRange(1, 65535))
@click.option("--allow-changes", is_flag=True, help="Also promote, roll back, advance and end trials from it.")
@click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="The folder of the test images, for pictures of those that two versions answer differently.",
)  # fmt: skip
@registry_options
@options_as("registry.dashboard.options:DashboardOptions")
def dashboard_command(registry: Registry, out: Output, *, options: DashboardOptions) -> None:
    """Serve pages that read the store only, so they work while MLflow is down: what is served now and on trial,
    versions side by side, what was served on any day, how operations went, what each version would need to pass.

    It changes nothing without --allow-changes. With it, each change is planned first, asks for a reason, and is signed
    by whoever started the dashboard. Ctrl-C ends it.

    \b
    Examples:
      ulora dashboard
      ulora dashboard --port 8600 --data images/
      ulora dashboard --allow-changes
    """
    from registry.dashboard.server import check_installed, serve
    from registry.dashboard.session import Dashboard

    check_installed()
    if not options.is_local:
        out.note(f"{options.host} can be reached by others, and there is no login: put a proxy with one before it")

    def started(url: str) -> None:
        changes = ", changes allowed" if options.allow_changes else ""
        out.answer({"url": url}, f"{place(registry)}: {url}{changes}   stop with Ctrl-C")

    with sigterm_interrupts():
        serve(Dashboard(registry, options), started)
