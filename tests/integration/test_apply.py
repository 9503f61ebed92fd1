"""`ulora apply`: channels as a file in Git wants them, on a real store."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from registry.answers import Change
from registry.api import Registry
from registry.channels.channel import PromoteOptions
from registry.channels.record import STACK_DEPTH
from registry.errors import ChannelMoved, GateRefused, NotNow
from registry.usecases.options import CanaryOptions
from tests.integration.test_races import in_processes
from tests.support.registries import bind, open_registry
from tests.support.run_ulora import ulora


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    """v1 and v2 are stable in production, one after the other; v3 and v4 are there."""
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    bind(registry, "v1.0.0", "v2.0.0", "v3.0.0", "v4.0.0")
    for version in ("v1.0.0", "v2.0.0"):
        registry.promote(version, "production")
    return registry


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "channels.yaml"


def want(file: Path, **channels: object) -> Path:
    file.write_text("format: 1\n" + json.dumps({"channels": channels})[1:-1] + "\n")
    return file


def served(registry: Registry, channel: str = "production") -> tuple[str, ...]:
    head = registry.channel(channel).head()
    return (head.action, *head.live()) if head else ()


def test_channels_are_brought_to_what_the_file_wants(registry: Registry, file: Path) -> None:
    trial = {"version": "v4.0.0", "percent": 10}
    want(file, production={"stable": "v3.0.0", "canary": trial}, staging={"stable": "v3.0.0"})
    plan = registry.wanted(file).plan()
    assert [(each.plan.channel, len(each.plan.steps)) for each in plan] == [("staging", 1), ("production", 2)]
    assert served(registry) == ("promote", "v2.0.0")
    done = registry.wanted(file).apply(reason="pull request 42")
    assert [(change.channel, change.action) for change in done] == [
        ("staging", "promote"), ("production", "promote"), ("production", "canary"),
    ]  # fmt: skip
    assert served(registry) == ("canary", "v3.0.0", "v4.0.0")
    assert registry.history()[0].reason == "pull request 42"
    assert registry.wanted(file).apply() == []


def test_a_trial_goes_on_by_the_file(registry: Registry, file: Path) -> None:
    for percent in (10, 50):
        want(file, production={"stable": "v2.0.0", "canary": {"version": "v3.0.0", "percent": percent}})
        registry.wanted(file).apply()
    assert [record.action for record in registry.history()[:2]] == ["advance", "canary"]
    registry.wanted(want(file, production={"stable": "v3.0.0"})).apply()
    assert served(registry) == ("advance", "v3.0.0")


def test_going_back_has_to_be_allowed(registry: Registry, file: Path) -> None:
    state = registry.wanted(want(file, production={"stable": "v1.0.0"}, staging={"stable": "v1.0.0"}))
    with pytest.raises(NotNow, match="nothing changed"):
        state.apply()
    assert served(registry, "staging") == ()
    assert [change.action for change in state.apply(allow_back=True)] == ["promote", "rollback"]
    assert served(registry) == ("rollback", "v1.0.0")


def test_it_says_that_mlflow_does_not_show_it(registry: Registry, file: Path) -> None:
    nobody = Registry(settings=replace(registry.settings, tracking_uri="http://127.0.0.1:1"))
    said: list[str] = []
    nobody.wanted(want(file, production={"stable": "v1.0.0"})).apply(allow_back=True, say=said.append)
    assert served(registry) == ("rollback", "v1.0.0")
    assert any("MLflow does not show it yet" in note for note in said)


def test_what_was_rolled_back_stays_so(registry: Registry, file: Path) -> None:
    registry.rollback(reason="it was bad")
    with pytest.raises(NotNow, match=r"v2\.0\.0 was rolled back here"):
        registry.wanted(want(file, production={"stable": "v2.0.0"})).apply(allow_back=True)
    assert served(registry) == ("rollback", "v1.0.0")


def test_a_trial_of_what_was_rolled_back_is_not_cut_short(registry: Registry, file: Path) -> None:
    registry.rollback(reason="it was bad")
    registry.canary.start("v2.0.0", options=CanaryOptions(percent=5, force=True), reason="once more, carefully")
    state = registry.wanted(want(file, production={"stable": "v2.0.0"}))
    with pytest.raises(NotNow, match=r"v2\.0\.0 was stable here before"):
        state.apply()
    assert served(registry) == ("canary", "v1.0.0", "v2.0.0")
    assert [change.action for change in state.apply(allow_back=True)] == ["advance"]


@pytest.mark.acceptance
def test_what_the_stack_has_forgotten_is_not_promoted_again(registry: Registry, file: Path) -> None:
    names = [f"v5.{number}.0" for number in range(STACK_DEPTH + 1)]
    bind(registry, *names)
    for name in names:
        registry.promote(name, "production")
    with pytest.raises(NotNow, match=r"v2\.0\.0 was stable here before"):
        registry.wanted(want(file, production={"stable": "v2.0.0"})).apply()
    assert served(registry) == ("promote", names[-1])


def test_the_gates_judge_it_and_what_was_done_stands(registry: Registry, file: Path, tmp_path: Path) -> None:
    strict = tmp_path / "strict.yaml"
    strict.write_text("format: 1\nchannels:\n  staging: {}\n  production: {defaults: [{metric: accuracy, min: 0.9}]}\n")
    gated = Registry(settings=replace(registry.settings, policy=strict))
    state = gated.wanted(want(file, production={"stable": "v3.0.0"}, staging={"stable": "v3.0.0"}))
    refused = [each.refused for each in state.plan()]
    assert refused[0] is None
    assert refused[1]
    with pytest.raises(GateRefused):
        state.apply()
    assert (served(registry, "staging"), served(registry)) == (("promote", "v3.0.0"), ("promote", "v2.0.0"))


def test_a_channel_that_moved_meanwhile_is_left_alone(registry: Registry, file: Path) -> None:
    state = registry.wanted(want(file, staging={"stable": "v3.0.0"}, production={"stable": "v3.0.0"}))

    def somebody_is_faster(change: object) -> None:
        registry.promote("v4.0.0", "production", PromoteOptions(force=True), reason="a hotfix")

    with pytest.raises(ChannelMoved):
        state.apply(tell=somebody_is_faster)
    assert served(registry) == ("promote", "v4.0.0")


def test_a_rollback_ends_no_trial_that_began_meanwhile(registry: Registry, file: Path) -> None:
    state = registry.wanted(want(file, staging={"stable": "v3.0.0"}, production={"stable": "v1.0.0"}))

    def somebody_starts_a_trial(change: Change) -> None:
        if change.channel == "staging":
            registry.canary.start("v4.0.0", options=CanaryOptions(percent=10))

    with pytest.raises(ChannelMoved):
        state.apply(allow_back=True, tell=somebody_starts_a_trial)
    assert served(registry) == ("canary", "v2.0.0", "v4.0.0")


APPLY = """
import sys
from pathlib import Path
from registry.errors import Conflict
from tests.support.registries import open_registry
folder, store, model, file = sys.argv[1:]
state = open_registry(Path(folder), store, model).wanted(Path(file))
print("ready", flush=True)
sys.stdin.readline()
try:
    print(len(state.apply()))
