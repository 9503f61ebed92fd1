"""The page *Now*."""

from __future__ import annotations

from functools import partial
from typing import Any

import streamlit as st

from registry.answers import ChannelStatus
from registry.dashboard import text
from registry.dashboard.figures.trial import compute_figure, differences_figure, evidence_figure
from registry.dashboard.now import NowView, ShownTrial, evidence_bars, read_now, replicas_in_order
from registry.dashboard.pages.changes import draw_changes
from registry.dashboard.pages.parts import chart, show_error, table
from registry.dashboard.session import Dashboard
from registry.errors import UloraError
from registry.evidence.trial_report import TrialReport
from registry.formats.counts import counted
from registry.usecases.trial_tables import tables_of

_EVERY_SECONDS = 10
_BOX = {"error": st.error, "warning": st.warning, "info": st.info}
_COLOURS: dict[str, Any] = {"ship": "green", "keep": "red", "keep running": "blue", "broken": "orange"}


def draw(dashboard: Dashboard) -> None:
    """Everything but changes is drawn again every ten seconds."""
    st.fragment(partial(_draw, dashboard), run_every=_EVERY_SECONDS)()
    if dashboard.options.allow_changes:
        draw_changes(dashboard)


def _draw(dashboard: Dashboard) -> None:
    try:
        found = dashboard.kept.get("now", partial(read_now, dashboard.registry))
    except UloraError as error:
        show_error(error)
        return
    _alerts(found)
    for column, channel in zip(st.columns(len(found.status.channels)), found.status.channels, strict=True):
        with column.container(border=True):
            _channel(channel)
    for channel_name, trial in found.trials.items():
        _trial(channel_name, trial)
    _fleet(found)


def _alerts(found: NowView) -> None:
    if not found.alerts:
        st.success("Nothing needs a look.")
    for alert in found.alerts[:20]:
        place = f"**{text.markdown(alert.channel)}**: " if alert.channel else ""
        _BOX[alert.level](place + text.markdown(alert.said))
    if len(found.alerts) > 20:
        st.caption(f"… and {len(found.alerts) - 20} more")


def _channel(channel: ChannelStatus) -> None:
    st.metric(channel.channel, text.plain(channel.stable or "nothing", 60))
    if channel.canary and channel.trial:
        share = text.markdown(channel.trial.share)
        st.markdown(f"on trial: **{text.markdown(channel.canary)}** ({share})")
    target = text.markdown(channel.rollback_target or "nowhere")
    st.markdown(f"a rollback goes to **{target}**")
    if channel.when:
        st.caption(
            f"generation {channel.generation}, {text.markdown(channel.action or '')} by "
            f"{text.markdown(channel.who or '', 80)}, {text.markdown(text.when_text(channel.when))}"
        )
    if channel.reason:
        st.caption(text.markdown(channel.reason))


def _trial(channel: str, trial: ShownTrial) -> None:
    st.header(f"Trial in {text.markdown(channel)}")
    report = trial.report
    if report is None:
        st.warning(text.markdown(trial.problem))
        return
    outcome = report.verdict.outcome
    badge, about = st.columns([1, 5], vertical_alignment="center")
    badge.badge(outcome, color=_COLOURS[outcome])
    about.markdown(
        f"**{text.markdown(report.trial.canary)}** beside **{text.markdown(report.trial.stable)}**, "
        f"{text.markdown(trial.status.share)}, since {text.markdown(text.when_text(report.trial.since))}"
    )
    for reason in report.verdict.reasons:
        st.markdown(f"- {text.markdown(reason)}")
    st.markdown(f"- Next: {text.markdown(trial.waits_for)}")
    _numbers(report)
    st.subheader("Evidence that the canary is worse")
    st.caption(
        "An e-value may be looked at any time. When a bar reaches its mark, the canary is worse, "
        "and at most the policy's alpha of good versions get there."
    )
    chart(evidence_figure(evidence_bars(report)), f"evidence-{channel}")
    left, right = st.columns(2)
    with left:
        st.subheader("Differences")
        chart(differences_figure(report), f"differences-{channel}", "No units of both versions yet.")
    with right:
        st.subheader("Compute time")
        chart(compute_figure(report), f"compute-{channel}", "No windows of the last hour are kept.")
    with st.expander("All numbers"):
        for found in tables_of(report):
            st.markdown(f"**{text.markdown(found.title)}**")
            header = [name or " " for name in found.header]
            table([dict(zip(header, row, strict=True)) for row in found.rows], f"table-{channel}-{found.name}")


def _numbers(report: TrialReport) -> None:
    asked = report.arms["canary"].asked
    columns = st.columns(4)
    columns[0].metric("Units of the canary", f"{asked:,}")
    columns[1].metric("Units of stable", f"{report.arms['stable'].asked:,}")
    columns[2].metric("Labelled, of either", f"{report.labelled:,} of {report.horizon.units:,}")
    columns[3].metric("Replicas that count", str(report.replicas))


def _fleet(found: NowView) -> None:
    st.header("Fleet")
    if not any(channel.replicas for channel in found.status.channels):
        st.caption("No replica reports. `ulora serve` starts one.")
        return
    rows = [
        {
            "channel": channel.channel, "replica": text.plain(each.id, 120), "state": text.plain(each.state, 40),
            "version": text.plain(each.version, 120), "generation": each.generation,
            "manifest": text.digest(each.manifest_sha256), "weights": text.digest(each.weights_sha256),
            "digests": each.proof, "can go back": each.rollback_ready, "reported": f"{text.duration(each.age)} ago",
            "problem": text.plain(each.error),
        }
        for channel in found.status.channels
        for each in replicas_in_order(channel)
    ]  # fmt: skip
    total = sum(len(channel.replicas) for channel in found.status.channels)
    st.caption(f"{counted(total, 'replica')}; those that need a look come first.")
    table(rows, "fleet")
