"""The widgets that change channels, only where the dashboard was started for it; what they call checks that again."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from registry.answers import ChannelStatus
from registry.dashboard import changes, text
from registry.dashboard.changes import Kind, WantedChange
from registry.dashboard.pages.parts import show_error
from registry.dashboard.session import Dashboard
from registry.errors import BadInput, UloraError

_PLANNED = "planned change"
_DONE = "done change"
_NAMES: dict[Kind, str] = {
    "rollback": "Roll back", "promote": "Promote a version", "advance": "Advance the trial", "abort": "End the trial",
}  # fmt: skip


def draw_changes(dashboard: Dashboard) -> None:
    """Choose a change, look at its plan, say why, make it."""
    st.header("Change a channel")
    st.caption(text.markdown(f"Records are signed by {dashboard.registry.settings.who}: there is no login here."))
    if done := st.session_state.pop(_DONE, ""):
        st.success(text.markdown(done, 1000))
    wanted, channel = _chosen(dashboard)  # where the store is away, the page says so and comes back by itself
    try:
        _plan_and_make(dashboard, wanted, channel)
    except UloraError as error:
        show_error(error)


def _chosen(dashboard: Dashboard) -> tuple[WantedChange, ChannelStatus]:
    channels = {each.channel: each for each in dashboard.kept.get("status", dashboard.registry.status).channels}
    left, middle, right = st.columns(3)
    channel = channels[left.selectbox("Channel", list(channels), index=len(channels) - 1, key="change-channel")]
    kinds: list[Kind] = ["advance", "abort"] if channel.canary else ["rollback", "promote"]
    kind: Kind = middle.selectbox("Change", kinds, format_func=lambda each: _NAMES[each], key="change-kind")
    wanted = WantedChange(kind, channel.channel, channel.generation)
    with right:
        if kind == "promote":
            listed = dashboard.kept.get("listed", lambda: dashboard.registry.versions(mlflow=False))
            version = st.selectbox("Version", [each.version for each in listed][::-1], key="change-version")
            wanted = replace(wanted, version=version or "")
        elif kind == "advance":
            percent = st.number_input("Share of the keys, %", 0.01, 100.0, 100.0, key="change-percent")
            wanted = replace(wanted, percent=float(percent))
    return wanted, channel


def _plan_and_make(dashboard: Dashboard, wanted: WantedChange, channel: ChannelStatus) -> None:
    if st.button("Show the plan", key="change-plan"):
        st.session_state[_PLANNED] = (wanted, _planned(dashboard, wanted, channel))
    planned = st.session_state.get(_PLANNED)
    if planned and planned[0] == wanted:
        _confirm(dashboard, wanted, planned[1])


def _planned(dashboard: Dashboard, wanted: WantedChange, channel: ChannelStatus) -> str:
    found = changes.plan(dashboard, wanted)
    trial = f", with {found.canary} on trial ({found.share})" if found.canary else ""
    notes = "; ".join(found.notes)
    return (
        f"{found.channel} serves {channel.stable or 'nothing'} and would serve {found.version or 'nothing'}{trial}: "
        f"{found.action}, generation {found.generation}" + (f"; {notes}" if notes else "")
    )


def _confirm(dashboard: Dashboard, wanted: WantedChange, said: str) -> None:
    st.info(text.markdown(said, 1000))
    reason = st.text_input("Reason (required; it stays on the record)", max_chars=1000, key="change-reason")
    if not st.button(_NAMES[wanted.kind], type="primary", key="change-make"):
        return
    if not reason.strip():
        raise BadInput("no reason is given; nothing changed", hint="say why: it stays on the record")
    done = changes.make(dashboard, wanted, reason)
    st.session_state.pop(_PLANNED, None)
    notes = "".join(f"; {note}" for note in done.notes)
    st.session_state[_DONE] = f"{done.channel} serves {done.version or 'nothing'}, generation {done.generation}{notes}"
    st.rerun()
