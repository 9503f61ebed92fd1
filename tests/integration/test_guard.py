"""The guard on a real store, with observations that the tests write as replicas do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry.api import Registry
from registry.catalog.watch import LoopControl
from registry.channels.record import Record
from registry.devstack.s3_server import S3Server
from registry.errors import BadPolicy, StoreUnreachable
from registry.guard.decision import Decision
from registry.guard.decisions import Decisions
from registry.guard.guard import Guard, GuardOptions
from registry.guard.guard_event import GuardEvent
from registry.guard.looked import Looked
from registry.guard.notifiers import Notifiers
from registry.guard.webhook import Attempt
from registry.names import VersionName
from registry.store import layout
from registry.trials.observations import StageCounts
from registry.trials.stages import stage_of_record
from registry.usecases.observed import WatchedChannel
from registry.usecases.options import CanaryOptions, ReportOptions
from tests.integration.test_races import together
from tests.servers.proxy import Exchange, Fault, Proxy, answering, unavailable
from tests.support.mlflow_versions import client, register
from tests.support.registries import bind, open_registry
from tests.support.run_ulora import complains, ulora
from tests.support.watched_trials import Fleet, Rates, policy_text

RULES = """
    - {metric: error_rate, max: 0.005, severity: rollback}
"""
PLANS = """
    default: [{percent: 10, hold: 1s}, {percent: 100, bake: 7d}]
    careful: [{percent: 10, hold: 1d}, {percent: 100}]
"""
BAD = Rates(error=0.2)


class Heard:
    """A notifier that keeps what it is told."""

    name = "a test"

    def __init__(self) -> None:
        self.events: list[GuardEvent] = []

    def deliver(self, event: GuardEvent, seconds: float) -> Attempt:
        self.events.append(event)
        return Attempt()


class Watched:
    """A channel with a trial, its fleet and a guard."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.heard = Heard()
        self.notifiers = Notifiers([self.heard])
        self.fleet = Fleet(now=datetime.now(UTC))

    @property
    def head(self) -> Record:
        head = self.registry.channel("production").head()
        assert head
        return head

    def start(self, plan: str | None = "careful", version: str = "v2.0.0") -> None:
        options = CanaryOptions(percent=10, plan=plan, force=True)
        self.registry.canary.start(version, options=options, reason="a trial")
        self.fleet.begin(self.head)

    def write(self) -> None:
        """Every replica writes its heartbeat and its observations."""
        self.fleet.write(self.registry)

    def guard(self, **options: object) -> Guard:
        asked = GuardOptions(channels=("production",), once=True)
        return Guard(self.registry, self.notifiers, replace(asked, **options))  # type: ignore[arg-type]

    def look(self, **options: object) -> Looked:
        (looked,) = self.guard(**options).look()
        return looked

    def told(self) -> list[str]:
        self.notifiers.close(10)
        return [f"{event.kind}: {event.summary}" for event in self.heard.events]

    def decisions(self) -> list[Decision]:
        kept = Decisions(self.registry.store, self.registry.model)
        keys = [info.key for info in self.registry.store.list(layout.decision(self.registry.model, "production"))]
        return [kept.read("production", layout.stem(key)) for key in keys]


@pytest.fixture
def watched(store_url: str, model: str, tmp_path: Path) -> Iterator[Watched]:
    """v1 is stable in production; v2 and v3 are there."""
    registry = open_registry(tmp_path, store_url, model)
    (tmp_path / "policy.yaml").write_text(policy_text(RULES, PLANS))
    registry.store.initialise()
    bind(registry, "v1.0.0", "v2.0.0", "v3.0.0")
    registry.promote("v1.0.0", "production")
    found = Watched(registry)
    yield found
    found.notifiers.close(1)


