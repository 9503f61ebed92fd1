"""Races of several processes: one winner each, one linear log, and what each was told agrees with it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from registry.api import Registry
from registry.devstack.s3_server import S3Server
from registry.errors import VersionExists
from tests.faults import oracle
from tests.faults.oracle import Snapshot, Stored
from tests.faults.plugin import SEED
from tests.faults.racing import TAKEN, VERSIONS, bind, make_version
from tests.faults.warm import ROOT
from tests.support.registries import open_registry

PEOPLE, STEPS = 4, 4
Story = list[dict[str, Any]]


@pytest.mark.parametrize("number", range(2))
def test_every_story_agrees_with_the_history(
    s3: S3Server, store_url: str, model: str, tmp_path: Path, number: int
) -> None:
    registry = open_registry(tmp_path / "look", store_url, model, who="before")
    prepare(registry)
    before = snapshot(registry)
    stories = race(registry, tmp_path, seed=f"{SEED}/{number}")
    after = snapshot(registry)
    oracle.check_promises(before, after)
    log = [json.loads(body) for body in after.logs(model)["production"]]
    assert len(registry.history()) == len(log)
    for who, story in stories.items():
        for step in story:
            check_told(who, step, log)
    check_each_change_was_told_once(stories, log, len(before.logs(model)["production"]))
    check_one_creator_won(registry, stories)


def prepare(registry: Registry) -> None:
    """Versions that differ in all their files, three of which production has served."""
    registry.store.initialise()
    for name in VERSIONS:
        bind(registry, make_version(registry, name, mark=name))
    for name in VERSIONS[:3]:
        registry.promote(name, "production")


def race(registry: Registry, folder: Path, seed: str) -> dict[str, Story]:
    """What each person did and was told."""
    arguments = [registry.settings.store, registry.model, str(folder), seed, str(PEOPLE), str(STEPS)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.racing", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=1000, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    paths = sorted(folder.glob("person-*.jsonl"))
    assert len(paths) == PEOPLE
    return {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in paths}


def check_told(who: str, step: dict[str, Any], log: list[dict[str, Any]]) -> None:
    """Check that what one was told after one step is in the log."""
    if step.get("changed"):
        record = log[step["generation"] - 1]
        assert (record["who"], record["action"]) == (who, step["did"]), step
        assert record["stable"]["version"] == step["serves"], step
        if "expected" in step:
            assert record["generation"] == step["expected"] + 1, step
    elif "changed" in step:
        record = log[step["generation"] - 1]
        assert record["stable"]["version"] == step["serves"], step
        if step["act"] == "roll_back_from":
            assert record["stable"]["version"] != step["version"], step
        if step["act"] in ("promote", "promote_seen", "roll_back_to"):
            assert record["stable"]["version"] == step["version"], step
    elif step.get("error") == "ChannelMoved":
        assert "nothing changed" in step["message"], step
        check_lost(who, step, log)
    elif step.get("error"):
        assert step["error"] in ALLOWED[step["act"]], step


def check_lost(who: str, step: dict[str, Any], log: list[dict[str, Any]]) -> None:
    """Check that who is told to have won has won."""
    told = re.match(r"(\S+) moved .* first: (\S+) to (\S+), generation (\d+)", step["message"])
    if told:
        winner, action, version, generation = told.groups()
        record = log[int(generation) - 1]
        assert (record["who"], record["action"], record["stable"]["version"]) == (winner, action, version), step
        assert winner != who, step
        return
    told = re.match(r"production is at generation (\d+), not (\d+): last moved by (\S+)", step["message"])
    assert told, step
    assert log[int(told[1]) - 1]["who"] == told[3], step


_LOST = {"NotNow", "NothingToRollBackTo"}
ALLOWED = {
    "promote": {"VersionForgotten"},
    "promote_seen": {"VersionForgotten"},
    "roll_back": _LOST,
    "again": {"NothingToRollBackTo"},
    "roll_back_from": {"VersionNotFound", "NothingToRollBackTo"},
    "roll_back_to": {"NothingToRollBackTo"},
    "part": {"BadInput", "VersionForgotten", "MissingBlob", *_LOST},
    "create": {"VersionExists"},
}
"""How each may be refused, besides losing a race."""


def check_each_change_was_told_once(stories: dict[str, Story], log: list[dict[str, Any]], began: int) -> None:
    """Check that each record has one writer who knows it, and that nobody claims another's."""
    claimed = sorted(
        (step["generation"], who) for who, story in stories.items() for step in story if step.get("changed")
    )
    assert claimed == [(record["generation"], record["who"]) for record in log[began:]]


def check_one_creator_won(registry: Registry, stories: dict[str, Story]) -> None:
    """Check that of those who wanted a name one made it, and that the others were told truly."""
    tries = [step for story in stories.values() for step in story if step["act"] == "create"]
    if not tries:
        return
    bound = registry.manifest(TAKEN)
    assert sum(step.get("is_new", False) for step in tries) == 1
    for step in tries:
        if "is_new" in step:
            assert step["content_sha256"] == bound.content_sha256
        else:
            assert step["error"] == VersionExists.__name__
            assert bound.content_sha256[:12] in step["message"]


def snapshot(registry: Registry) -> Snapshot:
    """All objects of the store."""
    store = registry.store
    client = store._client.transfers
    objects = {}
    for info in store.list(""):
        reply = client.get_object(Bucket=store.bucket, Key=f"{store._client.prefix}{info.key}")
        objects[info.key] = Stored(reply["ETag"], reply["Body"].read())
    return Snapshot(objects)
