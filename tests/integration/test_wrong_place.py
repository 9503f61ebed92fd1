"""A wrong store, prefix or model is said to be one, and never looks like a channel that serves nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from registry.api import Registry
from registry.cli.guard import _NewLooks
from registry.cli.output import Output
from registry.errors import BucketNotFound, ChannelEmpty, NotFound, NothingToRollBackTo, ObjectNotFound, VersionNotFound
from registry.guard.guard import Guard, GuardOptions
from registry.guard.notifiers import Notifiers
from registry.guard.replay import find_decision
from registry.usecases.audit_options import AuditOptions
from registry.usecases.replay import replay
from tests.support.registries import bind, open_registry
from tests.support.run_ulora import ulora


def look_once(registry: Registry) -> None:
    guard = Guard(registry, Notifiers([]), GuardOptions(once=True))
    guard.look()
    for error in guard.errors:
        raise error


LOOKS: dict[str, Callable[[Registry], object]] = {
    "status": lambda registry: registry.status(),
    "history": lambda registry: registry.history(),
    "list": lambda registry: registry.versions(),
    "rollback": lambda registry: registry.rollback(),
    "partial rollback": lambda registry: registry.rollback(only=["adapters/low"]),
    "follow": lambda registry: registry.follow().start(),
    "show": lambda registry: registry.manifest("v1.0.0"),
    "promote": lambda registry: registry.promote("v1.0.0"),
    "load": lambda registry: registry.load("v1.0.0"),
    "verify all": lambda registry: registry.verify_all(),
    "collect garbage": lambda registry: registry.collect_garbage(dry_run=True),
    "copy": lambda registry: registry.copy_to("v1.0.0", "folder", dry_run=True),
    "unpin": lambda registry: registry.unpin("v1.0.0"),
    "advance": lambda registry: registry.canary.advance(),
    "abort": lambda registry: registry.canary.abort(),
    "canary report": lambda registry: registry.canary.report(),
    "rollback scripts": lambda registry: registry.rollback_scripts(),
    "replay": lambda registry: replay(registry.wiring, "0123"),
    "audit": lambda registry: registry.audit(Path("audit.zip"), AuditOptions(channel="production"), dry_run=True),
    "guard": look_once,
    "guard replay": lambda registry: find_decision(registry.wiring, "012345678"),
}
EACH = pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)


@pytest.fixture
def registry(store_url: str, tmp_path: Path) -> Registry:
    registry = open_registry(tmp_path, store_url, "aads-ulora")
    registry.store.initialise()
    bind(registry, "v1.0.0", "v1.1.0-dinov3")
    registry.promote("v1.0.0", "production")
    return registry


def elsewhere(registry: Registry, **settings: str) -> Registry:
    return Registry(settings=replace(registry.settings, **settings))


@EACH
def test_a_wrong_prefix_is_no_store(registry: Registry, look: Callable[[Registry], object]) -> None:
    with pytest.raises(NotFound, match=r"there is no store at .*-typo") as error:
        look(elsewhere(registry, store=f"{registry.settings.store}-typo"))
    assert error.value.exit_code == 5
    assert "ulora store init" in error.value.hint


@EACH
def test_a_wrong_model_is_told_which_there_are(registry: Registry, look: Callable[[Registry], object]) -> None:
    with pytest.raises(NotFound, match="has no model 'aads-ulroa'; there are: aads-ulora") as error:
        look(elsewhere(registry, model="aads-ulroa"))
    assert (error.value.exit_code, error.value.hint) == (5, "did you mean --model aads-ulora?")


@EACH
def test_a_wrong_bucket_is_said_to_be_missing(registry: Registry, look: Callable[[Registry], object]) -> None:
    with pytest.raises(BucketNotFound, match="no bucket 'uloora'; is it ulora"):
        look(elsewhere(registry, store="s3://uloora/x"))


def test_what_is_really_empty_is_empty(store_url: str, tmp_path: Path) -> None:
    registry = open_registry(tmp_path, store_url, "new-model")
    registry.store.initialise()
    assert [channel.stable for channel in registry.status().channels] == [None, None]
    assert (registry.versions(), registry.history()) == ([], [])
    with pytest.raises(NothingToRollBackTo, match="serves no version yet"):
        registry.rollback()
    with pytest.raises(ChannelEmpty):
        registry.follow().start()


def test_backbones_are_of_the_store(registry: Registry) -> None:
    assert list(elsewhere(registry, model="new-team").backbones()) == []
    with pytest.raises(ObjectNotFound, match="not in the store"):
        elsewhere(registry, store=f"{registry.settings.store}-typo").backbones()


def test_a_guard_of_a_wrong_model_says_it_once(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = elsewhere(registry, model="aads-ulroa")
    guard, lines = Guard(wrong, Notifiers([]), GuardOptions(("production",))), _NewLooks(Output(as_json=False))
    for _ in range(3):
        lines.done(guard.look())
    said = capsys.readouterr()
    assert said.out.count("it can't be judged: NotFound") == said.out.count("has no model 'aads-ulroa'") == 1
    assert said.err.count("did you mean --model aads-ulora?") == 1


def test_the_guard_waits_for_the_first_record_of_a_channel(registry: Registry) -> None:
    guard = Guard(registry, Notifiers([]), GuardOptions(("staging",)))
    assert [looked.summary for _ in range(2) for looked in guard.look()] == ["no record", "no record"]
    assert not guard.errors


def test_a_misspelt_version_is_told_the_near_ones(registry: Registry) -> None:
    with pytest.raises(VersionNotFound) as error:
        registry.manifest("v1.1.0-dinov2")
    assert "did you mean v1.1.0-dinov3" in error.value.hint


def test_commands_begin_with_model_and_store(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    first = f"{registry.model} in {registry.settings.store}"
    monkeypatch.setenv("ULORA_MODEL", registry.model)
    monkeypatch.setenv("ULORA_STORE", registry.settings.store)
    for words in (["status"], ["rollback", "--dry-run"], ["promote", "v1.0.0", "-c", "production", "--dry-run"]):
        assert ulora(*words).out.startswith(first)


def test_numbers_that_mlflow_does_not_tell_are_a_note(registry: Registry, dead_address: str) -> None:
    for uri, reason in ((dead_address, "does not answer"), ("127.0.0.1:5000", "http://"), (None, "no tracking server")):
        said: list[str] = []
        settings = replace(registry.settings, tracking_uri=uri)
        listed = Registry(settings=settings).versions(say=said.append)
        assert [each.catalog_number for each in listed] == [None, None]
        assert len(said) == 1
        assert "MLflow's numbers are left out" in said[0]
        assert reason in said[0]
    assert registry.versions(mlflow=False, say=said.append)
    assert len(said) == 1


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
def test_the_password_of_an_endpoint_is_in_nothing_printed(
    registry: Registry, dead_address: str, monkeypatch: pytest.MonkeyPatch, as_json: list[str]
) -> None:
    monkeypatch.setenv("ULORA_S3_ENDPOINT", dead_address.replace("://", "://ann:hunter22@"))
    for words in (["status"], ["promote", "v1.0.0"], ["rollback"], ["store", "init"], ["list"], ["config", "show"]):
        done = ulora(*words, *as_json)
        assert dead_address.removeprefix("http://") in done.out + done.err
        assert "hunter22" not in done.out + done.err
