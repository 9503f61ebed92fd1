"""Promotions that are asked for in the MLflow UI: answered once, by the gates, and never from a stale mirror."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry.api import Registry
from registry.catalog import requests
from registry.catalog.request_answers import answer_all, answer_one
from registry.catalog.request_decisions import RequestDecider
from registry.errors import CatalogUnreachable, StoreUnreachable
from tests.servers import proxy as faults
from tests.servers.proxy import Proxy
from tests.support.mlflow_versions import client, register_one
from tests.support.promotion_requests import (
    V1,
    V2,
    V3,
    aliases,
    answer,
    ask,
    generations,
    tags_of,
    with_three_versions,
)
from tests.support.registries import open_registry

STRICT = """
format: 1
channels:
  staging: {}
  production:
    defaults:
      - {metric: accuracy, min: 0.9}
      - {metric: latency_ms_p95, max: 200}
"""


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, tracking_uri: str) -> Registry:
    return with_three_versions(tmp_path, store_url, model, tracking_uri)


def test_a_request_is_promoted_once_and_answered(registry: Registry) -> None:
    ask(registry, V2)
    done = registry.reconcile()
    assert generations(registry) == [V1, V2]
    assert done.requests[0].startswith(f"{V2} for production: promoted ")
    assert answer(registry, V2).startswith("promoted 20")
    assert answer(registry, V2).endswith("generation 2")
    assert aliases(registry) == {"production": 2}
    record = registry.history(limit=1)[0]
    assert record.who == "a request in MLflow, by way of ops"
    assert record.who_verified is False
    assert record.reason == "asked for in MLflow: alias request-production on its version 2"
    assert registry.reconcile().requests == ()
    assert generations(registry) == [V1, V2]


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("approvals: 1", "0 of 1 approvals; another person runs `ulora approve v1.1.0 --channel production`"),
        ("freeze: [{from: 2020-01-01T00:00:00Z, to: 2100-01-01T00:00:00Z, why: harvest}]", "frozen until 2100-01-01T"),
    ],
)
def test_a_request_is_no_way_around_people_and_freezes(
    registry: Registry, tmp_path: Path, asked: str, said: str
) -> None:
    (tmp_path / "people.yaml").write_text(f"format: 1\nchannels: {{staging: {{}}, production: {{{asked}}}}}\n")
    people = Registry(settings=replace(registry.settings, policy=tmp_path / "people.yaml"))
    ask(people, V2)
    people.reconcile()
    assert generations(registry) == [V1]
    assert answer(registry, V2).startswith("refused 20")
    assert said in answer(registry, V2)
    assert aliases(registry) == {"production": 1}


@pytest.mark.acceptance
def test_a_request_refused_by_gates_is_answered_with_all_rules(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "strict.yaml").write_text(STRICT)
    strict = Registry(settings=replace(registry.settings, policy=tmp_path / "strict.yaml"))
    ask(strict, V2)
    strict.reconcile()
    assert answer(registry, V2).startswith("refused 20")
    assert "accuracy" in answer(registry, V2)
    assert "latency_ms_p95" in answer(registry, V2)
    assert generations(registry) == [V1]
    assert aliases(registry) == {"production": 1}
    ask(strict, V2, "staging")
    strict.reconcile()
    assert answer(registry, V2, "staging").startswith("promoted")
    shown = tags_of(registry, V2)
    assert (shown["channel"], shown["request"]) == ("staging", "production refused")
    assert all(len(value) < 30 for value in shown.values()), "short ones: the page has the reasons"
    assert len(shown) <= 6


@pytest.mark.acceptance
def test_a_dry_run_answers_nothing(registry: Registry) -> None:
    ask(registry, V2)
    assert registry.reconcile(dry_run=True).requests == (f"{V2} for production: would be judged by the gates",)
    assert answer(registry, V2) == ""
    assert aliases(registry)["request-production"] == 2


@pytest.mark.acceptance
def test_what_was_rolled_back_does_not_come_back_by_a_request(registry: Registry) -> None:
    registry.promote(V2, "production")
    registry.rollback()
    ask(registry, V2)
    registry.reconcile()
    assert answer(registry, V2).startswith("refused")
    assert generations(registry) == [V1, V2, V1]


@pytest.mark.acceptance
def test_a_request_for_an_unmanaged_version_is_refused(registry: Registry) -> None:
    register_one(registry, None)
    client(registry).set_registered_model_alias(registry.model, "request-production", "4")
    theirs = {"ulora.version": "../../x", "ulora.content_sha256": "zz"}
    for name, value in theirs.items():
        client(registry).set_model_version_tag(registry.model, "4", name, value)
    registry.reconcile()
    assert dict(client(registry).get_model_version(registry.model, "4").tags) == theirs
    assert "request-production" not in aliases(registry)
    said = client(registry).get_registered_model(registry.model).tags["ulora.request.production"]
    assert said.startswith("refused")
    assert f"models:/{registry.model}/4" in said
    assert generations(registry) == [V1]


@pytest.mark.acceptance
def test_an_equal_name_with_other_content_is_not_promoted(registry: Registry) -> None:
    source = client(registry).get_model_version(registry.model, "2").source
    client(registry).set_logged_model_tags(source.removeprefix("models:/"), {"ulora.content_sha256": "0" * 64})
    client(registry).set_model_version_tag(registry.model, "2", "ulora.content_sha256", "0" * 64)
    ask(registry, V2)
    told = answer_all(registry.catalog, registry.model, registry.reconciler().decider).answers
    assert told[0].startswith(f"{V2} for production: refused")
    assert generations(registry) == [V1]


class Dies(BaseException):
    """The reconciler's process ends here."""


