"""The page *History*."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import streamlit as st

from registry.dashboard import text
from registry.dashboard.figures.timeline import timeline_figure
from registry.dashboard.history import (
    MAX_RECORDS,
    RECENT,
    ChannelHistory,
    HistoryEntry,
    ServedAt,
    read_history,
    served_at,
    stretches,
)
from registry.dashboard.pages.parts import chart, table
from registry.dashboard.session import Dashboard
from registry.usecases.incidents import incident_note


def draw(dashboard: Dashboard) -> None:
    """What was served at a moment, the timeline, every change, notes on incidents."""
    now = datetime.now(UTC)
    moment = _asked(now)
    histories = _read(dashboard, RECENT)
    found = [served_at(each, moment) for each in histories]
    if not all(each.is_known for each in found):
        histories = _read(dashboard, MAX_RECORDS)
        found = [served_at(each, moment) for each in histories]
    _answer(found, moment)
    st.header("Timeline")
    chart(timeline_figure(stretches(histories, now), histories, moment if moment < now else None), "timeline")
    st.header("Changes")
    _changes(histories)
    _incidents(dashboard, histories)


def _read(dashboard: Dashboard, limit: int) -> tuple[ChannelHistory, ...]:
    return dashboard.kept.get(("history", limit), partial(read_history, dashboard.registry, dashboard.kept, limit))


def _asked(now: datetime) -> datetime:
    st.header("What was served then?")
    day, clock = st.columns([1, 1])
    date = day.date_input("Day, UTC", value=now.date(), key="history-day")
    time = clock.time_input("Time, UTC", value=now.time().replace(microsecond=0, second=0), key="history-time")
    if not isinstance(date, type(now.date())) or time is None:
        return now
    return min(now, datetime.combine(date, time, tzinfo=UTC) + timedelta(seconds=59))  # the minute that is asked for


def _answer(found: Sequence[ServedAt], moment: datetime) -> None:
    for column, each in zip(st.columns(len(found)), found, strict=True):
        with column.container(border=True):
            entry = each.entry
            version = entry.stable or "nothing" if entry else "nothing" if each.is_known else "not known"
            st.metric(f"{each.channel} at {moment:%Y-%m-%d %H:%M} UTC", text.plain(version, 60))
            if entry is None:
                st.caption("No change had been made." if each.is_known else "Older records are not read here.")
                continue
            if entry.canary:
                st.markdown(f"on trial: **{text.markdown(entry.canary)}** ({text.markdown(entry.share)})")
            st.caption(
                f"since {_time(entry)}: {text.markdown(entry.action)} by {text.markdown(entry.who, 80)}, "
                f"generation {entry.generation}"
            )
            if entry.reason:
                st.caption(text.markdown(entry.reason))


def _changes(histories: Sequence[ChannelHistory]) -> None:
    names = [each.channel for each in histories]
    wanted = st.segmented_control("Channel", names, default=names[-1], key="history-channel") or names[-1]
    history = next(each for each in histories if each.channel == wanted)
    older = "; older ones are in `ulora history`" if history.is_cut else ""
    st.caption(f"{len(history.entries)} changes, newest first{older}")
    table(
        [_row(entry) for entry in history.entries],
        "changes",
        {"generation": st.column_config.NumberColumn(width="small")},
    )


def _row(entry: HistoryEntry) -> dict[str, object]:
    if entry.unread:
        return {"generation": entry.generation, "action": "may not be read", "reason": text.plain(entry.unread)}
    return {
        "generation": entry.generation,
        "when": _time(entry),
        "action": f"{entry.action} (forced)" if entry.overruled else entry.action,
        "stable": text.plain(entry.stable, 120),
        "canary": text.plain(f"{entry.canary} {entry.share}".strip(), 120),
        "who": text.plain(entry.who, 120),
        "reason": text.plain(entry.reason),
        "gates": entry.verdict,
        "decision": text.digest(entry.decision) if entry.decision else "",
    }


def _time(entry: HistoryEntry) -> str:
    return f"{entry.at:%Y-%m-%d %H:%M:%S}" if entry.at else "–"


def _incidents(dashboard: Dashboard, histories: Sequence[ChannelHistory]) -> None:
    back = [
        entry
        for history in histories
        for entry in history.entries
        if entry.decision and entry.action in ("rollback", "abort")
    ]
    if not back:
        return
    st.header("Incidents")
    names = {f"{entry.channel}, generation {entry.generation}, {_time(entry)}": entry for entry in back}
    wanted = names[st.selectbox("Rollback by the guard", list(names), key="history-incident")]
    read = partial(incident_note, dashboard.registry.wiring, wanted.channel, wanted.decision)
    note = dashboard.kept.get(("incident", wanted.channel, wanted.decision), read)
    # As text: Markdown of the store could show pictures of anybody's server.
    st.code(note or "There is no note.", language=None, wrap_lines=True)