def test_a_bad_canary_goes_back_by_one_decision(watched: Watched) -> None:
    watched.start()
    watched.fleet.ask(watched.head, 3000, BAD)
    watched.write()
    looked = watched.look()
    assert (looked.outcome, looked.action, looked.to, looked.changed) == ("fail", "rollback", "v1.0.0", True)
    head = watched.head
    assert (head.action, head.who, head.decision, head.canary) == ("abort", "guard", looked.decision, None)
    (decision,) = watched.decisions()
    assert (decision.sha256, decision.facts.record.generation) == (head.decision, head.generation - 1)
    note = watched.registry.store.get(layout.incident(watched.registry.model, "production", looked.decision)).body
    assert b"production: v2.0.0 was rolled back by itself" in note
    assert b"generation 2, split 10%" in note
    told = watched.told()
    assert f"decision: {decision.summary}" in told
    assert "alert: the guard went back: v1.0.0 answers everything" in told
    assert watched.look().summary == "no trial runs; it serves v1.0.0"
    replayed = ulora("guard", "replay", looked.decision[:12], "--model", watched.registry.model)
    assert replayed.code == 0, replayed.err
    assert "the same" in replayed.out


def test_a_dry_run_changes_and_tells_nothing(watched: Watched) -> None:
    watched.start()
    watched.fleet.ask(watched.head, 3000, BAD)
    watched.write()
    before = {info.key: info.etag for info in watched.registry.store.list("")}
    assert (watched.look(dry_run=True).action, watched.told()) == ("rollback", [])
    assert {info.key: info.etag for info in watched.registry.store.list("")} == before


def test_two_guards_at_once_go_back_once(watched: Watched) -> None:
    watched.start()
    watched.fleet.ask(watched.head, 3000, BAD)
    watched.write()
    generation = watched.head.generation
    found = together(watched.look, watched.look, watched.look)
    assert watched.head.generation == generation + 1
    assert sum(each.changed for each in found if isinstance(each, Looked)) == 1
    assert watched.head.decision in {each.sha256 for each in watched.decisions()}


