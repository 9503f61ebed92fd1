"""The page of a version in MLflow: what its description and its tags say. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from registry.catalog import tags
from registry.catalog.standing import Standing
from registry.evidence.results import Evidence, Metric, newest
from registry.evidence.verdict import Check, Verdict
from registry.formats import canonical
from registry.formats.counts import counted
from registry.names import CHANNELS
from registry.versions.manifest import Manifest

REFERENCE = "torch-fp32"
"""The runtime that a version is shown by, if it was measured with it: then all versions are comparable."""
_MAX_RULES = 12
_MAX_METRICS = 16
_MAX_CELL = 200
_GAP = "&nbsp;"
"""After a name in a table: MLflow's page leaves no room between columns."""


@dataclass(frozen=True)
class Links:
    """Pages of MLflow that a version's page links to.

    Attributes:
        experiment: id of the model's experiment.
        summary: id of the run that shows the version as a whole.
        runs: the id of each run that shows evidence, by the evidence's digest.
        parent: the number in MLflow of the version's parent.
    """

    experiment: str = ""
    summary: str = ""
    runs: Mapping[str, str] = field(default_factory=dict)
    parent: int | None = None

    def run(self, title: str, run_id: str) -> str:
        """A link to a run."""
        return f"[{title}](#/experiments/{self.experiment}/runs/{run_id}?workflowType=machine_learning)"