except Conflict as error:
    print(type(error).__name__)
"""


@pytest.mark.acceptance
def test_processes_that_apply_one_file_make_each_change_once(
    registry: Registry, file: Path, store_url: str, tmp_path: Path
) -> None:
    want(file, production={"stable": "v3.0.0", "canary": {"version": "v4.0.0", "percent": 10}})
    people = [[str(tmp_path / name), store_url, registry.model, str(file)] for name in ("ann", "bob", "eve")]
    ended = in_processes(APPLY, *people)
    assert {"0", "1", "2", "ChannelMoved"} >= {*ended}
    assert [record.action for record in registry.history()] == ["canary", "promote", "promote", "promote"]


def test_the_command_says_what_it_would_do_and_does_it(
    registry: Registry, file: Path, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULORA_POLICY", str(registry.settings.policy))
    words = ("apply", str(file), "--model", registry.model, "--store", store_url)
    want(file, production={"stable": "v3.0.0"})
    plan = ulora(*words, "--plan")
    assert plan.code == 0
    assert "production (generation 2): promote v3.0.0, if the gates pass" in plan.out
    assert served(registry) == ("promote", "v2.0.0")
    done = ulora(*words, "--json")
    assert (done.code, json.loads(done.out)["version"]) == (0, "v3.0.0")
    assert "nothing to do" in ulora(*words).out
    want(file, production={"stable": "v1.0.0"})
    held = ulora(*words, "--plan", "--json")
    assert held.code == 4
    assert "--allow-back" in json.loads(held.out)["channels"][0]["held"]
    assert ulora(*words).code == 4
    want(file, prod={"stable": "v1.0.0"})
    assert ulora(*words).code == 2


def test_a_trial_of_somebody_else_is_not_ended(registry: Registry, file: Path) -> None:
    registry.canary.start("v3.0.0", options=CanaryOptions(percent=10))
    with pytest.raises(NotNow, match=r"end the trial of v3\.0\.0"):
        registry.wanted(want(file, production={"stable": "v2.0.0"})).apply()
    assert served(registry) == ("canary", "v2.0.0", "v3.0.0")
