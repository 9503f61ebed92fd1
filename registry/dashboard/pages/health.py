"""The page *Health*."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import streamlit as st

from registry.dashboard import text
from registry.dashboard.figures.health import (
    changes_figure,
    costs_figure,
    durations_figure,
    labels_figure,
    ood_figure,
    operations_figure,
)
from registry.dashboard.health import COST_METRICS, DAYS, CommandHealth, HealthView, costs_of, read_health
from registry.dashboard.pages.parts import chart, table
from registry.dashboard.session import Dashboard
from registry.dashboard.versions import Metrics, measured, read_versions

_TITLES = {
    "latency_ms_p95": "Latency, p95 in ms",
    "adapter_memory_mb": "Largest adapter, MB",
    "adapters_memory_mb_total": "All adapters, MB",
}
_EXPENSIVE_SECONDS = 60.0


def draw(dashboard: Dashboard) -> None:
    """Operations, costs of versions, traffic."""
    found = dashboard.kept.get("health", partial(read_health, dashboard.registry))
    listed = dashboard.kept.get("versions", partial(read_versions, dashboard.registry))
    metrics = dashboard.kept.get("measured", partial(measured, dashboard.registry, listed.versions), _EXPENSIVE_SECONDS)
    _operations(found)
    _costs(metrics)
    _traffic(found)


def _operations(found: HealthView) -> None:
    st.header(f"Operations of the last {DAYS} days")
    if found.operations:
        left, right = st.columns(2)
        with left:
            st.subheader("How they ended")
            chart(operations_figure(found.operations), "operations")
        with right:
            st.subheader("How long they took")
            chart(durations_figure(found.operations), "durations", "Nothing was done.")
        table([_row(each) for each in found.operations], "commands")
    elif found.operations is None:
        st.caption("The log of operations may not be read here; below are the changes in the channels' records.")
    else:
        st.caption("No command has noted its end yet. `ulora promote`, `rollback`, `restore`, `verify` and others do.")
    st.subheader("Changes of channels")
    if found.changes:
        chart(changes_figure(found.changes), "days")
    else:
        st.caption("No channel was changed.")


def _row(each: CommandHealth) -> dict[str, object]:
    return {
        "command": each.command,
        "runs": each.runs,
        "success rate": text.percent(each.share),
        "95% interval": f"{100 * each.low:.3g} to {100 * each.high:.3g}%" if each.share is not None else "–",
        "median": text.duration(each.seconds) if each.seconds is not None else "–",
        "p95": text.duration(each.slow_seconds) if each.slow_seconds is not None else "–",
        "refused": each.refused,
        "failed": each.failed,
        "errors": ", ".join(f"{name} {count}" for name, count in each.errors.items()),
    }


def _costs(metrics: Mapping[str, Metrics]) -> None:
    st.header("Versions")
    in_order = dict(reversed(list(metrics.items())))
    found = {name: costs_of(in_order, name) for name in COST_METRICS}
    shown = {name: costs for name, costs in found.items() if costs}
    if not shown:
        st.caption("No latency and no memory was measured. `ulora measure VERSION --only latency` does.")
        return
    for column, (name, costs) in zip(st.columns(len(shown)), shown.items(), strict=True):
        with column:
            st.subheader(_TITLES[name])
            chart(costs_figure(costs, _TITLES[name].rpartition(", ")[2]), f"costs-{name}")


def _traffic(found: HealthView) -> None:
    st.header("Traffic")
    if found.days:
        st.subheader("Flagged as out of distribution")
        chart(ood_figure(found.days), "ood")
        st.subheader("Labels that were answered")
        chart(labels_figure(found.days), "labels")
    else:
        st.caption("No replica has counted an answer.")
    _stages(found)


def _stages(found: HealthView) -> None:
    rows: Sequence[dict[str, object]] = [
        {
            "day": f"{each.began:%Y-%m-%d}" if each.began else "–", "channel": each.channel,
            "generation": each.generation, "version": text.plain(each.version, 120), "arm": each.arm,
            "units": each.asked, "flagged": text.percent(each.share),
            "requests": ", ".join(f"{text.plain(name, 40)} {count:,}" for name, count in each.outcomes.items()),
        }
        for each in found.traffic
    ]  # fmt: skip
    if rows:
        st.subheader("Since each change of a channel")
        st.caption("What replicas counted is kept for 7 days after a trial.")
        table(rows, "traffic")