@dataclass(frozen=True)
class VersionPage:
    """What a version's page shows.

    Attributes:
        standings: what the version is in each channel whose log names it.
        verdicts: of each channel that judged it: the one that it was promoted with, else what the gates say now.
        evidence: what was measured of its content.
    """

    manifest: Manifest
    standings: tuple[Standing, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    evidence: tuple[Evidence, ...] = ()

    def shown(self) -> list[Evidence]:
        """The evidence that is shown: the newest of each benchmark, of the reference runtime if there is any."""
        found: dict[str, Evidence] = {}
        for each in sorted(newest(self.evidence).values(), key=lambda one: (one.runtime == REFERENCE, one.order)):
            found[each.benchmark] = each
        return [found[name] for name in sorted(found)]

    def metrics(self) -> dict[str, float]:
        """The metrics over all targets: the same names in every version."""
        return {
            metric.name: metric.value
            for evidence in self.shown()
            for metric in evidence.metrics
            if metric.target is None and metric.value is not None and math.isfinite(metric.value)
        }

    def short_tags(self) -> dict[str, str]:
        """At most six tags; the last ones are left out where there are more."""
        stable, withdrawn = (
            ", ".join(each.channel for each in self.standings if each.role == role) for role in ("stable", "withdrawn")
        )
        trial = [f"{each.channel} {each.share}" for each in self.standings if each.role == "trial"]
        verdict = self._verdict()
        wanted = {
            tags.NAME: self.manifest.version,
            tags.FAMILY: tags.family(self.manifest),
            tags.CHANNEL: stable,
            tags.WITHDRAWN: withdrawn,
            tags.VERDICT: f"{verdict.channel} {verdict.outcome}" if verdict else "",
            tags.FORCED: ", ".join(each.channel for each in self.verdicts if each.forced),
            tags.TRIAL: ", ".join(trial),
        }
        return dict([(name, value) for name, value in wanted.items() if value][: tags.MAX_SHORT])

    def settled(self) -> list[str]:
        """What was asked for at some time and is so now: a refusal of it says nothing any more."""
        return [each.channel for each in self.standings if each.role == "stable"]

    def notices(self) -> dict[str, str]:
        """What the log says that should be seen first, by title; empty for what is no more so."""
        found = {f"{word} {channel}": "" for word in ("Withdrawn from", "Forced into") for channel in CHANNELS}
        found |= {refusal(asks): "" for asks in self.settled()}
        found |= {done(asks): "" for asks in (*CHANNELS, "rollback") if asks not in self.settled()}
        for each in self.standings:
            if each.role == "withdrawn":
                found[f"Withdrawn from {each.channel}"] = _change(each) or "see `ulora history`"
        for verdict in self.verdicts:
            if verdict.forced:
                unmet = len(verdict.refusals)
                said = f"{unmet} {'rule was' if unmet == 1 else 'rules were'} not met ({verdict.outcome})"
                found[f"Forced into {verdict.channel}"] = (
                    f"{verdict.timestamp[:16]} by {verdict.who}: {verdict.forced}; {said}"
                )
        return found

    def table(self, links: Links = Links()) -> str:
        """The table below what people wrote: channels, gates, metrics, and where the version comes from."""
        rows = [*self._channels(), *self._gates(), *self._metrics(), *self._origin(links)]
        return "\n".join(["| | |", "|---|---|", *(f"| {name}{_GAP} | {value} |" for name, value in rows)])

    @property
    def mark(self) -> str:
        """A digest of everything that the page says, but for links."""
        said = [self.table(), self.notices(), self.short_tags(), self.metrics(), [each.sha256 for each in self.shown()]]
        return canonical.digest(said)[:12]

    def _verdict(self) -> Verdict | None:
        """The verdict of the channel that counts most."""
        by_channel = {each.channel: each for each in self.verdicts}
        return by_channel.get("production") or by_channel.get("staging")

    def _channels(self) -> Iterator[tuple[str, str]]:
        for each in self.standings:
            share = f" ({each.share})" if each.share else ""
            yield each.channel, f"**{each.role}**{share}{': ' if each.record else ''}{_cell(_change(each))}"
        if not self.standings:
            yield "channels", "none yet"

    def _gates(self) -> Iterator[tuple[str, str]]:
        for verdict in sorted(self.verdicts, key=lambda each: each.channel != "production"):
            refused, passed = verdict.refusals, [each for each in verdict.checks if each.outcome == "pass"]
            forced = ", overruled by force" if verdict.forced else ""
            counted, met = (refused, "not met") if refused else (passed, "met")
            counts = f"{len(counted)} of {len(verdict.checks)} rules {met}"
            yield f"gates of {verdict.channel}", f"**{verdict.outcome}**{forced}: {counts}"
            for check in refused[:_MAX_RULES]:
                yield _name(check.metric, check.target), f"**{_sign(check)}** {_cell(_why(check))}"
            if len(refused) > _MAX_RULES:
                yield "…", f"{len(refused) - _MAX_RULES} more: `ulora show {verdict.version}`"

    def _metrics(self) -> Iterator[tuple[str, str]]:
        aggregates = [each for evidence in self.shown() for each in evidence.metrics if each.target is None]
        for metric in aggregates[:_MAX_METRICS]:
            yield metric.name, number(metric)

    def _origin(self, links: Links) -> Iterator[tuple[str, str]]:
        manifest = self.manifest
        if manifest.backbone:
            yield "backbone", f"`{manifest.backbone.name}` ({manifest.backbone.family})"
        if manifest.parent:
            name = manifest.parent.version
            page = f"#/models/{manifest.model}/versions/{links.parent}?workflowType=machine_learning"
            yield "parent", f"[{name}]({page})" if links.parent else name
        runs = [
            ("summary", links.summary),
            *((each.benchmark, links.runs.get(each.sha256, "")) for each in self.shown()),
        ]
        shown = ", ".join(links.run(title, run_id) for title, run_id in runs if run_id)
        if shown:
            yield "runs", shown
        yield "made", f"{manifest.timestamp}, {counted(len(manifest.files), 'file')}, {manifest.size / 1e6:.2f} MB"
        yield "content", f"`{manifest.content_sha256[:12]}`"


def refusal(asks: str) -> str:
    """The title of the notice that a request was refused, by what it asked for."""
    return f"Refused: request-{asks}"


def done(asks: str) -> str:
    """The title of the notice that a request was done."""
    return f"Done: request-{asks}"


def number(metric: Metric) -> str:
    """A metric's value with its interval and its samples, e.g. `0.849 (95% CI 0.756-0.910, n=34)`."""
    if metric.value is None:
        return "not a number"
    unit = metric.shown_unit
    digits = ".4g" if unit else ".3f"
    between = ""
    if metric.low is not None and metric.high is not None:
        between = f"95% CI {metric.low:{digits}}-{metric.high:{digits}}, "
    return f"{metric.value:{digits}}{unit} ({between}n={metric.n})"


def _change(each: Standing) -> str:
    record = each.record
    if record is None:
        return ""
    why = f": {record.reason}" if record.reason else ""
    return f"generation {record.generation} ({record.action}), {record.when[:16]} by {record.who}{why}"


def _name(metric: str, target: str | None) -> str:
    return f"{metric} ({target})" if target else metric


def _sign(check: Check) -> str:
    if check.outcome == "fail":
        return "FAIL"
    return "UNDECIDED" if check.rule and check.bound is None else "TOO FEW"


def _why(check: Check) -> str:
    """Why a rule is not met, without what the first cell of the row says."""
    of_target = f" of {check.target}" if check.target else ""
    return check.reason.removeprefix(f"{check.metric}{of_target} is ")


def _cell(text: str) -> str:
    """Text for one cell of a table."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= _MAX_CELL else line[: _MAX_CELL - 2] + " …"
