"""An object that its writer stored in an odd way is a problem of its own, and hides nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from registry.api import Registry
from registry.breakglass.write_script import Script
from registry.channels.channel import PromoteOptions
from registry.channels.record import Author, ChannelPosition, promoted
from registry.errors import BadManifest, StoreDenied, StoreUnreachable
from registry.names import VersionName
from registry.serving.fleet import Heartbeat, wait_for_replicas
from registry.store import layout
from registry.trust.signatures import Signatures
from tests.servers.proxy import Exchange, Proxy, Reply, answering
from tests.support.registries import bind, open_registry
from tests.support.run_script import run
from tests.support.run_ulora import ulora

V1, V2, V3 = "v1.0.0", "v2.0.0", "v3.0.0"
TYPES = ["text/html", "application/xhtml+xml; charset=utf-8"]


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    """Two generations in production, one in staging."""
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    bind(registry, V1, V2)
    registry.promote(V1, "staging")
    registry.promote(V1, "production")
    registry.promote(V2, "production")
    return registry


def put(registry: Registry, key: str, body: bytes, kind: str) -> None:
    """Write an object as anybody with the right to write it may."""
    client = registry.store._client
    client.unretried.put_object(**client.at(key), Body=body, ContentType=kind)


def retype(registry: Registry, key: str, kind: str) -> None:
    """The same bytes under another media type."""
    put(registry, key, registry.store.get(key).body, kind)


@pytest.mark.parametrize("kind", TYPES)
def test_the_media_type_of_a_document_counts_for_nothing(registry: Registry, kind: str) -> None:
    retype(registry, layout.record(registry.model, "production", 2), kind)
    retype(registry, layout.version(registry.model, V1), kind)
    assert registry.store.head(layout.version(registry.model, V1))
    assert {each.channel: each.stable for each in registry.status().channels} == {"staging": V1, "production": V2}
    assert [each.problem for each in registry.versions()] == ["", ""]
    assert registry.rollback().version == V1


def test_a_page_in_a_log_is_a_problem_of_that_channel(registry: Registry) -> None:
    put(registry, layout.record(registry.model, "production", 3), b"<html>hello</html>", "text/html")
    found = {each.channel: each for each in registry.status().channels}
    assert found["staging"].stable == V1
    assert "not valid JSON" in found["production"].problem
    assert [each.version for each in registry.versions()] == [V1, V2]


def test_a_page_for_a_heartbeat_hides_no_channel(registry: Registry) -> None:
    put(registry, layout.replica(registry.model, "production", "a-1"), b"<html>hello</html>", "text/html")
    found = {each.channel: each for each in registry.status().channels}["production"]
    assert (found.stable, [each.state for each in found.replicas]) == (V2, ["unreadable"])


def test_a_page_for_a_name_is_a_problem_of_that_version(registry: Registry) -> None:
    put(registry, layout.version(registry.model, V3), b"<html>hello</html>", "text/html")
    assert [bool(each.problem) for each in registry.versions()] == [False, False, True]


def test_a_script_reads_a_record_of_any_media_type(registry: Registry) -> None:
    script: Script = registry.rollback_script(V1)
    retype(registry, layout.record(registry.model, "production", 2), "text/html")
    assert run(script, "--yes", "--json").document["changed"]


KMS = ("DisabledException", "NotFoundException", "KMSInvalidStateException")
REFUSED = [(403, "InvalidObjectState"), (400, "InvalidRequest"), *((400, f"KMS.{name}") for name in KMS)]


@pytest.mark.parametrize("refused", REFUSED, ids=lambda case: case[1])
def test_an_object_that_s3_can_not_give_hides_no_other(
    registry: Registry, proxy: Proxy, tmp_path: Path, refused: tuple[int, str]
) -> None:
    """It was written into an archive, or with a key of its writer's."""
    far = open_registry(tmp_path / "far", registry.settings.store, registry.model, endpoint_url=proxy.url)
    answer = answering(*refused)
    proxy.next(answer, method="GET", containing=layout.record(registry.model, "production", 2), times=100)
    found = {each.channel: each for each in far.status().channels}
    assert found["staging"].stable == V1
    assert "can't be read as it was stored" in found["production"].problem
    with pytest.raises(BadManifest):
        far.channel("production").read(2)


@pytest.mark.acceptance
@pytest.mark.parametrize("refused", REFUSED, ids=lambda case: case[1])
def test_a_script_has_the_exit_code_of_the_package_for_it(
    registry: Registry, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, refused: tuple[int, str]
) -> None:
    script = registry.rollback_script(V1)
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    monkeypatch.setenv("ULORA_MODEL", registry.model)
    proxy.next(answering(*refused), method="GET", containing=layout.record(registry.model, "production", 2), times=1000)
    ours, theirs = ulora("rollback", "--json"), run(script, "--yes", "--json")
    assert (ours.code, ours.error["error"]) == (theirs.code, theirs.error) == (6, "BadManifest")


@pytest.mark.parametrize("refused", [(400, "KMS.DisabledException"), (403, "AccessDenied")], ids=lambda case: case[1])
def test_one_refused_object_is_a_problem_of_its_own(
    registry: Registry, proxy: Proxy, tmp_path: Path, refused: tuple[int, str]
) -> None:
    far = open_registry(tmp_path / "far", registry.settings.store, registry.model, endpoint_url=proxy.url)
    for name in ("a-1", "b-2"):
        put(registry, layout.replica(registry.model, "production", name), b"{}", "application/json")
    bad = [
        layout.record(registry.model, "staging", 1),
        layout.version(registry.model, V1),
        layout.replica(registry.model, "production", "a-1"),
    ]
    for key in bad:
        proxy.next(answering(*refused), method="GET", containing=key, times=100)
    found = {each.channel: each for each in far.status().channels}
    assert (bool(found["staging"].problem), found["production"].stable) == (True, V2)
    assert [each.state for each in found["production"].replicas] == ["unreadable", "unreadable"]
    assert [bool(each.problem) for each in far.versions()] == [True, False]
    forced = PromoteOptions(force=True)
    bind(registry, V3)
    assert far.promote(V3, "production", forced, reason="x").version == V3


