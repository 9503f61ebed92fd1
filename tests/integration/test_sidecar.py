"""`ulora follow` on a real store: promotions and rollbacks, hooks, outages, damage, kills, and both layouts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry import Registry
from registry.channels.channel import RollbackOptions
from registry.errors import BadInput, BrokenChain, ChannelEmpty, CorruptBlob, LoadFailed, NotFound, NotTrusted
from registry.serving.admissions import Admissions
from registry.serving.sidecar import Sidecar
from registry.serving.sidecar_round import KeptVersion, SidecarOptions
from registry.settings import Settings
from registry.store.blobs import Blobs
from registry.store.objects import ObjectStore
from registry.versions.bindings import Bindings
from registry.versions.manifest import Manifest
from registry.versions.pointer import Pointer
from tests.servers.proxy import Fault, Proxy, Stall, answering, unavailable
from tests.support.echo_releases import TESTER, Shop, wait_until
from tests.support.run_ulora import complains, ulora
from tests.support.working_trees import tree_of, write_tree

WEIGHTS = "adapters/low/adapter_model.safetensors"


@pytest.fixture
def shop(store_url: str, model: str, tmp_path: Path) -> Shop:
    """A model whose production serves v1.1.0, and before that v1.0.0."""
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    shop.store.initialise()
    for name in ("v1.0.0", "v1.1.0"):
        shop.release(name)
        shop.promote(name)
    return shop


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "served"


def sidecar(shop: Shop, path: Path, store: ObjectStore | None = None, **options: Any) -> Sidecar:
    options = {"poll": 0.02, "retry": 0.02, **options}
    store = store or shop.store
    blobs = Blobs(store, shop.folder / "sidecar-cache")

    def admit(store: ObjectStore, pointer: Pointer) -> Manifest:
        return Bindings(store, Blobs(store, shop.folder / "sidecar-cache"), shop.model).manifest(pointer)

    log = replace(shop, store=store).channel()
    return Sidecar(log, Admissions(store, admit), blobs, path, SidecarOptions(**options))


@contextmanager
def running(side: Sidecar) -> Iterator[list[KeptVersion]]:
    """A sidecar that runs in a thread; what its rounds did."""
    told: list[KeptVersion] = []
    thread = threading.Thread(target=side.run, args=(told.append,))
    thread.start()
    try:
        yield told
    finally:
        side.close()
        thread.join(300)
        assert not thread.is_alive()


def current(path: Path) -> str:
    """The version that `current` leads to, by the manifest in it; empty if there is none."""
    manifest = path / "current" / "version.json"
    return json.loads(manifest.read_text())["version"] if manifest.exists() else ""


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def versions(path: Path) -> list[str]:
    return [name.rpartition("-")[0] for name in names(path / "versions")]


def test_a_promotion_moves_current_a_rollback_fetches_nothing(
    shop: Shop, path: Path, store_url: str, proxy: Proxy
) -> None:
    store = ObjectStore(store_url, endpoint_url=proxy.url)
    with running(sidecar(shop, path, store)) as told:
        wait_until(lambda: told and told[-1].ready == ("v1.0.0",))
        shop.release("v1.2.0")
        shop.promote("v1.2.0")
        wait_until(lambda: told[-1].version == "v1.2.0" and told[-1].ready)
        assert current(path) == "v1.2.0"
        assert versions(path) == ["v1.1.0", "v1.2.0"]
        proxy.clear()
        shop.rollback()
        wait_until(lambda: told[-1].version == "v1.1.0")
        assert current(path) == "v1.1.0"
        assert not told[-1].written
        wait_until(lambda: told[-1].ready == ("v1.0.0",))
    files = {file.sha256 for file in shop.versions.manifest(shop.pointer("v1.1.0")).files}
    assert not [asked for _, asked in proxy.requests if asked.rpartition("/")[2] in files]
    assert versions(path) == ["v1.0.0", "v1.1.0", "v1.2.0"], "whoever still reads the one before may go on"


def test_the_folder_of_a_bundle_has_every_file_of_the_version(shop: Shop, path: Path) -> None:
    done = sidecar(shop, path).once()
    manifest = shop.versions.manifest(shop.pointer("v1.1.0"))
    assert {*tree_of(path / "current")} == {*(file.path for file in manifest.files), "version.json"}
    assert (done.version, done.generation, done.moved, done.written) == ("v1.1.0", 2, True, True)
    assert (done.files, done.left_out, done.hook, done.ready) == (len(manifest.files) + 1, (), "none", ("v1.0.0",))
    assert done.folder == (path / "current").resolve()
    again = sidecar(shop, path).once()
    assert (again.moved, again.written, again.before) == (False, False, "v1.1.0")


def test_a_dry_run_says_it_and_writes_nothing(shop: Shop, path: Path) -> None:
    planned = sidecar(shop, path, command="true").plan()
    assert (planned.moved, planned.written, planned.folder, planned.hook) == (True, True, None, "due")
    assert not path.exists()
    sidecar(shop, path).once()
    for name in ("v1.2.0", "v1.3.0"):
        shop.release(name)
        shop.promote(name)
    before = tree_of(path)
    planned = sidecar(shop, path, command="true").plan()
    assert (planned.before, planned.version, planned.hook) == ("v1.1.0", "v1.3.0", "due")
    assert [place.rpartition("-")[0] for place in planned.removed] == ["v1.0.0"]
    assert tree_of(path) == before
    done = sidecar(shop, path, command="true").once()
    assert done.removed == planned.removed


def test_more_rollback_targets_are_kept_if_asked_for(shop: Shop, path: Path) -> None:
    for name in ("v1.2.0", "v1.3.0"):
        shop.release(name)
        shop.promote(name)
    assert sidecar(shop, path, keep=2).once().ready == ("v1.2.0", "v1.1.0")
    assert versions(path) == ["v1.1.0", "v1.2.0", "v1.3.0"]
    assert sidecar(shop, path, keep=0).once().ready == ()
    assert versions(path) == ["v1.3.0"]


def test_the_hook_gets_its_environment_after_current_was_moved(shop: Shop, path: Path, tmp_path: Path) -> None:
    said = tmp_path / "said"
    command = (
        f'echo "$ULORA_MODEL $ULORA_CHANNEL $ULORA_VERSION $ULORA_BEFORE $ULORA_GENERATION $ULORA_ACTION'
        f' $ULORA_FOLDER $(readlink -f {path}/current)" >> {said}'
    )
    with running(sidecar(shop, path, command=command)) as told:
        wait_until(lambda: told and told[-1].hook == "succeeded")
        shop.rollback()
        wait_until(lambda: told[-1].version == "v1.0.0" and told[-1].hook == "succeeded")
    first, second = said.read_text().splitlines()
    one, two = ((path / "versions" / _place(shop, name)).resolve() for name in ("v1.1.0", "v1.0.0"))
    assert first == f"{shop.model} production v1.1.0  2 promote {one} {one}"
    assert second == f"{shop.model} production v1.0.0 v1.1.0 3 rollback {two} {two}"


def test_a_failing_hook_is_retried_and_said_and_current_stays(
    shop: Shop, path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tries, healed = tmp_path / "tries", tmp_path / "healed"
    command = f"echo $ULORA_VERSION >> {tries}; test -e {healed} || {{ echo not today; exit 3; }}"
    with running(sidecar(shop, path, command=command)) as told:
        wait_until(lambda: tries.exists() and len(tries.read_text().split()) >= 3)
        assert current(path) == "v1.1.0"
        assert (told[0].moved, told[0].hook) == (True, "failed")
        shop.release("v1.2.0")
        shop.promote("v1.2.0")
        wait_until(lambda: "v1.2.0" in tries.read_text())
        healed.touch()
        wait_until(lambda: told[-1].hook == "succeeded")
        assert current(path) == told[-1].version == "v1.2.0"
        assert tries.read_text().split()[-1] == "v1.2.0"
    assert "v1.1.0: the hook ended with 3: not today (try 2;" in caplog.text
    assert versions(path) == ["v1.1.0", "v1.2.0"]


def test_a_hook_that_failed_runs_again_after_a_restart(shop: Shop, path: Path, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="the hook ended with 1") as failed:
        sidecar(shop, path, command="false").once()
    assert "current` was moved and stays" in failed.value.hint
    assert current(path) == "v1.1.0"
    done = sidecar(shop, path, command="true").once()
    assert (done.moved, done.hook) == (False, "succeeded")
    assert sidecar(shop, path, command="true").once().hook == "none"


@pytest.mark.acceptance
def test_a_hook_that_hangs_is_ended(shop: Shop, path: Path) -> None:
    with pytest.raises(LoadFailed, match=r"did not end within 0\.2 s: waiting"):
        sidecar(shop, path, command="echo waiting; sleep 1000", hook_seconds=0.2).once()
    assert current(path) == "v1.1.0"


def test_closing_ends_a_running_hook(shop: Shop, path: Path, tmp_path: Path) -> None:
    started = tmp_path / "started"
    with running(sidecar(shop, path, command=f"touch {started}; sleep 1000")):
        wait_until(started.exists)
    assert sidecar(shop, path, command="true").once().hook == "succeeded", "it is due again"


def test_a_corrupt_download_is_refused_and_current_stays(
    shop: Shop, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(sidecar(shop, path)) as told:
        wait_until(lambda: told)
        shop.release("v1.2.0")
        repair = shop.flip_a_byte("v1.2.0", WEIGHTS)
        shop.promote("v1.2.0")
        wait_until(lambda: "SHA-256 mismatch" in caplog.text)
        assert current(path) == "v1.1.0"
        assert "v1.2.0" not in versions(path)
        with pytest.raises(CorruptBlob):
            sidecar(shop, path.with_name("other")).once()
        repair()
        wait_until(lambda: told[-1].version == "v1.2.0")
    assert current(path) == "v1.2.0"


@pytest.mark.acceptance
def test_an_outage_is_survived_and_said_once(
    shop: Shop, path: Path, store_url: str, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "registry")
    store = ObjectStore(store_url, endpoint_url=proxy.url)
    with running(sidecar(shop, path, store)) as told:
        wait_until(lambda: told and told[-1].ready)
        proxy.next(unavailable, times=100_000)
        wait_until(lambda: "the log can't be read" in caplog.text)
        asked = len(proxy.requests)
        wait_until(lambda: len(proxy.requests) >= asked + 10)
        assert current(path) == "v1.1.0"
        proxy.clear()
        shop.rollback()
        wait_until(lambda: told[-1].version == "v1.0.0")
    assert current(path) == "v1.0.0"
    assert caplog.text.count("the log can't be read") == caplog.text.count("can be read again") == 1


@pytest.mark.acceptance
def test_it_starts_in_an_outage_and_catches_up(shop: Shop, path: Path, store_url: str, proxy: Proxy) -> None:
    sidecar(shop, path).once()
    shop.rollback()
    proxy.next(unavailable, times=100_000)
    with running(sidecar(shop, path, ObjectStore(store_url, endpoint_url=proxy.url))) as told:
        wait_until(lambda: len(proxy.requests) > 3)
        assert current(path) == "v1.1.0"
        proxy.clear()
        wait_until(lambda: told)
    assert current(path) == "v1.0.0"


def test_closing_gives_up_a_download(shop: Shop, path: Path, store_url: str, proxy: Proxy) -> None:
    stall = Stall()
    side = sidecar(shop, path, ObjectStore(store_url, endpoint_url=proxy.url))
    proxy.next(stall, method="GET", containing=shop.file("v1.1.0", WEIGHTS).sha256)
    thread = threading.Thread(target=side.run)
    thread.start()
    assert stall.arrived.wait(300)
    side.close()
    stall.release()
    thread.join(300)
    assert not thread.is_alive()
    assert not (path / "current").exists()
    assert names(path / ".ulora") == ["follow.json", "lock"]


# What is slow is stalled for as long as the test runs: nothing here ends because a download does.


@pytest.mark.acceptance
def test_a_rollback_overtakes_a_download(
    shop: Shop, path: Path, store_url: str, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "registry")
    stall = Stall()
    with running(sidecar(shop, path, ObjectStore(store_url, endpoint_url=proxy.url))) as told:
        wait_until(lambda: told and told[-1].ready)
        shop.release("v1.2.0")
        proxy.next(stall, method="GET", containing=shop.file("v1.2.0", WEIGHTS).sha256)
        shop.promote("v1.2.0")
        assert stall.arrived.wait(300)
        back_to(shop, "v1.0.0")
        wait_until(lambda: told[-1].version == "v1.0.0")
        assert current(path) == "v1.0.0"
        assert not told[-1].written
        assert "v1.2.0 is not wanted any more" in caplog.text
        assert "v1.2.0" not in versions(path)
        stall.release()
        shop.release("v1.3.0")
        shop.promote("v1.3.0")
        wait_until(lambda: told[-1].version == "v1.3.0" and told[-1].ready)
    assert current(path) == "v1.3.0"
    assert names(path / ".ulora") == ["admitted", "follow.json", "lock"]


@pytest.mark.acceptance
def test_a_promotion_overtakes_the_download_of_a_rollback_target(
    shop: Shop, path: Path, store_url: str, proxy: Proxy
) -> None:
    stall = Stall()
    proxy.next(stall, method="GET", containing=shop.file("v1.0.0", WEIGHTS).sha256)
    with running(sidecar(shop, path, ObjectStore(store_url, endpoint_url=proxy.url))) as told:
        assert stall.arrived.wait(300)
        shop.release("v1.2.0")
        shop.promote("v1.2.0")
        wait_until(lambda: told and told[-1].version == "v1.2.0" and told[-1].ready == ("v1.1.0",))
        assert [done.version for done in told if done.moved] == ["v1.1.0", "v1.2.0"], "each change is told of"
        stall.release()
    assert versions(path) == ["v1.1.0", "v1.2.0"]


@pytest.mark.acceptance
def test_a_rollback_overtakes_a_hook(shop: Shop, path: Path, tmp_path: Path) -> None:
    said = tmp_path / "said"
    command = f"echo $ULORA_VERSION >> {said}; test $ULORA_VERSION = v1.0.0 || sleep 1000"
    with running(sidecar(shop, path, command=command, hook_seconds=1000)) as told:
        wait_until(lambda: said.exists() and said.read_text())
        back_to(shop, "v1.0.0")
        wait_until(lambda: told and told[-1].hook == "succeeded")
        assert current(path) == told[-1].version == "v1.0.0"
    assert said.read_text().split() == ["v1.1.0", "v1.0.0"]


def test_what_is_wanted_all_the_time_is_downloaded_once(shop: Shop, path: Path, store_url: str, proxy: Proxy) -> None:
    stall = Stall()
    weights = shop.file("v1.1.0", WEIGHTS).sha256
    proxy.next(stall, method="GET", containing=weights)
    with running(sidecar(shop, path, ObjectStore(store_url, endpoint_url=proxy.url))) as told:
        assert stall.arrived.wait(300)
        shop.promote("v1.1.0")
        asked = len(proxy.requests)
        wait_until(lambda: sum("/channels/" in key for _, key in proxy.requests[asked:]) > 3)
        stall.release()
        wait_until(lambda: told and told[-1].generation == 3)
    assert len([key for _, key in proxy.requests if weights in key]) == 1


@pytest.mark.acceptance
@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("what", [WEIGHTS, "the manifest"])
def test_sigterm_ends_it_while_a_download_hangs(
    shop: Shop, path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    pointer, stall = shop.pointer("v1.1.0"), Stall()
    digest = shop.file("v1.1.0", WEIGHTS).sha256 if what == WEIGHTS else pointer.manifest_sha256
    proxy.next(stall, method="GET", containing=digest, times=1000)
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    with command("follow", "production", "--into", path) as process:
        assert stall.arrived.wait(300)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, process.communicate()
    stall.release()
    assert not (path / "current").exists()
    assert names(path / ".ulora") == ["follow.json", "lock"]


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("layout", "fault"),
    [
        ("bundle", answering(500, "InternalError")),
        ("bundle", answering(403, "AccessDenied")),
        ("peft", answering(400, "KMS.DisabledException")),
    ],
)
def test_a_version_that_is_held_needs_no_object_of_its_own(
    shop: Shop, path: Path, store_url: str, proxy: Proxy, layout: str, fault: Fault
) -> None:
    store = ObjectStore(store_url, endpoint_url=proxy.url)
    with running(sidecar(shop, path, store, layout=layout)) as told:
        wait_until(lambda: told and told[-1].ready == ("v1.0.0",))
        for folder in ("/blobs/", "/versions/", "/signatures/"):
            proxy.next(fault, containing=folder, times=100_000)
        shop.rollback()
        wait_until(lambda: told[-1].version == "v1.0.0")
    again = sidecar(shop, path, store, layout=layout).once()
    assert (again.version, again.moved, again.written) == ("v1.0.0", False, False)


def test_what_admitted_a_version_is_kept_as_long_as_the_version(shop: Shop, path: Path) -> None:
    sidecar(shop, path).once()
    for name in ("v1.2.0", "v1.3.0"):
        shop.release(name)
        shop.promote(name)
    sidecar(shop, path).once()
    kept = path / ".ulora" / "admitted"
    assert names(kept) == [f"{name}.json" for name in names(path / "versions")]
    for each in kept.iterdir():
        each.write_bytes(b"damaged")
    assert sidecar(shop, path).once().version == "v1.3.0"
    assert {each.read_bytes() for each in kept.iterdir() if "v1.1.0" not in each.name}.isdisjoint([b"damaged"])


def test_an_empty_channel_is_waited_for(store_url: str, model: str, tmp_path: Path, path: Path) -> None:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    with pytest.raises(ChannelEmpty):
        sidecar(shop, path).once()
    with running(sidecar(shop, path)) as told:
        wait_until((path / ".ulora" / "follow.json").exists)
        shop.release("v1.0.0")
        shop.promote("v1.0.0")
        wait_until(lambda: told)
    assert current(path) == "v1.0.0"


def test_a_version_that_is_not_admitted_is_not_put_there(
    shop: Shop, path: Path, store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(model=shop.model, store=store_url, cache=shop.folder / "cache", minimum_version="v1.1.0")
    careful = Registry(settings=settings)
    done = careful.sidecar("production", path).once()
    assert (done.version, done.ready) == ("v1.1.0", ())
    assert "a rollback to v1.0.0 is not ready" in done.unready
    shop.rollback()
    with pytest.raises(NotTrusted):
        careful.sidecar("production", path).once()
    with running(careful.sidecar("production", path, SidecarOptions(retry=0.02))):
        wait_until(lambda: "older than" in caplog.text or "minimum" in caplog.text)
    assert current(path) == "v1.1.0"
    assert versions(path) == ["v1.1.0"]


def test_an_older_log_than_what_was_followed_is_refused(shop: Shop, path: Path, model: str, store_url: str) -> None:
    sidecar(shop, path).once()
    older = Shop(ObjectStore(f"{store_url}-older"), model, shop.folder / "older")
    older.release("v1.0.0")
    older.promote("v1.0.0")
    with pytest.raises(BrokenChain, match="generation 2 was followed here"):
        sidecar(older, path).once()
    assert current(path) == "v1.1.0"


def test_a_folder_of_somebody_else_is_refused(shop: Shop, path: Path) -> None:
    write_tree(path, {"theirs": "theirs"})
    for act in (sidecar(shop, path).plan, sidecar(shop, path).once, sidecar(shop, path).run):
        with pytest.raises(BadInput, match="did not put there"):
            act()
    assert tree_of(path) == {"theirs": "theirs"}


def test_the_peft_layout_has_a_folder_for_each_target(shop: Shop, path: Path) -> None:
    done = sidecar(shop, path, layout="peft").once()
    files = ("adapter_config.json", "adapter_model.safetensors")
    assert {*tree_of(path / "current")} == {f"{target}/{file}" for target in ("low", "mid") for file in files}
    assert {"adapters/low/head.json", "router/head.json", "backbone.json"} <= set(done.left_out)
    weights = (path / "current" / "low" / files[1]).read_bytes()
    assert weights == shop.blobs.read(shop.file("v1.1.0", WEIGHTS).sha256)
    with pytest.raises(BadInput, match="in the layout peft, not at"):
        sidecar(shop, path).once()


@pytest.mark.acceptance
def test_peft_loads_what_the_peft_layout_has(shop: Shop, path: Path) -> None:
    import torch
    from peft import PeftModel

    from adapters.backbone.build import new_model
    from tests.support.bundles import read_bundle
    from tests.support.peft_models import backbone, pixels

    sidecar(shop, path, layout="peft").once()
    bundle = read_bundle(shop.folder / "bundles" / "v1.1.0")
    assert json.loads(bundle["backbone.json"].read_text())["name"] == "dinov3-tiny"
    with torch.no_grad():
        plain = new_model(backbone("dinov3")).eval()
        before = plain(pixels(2)).last_hidden_state
        model = PeftModel.from_pretrained(plain, path / "current" / "low").eval()
        features = model(pixels(2)).last_hidden_state
        source = PeftModel.from_pretrained(
            new_model(backbone("dinov3")), bundle[WEIGHTS].parent
        ).eval()(pixels(2)).last_hidden_state  # fmt: skip
    assert torch.equal(features, source)
    assert not torch.allclose(features, before, atol=1e-3)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULORA_MODEL", shop.model)
    monkeypatch.setenv("ULORA_CACHE", str(shop.folder / "cache"))


@pytest.mark.usefixtures("settings")
def test_once_and_dry_run_on_the_command_line(path: Path) -> None:
    command = ("follow", "production", "--into", path, "--layout", "peft")
    planned = ulora(*command, "--dry-run")
    assert planned.code == 0
    assert "would make" in planned.out
    assert "would leave out" in planned.out
    assert not path.exists()
    done = ulora(*command, "--once", "--json")
    assert (done.code, done.document["version"], done.document["ready"]) == (0, "v1.1.0", ["v1.0.0"])
    again = ulora(*command, "--once")
    assert "is v1.1.0 already" in again.out
    assert "left out" in again.err
    failed = ulora(*command, "--once", "--exec", "echo no; exit 2")
    complains(failed, 1, "the hook ended with 2: no")
    complains(ulora(*command, "--once", "--exec", " "), 2, "--exec")
    complains(ulora("follow", "prod", "--into", path), 2, "not a channel")
    complains(ulora("follow", "production", "--into", path, "--once"), 2, "is kept at")


@pytest.mark.acceptance
@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_and_leaves_nothing_half(shop: Shop, path: Path, number: int) -> None:
    with command("follow", "production", "--into", path, "--json", "--log-format", "json") as process:
        assert process.stdout
        assert json.loads(process.stdout.readline())["version"] == "v1.1.0"
        shop.rollback()
        told = json.loads(process.stdout.readline())
        assert (told["version"], told["before"], told["action"]) == ("v1.0.0", "v1.1.0", "rollback")
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0
    logged = [json.loads(line) for line in err.splitlines()]
    moves = [(line["version"], line["generation"]) for line in logged if line["event"] == "version"]
    assert moves == [("v1.1.0", 2), ("v1.0.0", 3)]
    assert names(path / ".ulora") == ["admitted", "follow.json", "lock"]


@pytest.mark.acceptance
@pytest.mark.usefixtures("settings")
def test_a_kill_while_it_downloads_leaves_current_whole(
    shop: Shop, path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar(shop, path).once()
    shop.release("v1.2.0")
    shop.promote("v1.2.0")
    stall = Stall()
    proxy.next(stall, method="GET", containing=shop.file("v1.2.0", WEIGHTS).sha256)
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    with command("follow", "production", "--into", path) as process:
        assert stall.arrived.wait(300)
        process.kill()
    stall.release()
    assert current(path) == "v1.1.0"
    assert sidecar(shop, path).once().version == current(path) == "v1.2.0"
    assert names(path / ".ulora") == ["admitted", "follow.json", "lock"]


@pytest.mark.usefixtures("settings")
def test_a_model_that_is_not_there_ends_it_at_once(path: Path) -> None:
    with pytest.raises(NotFound):
        Registry("another-model").sidecar("production", path).run()
    complains(ulora("follow", "production", "--into", path, "--model", "another-model"), 5, "another-model")


@contextmanager
def command(*words: object) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on."""
    process = subprocess.Popen(
        [sys.executable, "-m", "registry", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def back_to(shop: Shop, name: str) -> None:
    """Roll production back to a version, and withdraw all that came after it."""
    shop.channel().rollback(TESTER, RollbackOptions(to=name, again=True))


def _place(shop: Shop, name: str) -> str:
    return f"{name}-{shop.pointer(name).manifest_sha256[:12]}"
