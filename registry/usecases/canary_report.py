"""Report a trial from what the replicas have counted, and show the report in MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from registry.channels.record import Record
from registry.channels.trial import Trial
from registry.errors import CatalogRefused, CatalogUnreachable, NotFound, NotNow, VersionNotFound, first_line
from registry.evidence.policy import load_policy
from registry.evidence.trial_report import ReportedTrial, TrialReport, report_of
from registry.formats.html import HtmlTable
from registry.names import VersionName
from registry.serving.fleet import SILENT_AFTER
from registry.trials.merge import counted_in
from registry.trials.observations import TrialStage
from registry.trials.stages import stage_of_record
from registry.usecases.observed import ChannelLook, WatchedChannel
from registry.usecases.options import ReportOptions
from registry.wiring import Wiring

_MAX_RECORDS = 200
"""Newest records among which a trial is looked for."""


@dataclass(frozen=True)
class CanaryReport(HtmlTable):
    """A report, and where it is in MLflow.

    Attributes:
        run: the id of the run that shows it; empty if none does.
        notes: why not.
    """

    report: TrialReport
    run: str = ""
    notes: tuple[str, ...] = ()


def report(wiring: Wiring, channel: str, options: ReportOptions) -> CanaryReport:
    """Report a trial of a channel; see `registry.usecases.canary.Canaries.report`."""
    log = wiring.channel(channel)
    records = log.history(_MAX_RECORDS)
    if not records:
        wiring.store.check_holds(wiring.model)
    trial = _trial(channel, records, options)
    during = [record for record in reversed(records) if record.running_trial == trial]
    end = next((record for record in records if record.generation == during[-1].generation + 1), None)
    stages = _stages(during)
    view = WatchedChannel(wiring.store, log)
    look = view.with_replicas(ChannelLook(records[0], (), wiring.store.now(), {}))
    told = [seen.document for seen in look.observations if seen.document]
    counted = [counted_in(stage, told) for stage in stages]
    if end and not any(stage.replicas for stage in counted):
        raise NotFound(
            f"nothing that was counted in trial {trial.id} of {channel} is kept any more",
            hint="replicas' counts are kept for 7 days after a trial; its reports are runs in MLflow",
        )
    notes = _notes(look, is_running=end is None)
    found = report_of(ReportedTrial.of(during, end), counted, load_policy(wiring.settings.policy), tuple(notes))
    return _logged(wiring, found) if options.log else CanaryReport(found)


def _trial(channel: str, records: Sequence[Record], options: ReportOptions) -> Trial:
    """The trial that is asked for.

    Raises:
        NotFound: there is none.
    """
    for record in records:
        trial = record.running_trial or record.baking
        if trial is None or (options.generation is not None and record.generation != options.generation):
            continue
        if options.trial and not trial.id.startswith(options.trial):
            continue
        if any(each.running_trial == trial for each in records):
            return trial
    which = f"no trial {options.trial}" if options.trial else "no trial"
    where = f" at generation {options.generation}" if options.generation is not None else ""
    raise NotFound(
        f"{channel} has {which}{where} in its newest {len(records)} records",
        hint="`ulora history` shows them; `ulora canary start` begins one",
    )


def _stages(during: Sequence[Record]) -> list[TrialStage]:
    """The stages of a trial, in order.

    Raises:
        NotNow: it is of a kind that only a newer release knows.
    """
    stages = [stage_of_record(record) for record in during]
    known = [stage for stage in stages if stage and stage.canary]
    if len(known) < len(stages):
        kind = during[0].trial.kind if during[0].trial else "?"
        raise NotNow(f"this release knows no {kind} trial", hint="upgrade ulora-registry")
    return known


def _notes(look: ChannelLook, *, is_running: bool) -> Iterator[str]:
    for seen in look.observations:
        if seen.problem:
            yield f"what {seen.id} has counted can't be read: {seen.problem}"
    if look.left_out:
        yield f"{look.left_out} heartbeats or observations are left out: there are too many"
    told = {seen.id for seen in look.observations if seen.document}
    silent = [seen.id for seen in look.heartbeats if seen.age <= SILENT_AFTER and seen.id not in told]
    if is_running and silent:
        yield f"live, but without observations: {', '.join(silent[:10])}"


def _logged(wiring: Wiring, found: TrialReport) -> CanaryReport:
    """The report, shown in MLflow as far as that takes it."""
    if wiring.settings.tracking_uri is None:
        return CanaryReport(found, notes=("no MLflow server is set: the report is not logged",))
    from registry.usecases.trial_run import run_of

    try:
        wiring.catalog.ping()  # a server that hangs does not keep the report for as long as its parts may take
        versions = [wiring.bindings.get(VersionName.parse(name)) for name in (found.trial.stable, found.trial.canary)]
        return CanaryReport(found, wiring.catalog.record_result(versions, run_of(found, wiring.settings.who)))
    except (CatalogUnreachable, CatalogRefused, VersionNotFound) as error:
        return CanaryReport(found, notes=(f"the report is not logged in MLflow: {first_line(error)}",))
