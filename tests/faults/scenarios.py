"""The commands of the fault matrix, each with the state that it begins from: one entry a command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry.api import Registry

NAMES = ("v1.0.0", "v2.0.0", "v3.0.0")
EDIT = b"edited by hand"
_KEPT = (
    "backbone.json",
    "config/preprocessing.json",
    "config/inference.json",
    "adapters/low/adapter_model.safetensors",
    "adapters/low/component.json",
)


@dataclass(frozen=True)
class Scenario:
    """A command and the state of the store that it begins from.

    Attributes:
        prepare: a function of this module that makes that state, given the shared folder; run in a process of its own.
        words: the command; `{shared}` is the folder of bundles, `{folder}` the case's own.
        uses_mlflow: whether it talks to MLflow.
        shows: whether success means that MLflow shows it.
        beyond: the scenario of the same command without MLflow, whose calls are not played once more.
        moves_channel: whether all that it promises is one record of a channel, so that any failure means: not done.
        already: the error by which the command, run again, may say that it is done already.
        tree: a working tree in the case's folder `site` that must be the old or the new one.
        may_free_blobs: whether blobs that nothing needs may go.
        ripen: a function of this module that is run when what was prepared has become older.
    """

    name: str
    prepare: str
    words: tuple[str, ...]
    uses_mlflow: bool = False
    shows: bool = False
    beyond: str = ""
    moves_channel: bool = False
    already: str = ""
    tree: str = ""
    may_free_blobs: bool = False
    ripen: str = ""


def write_shared(folder: Path) -> None:
    """What all cases share: bundles of few small files, of which versions share some, and a policy."""
    from tests.support.registries import ASKS_NOTHING, small_bundle

    (folder / "policy.yaml").write_text(ASKS_NOTHING)
    for seed, name in enumerate(NAMES):
        bundle = small_bundle(folder / name, seed=seed)
        for path in bundle.rglob("*"):
            if path.is_file() and path.relative_to(bundle).as_posix() not in _KEPT:
                path.unlink()
        (bundle / "config/inference.json").write_text(f'{{"made_for": "{name}"}}')


def a_store(shared: str) -> Registry:
    """An empty store."""
    from registry.api import Registry

    registry = Registry()
    registry.store.initialise()
    return registry


def three_versions(shared: str) -> Registry:
    """Three versions, none of them promoted."""
    registry = a_store(shared)
    for name in NAMES:
        registry.create(name, Path(shared) / name, offline=True)
    return registry


def two_promoted(shared: str) -> Registry:
    """Three versions, of which production has served two."""
    registry = three_versions(shared)
    for name in NAMES[:2]:
        registry.promote(name, "production")
    return registry


def three_promoted(shared: str) -> Registry:
    """Production has served three versions."""
    registry = three_versions(shared)
    for name in NAMES:
        registry.promote(name, "production")
    return registry


def one_staged(shared: str) -> Registry:
    """Three versions, of which staging serves the first."""
    registry = three_versions(shared)
    registry.promote(NAMES[0], "staging")
    return registry


def one_on_trial(shared: str) -> Registry:
    """Three versions, of which production serves the first, and the second with a tenth of the keys."""
    from registry.usecases.options import CanaryOptions

    registry = three_versions(shared)
    registry.promote(NAMES[0], "production")
    registry.canary.start(NAMES[1], options=CanaryOptions(percent=10))
    return registry


def one_that_errs(shared: str) -> Registry:
    """The same, and a fleet has counted that the second one fails too often."""
    from tests.support.watched_trials import Fleet, Rates

    registry = one_on_trial(shared)
    head = registry.channel("production").head()
    assert head
    fleet = Fleet(now=registry.store.now())
    fleet.begin(head)
    fleet.ask(head, 3000, Rates(error=0.3), labels=False)
    fleet.write(registry)
    return registry


def labels_of_a_trial(shared: str) -> Registry:
    """A trial in its second stage, and in the folder a file of true labels of both, with the key of their receipts."""
    from registry.trials.receipts import ArmAnswer, FleetKeys, Receipt, issue

    registry = one_on_trial(shared)
    registry.canary.advance(to=50)
    Path("fleet.keys").write_text("the-key-of-this-fleet")
    keys = FleetKeys.from_setting(file=Path("fleet.keys"))
    assert keys
    of_channel, now = keys.for_channel(registry.model, "production"), int(registry.store.now().timestamp())
    receipts = [Receipt(2 + unit % 2, "canary", unit, ArmAnswer("rust"), now) for unit in range(6)]
    rows = [f"{issue(of_channel, receipt)},healthy" for receipt in receipts]
    Path("labels.csv").write_text("\n".join(["request_id,label", *rows]))
    return registry


def wanted_by_a_file(shared: str) -> Registry:
    """Two versions were promoted to production, and a file wants the third there."""
    registry = two_promoted(shared)
    Path("channels.yaml").write_text("format: 1\nchannels: {production: {stable: v3.0.0}}\n")
    return registry


def unseen_by_mlflow(shared: str) -> Registry:
    """Two versions that MLflow knows nothing of, one of them in production and one in both channels."""
    registry = a_store(shared)
    offline = type(registry)(settings=replace(registry.settings, tracking_uri=None))
    offline.create(NAMES[0], Path(shared) / NAMES[0], offline=True)
    offline.promote(NAMES[0], "staging")
    offline.promote(NAMES[0], "production")
    return registry


def seen_by_mlflow(shared: str) -> Registry:
    """Three versions, which MLflow shows; staging serves the first."""
    from tests.support.mlflow_versions import register

    registry = a_store(shared)
    offline = type(registry)(settings=replace(registry.settings, tracking_uri=None))
    for name in NAMES:
        offline.create(name, Path(shared) / name, offline=True)
    register(registry, *NAMES)
    offline.promote(NAMES[0], "staging")
    registry.mirror()
    return registry


def an_edited_tree(shared: str) -> Registry:
    """Three versions, of which the first was restored; one of its files was edited then, and one added."""
    registry = three_versions(shared)
    tree = Path("site/current").absolute()
    registry.restore(NAMES[0], tree)
    (tree / "config/inference.json").write_bytes(EDIT)
    (tree / "notes.txt").write_text("kept")
    return registry


def a_root(shared: str) -> Registry:
    """Three versions, of which the first was switched to."""
    registry = three_versions(shared)
    registry.switch(NAMES[0], Path("site").absolute())
    return registry


def one_live(shared: str) -> Registry:
    """Three versions, of which production serves the last, so that two may go."""
    registry = three_versions(shared)
    registry.promote(NAMES[2], "production")
    return registry


def mark(shared: str) -> None:
    """The first of two garbage collections."""
    from registry.api import Registry
    from registry.retention.forget import RetentionRule

    Registry().collect_garbage(RetentionRule(1, timedelta()), grace=timedelta())


_CANARY = ("canary", "start", "v3.0.0", "--percent", "10", "--reason", "a trial")
_CREATE = ("create", "v1.0.0", "--from", "{shared}/v1.0.0")
_STAGE = ("promote", "v2.0.0", "--reason", "better")
_ROLLBACK = ("rollback", "--wait", "0", "--reason", "errors")
_PARTIAL = (*_ROLLBACK, "--only", "adapters/low")
_LABELS = ("feedback", "{folder}/labels.csv", "--fleet-key-file", "{folder}/fleet.keys")
_GC = ("store", "gc", "--keep", "1", "--older-than", "0s")

SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("create", "a_store", (*_CREATE, "--offline")),
        Scenario("create-logged", "a_store", _CREATE, uses_mlflow=True, shows=True, beyond="create"),
        Scenario("promote", "one_staged", _STAGE, moves_channel=True),
        Scenario("promote-mirrored", "seen_by_mlflow", _STAGE, uses_mlflow=True, beyond="promote", moves_channel=True),
        Scenario("rollback", "three_promoted", _ROLLBACK, moves_channel=True, already="NotNow"),
        Scenario("rollback-from", "three_promoted", (*_ROLLBACK, "--from", "v3.0.0"), moves_channel=True),
        Scenario("rollback-partial", "three_promoted", _PARTIAL, moves_channel=True, already="NotNow"),
        Scenario("canary-start", "two_promoted", _CANARY, moves_channel=True),
        Scenario("canary-advance", "one_on_trial", ("canary", "advance", "--to", "100"), moves_channel=True),
        Scenario("canary-abort", "one_on_trial", ("canary", "abort", "--wait", "0"), moves_channel=True),
        Scenario("apply", "wanted_by_a_file", ("apply", "{folder}/channels.yaml"), moves_channel=True),
        Scenario("guard", "one_that_errs", ("guard", "run", "--once", "--channel", "production"), moves_channel=True),
        Scenario("feedback", "labels_of_a_trial", _LABELS),
        Scenario("tick", "three_versions", ("checklist", "v1.0.0", "--tick", "team-told", "--reason", "a mail")),
        Scenario(
            "restore", "an_edited_tree", ("restore", "v2.0.0", "--target", "{folder}/site/current"), tree="current"
        ),
        Scenario("switch", "a_root", ("switch", "v2.0.0", "--root", "{folder}/site"), tree="current"),
        Scenario("gc-forget", "one_live", (*_GC, "--grace", "24h")),
        Scenario("gc-delete", "one_live", (*_GC, "--grace", "0s"), may_free_blobs=True, ripen="mark"),
        Scenario("reconcile", "unseen_by_mlflow", ("reconcile",), uses_mlflow=True, shows=True),
    )
}