def dying(registry: Registry, *, after_commit: bool) -> RequestDecider:
    """A decider whose process dies once it has claimed a request: before it promotes, or right after."""
    decider = registry.reconciler().decider

    def promote(*words: Any, **options: Any) -> Any:
        if after_commit:
            registry.promote(*words, **options)
        raise Dies

    return replace(decider, promote=promote)


def crash(registry: Registry, *, after_commit: bool) -> None:
    with pytest.raises(Dies):
        answer_all(registry.catalog, registry.model, dying(registry, after_commit=after_commit))


@pytest.mark.acceptance
def test_a_crash_before_the_promotion_is_finished_by_the_next(registry: Registry) -> None:
    ask(registry, V2)
    crash(registry, after_commit=False)
    assert answer(registry, V2).startswith("taken 20")
    assert "by ops" in answer(registry, V2)
    assert "request-production" not in aliases(registry)
    registry.reconcile()
    assert answer(registry, V2).startswith("promoted")
    assert generations(registry) == [V1, V2]


@pytest.mark.acceptance
def test_a_crash_after_the_promotion_is_answered_from_the_log(registry: Registry) -> None:
    ask(registry, V2)
    crash(registry, after_commit=True)
    registry.reconcile()
    assert "generation 2 (promote by" in answer(registry, V2)
    assert generations(registry) == [V1, V2]


@pytest.mark.acceptance
def test_a_crash_then_a_rollback_is_never_promoted_again(registry: Registry) -> None:
    ask(registry, V2)
    crash(registry, after_commit=True)
    registry.rollback()
    assert "left since by generation 3 (rollback by ops)" in registry.reconcile().requests[0]
    assert generations(registry) == [V1, V2, V1]


@pytest.mark.acceptance
def test_a_crash_then_another_promotion_is_refused(registry: Registry) -> None:
    ask(registry, V2)
    crash(registry, after_commit=False)
    registry.promote(V3, "production")
    registry.reconcile()
    assert answer(registry, V2).startswith("refused")
    assert "generation 2 (promote by ops)" in answer(registry, V2)
    assert generations(registry) == [V1, V3]


@pytest.mark.acceptance
def test_a_request_withdrawn_during_the_claim_is_not_promoted(registry: Registry, mlflow_proxy: Proxy) -> None:
    through = Registry(settings=replace(registry.settings, tracking_uri=mlflow_proxy.url))

    def crash_before_the_alias_is_removed() -> None:
        ask(registry, V2)
        mlflow_proxy.next(faults.refuse, method="DELETE", containing="/registered-models/alias")
        with pytest.raises(CatalogUnreachable):
            answer_all(through.catalog.hasty(), registry.model, through.reconciler().decider)
        assert answer(registry, V2).startswith("taking")
        assert aliases(registry)["request-production"] == 2

    crash_before_the_alias_is_removed()
    client(registry).delete_registered_model_alias(registry.model, "request-production")
    registry.reconcile()
    assert generations(registry) == [V1]
    assert answer(registry, V2).startswith("refused")
    assert "set the alias request-production again" in answer(registry, V2)

    crash_before_the_alias_is_removed()
    registry.reconcile()
    assert generations(registry) == [V1, V2]
    assert answer(registry, V2).startswith("promoted")


