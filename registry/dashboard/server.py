"""The server of the dashboard: Streamlit, in this process."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from registry.dashboard import session
from registry.dashboard.options import DashboardOptions
from registry.dashboard.session import Dashboard
from registry.errors import MissingDependency, install_hint
from registry.serving.listening import check_free, is_listening

SCRIPT = Path(__file__).parent / "app" / "main.py"
_POLL_SECONDS = 0.05


def settings(options: DashboardOptions) -> Mapping[str, Any]:
    """Streamlit's settings. They overrule its files and variables: nothing is sent anywhere, nothing is watched, and
    what went wrong inside is for the log, not for browsers."""
    return {
        "server.address": options.host, "server.port": options.port, "server.headless": True,
        "server.fileWatcherType": "none", "server.runOnSave": False, "server.enableStaticServing": False,
        "server.enableCORS": True, "server.enableXsrfProtection": True, "server.maxUploadSize": 1,
        "browser.gatherUsageStats": False, "logger.hideWelcomeMessage": True, "logger.level": "warning",
        "client.toolbarMode": "viewer", "client.showErrorDetails": "none", "client.showSidebarNavigation": True,
        "global.developmentMode": False, "theme.base": "light", "theme.primaryColor": "#2f5d8a",
    }  # fmt: skip


def check_installed() -> None:
    """Check that the packages of the extra are there, before anything is asked.

    Raises:
        MissingDependency: one is not.
    """
    try:
        import plotly  # noqa: F401
        import streamlit  # noqa: F401
    except ImportError as error:
        raise MissingDependency(f"the dashboard can't be started: {error}", hint=install_hint("dashboard")) from error


def serve(dashboard: Dashboard, started: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        started: called with the address once it listens, in another thread.

    Raises:
        BadSetting: the port is in use, or the host is not an address of this machine.
        MissingDependency: Streamlit or plotly is not installed.
    """
    check_installed()
    options = dashboard.options
    check_free(options.host, options.port)
    from streamlit.web import bootstrap

    session.show(dashboard)
    flags = dict(settings(options))
    bootstrap.load_config_options(flags)
    answers = sys.stdout
    threading.Thread(target=_tell, args=(options, started, answers), name="dashboard-address", daemon=True).start()
    with suppress(KeyboardInterrupt), redirect_stdout(sys.stderr):  # what Streamlit prints is not the answer
        bootstrap.run(str(SCRIPT), False, [], flags)


def _tell(options: DashboardOptions, started: Callable[[str], None], answers: TextIO) -> None:
    while not is_listening(options.host, options.port):
        time.sleep(_POLL_SECONDS)
    with redirect_stdout(answers):
        started(options.url)
