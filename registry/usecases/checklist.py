"""Go through the checklists of a release: what can be found out is, and what a person ticked is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from registry.errors import BadInput, GateRefused, IntegrityError, NotFound, NotNow, UloraError, first_line
from registry.evidence.approvals import person
from registry.evidence.ticks import Tick, standing_ticks
from registry.formats.counts import counted
from registry.formats.html import HtmlTable
from registry.machine import clock
from registry.names import VersionName, check_channel
from registry.usecases.audit_options import ChecklistOptions
from registry.usecases.checklist_checks import CheckedLine, CheckedRelease, State
from registry.usecases.checklist_lines import LINES, ChecklistLine, Stage, line_named
from registry.wiring import Wiring

_SHOWN = 5
_MAX_TAKEN_BACK = 500


@dataclass(frozen=True)
class AnsweredLine:
    """A line, and whether it is so. `said` is what was found, or who ticked it."""

    stage: Stage
    id: str
    text: str
    command: str
    state: State
    said: str

    @property
    def ok(self) -> bool:
        """Whether it is found to be so, or ticked."""
        return self.state in ("passed", "ticked")


@dataclass(frozen=True)
class Checklist(HtmlTable):
    """The lines that were asked for, in order."""

    model: str
    version: str
    channel: str
    lines: tuple[AnsweredLine, ...]

    @property
    def open(self) -> tuple[AnsweredLine, ...]:
        """Those that are not so, or not ticked."""
        return tuple(line for line in self.lines if not line.ok)

    @property
    def failure(self) -> GateRefused | None:
        """Why a release stops here; None if nothing is open."""
        if not self.open:
            return None
        named = ", ".join(line.id for line in self.open[:_SHOWN]) + " …" * (len(self.open) > _SHOWN)
        of = f"{len(self.open)} of {counted(len(self.lines), 'line')}"
        return GateRefused(
            f"{of} of {self.version} in {self.channel} are open: {named}",
            hint=f"each line names its command; a person says `ulora checklist {self.version} --tick LINE --reason …`",
        )

    def document(self) -> dict[str, Any]:
        """As JSON."""
        lines = [
            {"stage": each.stage, "line": each.id, "text": each.text, "command": each.command, "state": each.state,
             "said": each.said}
            for each in self.lines
        ]  # fmt: skip
        about = {"model": self.model, "version": self.version, "channel": self.channel}
        return {**about, "ok": not self.open, "lines": lines}


def checklist(
    wiring: Wiring, version: str, options: ChecklistOptions | None = None, *, reason: str = "", dry_run: bool = False
) -> Checklist:
    """Go through the lines; see `Registry.checklist`."""
    options = options or ChecklistOptions()
    channel = check_channel(options.channel)
    changed = [line_named(name) for name in (*options.tick, *options.untick)]
    about = CheckedRelease(wiring, wiring.bindings.get(VersionName.parse(version)), channel)
    known = wiring.ledger.ticks(VersionName.parse(version))
    new = _new_ticks(about, known, options, reason)
    if new and not dry_run:
        wiring.check_writable()
        for tick in new:
            wiring.ledger.add_tick(tick)
    standing = standing_ticks([*known, *new], channel, about.binding.content_sha256)
    asked = changed or [line for line in LINES if options.stage in (None, line.stage)]
    lines = tuple(_answered(line, about, standing.get(line.id, ())) for line in asked)
    return Checklist(wiring.model, about.name, channel, lines)


def _new_ticks(about: CheckedRelease, known: list[Tick], options: ChecklistOptions, reason: str) -> list[Tick]:
    """What is to be stored. A line that this person has ticked already is left as it is."""
    who = about.wiring.author(reason).who
    if (options.tick or options.untick) and not person(who):
        raise BadInput("a tick needs a person's name", hint="ULORA_WHO says who you are")
    standing = standing_ticks(known, about.channel, about.binding.content_sha256)
    fresh = [
        line for line in dict.fromkeys(options.tick)
        if person(who) not in {person(tick.who) for tick in standing.get(line, ())}
    ]  # fmt: skip
    for line in options.untick:
        if line not in standing:
            raise NotFound(f"nobody has ticked {line} of {about.name} for {about.channel}; nothing changed")
    back = {line: tuple(tick.sha256 for tick in standing[line])[:_MAX_TAKEN_BACK] for line in options.untick}
    return [*(_tick(about, line, who, reason) for line in fresh),
            *(_tick(about, line, who, reason, digests) for line, digests in back.items())]  # fmt: skip


def _tick(about: CheckedRelease, line: str, who: str, reason: str, takes_back: tuple[str, ...] = ()) -> Tick:
    more: dict[str, Any] = {"takes_back": takes_back} if takes_back else {}
    return Tick(
        format=1, model=about.wiring.model, version=about.name, content_sha256=about.binding.content_sha256,
        channel=about.channel, line=line, who=who, when=clock.timestamp("microseconds"), reason=reason, **more,
    )  # fmt: skip


def _answered(line: ChecklistLine, about: CheckedRelease, ticks: tuple[Tick, ...]) -> AnsweredLine:
    found = _checked(line, about) if line.check else _ticked(ticks)
    command = line.command.replace(" V", f" {about.name}")
    return AnsweredLine(line.stage, line.id, line.text, command, found.state, found.said)


def _checked(line: ChecklistLine, about: CheckedRelease) -> CheckedLine:
    """What was found out. What is damaged can't be so; where the store does not answer, nobody knows, and it ends."""
    assert line.check  # noqa: S101
    try:
        return line.check(about)
    except (IntegrityError, NotFound, NotNow, BadInput) as error:
        return CheckedLine("failed", _one_line(error))


def _ticked(ticks: tuple[Tick, ...]) -> CheckedLine:
    if not ticks:
        return CheckedLine("not ticked", "a person says so")
    last = ticks[-1]
    said = f"{', '.join(dict.fromkeys(' '.join(tick.who.split()) for tick in ticks))}, {last.when[:16]}"
    return CheckedLine("ticked", said + (f": {' '.join(last.reason.split())}" if last.reason else ""))


def _one_line(error: UloraError) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