@pytest.mark.acceptance
def test_an_unexpected_error_is_answered_from_the_log(registry: Registry) -> None:
    def promote(version: str, channel: str, *words: Any, **options: Any) -> Any:
        if channel == "production":
            registry.promote(version, channel, *words, **options)
        raise ZeroDivisionError("by chance")

    ask(registry, V2)
    ask(registry, V3, "staging")
    decider = replace(registry.reconciler().decider, promote=promote)
    answer_all(registry.catalog, registry.model, decider)
    assert "generation 2 (promote by ops)" in answer(registry, V2)
    assert "unexpected ZeroDivisionError: by chance" in answer(registry, V3, "staging")
    assert answer(registry, V3, "staging").startswith("refused")


@pytest.mark.acceptance
def test_with_the_store_down_a_request_stays_claimed(registry: Registry, dead_address: str) -> None:
    ask(registry, V2)
    away = open_registry(
        registry.settings.cache.parent / "away", registry.settings.store, registry.model,
        endpoint_url=dead_address,
    )  # fmt: skip
    decider = replace(registry.reconciler().decider, promote=away.promote)
    with pytest.raises(StoreUnreachable):
        answer_all(registry.catalog, registry.model, decider)
    assert answer(registry, V2).startswith("taken")
    registry.reconcile()
    assert answer(registry, V2).startswith("promoted")


@pytest.mark.acceptance
def test_of_two_reconcilers_one_commits_and_both_agree(registry: Registry) -> None:
    ask(registry, V2)
    deciders = [registry.reconciler().decider, Registry(settings=registry.settings).reconciler().decider]
    together = threading.Barrier(2)

    def meeting(decider: RequestDecider) -> RequestDecider:
        def promote(*words: Any, **options: Any) -> Any:
            together.wait(300)  # both have taken it
            return decider.promote(*words, **options)

        return replace(decider, promote=promote)

    first = requests.pending(registry.catalog, registry.model)[0]
    told: list[str] = []
    threads = [
        threading.Thread(target=lambda decider=decider: told.append(meeting(decider).decide(first, 1)))
        for decider in deciders
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert generations(registry) == [V1, V2]
    assert all(text.startswith("promoted generation 2") for text in told)
    assert len(told) == 2


@pytest.mark.acceptance
def test_a_request_moved_before_the_claim_is_ignored(registry: Registry) -> None:
    ask(registry, V2)
    decider = registry.reconciler().decider
    first = requests.pending(registry.catalog, registry.model)[0]
    ask(registry, V3)
    assert answer_one(registry.catalog, registry.model, first, decider) == ""
    assert answer(registry, V2) == ""
    registry.reconcile()
    assert generations(registry) == [V1, V3]


@pytest.mark.acceptance
def test_a_request_withdrawn_before_the_claim_is_ignored(registry: Registry) -> None:
    ask(registry, V2)
    first = requests.pending(registry.catalog, registry.model)[0]
    client(registry).delete_registered_model_alias(registry.model, "request-production")
    assert answer_one(registry.catalog, registry.model, first, registry.reconciler().decider) == ""
    assert generations(registry) == [V1]


@pytest.mark.acceptance
def test_a_request_never_overwrites_a_move_made_meanwhile(registry: Registry) -> None:
    ask(registry, V2)
    decider = registry.reconciler().decider

    def promote(*words: Any, **options: Any) -> Any:
        if len(generations(registry)) == 1:
            registry.promote(V3, "production")
        return decider.promote(*words, **options)

    answer_all(registry.catalog, registry.model, replace(decider, promote=promote))
    assert generations(registry) == [V1, V3]
    assert "generation 2 (promote by ops)" in answer(registry, V2)


@pytest.mark.acceptance
def test_a_slow_reconciler_does_not_repeat_what_another_has_done(registry: Registry) -> None:
    ask(registry, V2)

    class Slow(RequestDecider):
        """While it looks at the channel, another one answers the request, and production moves on."""

        def generation(self, channel: str) -> int:
            registry.reconcile()
            registry.promote(V3, "production")
            return super().generation(channel)

    slow = Slow(**vars(registry.reconciler().decider))
    assert answer_all(registry.catalog, registry.model, slow).answers == ()
    assert generations(registry) == [V1, V2, V3]
