"""What the use cases cost in calls to the store and in bytes sent. Never in seconds: those are the benchmarks'."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from registry.api import Registry
from registry.channels.channel import RollbackOptions
from registry.parallel import in_parallel
from registry.store import layout
from registry.usecases.options import CreateOptions
from tests.servers.proxy import Proxy
from tests.support.registries import bind, create, open_registry, small_bundle

FEW, MANY = 10, 300
PROBE = ["GET", "PUT"]
"""Whether the store refuses to create `format.json` again."""


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, proxy: Proxy) -> Iterator[Registry]:
    """A registry whose calls to the store go through the proxy."""
    registry = open_registry(tmp_path, store_url, model, endpoint_url=proxy.url)
    registry.store.initialise()
    registry.wiring.check_writable()
    return registry


def calls(proxy: Proxy, act: Callable[[], object]) -> list[str]:
    """What an action asks the store, in order: LIST, GET, HEAD or PUT, and the kind of thing."""
    proxy.clear()
    act()
    return [_name(method, path) for method, path in proxy.requests]


def _name(method: str, path: str) -> str:
    parts = urlsplit(path)
    if "list-type" in parts.query:
        return "LIST"
    folders = parts.path.split("/")
    kind = next((name for name in ("blobs", "versions", "channels", "evidence", "verdicts") if name in folders), "")
    return f"{method} {kind}".strip()


def version(number: int) -> str:
    return f"v1.{number}.0"


def test_a_rollback_is_a_listing_a_read_and_a_write(registry: Registry, proxy: Proxy) -> None:
    bind(registry, *map(version, range(3)))
    for number in range(3):
        registry.promote(version(number), "production")
    three = ["LIST", "GET channels", "PUT channels"]
    assert calls(proxy, registry.rollback) == three
    assert calls(proxy, lambda: registry.rollback(options=RollbackOptions(again=True))) == three


def test_a_rollback_by_a_new_process_costs_no_more(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    bind(registry, *map(version, range(2)))
    for number in range(2):
        registry.promote(version(number), "production")
    fresh = open_registry(tmp_path / "fresh", registry.settings.store, registry.model, endpoint_url=proxy.url)
    assert calls(proxy, fresh.rollback) == ["LIST", "GET channels", "PUT channels"]


def test_a_partial_rollback_writes_three_documents_and_no_file(
    registry: Registry, proxy: Proxy, tmp_path: Path
) -> None:
    for number in range(2):
        create(registry, version(number), tmp_path)
        registry.promote(version(number), "production")
    change = []
    asked = calls(proxy, lambda: change.append(registry.rollback(only=["adapters/low"])))
    files = {file.sha256 for file in registry.manifest(change[0].version).files}
    written = [name for name in asked if name.startswith("PUT") and name != PROBE[1]]
    assert written == ["PUT blobs", "PUT versions", "PUT channels"]
    assert Counter(asked) == {  # two records: the newest, and that there is no next one, because a listing may be old
        "LIST": 1, "GET channels": 2, "GET blobs": 2, "HEAD blobs": len(files), "GET versions": 2,
        "PUT blobs": 1, "PUT versions": 1, "PUT channels": 1, **dict.fromkeys(PROBE, 1),
    }  # fmt: skip


def test_a_promotion_reads_back_and_asks_the_other_channel(registry: Registry, proxy: Proxy) -> None:
    bind(registry, *map(version, range(3)))
    registry.promote(version(0), "production")
    registry.promote(version(0), "staging")
    asked = calls(proxy, lambda: registry.promote(version(1), "production"))
    committed = asked.index("PUT channels")
    assert asked[:5] == ["LIST", "GET channels", "GET versions", "LIST", "GET channels"]
    assert asked[committed : committed + 4] == ["PUT channels", "GET channels", *PROBE]


def test_a_poll_of_an_unchanged_channel_is_one_read(registry: Registry, proxy: Proxy) -> None:
    bind(registry, version(0))
    registry.promote(version(0), "production")
    log = registry.channel("production")
    assert calls(proxy, lambda: log.next(1)) == ["GET channels"]
    assert log.next(1) is None


@pytest.mark.acceptance
def test_changes_of_a_channel_cost_the_same_with_many_versions(registry: Registry, proxy: Proxy) -> None:
    bind(registry, *map(version, range(FEW)))
    for number in range(3):
        registry.promote(version(number), "production")

    def costs(first: int) -> dict[str, Counter[str]]:
        return {
            "promote": Counter(calls(proxy, lambda: registry.promote(version(first), "production"))),
            "rollback": Counter(calls(proxy, registry.rollback)),
            "resolve": Counter(calls(proxy, lambda: registry.manifest(version(first)))),
            "head": Counter(calls(proxy, registry.channel("production").head)),
            "status": Counter(calls(proxy, registry.status)),
        }

    with_few = costs(FEW - 2)
    in_parallel(lambda number: bind(registry, version(number)), range(FEW, MANY))
    with_many = costs(FEW - 1)
    assert len(registry.bindings.names()) == MANY
    assert with_many == with_few
    assert with_few["promote"]["PUT channels"] == 1
    assert with_few["resolve"] == {"GET versions": 1, "GET blobs": 1}
    assert with_few["head"] == {"LIST": 1, "GET channels": 1}


def test_an_unchanged_bundle_sends_no_byte(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle")
    registry.create("v1.0.0", bundle, offline=True)
    proxy.clear()
    assert registry.create("v1.0.0", bundle, offline=True).uploaded == 0
    assert [method for method, _ in proxy.requests if method not in ("GET", "HEAD")] == []


def test_a_version_uploads_what_changed_and_two_documents(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle")
    registry.create("v1.0.0", bundle, offline=True)
    (bundle / "config/inference.json").write_text('{"changed":true}')
    created = []
    asked = calls(proxy, lambda: created.append(registry.create("v1.1.0", bundle, offline=True)))
    assert created[0].uploaded == 16
    assert Counter(name for name in asked if name.startswith("PUT")) == {"PUT blobs": 2, "PUT versions": 1, "PUT": 1}
    assert asked.count("HEAD blobs") == len({file.sha256 for file in registry.manifest("v1.1.0").files})


def test_a_name_that_is_only_planned_or_taken_sends_nothing(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle")
    assert calls(proxy, lambda: registry.create("v1.0.0", bundle, dry_run=True)) == ["GET versions", "LIST"]


@pytest.mark.acceptance
def test_many_small_new_files_are_sent_without_asking_for_each(
    registry: Registry, proxy: Proxy, tmp_path: Path
) -> None:
    project = tmp_path / "site"
    project.mkdir()
    for number in range(200):
        (project / f"{number}.txt").write_text(f"page {number}")
    options = CreateOptions(project=project)
    asked = Counter(calls(proxy, lambda: registry.create("v1.0.0", options=options, offline=True)))
    assert asked["PUT blobs"] == 201  # and the manifest
    assert asked["HEAD blobs"] < 60
    again = calls(proxy, lambda: registry.create("v1.0.0", options=options, offline=True))
    assert [name for name in again if name.startswith("PUT")] == []
    (project / "0.txt").write_text("another page")
    changed = []
    asked = Counter(calls(proxy, lambda: changed.append(registry.create("v1.1.0", options=options, offline=True))))
    assert (changed[0].uploaded, asked["HEAD blobs"]) == (12, 200)


def test_the_content_of_another_version_is_said_to_be_that(registry: Registry, tmp_path: Path) -> None:
    bundle, said = small_bundle(tmp_path / "bundle"), list[str]()
    registry.create("v1.0.0", bundle, offline=True, say=said.append)
    registry.create("v1.0.0", bundle, offline=True, say=said.append)
    assert not [line for line in said if "same content" in line]
    registry.create("v1.1.0", bundle, offline=True, say=said.append)
    assert said[-1].startswith("v1.0.0 has the same content; v1.1.0 is another name for it")


def test_files_in_the_cache_are_not_fetched_again(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    registry.create("v1.0.0", small_bundle(tmp_path / "bundle"), offline=True)
    files = registry.manifest("v1.0.0").files
    distinct = {file.sha256 for file in files}
    assert calls(proxy, lambda: registry.blobs.fetch(files)) == ["GET blobs"] * len(distinct)
    assert calls(proxy, lambda: registry.blobs.fetch(files)) == []


def test_verifying_asks_for_each_blob_once(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    registry.create("v1.0.0", small_bundle(tmp_path / "bundle"), offline=True)
    distinct = {file.sha256 for file in registry.manifest("v1.0.0").files}
    asked = Counter(calls(proxy, lambda: registry.verify("v1.0.0")))
    # The manifest, and the small documents which loading might refuse, e.g. the adapter's configuration.
    documents = 1 + 3
    assert asked == {"GET versions": 1, "GET blobs": documents, "HEAD blobs": len(distinct), "LIST": 1}
    read = Counter(calls(proxy, lambda: registry.verify("v1.0.0", read_data=True)))
    assert read == {"GET versions": 1, "GET blobs": documents + len(distinct), "LIST": 1}


def test_a_list_costs_three_reads_a_version_and_no_file(registry: Registry, proxy: Proxy) -> None:
    bind(registry, *map(version, range(FEW)))
    asked = Counter(calls(proxy, registry.versions))
    assert asked["GET versions"] == asked["GET blobs"] == FEW
    assert asked["HEAD blobs"] == 0
    assert asked["LIST"] <= FEW + 4


def test_verifying_the_history_reads_each_record_once(registry: Registry, proxy: Proxy) -> None:
    bind(registry, version(0), version(1))
    for number in (0, 1, 0, 1):
        registry.promote(version(number), "production")
    assert Counter(calls(proxy, registry.history)) == {"LIST": 1, "GET channels": 4}
    assert Counter(calls(proxy, lambda: registry.history(limit=1))) == {"LIST": 1, "GET channels": 1}
    assert layout.generation(layout.record(registry.model, "production", 4)) == 4
