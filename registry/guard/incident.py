"""The note about a rollback that nobody asked for: what happened, why, who serves what now, and what to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from registry.answers import ReplicaStatus
from registry.channels.record import Record
from registry.formats.counts import counted
from registry.formats.markdown import markdown_table as _table
from registry.formats.markdown import markdown_text as _text

_MAX_RECORDS, _MAX_REPLICAS = 50, 100


@dataclass(frozen=True)
class JudgedHarm:
    """What the guard concluded, in short.

    Attributes:
        decision: the decision's digest.
        version: the version that was left.
        serves: the version that is served since.
        rule: the rule that was broken, and by what.
        evidence: what was counted: names with texts.
        when: UTC, ISO 8601.
    """

    decision: str
    version: str
    serves: str
    rule: str
    evidence: tuple[tuple[str, str], ...]
    when: str


def incident_note(records: Sequence[Record], harm: JudgedHarm, replicas: Sequence[ReplicaStatus]) -> str:
    """The note, as Markdown. The same inputs give the same text.

    Args:
        records: of the channel, the oldest first, with that of the rollback at the end.
        replicas: that report for the channel.
    """
    last = records[-1]
    parts = [
        f"# {_text(last.model)} {_text(last.channel)}: {_text(harm.version)} was rolled back by itself",
        f"At {_text(harm.when)} the guard left {_text(harm.version)} for {_text(harm.serves)}: {_text(harm.rule)}. "
        f"Generation {last.generation}, decision `{harm.decision}`.",
        "## What happened",
        _table(("when", "generation", "what", "stable", "canary", "who", "why"), _timeline(records)),
        "## Why",
        _table(("", "counted"), harm.evidence),
        "## Replicas",
        *_replicas(replicas, last.generation),
        "## What to look at",
        "\n".join(f"- {line}" for line in _to_do(last, harm)),
    ]
    return "\n\n".join(parts) + "\n"


def _timeline(records: Sequence[Record]) -> Iterator[tuple[str, ...]]:
    left_out = len(records) - _MAX_RECORDS
    if left_out > 0:
        yield ("…", "", f"{counted(left_out, 'earlier record')}, see `ulora history`", "", "", "", "")
    for record in records[-_MAX_RECORDS:]:
        canary = f"{record.canary.version}, {record.canary.weight:g}%" if record.canary else ""
        stable = record.stable.version if record.stable else ""
        yield (record.when, str(record.generation), record.action, stable, canary, record.who, record.reason)


def _replicas(replicas: Sequence[ReplicaStatus], generation: int) -> Iterator[str]:
    """Who serves what; those that do not serve the newest record first."""
    behind = sum(each.generation < generation for each in replicas)
    if not replicas:
        yield "None reports for this channel."
        return
    yield f"{counted(len(replicas), 'replica')}, of which {behind} did not serve generation {generation} yet."
    ordered = sorted(replicas, key=lambda each: (each.generation >= generation, each.state == "serving", each.id))
    rows = [
        (each.id, each.version, str(each.generation), each.state, f"{each.age:g} s ago", each.error)
        for each in ordered[:_MAX_REPLICAS]
    ]
    yield _table(("replica", "version", "generation", "state", "reported", "problem"), rows)
    if len(ordered) > _MAX_REPLICAS:
        yield f"{len(ordered) - _MAX_REPLICAS} more are left out."


def _to_do(last: Record, harm: JudgedHarm) -> Iterator[str]:
    yield f"Which images do they answer differently? `ulora diff {harm.serves} {harm.version}`"
    yield f"What had it measured before? `ulora show {harm.version}`"
    yield f"Do all replicas serve {_text(harm.serves)}? `ulora status`"
    yield f"Who changed what before? `ulora history --channel {last.channel}`"
    yield (
        f"{_text(harm.version)} is withdrawn. Fix it under a new name; the same content goes back only with "
        f"`ulora promote {harm.version} --channel {last.channel} --force --reason …`"
    )
