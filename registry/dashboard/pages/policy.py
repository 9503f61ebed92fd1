"""The page *Policy*."""

from __future__ import annotations

from functools import partial

import streamlit as st

from registry.dashboard import text
from registry.dashboard.pages.parts import table
from registry.dashboard.policy import NeededByVersion, PolicyView, read_needed, read_policy
from registry.dashboard.session import Dashboard
from registry.dashboard.versions import read_versions
from registry.names import CHANNELS

_EXPENSIVE_SECONDS = 60.0
_CHECKS = ("what", "value", "asked", "status", "why")


def draw(dashboard: Dashboard) -> None:
    """What each version would need, then the rules."""
    channel = st.segmented_control("Channel", CHANNELS, default=CHANNELS[-1], key="policy-channel") or CHANNELS[-1]
    st.header(f"What versions need for {channel}")
    listed = dashboard.kept.get("versions", partial(read_versions, dashboard.registry))
    needed = dashboard.kept.get(
        ("needed", channel), partial(read_needed, dashboard.registry, listed.versions, channel), _EXPENSIVE_SECONDS
    )
    table([_row(each) for each in needed], "needed")
    _checks([each for each in needed if each.checks])
    found = dashboard.kept.get("policy", partial(read_policy, dashboard.registry))
    _rules(found, channel)


def _row(each: NeededByVersion) -> dict[str, object]:
    needs = "; ".join(each.needs[:3]) + (f"; and {len(each.needs) - 3} more" if len(each.needs) > 3 else "")
    return {
        "version": text.plain(each.version, 120),
        "gates now": each.outcome or "not known",
        "checks": each.summary,
        "needs": text.plain(each.problem or needs or "nothing more", 600),
    }


def _checks(needed: list[NeededByVersion]) -> None:
    if not needed:
        return
    st.subheader("Every check of a version")
    names = [each.version for each in needed]
    wanted = st.selectbox("Version", names, key="policy-version")
    checks = next(each.checks for each in needed if each.version == (wanted or names[0]))
    table([dict(zip(_CHECKS, map(text.plain, check), strict=True)) for check in checks], "checks")


def _rules(found: PolicyView, channel: str) -> None:
    st.header(f"Rules of {channel}")
    st.caption(f"Policy {text.digest(found.digest)}; `ulora policy show` prints the whole.")
    rows = [
        {"versions": each.versions, "asks": text.plain(each.asks), "why": text.plain(each.why)}
        for each in found.rules
        if each.channel == channel
    ]
    if rows:
        table(rows, "rules")
    else:
        st.caption("Nothing is asked.")
    st.subheader("How the guard judges what serves")
    for band in found.bands:
        st.markdown(f"- {text.markdown(band)}")
    if not found.bands:
        st.caption("It has no rules.")
    st.subheader("By which plans trials advance")
    for name, plan in found.plans:
        st.markdown(f"- **{text.markdown(name)}**: {text.markdown(plan)}")
    st.markdown(f"- A report judges for good at: {text.markdown(found.horizon)}")
