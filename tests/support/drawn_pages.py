"""A page of the dashboard, drawn by Streamlit's own test runner."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest

from registry.dashboard import session
from registry.dashboard.session import Dashboard

_SECONDS = 300
"""How long a page may take on a busy machine: a guard against a hang."""


def page(name: str, shown: Dashboard) -> AppTest:
    """A page, drawn once."""
    session.show(shown)
    script = f"""
from registry.dashboard.pages import {name}
from registry.dashboard.pages.parts import page
page("{name.title()}", {name}.draw)()
"""
    return AppTest.from_string(script, default_timeout=_SECONDS).run()
