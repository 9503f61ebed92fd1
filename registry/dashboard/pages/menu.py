"""The menu of pages."""

from __future__ import annotations

import streamlit as st

from registry.dashboard import text
from registry.dashboard.pages import health, history, now, policy, versions
from registry.dashboard.pages.parts import page
from registry.dashboard.session import current

PAGES = (
    ("Now", now.draw),
    ("Versions", versions.draw),
    ("History", history.draw),
    ("Health", health.draw),
    ("Policy", policy.draw),
)


def draw() -> None:
    """The page that the browser asks for."""
    st.set_page_config(page_title=f"{text.plain(current().registry.model, 60)}: ulora", layout="wide")
    pages = [
        st.Page(page(title, body), title=title, url_path=title.lower(), default=number == 0)
        for number, (title, body) in enumerate(PAGES)
    ]
    st.navigation(pages).run()
