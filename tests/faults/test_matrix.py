"""Something goes wrong at one call of a command; every promise holds, the command told the truth, and run again it
finishes.

The calls are recorded from a run in which nothing goes wrong, so a call that is added later is covered unasked.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults import oracle
from tests.faults.calls import Call
from tests.faults.faults import Fault
from tests.faults.oracle import Snapshot
from tests.faults.plugin import SEED, Shard
from tests.faults.scenarios import EDIT, SCENARIOS, Scenario
from tests.faults.stage import Place, Played, Stage, Story

ONLY_CALL = os.environ.get("ULORA_FAULT_CALL")
_LEASE_SECONDS = 20
"""More than a garbage collection that died keeps others waiting, which is seconds here."""
_ANY_MOMENT = ("Interrupted",)
"""Told whenever it comes, before or after the change."""
Record = Callable[[Scenario], "Clean"]


@dataclass(frozen=True)
class State:
    """Everything that a command may change: the store, the working tree, MLflow."""

    store: Snapshot
    tree: Mapping[str, Any]
    shown: Mapping[str, Any]

    @property
    def committed(self) -> dict[str, Any]:
        return oracle.committed(self.store)


@dataclass(frozen=True)
class Clean:
    """A run in which nothing went wrong: its calls, and the state before and after."""

    calls: list[Call]
    before: State
    after: State


@pytest.fixture(scope="session")
def record(stage: Stage) -> Record:
    """Plays a scenario without a fault, once."""
    known: dict[str, Clean] = {}

    def play(scenario: Scenario) -> Clean:
        if scenario.name not in known:
            for place in stage.places(scenario, 1):
                before = look(stage, place)
                played = stage.play(place)
                assert played.story == Story(0), played
                after = look(stage, place)
                oracle.check_promises(before.store, after.store, scenario.may_free_blobs)
                known[scenario.name] = Clean(played.calls, before, after)
        return known[scenario.name]

    return play


@pytest.mark.timeout(3600)
def test_every_promise_holds(
    stage: Stage,
    record: Record,
    scenario: Scenario,
    fault: Fault,
    at_most: int | None,
    record_property: Callable[[str, object], None],
    pytestconfig: pytest.Config,
) -> None:
    failures = []
    calls = chosen(record, scenario, fault, at_most, pytestconfig.getoption("--shard"))
    for call, place in zip(calls, stage.places(scenario, len(calls)), strict=True):
        try:
            check_case(stage, record(scenario), place, call, fault)
        except AssertionError as error:
            again = f"ULORA_FAULT_CALL={str(call)!r} pytest tests/faults --faults=all -k {scenario.name}-{fault.name}"
            failures.append(f"{scenario.name}, {fault.name} at {call}:\n{error}\nagain: {again}")
    record_property("fault_cases", [scenario.name, fault.name, len(calls)])
    if failures:
        pytest.fail(f"{len(failures)} of {len(calls)} cases\n\n" + "\n\n".join(failures), pytrace=False)


def chosen(record: Record, scenario: Scenario, fault: Fault, at_most: int | None, shard: Shard) -> list[Call]:
    """The recorded calls at which a fault is played: all, those of a shard, or some drawn by the seed."""
    covered = set(record(SCENARIOS[scenario.beyond]).calls) if scenario.beyond else set()
    calls = [call for call in record(scenario).calls if call.server in fault.at and call not in covered]
    if ONLY_CALL:
        return [call for call in calls if str(call) == ONLY_CALL]
    if at_most is None:
        return [call for call in calls if shard.has(scenario, fault, call)]
    if at_most >= len(calls):
        return calls
    return random.Random(f"{SEED}/{scenario.name}/{fault.name}").sample(calls, at_most)


def check_case(stage: Stage, clean: Clean, place: Place, call: Call, fault: Fault) -> None:
    """Play a fault at a call and check everything; then run the command again and check that it has finished."""
    scenario = place.scenario
    before = look(stage, place)
    first = stage.play(place, call, fault)
    broken = look(stage, place)
    assert first.met, f"the call did not come: {first.story}"
    oracle.check_promises(before.store, broken.store, scenario.may_free_blobs)
    check_story(first.story, scenario, fault, before, broken, clean.after)
    again = finish(stage, place)
    done = look(stage, place)
    told = f"first: {first.story}\nagain: {again.story}"
    assert again.story.code == 0 or again.story.error == scenario.already, told
    oracle.check_promises(broken.store, done.store, scenario.may_free_blobs)
    check_same(done, clean.after, told)
    check_nothing_twice(place, broken.store, again)
    check_edits_are_kept(place)
    if scenario.uses_mlflow and not scenario.shows:
        assert stage.play(place, words=("reconcile",)).story.code == 0, told
        done = look(stage, place)
    assert done.shown == clean.after.shown, told


def finish(stage: Stage, place: Place) -> Played:
    """Run the command again; while it says that another garbage collection is not over, once more."""
    give_up = time.monotonic() + _LEASE_SECONDS
    while True:
        again = stage.play(place)
        if "garbage collection" not in again.story.message or time.monotonic() > give_up:
            return again


def check_story(story: Story, scenario: Scenario, fault: Fault, before: State, now: State, clean: State) -> None:
    """Check that what a command told is what happened."""
    old, found, new = before.committed, now.committed, clean.committed
    assert oracle.is_between(old, found, new), f"neither the old nor the new state: {found}"
    assert now.tree in (before.tree, clean.tree), f"neither the old nor the new tree: {now.tree}"
    if story.killed:
        assert "kill" in fault.name, "killed by something else"
        return
    if story.code == 0:
        assert found == new, f"it said that it is done, and it is not: {found}"
        assert now.tree == clean.tree, f"it said that it is done, and the tree is another: {now.tree}"
        assert now.shown == clean.shown or not scenario.shows, f"it said that it is done, and MLflow shows {now.shown}"
        return
    assert story.code in (7, 8, *fault.may_exit), f"no honest answer: {story}"
    if scenario.moves_channel and story.error not in ("OutcomeUnknown", *_ANY_MOMENT) and not _was_raised(fault):
        assert oracle.logs(found) == oracle.logs(old), f"it was done, but told: {story}"
    if "nothing changed" in story.message:
        assert oracle.logs(found) == oracle.logs(old), f"it was done, but told: {story}"


def _was_raised(fault: Fault) -> bool:
    """Whether the command could not help what came out of it."""
    return fault.act is None


def check_same(done: State, clean: State, told: str) -> None:
    """Check that a command came to the end that it comes to when nothing goes wrong."""
    assert done.committed == clean.committed, told
    assert oracle.files(done.store) == oracle.files(clean.store), told
    assert done.tree == clean.tree, told


def check_nothing_twice(place: Place, before: Snapshot, played: Played) -> None:
    """Check that no blob travelled that the store held."""
    # But for manifests: they are small, and hold a time.
    held = {f"/{key}" for key in before.objects if key.rpartition("/")[2] in oracle.files(before)}
    sent = {put.partition(f"/{place.prefix}")[2] for put in played.puts}
    assert not held & sent, f"sent again: {sorted(held & sent)}"


def check_edits_are_kept(place: Place) -> None:
    """Check that what somebody edited is still to be found, in the tree or in the stash."""
    if (place.folder / "site").exists() and place.scenario.prepare == "an_edited_tree":
        kept = (path for path in (place.folder / "site").rglob("*") if path.is_file() and not path.is_symlink())
        assert any(path.read_bytes() == EDIT for path in kept), "a local edit is lost"


def look(stage: Stage, place: Place) -> State:
    """The whole state of a case."""
    folder = place.folder / "site" / place.scenario.tree
    return State(stage.look(place), read_tree(folder) if place.scenario.tree else {}, stage.shown(place))


def read_tree(folder: Path) -> dict[str, object]:
    """Every file's mode and digest and every link's target, by path; but for our own notes, which hold times."""
    found: dict[str, object] = {".": str(folder.readlink()) if folder.is_symlink() else folder.exists()}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.startswith(".ulora/"):
            continue
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = (oct(path.stat().st_mode & 0o777), hashlib.sha256(path.read_bytes()).hexdigest())
    return found
