"""The options of `Registry.audit` and `Registry.checklist`, and of their commands. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from registry.errors import BadInput


@dataclass(frozen=True)
class AuditOptions:
    """What an archive is about: one version, or what a channel served in a time.

    Attributes:
        version: everything about it, and what the channels' logs say of it.
        channel: or its records from `since` on, and before `until`, and everything about the versions that they serve.
        since, until: a day or a time, see `parse_time`; all times when left out.
        with_weights: also the files of these versions.
    """

    version: str | None = None
    channel: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    with_weights: bool = False

    def __post_init__(self) -> None:
        """Raises: BadInput: it says both, or neither; or the time ends before it begins."""
        if (self.version is None) == (self.channel is None):
            raise BadInput("say what to audit: VERSION, or --channel NAME", hint="`ulora audit --help` shows how")
        if self.version is not None and (self.since or self.until):
            raise BadInput("--since and --until are for --channel", hint="of a version everything is in the archive")
        if self.times[0] >= self.times[1]:
            raise BadInput("the time ends before it begins", hint="--since is before --until")

    @property
    def times(self) -> tuple[datetime, datetime]:
        """When it begins, and when it is over."""
        return self.since or datetime.min.replace(tzinfo=UTC), self.until or datetime.max.replace(tzinfo=UTC)

    @property
    def about(self) -> dict[str, str]:
        """It as the archive's index has it."""
        said = {"version": self.version, "channel": self.channel}
        said |= {name: each.isoformat() for name, each in (("since", self.since), ("until", self.until)) if each}
        return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True)
class ChecklistOptions:
    """Which lines of a version's checklists are gone through, and what a person says of some.

    Attributes:
        stage: one of `registry.usecases.checklist_lines.STAGES`; all when left out.
        channel: where the version goes.
        tick, untick: lines that a person says are done; lines whose ticks are taken back. Only these are answered.
    """

    stage: str | None = None
    channel: str = "production"
    tick: tuple[str, ...] = ()
    untick: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises: BadInput: lines are ticked beside a stage, or ticked and taken back at once."""
        if self.stage and (self.tick or self.untick):
            raise BadInput("--tick and --untick name their lines themselves", hint="leave out --stage")
        if set(self.tick) & set(self.untick):
            raise BadInput("a line can't be ticked and taken back at once", hint="give one of --tick and --untick")


def parse_time(text: str) -> datetime:
    """A day, `2026-11-01`, which begins at midnight UTC, or a time with its zone.

    Raises:
        BadInput: it is neither.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInput(
            f"{text[:60]!r} is not a day or a time", hint="for example 2026-11-01, or 2026-11-01T12:00Z"
        ) from error
    if found.tzinfo is None and len(text) > 10:
        raise BadInput(f"{text[:60]!r} has no time zone", hint="for example 2026-11-01T12:00Z")
    return found if found.tzinfo else found.replace(tzinfo=UTC)
