"""The five checklists of a release, line by line: what each asks, and what finds out whether it is so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from registry.errors import BadInput
from registry.evidence.metrics import did_you_mean
from registry.usecases import checklist_checks as checks
from registry.usecases.checklist_checks import CheckedLine, CheckedRelease

Stage = Literal["before", "during", "pre-deploy", "deploy", "after"]
STAGES: Final[tuple[Stage, ...]] = ("before", "during", "pre-deploy", "deploy", "after")
TITLES: Final = {
    "before": "Before implementing",
    "during": "During the implementation",
    "pre-deploy": "Before deploying",
    "deploy": "Deploying",
    "after": "After the deployment",
}


@dataclass(frozen=True)
class ChecklistLine:
    """One line.

    Attributes:
        id: by which it is ticked.
        text: what is asked.
        command: what does it, or shows it; `V` stands for the version.
        check: finds out whether it is so; None where only a person can say, who ticks it.
    """

    stage: Stage
    id: str
    text: str
    command: str
    check: Callable[[CheckedRelease], CheckedLine] | None = None


LINES: Final[tuple[ChecklistLine, ...]] = (
    ChecklistLine("before", "baseline-version", "a version to compare with, and to go back to, is there",
                  "ulora status", checks.baseline_version),
    ChecklistLine("before", "baseline-metrics", "its metrics are written down",
                  "ulora measure BASELINE --data DIR", checks.baseline_metrics),
    ChecklistLine("before", "rollback-read", "the rollback procedure was read", "docs/runbook.md"),
    ChecklistLine("before", "test-environment", "the test environment is ready", "ulora doctor"),
    ChecklistLine("before", "team-told", "the team was told of the window", "a message to the team"),
    ChecklistLine("during", "daily-version", "a version was made each day", "ulora create", checks.daily_version),
    ChecklistLine("during", "unit-tests", "the team's own tests pass", "ulora test V --tests DIR", checks.unit_tests),
    ChecklistLine("during", "no-alert", "no critical alert", "ulora guard run", checks.no_alert),
    ChecklistLine("during", "performance", "times and memory are within the policy's bounds",
                  "ulora measure V --only latency,memory", checks.performance),
    ChecklistLine("pre-deploy", "verified", "every file of the version is in the store, and right",
                  "ulora verify V", checks.verified),
    ChecklistLine("pre-deploy", "tests", "all tests pass", "ulora test V", checks.tests),
    ChecklistLine("pre-deploy", "benchmarks", "every benchmark that the policy asks for was measured",
                  "ulora measure V --data DIR", checks.benchmarks),
    ChecklistLine("pre-deploy", "rollback-tried", "the rollback was tried",
                  "ulora test V --drill", checks.rollback_tried),
    ChecklistLine("pre-deploy", "documentation", "documentation and changelog are up to date", "your repository"),
    ChecklistLine("deploy", "canary", "a trial began with 10% of the traffic at most",
                  "ulora canary start V --percent 10", checks.canary),
    ChecklistLine("deploy", "watched-24h", "it was watched for 24 hours before it got everything",
                  "ulora canary report", checks.watched_a_day),
    ChecklistLine("deploy", "trial-no-alert", "no critical alert", "ulora guard run", checks.no_alert),
    ChecklistLine("deploy", "metrics", "metrics are within the policy's bounds",
                  "ulora promote V --dry-run", checks.metrics),
    ChecklistLine("deploy", "steps", "50%, then 100%", "ulora canary advance --to 50", checks.steps),
    ChecklistLine("after", "full-traffic", "it answers all of the traffic", "ulora status", checks.full_traffic),
    ChecklistLine("after", "watched-7d", "it was watched for 7 days", "ulora status", checks.watched_a_week),
    ChecklistLine("after", "report", "the report was made, and read", "ulora report V"),
    ChecklistLine("after", "debriefed", "the team was debriefed", "a meeting"),
    ChecklistLine("after", "lessons", "lessons were written down", "your notes"),
)  # fmt: skip


def line_named(name: str) -> ChecklistLine:
    """A line by its id.

    Raises:
        BadInput: there is no such line, or it is checked, so that nobody ticks it.
    """
    found = next((line for line in LINES if line.id == name), None)
    if found is None:
        by_people = [line.id for line in LINES if line.check is None]
        raise BadInput(f"no line is called {name[:60]!r}{did_you_mean(name, by_people)}", hint="`ulora checklist V`")
    if found.check is not None:
        raise BadInput(f"{name} is not for people to tick: it is found out", hint=f"`{found.command}` does it")
    return found
