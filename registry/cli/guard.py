"""`ulora guard`: run, replay, rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from registry.cli.completers import complete_channels
from registry.cli.logs import FORMATS, start_logging
from registry.cli.options import dry_run_option, registry_options
from registry.cli.output import Output, place
from registry.cli.signals import sigterm_interrupts
from registry.errors import IntegrityError
from registry.formats.counts import counted
from registry.names import CHANNELS, check_channel

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.evidence.policy import Policy
    from registry.guard.guard import Guard
    from registry.guard.looked import Looked
    from registry.guard.notifiers import Notifiers
    from registry.guard.replay import ReplayedDecision


_LAST_SECONDS = 1.0
"""For telling what is still to be told when it is stopped."""


def _check_channels(context: click.Context, parameter: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(check_channel(name) for name in names)


_CHANNELS = click.option(
    "-c", "--channel", "channels", multiple=True, metavar="NAME", callback=_check_channels,
    shell_complete=complete_channels, help="One to watch; repeatable.  [default: staging, production]",
)  # fmt: skip


@click.group("guard", short_help="Judge trials, advance them, and go back by itself: run, replay, rules.")
def guard_command() -> None:
    """Watch the trials of a model: what replicas count is judged by the policy's rules, and what follows is done.

    It reads and writes the store only; no replica has to be reachable.

    \b
    Examples:
      ulora guard run
      ulora guard run --once --dry-run
      ulora guard replay 3fa9c2d1
    """


@guard_command.command("run", short_help="Watch, until Ctrl-C.")
@_CHANNELS
@click.option("--once", is_flag=True, help="Look once, do what follows, and end.")
@click.option(
    "--every", type=click.FloatRange(0.1, 3600), default=5.0, show_default=True, metavar="SECONDS",
    help="Time between two looks.",
)  # fmt: skip
@click.option("--log-format", type=click.Choice(FORMATS), default="text", show_default=True, help="Of its log lines.")
@dry_run_option
@registry_options
def run_command(
    registry: Registry, out: Output, *, channels: tuple[str, ...], once: bool, every: float, log_format: str,
    dry_run: bool,
) -> None:  # fmt: skip
    """Look at the trials of the channels, decide, and act: a version that is worse goes back, one that passes its
    plan's step advances. No data, or data that can't be read, holds the trial.

    Each decision that acts is stored before, with all that it was concluded from, and its record names it. If the
    channel moved meanwhile, it is void. The guard goes back once in 30 minutes, then it only alerts.

    Two may run at once, and each may be killed at any instant. It goes on through outages of the store. Ctrl-C and
    SIGTERM end it at once, with 0. --dry-run only says what it would do.

    \b
    Examples:
      ulora guard run
      ulora guard run --once --dry-run --channel production
      ulora guard run --every 10 --log-format json
    """
    from registry.guard.guard import Guard, GuardOptions
    from registry.guard.notifiers import LogNotifier, Notifiers, notifiers

    options = GuardOptions(channels or CHANNELS, every, dry_run, once)
    # Of a single look the answer says what the log would.
    wanted = [each for each in notifiers(registry.settings) if not once or each.name != LogNotifier.name]
    told = Notifiers(() if dry_run else wanted)
    guard = Guard(registry, told, options)
    with sigterm_interrupts():
        if once:
            _answer(out, guard.look())
            told.close()
            for error in guard.errors:
                raise error
        else:
            start_logging(log_format)
            out.event({"watching": options.channels}, f"{place(registry)}: watching {', '.join(options.channels)}")
            _watch(guard, told, _NewLooks(out), every)


def _watch(guard: Guard, told: Notifiers, lines: _NewLooks, every: float) -> None:
    """Look until Ctrl-C or SIGTERM. It may be interrupted anywhere, as it may be killed."""
    from registry.catalog.watch import LoopControl

    try:
        guard.run(LoopControl(every), lines.done, lines.failed)
    except KeyboardInterrupt:
        told.close(_LAST_SECONDS)
        lines.stopped()


class _NewLooks:
    """Prints what is new in a round; with --json one object a line."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._before: dict[str, tuple[str, Sequence[str]]] = {}
        self._is_down = False

    def done(self, found: list[Looked]) -> None:
        if self._is_down:
            self._out.note("the store answers again")
        self._is_down = False
        for looked in found:
            line = _line(looked)
            if looked.changed or self._before.get(looked.channel) != (line, looked.notes):
                self._out.event(looked, line)
                for note in looked.notes:
                    self._out.note(f"{looked.channel}: {note}")
            self._before[looked.channel] = (line, looked.notes)

    def failed(self, error: Exception, pause: float) -> None:
        if not self._is_down:
            self._out.note(f"{error}; nothing is changed, and it is tried until it works, next in {pause:.0f} s")
        self._is_down = True

    def stopped(self) -> None:
        self._out.note("stopped")