def test_a_decision_is_void_if_the_channel_moved(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.start()
    watched.fleet.ask(watched.head, 3000, BAD)
    watched.write()
    add = Decisions.add

    def moved_meanwhile(self: Decisions, decision: Decision) -> str:
        watched.registry.canary.advance(to=50)
        return add(self, decision)

    monkeypatch.setattr(Decisions, "add", moved_meanwhile)
    looked = watched.look()
    assert not looked.changed
    assert looked.notes[0].startswith("void: ")
    assert (watched.head.action, watched.head.decision) == ("advance", None)


@pytest.mark.acceptance
def test_a_guard_that_died_before_it_acted_is_followed(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.start()
    watched.fleet.ask(watched.head, 3000, BAD)
    watched.write()

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("registry.usecases.canary.Canaries.abort", die)
        with pytest.raises(KeyboardInterrupt):
            watched.look()
    (left,) = watched.decisions()
    assert watched.head.action == "canary"
    looked = watched.look()
    assert looked.changed
    assert watched.head.decision == looked.decision
    assert left.says == next(each for each in watched.decisions() if each.sha256 == looked.decision).says


@pytest.mark.acceptance
def test_a_guard_that_died_before_its_note_is_followed(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.start()
    watched.fleet.ask(watched.head, 3000, BAD)
    watched.write()
    with monkeypatch.context() as patched:
        patched.setattr("registry.guard.channel_guard.ChannelGuard._afterwards", lambda *_: ())
        assert watched.look().changed
    note = layout.incident(watched.registry.model, "production", watched.head.decision or "")
    assert watched.registry.store.head(note) is None
    watched.look()
    assert watched.registry.store.head(note) is not None


def test_a_good_canary_advances_by_its_plan_and_bakes(watched: Watched) -> None:
    watched.start(plan="default")
    watched.fleet.ask(watched.head, 1000)
    watched.write()
    guard = watched.guard()
    while not (looked := guard.look()[0]).changed:
        assert looked.outcome == "pass", looked
    assert (watched.head.action, watched.head.stable and watched.head.stable.version) == ("advance", "v2.0.0")
    assert watched.head.decision == looked.decision
    watched.fleet.begin(watched.head)
    watched.write()
    assert (guard.look()[0].summary, guard.look()[0].action) == ("v2.0.0 goes on: it is watched", "none")


def test_an_unreadable_observation_holds_and_alerts(watched: Watched) -> None:
    watched.start(plan="default")
    watched.fleet.ask(watched.head, 1000)
    watched.write()
    watched.registry.store.overwrite(layout.observation(watched.registry.model, "production", "odd"), b"odd")
    looked = watched.look()
    assert (looked.outcome, looked.action, looked.changed) == ("hold", "hold", False)
    assert "odd" in looked.evidence
    assert "alert: heartbeats or observations that can't be read" in watched.told()


def test_only_what_is_new_is_stored(watched: Watched) -> None:
    watched.start()
    watched.fleet.ask(watched.head, 1000)
    watched.write()
    guard = watched.guard()
    assert [bool(guard.look()[0].decision) for _ in range(3)] == [True, False, False]
    assert not watched.look().decision


def test_a_change_that_fails_is_told_and_tried_later(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.start()
    watched.fleet.ask(watched.head, 3000, BAD)
    watched.write()

    def fail(*_: object, **__: object) -> None:
        raise StoreUnreachable("it is away")

    guard = watched.guard()
    with monkeypatch.context() as patched:
        patched.setattr("registry.usecases.canary.Canaries.abort", fail)
        with pytest.raises(StoreUnreachable, match="it is away"):
            guard.look()
    assert "tried again" in guard.look()[0].notes[0]
    assert watched.look().changed


def test_the_command_says_what_it_found(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.start()
    watched.fleet.ask(watched.head, 1000)
    watched.write()
    monkeypatch.setenv("ULORA_MODEL", watched.registry.model)
    monkeypatch.setenv("ULORA_POLICY", str(watched.registry.settings.policy))
    shown = ulora("guard", "run", "--once", "--dry-run", "--channel", "production", "--json")
    assert shown.code == 0, shown.err
    (looked,) = json.loads(shown.out)
    assert (looked["outcome"], looked["generation"]) == ("pass", watched.head.generation)
    rules = ulora("guard", "rules")
    assert "error_rate: <= 0.005 pass | > 0.005 roll back  (alpha 0.02)" in rules.out
    assert "careful: 10% for 1d, then 100%" in rules.out
    assert "of each alpha 80% is for the trial, 20% for the time after it" in rules.out


def test_the_store_is_away_for_a_while_and_nothing_changes(watched: Watched, s3: S3Server) -> None:
    watched.start()
    watched.fleet.ask(watched.head, 3000, BAD)
    watched.write()
    failures, control = list[str](), LoopControl(0.05)
    with Proxy(s3.port) as proxy:
        registry = Registry(settings=replace(watched.registry.settings, endpoint_url=proxy.url))
        guard = Guard(registry, watched.notifiers, GuardOptions(("production",)))
        proxy.next(unavailable, times=10**6)

        def failed(error: Exception, pause: float) -> None:
            failures.append(type(error).__name__)
            proxy.clear()

        def done(found: list[Looked]) -> None:
            if found[0].changed:
                control.end()

        guard.run(control, done, failed)
    assert failures == ["StoreUnreachable"]
    assert watched.head.who == "guard"
    assert "alert: it can't be judged: StoreUnreachable" in watched.told()


def test_what_did_not_change_is_not_read_again(watched: Watched, s3: S3Server) -> None:
    watched.start()
    watched.fleet.ask(watched.head, 1000)
    watched.write()
    with Proxy(s3.port) as proxy:
        registry = Registry(settings=replace(watched.registry.settings, endpoint_url=proxy.url))
        guard = Guard(registry, watched.notifiers, GuardOptions(("production",), once=True))
        reads = list[int]()
        for _ in range(3):
            proxy.clear()
            guard.look()
            reads.append(sum("/observations/" in path or "/replicas/" in path for _, path in proxy.requests))
            watched.fleet.begin(watched.head)
        first, second, third = reads
        assert (first - second, second) == (6, third)


@pytest.mark.parametrize("fault", [answering(404, "NoSuchKey"), answering(403, "AccessDenied")])
def test_a_store_that_hides_heartbeats_rolls_nothing_back(watched: Watched, s3: S3Server, fault: Fault) -> None:
    watched.start()
    watched.fleet.ask(watched.head, 1000)
    stage = stage_of_record(watched.head)
    assert stage
    watched.fleet.recorders["a"].failed(stage, "canary", "digest_mismatch")
    watched.write()
    with Proxy(s3.port) as proxy:
        for name in ("b", "c"):
            proxy.next(fault, containing=layout.replica(watched.registry.model, "production", name), times=100)
        registry = Registry(settings=replace(watched.registry.settings, endpoint_url=proxy.url))
        (looked,) = Guard(registry, watched.notifiers, GuardOptions(("production",), once=True)).look()
    assert (looked.outcome, looked.action, looked.changed) == ("hold", "hold", False)
    assert looked.evidence.endswith("2: b, c")


def test_a_replica_that_ends_during_the_look_is_no_problem(watched: Watched, s3: S3Server) -> None:
    watched.start()
    watched.fleet.ask(watched.head, 1000)
    watched.write()
    key = layout.replica(watched.registry.model, "production", "c")

    def end(exchange: Exchange) -> None:
        watched.registry.store.delete(key)
        exchange.send(exchange.forward())

    with Proxy(s3.port) as proxy:
        proxy.next(end, method="GET", containing=key)
        registry = Registry(settings=replace(watched.registry.settings, endpoint_url=proxy.url))
        (looked,) = Guard(registry, watched.notifiers, GuardOptions(("production",), once=True)).look()
    assert looked.outcome == "pass", looked
    assert "can't be read" not in looked.evidence


def test_an_object_of_another_replica_holds(watched: Watched) -> None:
    watched.start(plan="default")
    watched.fleet.ask(watched.head, 1000)
    watched.write()
    store, model = watched.registry.store, watched.registry.model
    copied = store.get(layout.observation(model, "production", "a")).body
    store.overwrite(layout.observation(model, "production", "z"), copied)
    looked = watched.look()
    assert (looked.outcome, looked.changed) == ("hold", False)
    assert looked.evidence.endswith("1: z")


def test_a_decision_is_found_by_its_first_characters(watched: Watched, tmp_path: Path) -> None:
    watched.start()
    watched.fleet.ask(watched.head, 3000, BAD)
    watched.write()
    digest = watched.look().decision
    model = ("--model", watched.registry.model)
    assert ulora("guard", "replay", digest[:4], *model).code == 0
    complains(ulora("guard", "replay", "0" * 64, *model), 5, "no decision begins")
    complains(ulora("guard", "replay", "odd", *model), 2, "not the digest")
    (kept,) = watched.decisions()
    changed = tmp_path / "changed.json"
    changed.write_bytes(kept.model_copy(update={"action": "none"}).to_bytes())
    complains(ulora("guard", "replay", changed, *model), 6, "differs in 2 lines")
    complains(ulora("guard", "replay", tmp_path / "no.json", *model), 2, "can't be read")


@pytest.mark.acceptance
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_with_0(watched: Watched, number: signal.Signals, tmp_path: Path) -> None:
    with guard_process(watched, tmp_path) as process:
        process.send_signal(number)
        assert process.wait(60) == 0


@pytest.mark.acceptance
def test_processes_that_are_killed_leave_one_rollback(watched: Watched, tmp_path: Path) -> None:
    watched.start()
    watched.fleet.ask(watched.head, 3000, BAD)
    watched.write()
    generation = watched.head.generation
    deadline = time.monotonic() + 300
    while watched.head.generation == generation:
        assert time.monotonic() < deadline
        with guard_process(watched, tmp_path) as one, guard_process(watched, tmp_path) as other:
            one.kill()
            other.kill()
    assert watched.head.decision in {each.sha256 for each in watched.decisions()}
    assert not watched.look().changed
    assert watched.head.generation == generation + 1


@contextmanager
def guard_process(watched: Watched, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`ulora guard run`, once it watches."""
    settings = watched.registry.settings
    named = {"ULORA_MODEL": settings.model, "ULORA_POLICY": str(settings.policy), "ULORA_CACHE": str(folder / "cache")}
    words = [sys.executable, "-m", "registry", "guard", "run", "--channel", "production", "--every", "0.1", "--json"]
    process = subprocess.Popen(words, env={**os.environ, **named}, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert json.loads(process.stdout.readline())["watching"] == ["production"]
        assert json.loads(process.stdout.readline())["channel"] == "production"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.acceptance
def test_the_note_is_an_artifact_of_the_version_in_mlflow(watched: Watched, tracking_uri: str, tmp_path: Path) -> None:
    settings = replace(watched.registry.settings, tracking_uri=tracking_uri)
    watched.registry = Registry(settings=settings)
    register(watched.registry, "v1.0.0", "v2.0.0")
    watched.start()
    watched.fleet.ask(watched.head, 3000, BAD)
    watched.write()
    looked = watched.look()
    assert looked.changed
    found = watched.registry.catalog.find(watched.registry.bindings.get(VersionName.parse("v2.0.0")))
    assert found
    name = f"incident-production-{looked.decision[:12]}.md"
    files = client(watched.registry).list_logged_model_artifacts(found.model_id)
    assert name in {file.path for file in files}


# --- what was there before the trial ---------------------------------------------------------------------------------


def test_records_from_before_the_trial_are_told_and_not_needed(watched: Watched) -> None:
    registry = watched.registry
    for version in ("v2.0.0", "v3.0.0", "v1.0.0"):
        registry.promote(version, "production")
    watched.start()
    watched.fleet.ask(watched.head, 3000, BAD)
    watched.write()
    registry.store.overwrite(layout.record(registry.model, "production", 2), b"junk")
    registry.store.delete(layout.record(registry.model, "production", 1))
    assert watched.look().action == "rollback"
    (decision,) = watched.decisions()
    assert decision.facts.fleet.records.names == ("1", "2")
    assert any("records from before the trial" in told for told in watched.told())


def test_observations_from_before_the_trial_are_not_read(watched: Watched) -> None:
    registry = watched.registry
    watched.start()
    watched.fleet.ask(watched.head, 300)
    watched.write()
    registry.store.overwrite(layout.observation(registry.model, "production", "old"), b"junk")
    view = WatchedChannel(registry.store, registry.channel("production"))
    look = view.records()
    assert look
    for hours, seen in ((-1, ["a", "b", "c", "old"]), (1, [])):
        written = {**look.written, look.head.generation: look.now + timedelta(hours=hours)}
        found = view.with_replicas(replace(look, written=written))
        assert [each.id for each in found.observations] == seen
        assert len(found.heartbeats) == 3


def test_what_is_wrong_with_one_channel_stops_no_other(watched: Watched) -> None:
    registry = watched.registry
    registry.promote("v1.0.0", "staging")
    registry.canary.start("v3.0.0", "staging", CanaryOptions(percent=10, plan="default", force=True), reason="a trial")
    log = registry.channel("staging")
    head = log.head()
    assert head
    assert head.canary
    named = head.model_copy(update={"canary": head.canary.model_copy(update={"version": "by hand"})})
    registry.store.overwrite(layout.record(registry.model, "staging", head.generation), named.to_bytes())
    staged = Fleet(now=datetime.now(UTC))
    staged.begin(named)
    staged.ask(named, 1000)
    staged.write(registry, "staging")
    watched.start()
    watched.fleet.ask(watched.head, 3000, BAD)
    watched.write()
    guard = watched.guard(channels=("staging", "production"))
    while not (looked := guard.look())[0].problem:
        assert looked[0].outcome == "pass", looked[0]
    assert watched.head.who == "guard"
    assert [type(error).__name__ for error in guard.errors] == ["BadVersionName"]
    alone = watched.guard(channels=("staging",))
    assert alone.look()[0].problem.startswith("'by hand' is not a version name")


def test_a_policy_that_cannot_be_read_ends_the_look(watched: Watched) -> None:
    watched.start()
    policy = watched.registry.settings.policy
    assert policy
    policy.write_text("format: 1\nchannels: {production: {}}\n")
    with pytest.raises(BadPolicy):
        watched.guard(channels=("staging", "production")).look()


@pytest.mark.acceptance
def test_of_earlier_trials_nothing_is_kept_in_memory(watched: Watched) -> None:
    watched.start()
    watched.fleet.ask(watched.head, 1000)
    watched.write()
    registry = watched.registry
    view = WatchedChannel(registry.store, registry.channel("production"))
    first = watched.head.generation
    assert {stage.generation for stage in stages_seen(view)} == {first}
    registry.canary.abort(reason="another")
    watched.fleet.begin(watched.head)
    watched.start(version="v3.0.0")
    watched.fleet.ask(watched.head, 1000)
    watched.write()
    assert {stage.generation for stage in stages_seen(view)} == {watched.head.generation}
    reported = registry.canary.report("production", ReportOptions(generation=first, log=False)).report
    assert reported.arms["stable"].asked


def stages_seen(view: WatchedChannel) -> list[StageCounts]:
    look = view.records()
    assert look
    told = [seen.document for seen in view.with_replicas(look).observations]
    return [stage for document in told if document for stage in document.stages]
