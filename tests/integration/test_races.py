"""Concurrent writers in threads and processes: one wins, nothing is overwritten, a rollback happens once."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry.api import Registry
from registry.channels.channel import Channel, PromoteOptions
from registry.channels.record import Author, ChannelPosition, promoted
from registry.errors import BrokenChain, ChannelMoved, KeyExists, NotNow, VersionExists
from registry.store import layout
from registry.store.objects import ObjectStore
from registry.versions.pointer import Pointer
from tests.servers import proxy as faults
from tests.servers.proxy import Proxy
from tests.support.registries import bind, listing, open_registry, small_bundle

ROLL_BACK = """
import sys
from registry import Registry
registry = Registry(sys.argv[1], store=sys.argv[2])
registry.channel("production").head()      # warm: connected, imported
print("ready", flush=True)
sys.stdin.readline()
print(registry.rollback().changed)
"""


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    return registry


def together(*acts: Callable[[], object]) -> list[object]:
    """Begin all at once, each in a thread; their results, or what they raised."""
    start = threading.Barrier(len(acts))

    def run(act: Callable[[], object]) -> object:
        start.wait(300)
        try:
            return act()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(run, acts))


def in_processes(code: str, *arguments: list[str]) -> list[str]:
    """Run some code in a process for each list of arguments, all released at once; the last line of each."""
    processes = [
        subprocess.Popen([sys.executable, "-c", code, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for words in arguments
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return [output.splitlines()[-1] for output in outputs]


def desk(registry: Registry, folder: Path, who: str, **options: str) -> Registry:
    """The same store as another person sees it."""
    return open_registry(folder / who, registry.settings.store, registry.model, who=who, **options)


def test_of_two_promoters_one_wins(registry: Registry, tmp_path: Path) -> None:
    bind(registry, "v1.0.0", "v2.0.0")
    ann, bob = desk(registry, tmp_path, "ann"), desk(registry, tmp_path, "bob")
    found = together(
        lambda: ann.promote("v1.0.0", "production", PromoteOptions(expected=0)),
        lambda: bob.promote("v2.0.0", "production", PromoteOptions(expected=0)),
    )
    lost = [result for result in found if isinstance(result, ChannelMoved)]
    winner = registry.history()[0]
    assert len(lost) == 1
    assert winner.stable
    assert "nothing changed" in str(lost[0])
    assert winner.who in str(lost[0])
    assert winner.who == ("ann" if isinstance(found[1], ChannelMoved) else "bob")
    assert len(registry.history()) == 1


def test_a_promoter_with_an_outdated_head_loses(registry: Registry, tmp_path: Path) -> None:
    # No race left to luck: the proxy holds ann's commit until bob's is done.
    bind(registry, "v1.0.0", "v2.0.0")
    with Proxy(int(str(registry.store._client.transfers.meta.endpoint_url).rpartition(":")[2])) as proxy:
        ann, bob = desk(registry, tmp_path, "ann", endpoint_url=proxy.url), desk(registry, tmp_path, "bob")
        held = faults.Stall()
        proxy.next(held, method="PUT", containing="/channels/")
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(ann.promote, "v1.0.0", "production")
            assert held.arrived.wait(300)
            bob.promote("v2.0.0", "production")
            held.release()
            with pytest.raises(ChannelMoved, match=r"bob moved .* production first: promote to v2\.0\.0, generation 1"):
                late.result(300)
    assert [record.who for record in registry.history()] == ["bob"]
    assert registry.wiring.ledger.past(registry.channel("production"), registry.manifest("v1.0.0").name) is None


@pytest.mark.parametrize("fault", [faults.swallow_reply, faults.fail_after_applying], ids=lambda fault: fault.__name__)
def test_a_promotion_whose_reply_is_lost_is_won(
    registry: Registry, tmp_path: Path, proxy: Proxy, fault: faults.Fault
) -> None:
    bind(registry, "v1.0.0")
    proxy.next(fault, method="PUT", containing="/channels/")
    change = desk(registry, tmp_path, "ann", endpoint_url=proxy.url).promote("v1.0.0", "production")
    assert (change.changed, change.generation) == (True, 1)
    assert len(registry.history()) == 1


def test_a_rollback_with_a_lost_reply_goes_back_once(registry: Registry, tmp_path: Path, proxy: Proxy) -> None:
    for name in ("v1.0.0", "v2.0.0", "v3.0.0"):
        bind(registry, name)
        registry.promote(name, "production")
    proxy.next(faults.swallow_reply, method="PUT", containing="/channels/")
    change = desk(registry, tmp_path, "ann", endpoint_url=proxy.url).rollback()
    assert (change.changed, change.version) == (True, "v2.0.0")
    assert len(registry.history()) == 4


def test_two_rollbacks_at_once_in_threads_go_back_one_step(registry: Registry, tmp_path: Path) -> None:
    for name in ("v1.0.0", "v2.0.0", "v3.0.0"):
        bind(registry, name)
        registry.promote(name, "production")
    people = [desk(registry, tmp_path, who) for who in ("ann", "bob", "guard")]
    found = together(*(person.rollback for person in people))
    assert [getattr(result, "changed", None) for result in found].count(True) == 1
    # One who looks when it is done already is told to say what to leave; that, too, is no second step.
    assert all(result.changed in (True, False) for result in found if not isinstance(result, NotNow))
    head = registry.history()[0]
    assert head.stable
    assert (head.stable.version, head.generation) == ("v2.0.0", 4)


def test_a_rollback_that_another_did_first_is_done(registry: Registry, tmp_path: Path) -> None:
    for name in ("v1.0.0", "v2.0.0", "v3.0.0"):
        bind(registry, name)
        registry.promote(name, "production")
    with Proxy(int(str(registry.store._client.transfers.meta.endpoint_url).rpartition(":")[2])) as proxy:
        ann, bob = desk(registry, tmp_path, "ann", endpoint_url=proxy.url), desk(registry, tmp_path, "bob")
        held = faults.Stall()
        proxy.next(held, method="PUT", containing="/channels/")
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(ann.rollback)
            assert held.arrived.wait(300)
            bob.rollback()
            held.release()
            change = late.result(300)
    assert (change.changed, change.version) == (False, "v2.0.0")
    assert "already done by bob" in change.notes[0]
    assert len(registry.history()) == 4


def test_two_rollbacks_at_once_in_processes_go_back_one_step(registry: Registry, tmp_path: Path) -> None:
    for name in ("v1.0.0", "v2.0.0", "v3.0.0"):
        bind(registry, name)
        registry.promote(name, "production")
    options = ROLL_BACK.replace("registry.rollback()", "registry.rollback(options=RollbackOptions(leave='v3.0.0'))")
    code = options.replace("import Registry", "import Registry, RollbackOptions")
    said = in_processes(code, *[[registry.model, registry.settings.store]] * 2)
    assert sorted(said) == ["False", "True"]
    head = registry.history()[0]
    assert head.stable
    assert head.stable.version == "v2.0.0"


def test_of_two_creators_with_different_content_one_is_refused(registry: Registry, tmp_path: Path) -> None:
    bundles = [small_bundle(tmp_path / f"bundle-{seed}", seed) for seed in range(2)]
    people = [desk(registry, tmp_path, who) for who in ("ann", "bob")]
    found = together(
        *(
            lambda person=person, bundle=bundle: person.create("v1.0.0", bundle, offline=True)
            for person, bundle in zip(people, bundles, strict=True)
        )
    )
    assert [isinstance(result, VersionExists) for result in found].count(True) == 1
    assert registry.verify("v1.0.0", read_data=True).ok


def test_two_creators_with_equal_content_both_succeed(registry: Registry, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle")
    people = [desk(registry, tmp_path, who) for who in ("ann", "bob")]
    found = together(*(lambda person=person: person.create("v1.0.0", bundle, offline=True) for person in people))
    assert len({result.content_sha256 for result in found}) == 1
    assert sum("/versions/" in key for key in listing(registry)) == 1


# --- the chain -------------------------------------------------------------------------------------------------------


@pytest.fixture
def chain(store_url: str, model: str) -> Channel:
    """A channel of five records."""
    log = Channel(ObjectStore(store_url), model, "production")
    for number in range(5):
        pointer = Pointer(version=f"v{number}.0.0", manifest_sha256="a" * 64)
        log.commit(promoted(ChannelPosition(model, "production", log.head()), pointer, Author("a test"), None))
    return log


def key_of(chain: Channel, generation: int) -> str:
    return layout.record(chain.model, "production", generation)


def test_a_record_that_was_rewritten_breaks_the_chain(chain: Channel, store_url: str) -> None:
    store = ObjectStore(store_url)
    body = store.get(key_of(chain, 2)).body
    store.overwrite(key_of(chain, 2), body.replace(b"a test", b"nobody"))
    with pytest.raises(BrokenChain, match="generation 2 of production does not hash to what generation 3 says"):
        chain.history()
    assert len(chain.history(limit=3)) == 3


def test_a_record_that_was_removed_breaks_the_chain(chain: Channel, store_url: str) -> None:
    ObjectStore(store_url).delete(key_of(chain, 3))
    with pytest.raises(BrokenChain, match="generation 4 of production follows generation 2"):
        chain.history()


def test_a_removed_first_record_breaks_the_chain(chain: Channel, store_url: str) -> None:
    ObjectStore(store_url).delete(key_of(chain, 1))
    with pytest.raises(BrokenChain, match="begins at generation 2"):
        chain.history()


def test_a_record_copied_from_another_channel_is_refused(chain: Channel, store_url: str) -> None:
    store = ObjectStore(store_url)
    body = store.get(key_of(chain, 5)).body
    store.create(key_of(chain, 6), body)
    with pytest.raises(BrokenChain, match="generation 5"):
        chain.head()


def test_something_else_in_the_log_is_not_taken_for_a_record(chain: Channel, store_url: str) -> None:
    ObjectStore(store_url).create(layout.channel(chain.model, "production") + "0-notes.txt", b"x")
    with pytest.raises(BrokenChain, match="the log has an object that is not a record"):
        chain.history()
    assert chain.head() == chain.read(5)


def test_a_record_is_never_overwritten(chain: Channel) -> None:
    head = chain.head()
    assert head
    other = head.model_copy(update={"reason": "another"})
    with pytest.raises(ChannelMoved):
        chain.commit(other)
    with pytest.raises(KeyExists):
        chain._store.create(key_of(chain, 1), b"x")
    assert chain.head() == head