def _answer(out: Output, found: list[Looked]) -> None:
    lines = [line for looked in found for line in (_line(looked), *_finding_lines(looked))]
    out.answer(found, "\n".join(lines))
    for looked in found:
        for note in looked.notes:
            out.note(f"{looked.channel}: {note}")


def _line(looked: Looked) -> str:
    kept = f" (decision {looked.decision[:12]})" if looked.decision else ""
    done = "done: " if looked.changed else ""
    outcome = f"{looked.outcome}, " if looked.outcome else ""
    problem = f": {looked.problem}" if looked.problem else ""
    return f"{looked.channel}: {done}{outcome}{looked.summary}{problem}{kept}"


def _finding_lines(looked: Looked) -> Iterator[str]:
    for each in looked.findings:
        tried = " (dry run)" if each.dry_run else ""
        yield f"  {each.outcome}{tried}  {each.about}: {each.reason}"


@guard_command.command("replay", short_help="Compute a decision again from what it holds.")
@click.argument("decision")
@_CHANNELS
@registry_options
def replay_command(registry: Registry, out: Output, *, decision: str, channels: tuple[str, ...]) -> None:
    """Compute DECISION again from the counts, ages and rules that it holds, and compare the bytes.

    DECISION is a file, or the digest of a decision in the store, or its first characters; `ulora history` shows those
    of the changes that the guard made. Nothing else is read, and nothing is written.

    The same bytes: exit 0. Other bytes: the lines that differ, exit 6.

    \b
    Examples:
      ulora guard replay 3fa9c2d1
      ulora guard replay decision.json
    """
    from registry.guard.replay import find_decision, replay_decision

    done = replay_decision(find_decision(registry.wiring, decision, list(channels)))
    out.answer(done, _replayed(done))
    if not done.equal:
        raise _differs(done)


def _replayed(done: ReplayedDecision) -> str:
    about = f"decision {done.decision[:12]} ({done.channel}, generation {done.generation}, {done.looked})"
    if done.equal:
        return f"{about} computed again: the same {done.size:,} bytes\n  {done.summary}"
    return "\n".join([f"{about}: - as kept, + as computed now", *(f"  {line}" for line in done.differences)])


def _differs(done: ReplayedDecision) -> IntegrityError:
    hint = "it was not concluded from what it holds: who wrote it? `ulora history` shows what it changed"
    if done.release != done.this_release:
        hint = (
            f"ulora-registry {done.release or '(unknown)'} decided, and this is {done.this_release}: try that release"
        )
    return IntegrityError(
        f"computed again, decision {done.decision[:12]} differs in {counted(len(done.differences), 'line')}", hint=hint
    )


@guard_command.command("rules", short_help="The rules and plans that hold.")
@registry_options
def rules_command(registry: Registry, out: Output) -> None:
    """Show by which bands the guard judges, how sure it has to be of each, and by which plans trials advance.

    \b
    Example:
      ulora guard rules
    """
    from registry.evidence.policy import load_policy

    policy = load_policy(registry.settings.policy)
    out.answer(_rules(policy), "\n".join(_rule_lines(policy)))


def _rules(policy: Policy) -> dict[str, object]:
    from registry.evidence.guard_rules import Bands

    trials = policy.trial_policy()
    return {
        "sha256": policy.digest,
        "bands": [
            {
                "bands": str(bands),
                "alpha": policy.alpha_of(bands.first),
                "family": bands.first.family,
                "dry_run": bands.first.dry_run,
                "rules": [rule.document() for rule in bands.rules],
            }
            for bands in Bands.of(policy.guard_rules())
        ],
        "plans": {name: str(plan) for name, plan in (trials.plans or {}).items()},
        "max_hold": trials.max_hold,
        "alpha": trials.alpha.model_dump(),
    }


def _rule_lines(policy: Policy) -> Iterator[str]:
    from registry.evidence.guard_rules import Bands
    from registry.guard.rule_findings import AFTERWARDS, IN_TRIAL

    trials = policy.trial_policy()
    yield "what replicas count of a version on trial is judged by:"
    for bands in Bands.of(policy.guard_rules()):
        sure = f"  (alpha {policy.alpha_of(bands.first):.3g})" if bands.first.family else ""
        yield f"  {bands}{sure}"
    if policy.guard_rules():
        yield f"  of each alpha {IN_TRIAL:.0%} is for the trial, {AFTERWARDS:.0%} for the time after it"
    else:
        yield "  nothing"
    yield "a trial advances by one of these plans, if it names one:"
    for name, plan in (trials.plans or {}).items():
        yield f"  {name}: {plan}"
    yield f"it waits {trials.max_hold} at most for data, then for a person"
