"""`ulora policy`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.completers import complete_versions
from registry.cli.options import channel_option, folder, json_option, registry_options
from registry.cli.output import Output
from registry.errors import BadInput, IntegrityError
from registry.formats.counts import counted
from registry.names import CHANNELS

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.evidence.policy import ChannelPolicy, Policy
    from registry.evidence.rule import Rule
    from registry.usecases.replay import Replayed


@click.group("policy", short_help="Check a policy, or show the one in force.")
def policy_command() -> None:
    """What a version must have measured before a channel may serve it, and how the guard judges one that serves: a
    YAML file, see docs/policy.md.

    \b
    Examples:
      ulora policy check policy.yaml
      ulora policy show
      ulora policy prometheus > ulora-alerts.yaml
      ulora policy replay 3fa9c2d1
    """


@policy_command.command("check", short_help="Check a policy file, and say what it asks.")
@click.argument("file", type=folder)
@json_option
def check_command(out: Output, *, file: Path) -> None:
    """Check a policy FILE: every field, metric, bound, band and plan. A mistake is named with its line (exit 2).

    \b
    Example:
      ulora policy check policy.yaml
    """
    from registry.evidence.policy import load_policy

    policy = load_policy(file)
    out.answer(_document(policy, str(file)), f"{file} is valid\n{_text(policy)}")


@policy_command.command("show", short_help="The rules that are in force.")
@registry_options
def show_command(registry: Registry, out: Output) -> None:
    """Show the rules that `ulora promote` judges by, the bands of the guard, and the plans of trials: those of the
    setting `policy`, or the ones that ship.

    \b
    Example:
      ulora policy show
    """
    from registry.evidence.policy import load_policy

    path = registry.settings.policy
    policy = load_policy(path)
    what = str(path) if path else "the default policy, as no other is set (ULORA_POLICY)"
    out.answer(_document(policy, str(path) if path else ""), f"policy: {what}\n{_text(policy)}")


@policy_command.command("prometheus", short_help="The guard's rules as alerts for Prometheus.")
@click.argument("file", type=folder, required=False)
@json_option
def prometheus_command(out: Output, *, file: Path | None) -> None:
    """Print a rule file for Prometheus, over the metrics of replicas: an alert for each band of the guard.

    FILE is a policy; without it the setting `policy`, or what ships. The alerts compare plain rates with the bounds.
    They tell people; the guard does not need them.

    \b
    Examples:
      ulora policy prometheus > ulora-alerts.yaml
      ulora policy prometheus policy.yaml
    """
    from registry.evidence.alert_rules import alert_rules, rule_groups
    from registry.evidence.policy import load_policy
    from registry.settings import policy_file

    policy = load_policy(file or policy_file())
    rules = policy.guard_rules()
    out.answer(rule_groups(rules), alert_rules(rules, policy.digest).rstrip())


@policy_command.command("replay", short_help="Compute a verdict again from what it names.")
@click.argument("verdict", required=False)
@click.option("--version", metavar="VERSION", shell_complete=complete_versions, help="Instead: the newest on it.")
@channel_option("production")
@registry_options
def replay_command(registry: Registry, out: Output, *, verdict: str | None, version: str | None, channel: str) -> None:
    """Compute VERDICT again from the policy, evidence and records that it names, and compare the bytes.

    VERDICT is the digest of a verdict, or its first characters; `ulora history --json` has that of each promotion. With
    --version it is the newest verdict on that version in --channel, refusals included. Everything is read from the
    store, so it does not matter what was measured, promoted or changed in the policy's file since. Nothing is written.

    The same bytes: exit 0. Other bytes: the lines that differ, exit 6. What the verdict names is gone, or an earlier
    release made it and did not name that: exit 5.

    \b
    Examples:
      ulora policy replay 3fa9c2d1
      ulora policy replay --version v5.5.4-dinov3 --channel staging
    """
    from registry.usecases.replay import newest_digest, replay

    if bool(verdict) == bool(version):
        raise BadInput("give either VERDICT or --version", hint="`ulora history --json` has the digests of verdicts")
    done = replay(registry.wiring, verdict or newest_digest(registry.wiring, version or "", channel))
    out.answer(done, _replayed(done))
    if not done.equal:
        raise _differs(done)


def _replayed(done: Replayed) -> str:
    about = f"verdict {done.verdict[:12]} ({done.version} in {done.channel}, {done.outcome}, {done.timestamp[:19]})"
    if done.equal:
        documents = counted(done.inputs, "document")
        return f"{about} computed again from {documents}: the same {done.size:,} bytes"
    return "\n".join([f"{about}: - as kept, + as computed now", *(f"  {line}" for line in done.differences)])


def _differs(done: Replayed) -> IntegrityError:
    hint = "what it names is as it was then, so the verdict was not made by these gates: who wrote it? `ulora history`"
    if done.release != done.this_release:
        hint = f"ulora-registry {done.release or '(unknown)'} judged, and this is {done.this_release}: try that release"
    return IntegrityError(
        f"computed again, verdict {done.verdict[:12]} on {done.version} in {done.channel} differs in "
        f"{counted(len(done.differences), 'line')}",
        hint=hint,
    )


def _document(policy: Policy, file: str) -> dict[str, object]:
    trials, rules = policy.trial_policy(), policy.guard_rules()
    return {
        "file": file,
        "sha256": policy.digest,
        **policy.model_dump(mode="json", exclude_none=True, by_alias=True),
        "trials": trials.model_dump(mode="json"),
        "guard": {"rules": [rule.document() for rule in rules]},
    }


def _text(policy: Policy) -> str:
    gates = (line for name in CHANNELS for line in _channel_lines(name, policy.channels[name]))
    return "\n".join([*gates, *_guard_lines(policy), *_trial_lines(policy)])


def _guard_lines(policy: Policy) -> Iterator[str]:
    from registry.evidence.guard_rules import Bands

    yield f"the guard judges what serves{_shipped(policy.guard)}:"
    for bands in Bands.of(policy.guard_rules()):
        yield f"  {bands}"
    if not policy.guard_rules():
        yield "  by nothing"


def _trial_lines(policy: Policy) -> Iterator[str]:
    trials = policy.trial_policy()
    yield f"plans of trials{_shipped(policy.trials and policy.trials.plans)}:"
    for name, plan in (trials.plans or {}).items():
        yield f"  {name}: {plan}"
    alpha = trials.alpha
    yield f"  after {trials.max_hold} without data or a decision, a person decides"
    yield (
        "  of versions that are not worse so many are rolled back at most: "
        f"errors {alpha.errors:g}, accuracy {alpha.accuracy:g}, latency {alpha.latency:g}"
    )
    yield f"  `ulora canary report` judges at {trials.horizon}"


def _shipped(section: object) -> str:
    return " (as shipped: the policy does not say)" if section is None else ""


def _channel_lines(name: str, asked: ChannelPolicy) -> Iterator[str]:
    yield f"{name} asks of every version:"
    if asked.requires:
        yield f"  was stable in {asked.requires}, and not rolled back since"
    if asked.approvals:
        yield f"  {counted(asked.approvals, 'person', 'people')} approved it with `ulora approve`"
    for window in asked.freeze:
        yield f"  it is not from {window.begin} to {window.to}" + (f": {window.why}" if window.why else "")
    yield from _rule_lines(asked.defaults, "" if asked.requires or asked.approvals or asked.freeze else "nothing")
    for word, rules in asked.by_suffix.items():
        yield f"{name} asks of versions whose suffix has {word!r}, too; a min or max takes the place of the one above:"
        yield from _rule_lines(rules, "nothing")
    for flavor, rules in asked.by_flavor.items():
        yield f"{name} asks of versions of the flavor {flavor!r}, in the place of these rules:"
        yield from _rule_lines(rules, "nothing")


def _rule_lines(rules: tuple[Rule, ...], none: str) -> Iterator[str]:
    for rule in rules:
        yield f"  {rule}" + (f", n >= {rule.min_n}" if rule.min_n else "") + _undecidable(rule)
    if not rules and none:
        yield f"  {none}"


def _undecidable(rule: Rule) -> str:
    """Why a rule of an earlier release decides nothing any more, and which one does."""
    from registry.evidence.metrics import is_time_of_one_run, ratio_for

    if not (rule.is_relative and is_time_of_one_run(rule.metric)):
        return ""
    return f": never decides, as times of two runs are not compared; use {ratio_for(rule.metric)} with `max`"
