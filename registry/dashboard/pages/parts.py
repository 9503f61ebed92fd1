"""What the pages have in common. Texts of the store are shown as text, or escaped: no page allows HTML."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import streamlit as st

from registry.dashboard import text
from registry.dashboard.links import model_page
from registry.dashboard.session import Dashboard, current
from registry.errors import UloraError, Unreachable

_CHART = {"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d"], "responsive": True}
RETRY_SECONDS = 4
_WHOLE_ROWS = 25
"""A longer table scrolls."""


def page(title: str, draw: Callable[[Dashboard], None]) -> Callable[[], None]:
    """A page with its title; what goes wrong is shown with its hint, and the page comes back when the store does."""

    def show() -> None:
        dashboard = current()
        st.title(title)
        _about(dashboard)
        try:
            draw(dashboard)
        except UloraError as error:
            show_error(error)
            if isinstance(error, Unreachable):
                st.fragment(_drawn_again(), run_every=RETRY_SECONDS)()

    show.__name__ = title.lower()
    return show


def show_error(error: UloraError) -> None:
    """One message, with what to do next."""
    hint = f"  \n{text.markdown(error.hint, 1000)}" if error.hint else ""
    st.error(text.markdown(str(error), 1000) + hint)


def chart(figure: Any, key: str, empty: str = "") -> None:
    """A figure; a sentence where there is none."""
    if figure is None:
        if empty:
            st.caption(empty)
        return
    st.plotly_chart(figure, width="stretch", theme=None, config=_CHART, key=key)


def table(rows: Sequence[dict[str, Any]], key: str, columns: dict[str, Any] | None = None) -> None:
    """Rows as a table, which shows texts as they are."""
    height: Any = "content" if 0 < len(rows) <= _WHOLE_ROWS else "auto"
    st.dataframe(list(rows), hide_index=True, width="stretch", height=height, column_config=columns or {}, key=key)


def _about(dashboard: Dashboard) -> None:
    link = model_page(dashboard.registry.settings)
    left, right = st.columns([4, 1])
    changes = "changes are allowed" if dashboard.options.allow_changes else "read only"
    said = f"{dashboard.registry.model} in {dashboard.registry.settings.store}, {changes}"
    left.caption(text.markdown(said))
    if link:
        right.link_button("Open in MLflow", link)


def _drawn_again() -> Callable[[], None]:
    """Draws the page again once the store answers.

    It looks only some seconds after the page was drawn: the page may fail by a read that is newer than what is kept of
    the status, and would be drawn without a pause.
    """
    looks = itertools.count()

    def look() -> None:
        st.caption("It is tried again every few seconds.")
        if next(looks) == 0:
            return
        dashboard = current()
        with suppress(UloraError):
            dashboard.kept.get("status", dashboard.registry.status)
            st.rerun()

    return look
