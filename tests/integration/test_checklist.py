"""`ulora checklist` on a real store: what is found out, what people tick, and where a pipeline stops."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry.api import Registry
from registry.channels.channel import PromoteOptions
from registry.channels.record import Record
from registry.errors import BadInput, GateRefused, NotFound
from registry.evidence.results import BenchmarkRun, Evidence, Measurement, Metric
from registry.formats.canonical import sha256
from registry.guard.guard import Guard, GuardOptions
from registry.guard.notifiers import Notifiers
from registry.names import VersionName
from registry.store import layout
from registry.usecases.audit_options import ChecklistOptions
from registry.usecases.checklist_checks import CheckedRelease
from registry.usecases.checklist_lines import LINES, STAGES
from registry.usecases.options import CanaryOptions
from tests.support.measured_versions import accuracy_of
from tests.support.registries import bind, create, listing, open_registry
from tests.support.run_ulora import complains, ulora
from tests.support.watched_trials import Fleet, Rates, policy_text

V1, V2 = "v1.0.0", "v2.0.0"
PEOPLE = tuple(line.id for line in LINES if line.check is None)
RULES = """
    - {metric: error_rate, max: 0.005, severity: rollback}
"""
PLANS = """
    careful: [{percent: 10, hold: 1d}, {percent: 100}]
