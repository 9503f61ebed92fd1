"""Compute a decision again from what it holds, and compare the bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from registry.channels.channel import channel_names
from registry.errors import BadInput, BadManifest, NotFound, first_line
from registry.formats import canonical
from registry.formats.html import HtmlTable
from registry.guard.decision import Decision
from registry.guard.decisions import Decisions
from registry.machine.provenance import release
from registry.trials.evalues import RATIOS
from registry.usecases.replay import differing_lines
from registry.wiring import Wiring


@dataclass(frozen=True)
class ReplayedDecision(HtmlTable):
    """A decision and what came of computing it again.

    Attributes:
        decision: its digest.
        looked: when the guard looked, by the store's clock.
        equal: whether computing it again gave the same bytes.
        differences: the lines that differ, `-` as kept and `+` as computed now.
        release: of ulora-registry that decided; `this_release` is the one that computed it again.
    """

    decision: str
    model: str
    channel: str
    generation: int
    version: str
    action: str
    summary: str
    looked: str
    size: int
    equal: bool
    differences: tuple[str, ...]
    release: str
    this_release: str


def replay_decision(kept: Decision) -> ReplayedDecision:
    """Compute a decision again. Nothing is read but the decision.

    Raises:
        BadManifest: the policy in it does not follow the format of this release.
    """
    facts = kept.facts
    try:
        again = Decision.of(facts)
    except ValueError as error:
        raise BadManifest(f"the policy in decision {kept.sha256[:12]}: {first_line(error)}") from error
    differences = differing_lines(kept, again)
    if facts.grid != RATIOS:
        differences = (f"its e-values are of other alternatives than those of this release: {facts.grid}", *differences)
    return ReplayedDecision(
        kept.sha256, facts.model, facts.channel, facts.record.generation, facts.version, kept.action, kept.summary,
        facts.looked, len(kept.to_bytes()), again.to_bytes() == kept.to_bytes(), differences, facts.release, release(),
    )  # fmt: skip


def find_decision(wiring: Wiring, named: str, channels: list[str] | None = None) -> Decision:
    """A decision by the name of a file, or by its digest in the store.

    Args:
        channels: where it is looked for; None for all of the model.

    Raises:
        BadInput: it is neither, or more than one decision begins so.
        NotFound: there is no such decision.
        IntegrityError: it is damaged.
    """
    path = Path(named)
    if path.suffix or "/" in named:
        return read_decision(path)
    decisions = Decisions(wiring.store, wiring.model)
    try:
        return decisions.find(named, channels or channel_names(wiring.store, wiring.model))
    except NotFound:
        wiring.store.check_holds(wiring.model)
        raise


def read_decision(path: Path) -> Decision:
    """A decision in a file.

    Raises:
        BadInput: it can't be read.
        BadManifest: it does not follow the format.
    """
    try:
        data = canonical.read_file(path, str(path), Decision.LIMIT)
    except OSError as error:
        problem = f"{path} can't be read: {error.strerror}"
        raise BadInput(problem, hint="give a file, or the digest of a decision") from error
    return Decision.parse(data, str(path))