def test_who_may_read_nothing_is_told_so(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    far = open_registry(tmp_path / "far", registry.settings.store, registry.model, endpoint_url=proxy.url)
    for part in ("/channels/", "/versions/"):
        proxy.next(answering(403, "AccessDenied"), method="GET", containing=part, times=100)
    for read in (far.status, far.versions):
        with pytest.raises(StoreDenied):
            read()


def refuse(proxy: Proxy, *keys: str) -> None:
    for key in keys:
        proxy.next(answering(403, "AccessDenied"), method="GET", containing=key, times=100)


def test_a_refused_signature_hides_no_true_one(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    far = open_registry(tmp_path / "far", registry.settings.store, registry.model, endpoint_url=proxy.url)
    signatures = Signatures(registry.store, registry.model)
    digests = [signatures.add(V1, body) for body in (b"true", b"a stranger's")]
    keys = [layout.signature(registry.model, V1, digest) for digest in digests]
    refuse(proxy, keys[1])
    assert Signatures(far.store, registry.model).of(V1) == [b"true"]
    refuse(proxy, keys[0])
    with pytest.raises(StoreDenied):
        Signatures(far.store, registry.model).of(V1)


def test_refused_evidence_counts_as_not_read(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    far = open_registry(tmp_path / "far", registry.settings.store, registry.model, endpoint_url=proxy.url)
    keys = [layout.evidence(registry.model, V1, letter * 64) for letter in "ab"]
    for key in keys:
        put(registry, key, b"{}", "application/json")
    refuse(proxy, keys[0])
    kept = far.wiring.ledger.kept_evidence(VersionName.parse(V1))
    assert (kept.found, kept.unread) == ({}, tuple(keys))
    assert [each.problem for each in far.versions()] == ["", ""]
    assert far.promote(V1, "production", PromoteOptions(force=True), reason="x").version == V1


def test_a_refused_heartbeat_hides_no_replica_that_is_followed(
    registry: Registry, proxy: Proxy, tmp_path: Path
) -> None:
    far = open_registry(tmp_path / "far", registry.settings.store, registry.model, endpoint_url=proxy.url)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    follows = Heartbeat(
        format=1, id="good-1", host="h", pid=1, device="cpu", state="serving", version=V2, runtime="echo", generation=2,
        newest=2, rollback_ready=True, resident=(V2,), error="", when=now,
    )  # fmt: skip
    put(registry, layout.replica(registry.model, "production", "good-1"), follows.to_bytes(), "application/json")
    put(registry, layout.replica(registry.model, "production", "bad-1"), b"{}", "application/json")
    refuse(proxy, layout.replica(registry.model, "production", "bad-1"))
    found = wait_for_replicas(far.store, registry.model, "production", 2, timeout=0.3)
    assert [each.heartbeat.id for each in found.followed] == ["good-1"]
    assert [each.heartbeat.state for each in found.behind] == ["unreadable"]


def test_a_record_that_contradicts_itself_is_not_what_was_asked(registry: Registry) -> None:
    log, bound = registry.channel("production"), registry.wiring.bindings.get(VersionName.parse(V1))
    pointer = bound.pointer.model_copy(update={"version": V2})
    position = ChannelPosition(registry.model, "production", log.head())
    log.commit(promoted(position, pointer, Author("mallory"), None))
    change = registry.promote(V1, "production", PromoteOptions(force=True), reason="x")
    assert (change.version, change.changed) == (V1, True)


def page(exchange: Exchange, *, drop: str = "") -> None:
    """The store's own answer as a page, maybe without one of its headers."""
    reply = exchange.forward()
    kept = [header for header in reply.headers if header[0].lower() not in (drop, "content-type")]
    exchange.send(Reply(reply.status, [*kept, ("Content-Type", "text/html")], reply.body))


def test_a_page_without_the_mark_of_s3_is_nobody_s_word(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    far = open_registry(tmp_path / "far", registry.settings.store, registry.model, endpoint_url=proxy.url)
    proxy.next(partial(page, drop="x-amz-request-id"), method="GET", containing="/channels/production/", times=100)
    with pytest.raises(StoreUnreachable, match="not an answer of S3"):
        far.rollback()
    shown = next(channel for channel in far.status().channels if channel.channel == "production")
    assert (shown.stable, shown.refused) == (None, True)
    assert "not an answer of S3" in shown.problem


@pytest.mark.parametrize("method", ["PUT", "LIST"])
def test_only_objects_may_look_like_pages(registry: Registry, proxy: Proxy, tmp_path: Path, method: str) -> None:
    far = open_registry(tmp_path / "far", registry.settings.store, registry.model, endpoint_url=proxy.url)
    if method == "LIST":
        proxy.next(page, method="GET", containing="list-type=2", times=100)
        with pytest.raises(StoreUnreachable, match="not an answer of S3"):
            far.rollback()
    else:
        proxy.next(page, method="PUT", containing="/channels/production/")
        assert far.rollback().generation == 3  # it was applied, which the look back shows