"""


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """v1 is stable in production; v2 is there."""
    monkeypatch.setenv("ULORA_MODEL", model)
    opened = open_registry(tmp_path, store_url, model, who="ann")
    (tmp_path / "policy.yaml").write_text(policy_text(RULES, PLANS))
    opened.store.initialise()
    bind(opened, V1, V2)
    opened.promote(V1, "production")
    return opened


def states(registry: Registry, stage: str | None = None, version: str = V2) -> dict[str, str]:
    return {line.id: line.state for line in registry.checklist(version, ChecklistOptions(stage=stage)).lines}


def asks(registry: Registry, production: str) -> None:
    assert registry.settings.policy
    text = policy_text(RULES, PLANS).replace("production: {}", f"production: {{{production}}}")
    registry.settings.policy.write_text(text)


def recorded(registry: Registry, version: str, minute: int, **metrics: float) -> None:
    """Evidence as `ulora test` keeps it."""
    run = BenchmarkRun(
        benchmark="tests", model=registry.model, version=version, device="cpu", runtime="torch-fp32", seconds=1.0,
        content_sha256=registry.manifest(version).content_sha256, timestamp=f"2026-11-21T10:{minute:02}:00+00:00",
        libraries={}, who="ann",
    )  # fmt: skip
    found = tuple(Metric.of(name, value, n=1) for name, value in metrics.items())
    registry.wiring.ledger.add(Evidence.of(Measurement(found, "d" * 64, "tests", 1), run))


def measured(registry: Registry, version: str, right: int) -> None:
    registry.wiring.ledger.add(*accuracy_of(registry.manifest(version), [number < right for number in range(100)]))


def test_each_line_has_an_id_and_a_stage_of_its_own() -> None:
    assert len({line.id for line in LINES}) == len(LINES) == 24
    assert tuple(dict.fromkeys(line.stage for line in LINES)) == STAGES
    assert all(line.command for line in LINES)


def test_before_the_work_a_measured_baseline_is_asked_for(registry: Registry) -> None:
    assert states(registry, "before")["baseline-metrics"] == "not yet"
    measured(registry, V1, 97)
    found = states(registry, "before")
    assert (found["baseline-version"], found["baseline-metrics"]) == ("passed", "passed")
    assert {state for line, state in found.items() if line in PEOPLE} == {"not ticked"}
    assert states(registry, "before", V1)["baseline-version"] == "not yet", "nothing was there before the first"


def test_tests_are_asked_of_the_newest_evidence(registry: Registry) -> None:
    assert {states(registry, "pre-deploy")[line] for line in ("tests", "rollback-tried")} == {"not yet"}
    recorded(registry, V2, 1, version_tests=1.0, version_tests_drill=1.0, version_tests_team=1.0)
    assert {states(registry)[line] for line in ("tests", "rollback-tried", "unit-tests")} == {"passed"}
    recorded(registry, V2, 2, version_tests=0.5, version_tests_drill=0.0)
    found = states(registry)
    assert [found[line] for line in ("tests", "rollback-tried", "unit-tests")] == ["failed", "failed", "passed"]


def test_metrics_are_judged_by_the_policy(registry: Registry) -> None:
    asks(registry, "defaults: [{metric: accuracy, min: 0.9}, {metric: latency_ms_p95, max: 100}]")
    assert [states(registry)[line] for line in ("benchmarks", "metrics", "performance")] == [
        "not yet",
        "failed",
        "failed",
    ]
    asks(registry, "defaults: [{metric: accuracy, min: 0.9}]")
    measured(registry, V2, 80)
    found = states(registry)
    assert [found[line] for line in ("benchmarks", "metrics", "performance")] == ["passed", "failed", "passed"]
    registry.promote(V2, "production", PromoteOptions(force=True), reason="growers wait")
    asks(registry, "")
    assert states(registry)["metrics"] == "failed", "it came in by force, whatever the policy says since"
    registry.canary.start(V1, options=CanaryOptions(percent=10, plan="careful"), reason="a trial")
    assert states(registry)["metrics"] == "failed", "the verdict about a version on trial beside it is not its own"
    assert states(registry, version=V1)["metrics"] == "passed"


def test_files_that_are_damaged_are_found(registry: Registry, tmp_path: Path) -> None:
    create(registry, "v3.0.0", tmp_path)
    assert states(registry, "pre-deploy", "v3.0.0")["verified"] == "passed"
    key = registry.manifest("v3.0.0").files[0].sha256
    registry.store.delete(layout.blob(key))
    (line,) = [line for line in registry.checklist("v3.0.0").lines if line.id == "verified"]
    assert (line.state, "missing" in line.said) == ("failed", True)


def test_a_version_without_a_trial_is_not_deployed_so(registry: Registry) -> None:
    registry.promote(V2, "production")
    found = states(registry, "deploy")
    assert {found[line] for line in ("canary", "watched-24h", "steps")} == {"not yet"}
    assert (states(registry, "after")["full-traffic"], states(registry, "after")["watched-7d"]) == ("passed", "not yet")


def test_a_trial_by_steps_is_followed(registry: Registry) -> None:
    registry.canary.start(V2, options=CanaryOptions(percent=10))
    found = states(registry, "deploy")
    assert [found[line] for line in ("canary", "watched-24h", "steps")] == ["passed", "not yet", "not yet"]
    assert states(registry, "after")["full-traffic"] == "not yet"
    registry.canary.advance(to=50)
    registry.canary.advance(to=100)
    found = states(registry, "deploy")
    assert [found[line] for line in ("canary", "watched-24h", "steps")] == ["passed", "failed", "passed"]


def test_a_trial_that_began_too_large_or_jumped_fails(registry: Registry) -> None:
    registry.canary.start(V2, options=CanaryOptions(percent=25))
    registry.canary.advance(to=100)
    found = states(registry, "deploy")
    assert (found["canary"], found["steps"]) == ("failed", "failed")


def test_a_day_and_a_week_are_counted(registry: Registry) -> None:
    """Of records as they would be after so long: no test waits for days."""
    registry.canary.start(V2, options=CanaryOptions(percent=10))
    registry.canary.advance(to=100)
    about = CheckedRelease(registry.wiring, registry.bindings.get(VersionName.parse(V2)), "production")
    now = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
    ages = {3: timedelta(days=8), 2: timedelta(days=9, hours=1), 1: timedelta(days=20)}

    def aged(record: Record) -> Record:
        return record.model_copy(update={"when": (now - ages[record.generation]).isoformat()})

    vars(about).update(records=[aged(record) for record in about.records], now=now)
    checks = {line.id: line.check for line in LINES}
    for line, said in (("watched-24h", "it was on trial for 25.0 hours"), ("watched-7d", "stable for 8.0 days")):
        check = checks[line]
        assert check
        found = check(about)
        assert (found.state, found.said) == ("passed", said)


def test_an_alert_of_the_guard_is_an_open_line(registry: Registry) -> None:
    registry.canary.start(V2, options=CanaryOptions(percent=10, plan="careful"))
    assert states(registry, "deploy")["trial-no-alert"] == "passed"
    head = registry.channel("production").head()
    assert head
    fleet = Fleet(now=registry.store.now())
    fleet.begin(head)
    fleet.ask(head, 2000, Rates(error=0.5), labels=False)
    fleet.write(registry)
    (looked,) = Guard(registry, Notifiers([]), GuardOptions(("production",), once=True)).look()
    assert looked.changed
    assert states(registry, "deploy")["trial-no-alert"] == "failed"
    assert states(registry, "deploy", V1)["trial-no-alert"] == "passed", "it is about the other version"


def test_a_decision_of_any_content_ends_no_checklist(registry: Registry) -> None:
    for body in (b'{"facts":[]}', b'{"facts":{"record":7}}', b'{"action":"alert"}'):
        registry.store.create(layout.decision(registry.model, "production", sha256(body)), body)
    assert states(registry, "deploy")["trial-no-alert"] == "passed"
    registry.store.create(layout.decision(registry.model, "production", "e" * 64), b"no JSON")
    assert states(registry, "deploy")["trial-no-alert"] == "failed", "nobody knows what it says"


# --- people -----------------------------------------------------------------------------------------------------------


def test_a_tick_stands_until_it_is_taken_back(registry: Registry) -> None:
    asked = ChecklistOptions(tick=("team-told",))
    (line,) = registry.checklist(V2, asked, reason="on Monday").lines
    assert (line.state, line.said.startswith("ann, 20"), line.said.endswith(": on Monday")) == ("ticked", True, True)
    assert states(registry, "before")["team-told"] == "ticked"
    before = listing(registry)
    registry.checklist(V2, asked, reason="again")
    assert listing(registry) == before, "one tick of a person is enough"
    bob = Registry(settings=replace(registry.settings, who="bob"))
    (line,) = bob.checklist(V2, asked).lines
    assert line.said.startswith("ann, bob, ")
    (line,) = bob.checklist(V2, ChecklistOptions(untick=("team-told",)), reason="it moved").lines
    assert line.state == "not ticked"
    assert len(set(listing(registry)) - set(before)) == 2, "nothing is deleted"
    with pytest.raises(NotFound, match="nobody has ticked team-told"):
        bob.checklist(V2, ChecklistOptions(untick=("team-told",)))
    registry.checklist(V2, asked)
    assert states(registry, "before")["team-told"] == "ticked"


def test_a_tick_is_for_one_version_channel_and_content(registry: Registry) -> None:
    registry.checklist(V2, ChecklistOptions(tick=("team-told",), channel="staging"))
    assert states(registry, "before")["team-told"] == "not ticked"
    assert states(registry, "before", V1)["team-told"] == "not ticked"
    assert registry.checklist(V2, ChecklistOptions(channel="staging")).lines[4].state == "ticked"


def test_a_dry_run_ticks_nothing(registry: Registry) -> None:
    before = listing(registry)
    (line,) = registry.checklist(V2, ChecklistOptions(tick=("lessons",)), dry_run=True).lines
    assert line.state == "ticked"
    assert listing(registry) == before


def test_what_can_be_found_out_is_not_ticked(registry: Registry) -> None:
    with pytest.raises(BadInput, match="not for people to tick"):
        registry.checklist(V2, ChecklistOptions(tick=("verified",)))
    with pytest.raises(BadInput, match="did you mean lessons"):
        registry.checklist(V2, ChecklistOptions(tick=("lesson",)))
    with pytest.raises(BadInput, match="at once"):
        ChecklistOptions(tick=("lessons",), untick=("lessons",))
    nobody = Registry(settings=replace(registry.settings, who=" "))
    with pytest.raises(BadInput, match="a person's name"):
        nobody.checklist(V2, ChecklistOptions(tick=("lessons",)))


def test_a_damaged_tick_does_not_count_and_is_found(registry: Registry) -> None:
    registry.checklist(V2, ChecklistOptions(tick=("lessons",)))
    (key,) = [info.key for info in registry.store.list(layout.tick(registry.model, V2))]
    registry.store.overwrite(key, registry.store.get(key).body.replace(b"ann", b"eve"))
    assert states(registry, "after")["lessons"] == "not ticked"
    assert key in ulora("verify", "--all", "--model", registry.model, "--store", registry.settings.store).out


def test_a_pipeline_stops_where_a_line_is_open(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULORA_POLICY", str(registry.settings.policy))
    monkeypatch.setenv("ULORA_WHO", "ann")
    stopped = ulora("checklist", V2, "--stage", "pre-deploy")
    complains(stopped, 3, "of 5 lines of v2.0.0 in production are open", "tests, benchmarks, rollback-tried")
    assert "ulora test v2.0.0 --drill" in stopped.out
    done = ulora("checklist", V2, "--tick", "documentation", "--reason", "merge request 7")
    assert (done.code, "merge request 7" in done.out) == (0, True)
    recorded(registry, V2, 1, version_tests=1.0, version_tests_drill=1.0)
    measured(registry, V2, 97)
    document = ulora("checklist", V2, "--stage", "pre-deploy", "--json")
    assert (document.code, document.document["ok"]) == (0, True)
    assert {line["state"] for line in document.document["lines"]} == {"passed", "ticked"}
    assert ulora("checklist", V2, "--json").code == GateRefused.exit_code
    complains(ulora("checklist", V2, "--stage", "deploy", "--tick", "lessons"), 2, "name their lines themselves")
    complains(ulora("checklist", "v9.0.0"), 5, "v9.0.0")
