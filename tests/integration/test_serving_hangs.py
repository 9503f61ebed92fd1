"""What hangs in a replica is visible, holds nothing else up, and does not outlive SIGTERM."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.errors import LoadFailed
from registry.serving.fleet import replicas
from registry.serving.follow import Live, LiveOptions
from registry.serving.loaders import Loader, LoadOptions, load_version
from registry.store.objects import ObjectStore
from tests.support.echo_releases import Echo, Shop, find_echo, load_echo, wait_until
from tests.support.hanging_flavor import FLAVOR, HOLD_THE_LOCK, LOAD_HOLDS_THE_LOCK, LOAD_WAITS, WAIT, serving

pytestmark = pytest.mark.acceptance

GOOD = "v1.0.0"
SHORT = ("--grace", "1")


@pytest.fixture
def shop(store_url: str, model: str, tmp_path: Path) -> Shop:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    shop.store.initialise()
    return shop


def release(shop: Shop, *names: str) -> None:
    for name in names:
        shop.release(name, flavor=FLAVOR)
        shop.promote(name)


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def ask(url: str, image: bytes) -> httpx.Response:
    return httpx.post(f"{url}/predict", files={"image": image}, timeout=300)


def ends(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(300)


def test_sigterm_ends_a_replica_whose_loader_holds_the_lock(shop: Shop, tmp_path: Path) -> None:
    release(shop, LOAD_HOLDS_THE_LOCK)
    with serving(tmp_path / "serve", {"ULORA_MODEL": shop.model}, *SHORT) as process:
        assert next_line(process) == "hangs"
        assert ends(process) in (-signal.SIGTERM, -signal.SIGKILL)


def test_sigterm_ends_a_replica_whose_answer_holds_the_lock(shop: Shop, tmp_path: Path) -> None:
    release(shop, GOOD)
    with serving(tmp_path / "serve", {"ULORA_MODEL": shop.model}, *SHORT) as process, ThreadPoolExecutor(1) as pool:
        url = next_line(process).rpartition(" ")[2]
        pool.submit(ask, url, HOLD_THE_LOCK)
        assert next_line(process) == "hangs"
        assert ends(process) == -signal.SIGKILL
        assert process.stderr
        assert "did not end within 1 s: it is killed" in process.stderr.read()


def test_hanging_loads_and_answers_hold_nothing_else_up(shop: Shop, tmp_path: Path) -> None:
    release(shop, GOOD)
    environment = {"ULORA_MODEL": shop.model}
    with serving(tmp_path / "serve", environment, "--grace", "30") as process, ThreadPoolExecutor(1) as pool:
        url = next_line(process).rpartition(" ")[2]
        pool.submit(ask, url, WAIT)
        assert next_line(process) == "hangs"
        release(shop, LOAD_WAITS)
        assert next_line(process) == "hangs"

        health = httpx.get(f"{url}/health", timeout=300).json()
        assert (health["version"], health["newest"], health["state"]) == (GOOD, 2, "serving")
        assert f"loading {LOAD_WAITS} for " in health["loading"]
        assert health["loading"].endswith("s (loader)")
        # One thread computes. While it hangs no image is answered, and health says so.
        assert health["compute"] > 0
        refused = ask(url, b"leaf")
        assert refused.status_code in (429, 504)
        assert refused.json()["version"] == GOOD

        shop.rollback()
        wait_until(lambda: httpx.get(f"{url}/version", timeout=300).json()["generation"] == 3)
        # Its threads are left behind, so it ends by itself, before it would be killed.
        assert ends(process) == 0
        assert replicas(shop.store, shop.model, "production") == []


class Hangs:
    """A loader that hangs on the versions that are named, until the test lets it go on."""

    def __init__(self, *names: str) -> None:
        self.names, self.gate = names, threading.Event()
        self.entered: list[str] = []

    def find(self, flavor: str) -> Loader:
        return self.load

    def load(self, manifest: Any, files: Any, **how: Any) -> Any:
        self.entered.append(manifest.version)
        if manifest.version in self.names:
            assert self.gate.wait(300)
        return load_echo(manifest, files, **how)


def test_the_first_load_ends_with_an_error_if_it_hangs(shop: Shop) -> None:
    shop.release(GOOD)
    shop.promote(GOOD)
    hangs = Hangs(GOOD)
    live = Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(find=hangs.find, loader_seconds=0.1))
    with pytest.raises(LoadFailed, match=r"v1\.0\.0 was not loaded: the step 'loader' showed no sign of life"):
        live.start()
    hangs.gate.set()


def test_a_hanging_trust_check_is_given_up(shop: Shop) -> None:
    shop.release(GOOD)
    shop.promote(GOOD)
    gate = threading.Event()

    def check(manifest: Any) -> None:
        assert gate.wait(300)

    options = LiveOptions(find=find_echo, check=check, check_seconds=0.1)
    with pytest.raises(LoadFailed, match="the step 'trust check'"):
        Live(shop.channel(), shop.versions, shop.blobs, options).start()
    gate.set()


def test_a_version_that_hangs_is_left_by_the_next_promotion(shop: Shop) -> None:
    hangs = Hangs("v1.1.0")
    for name in (GOOD, "v1.1.0", "v1.2.0"):
        shop.release(name)
    shop.promote(GOOD)
    options = LiveOptions(find=hangs.find, poll=0.02, retry=0.02, loader_seconds=0.1)
    with Live(shop.channel(), shop.versions, shop.blobs, options) as live:
        shop.promote("v1.1.0")
        wait_until(lambda: "v1.1.0 was not loaded: the step 'loader'" in live.health().error)
        assert "left behind: loading v1.1.0 for" in live.health().loading
        assert live.predict(b"leaf").version == GOOD
        shop.promote("v1.2.0")
        assert live.wait_for(version="v1.2.0", timeout=150)
        # v1.1.0 is the rollback target now. It is tried again when the load that hangs has ended, and only then.
        assert hangs.entered.count("v1.1.0") == 1
        hangs.gate.set()
        wait_until(lambda: live.health().rollback_ready)
        assert live.health().loading == ""


class HangingAnswers(Hangs):
    """A loader whose versions that are named load, and then hang on every image."""

    def load(self, manifest: Any, files: Any, **how: Any) -> Any:
        gate, hangs = self.gate, manifest.version in self.names

        class Answers(Echo):
            def predict(self, images: Any, *, target: object = None) -> Any:
                assert not hangs or gate.wait(300)
                return super().predict(images, target=target)

        echo = load_echo(manifest, files, **how)
        return Answers(echo.version, echo.content_sha256, echo.weights)


def test_a_version_that_hangs_on_an_image_is_never_served(shop: Shop) -> None:
    hangs = HangingAnswers("v1.1.0")
    for name in (GOOD, "v1.1.0"):
        shop.release(name)
    shop.promote(GOOD)
    options = LiveOptions(find=hangs.find, poll=0.02, retry=0.02, image_seconds=0.1)
    with Live(shop.channel(), shop.versions, shop.blobs, options) as live:
        shop.promote("v1.1.0")
        wait_until(lambda: "v1.1.0 was not loaded: the step 'one image of each target'" in live.health().error)
        assert live.predict(b"leaf").version == GOOD
        back = shop.rollback()
        assert live.wait_for(version=GOOD, generation=back.generation, timeout=150)
        assert live.predict(b"leaf").version == GOOD
        hangs.gate.set()


def test_a_version_that_takes_no_images_is_not_refused(shop: Shop) -> None:
    class TakesText(Echo):
        def predict(self, images: Any, *, target: object = None) -> Any:
            return super().predict(images.decode("utf-8").encode(), target=target)

    def load(manifest: Any, files: Any, **how: Any) -> Any:
        return TakesText(manifest.version, manifest.content_sha256, b"weights")

    shop.release(GOOD)
    options = LoadOptions(find=lambda flavor: load)
    assert load_version(shop.versions, shop.blobs, shop.pointer(GOOD), options).version == GOOD


@pytest.mark.parametrize("broken", [{"low"}, {"low", "mid"}], ids=["one target", "all targets"])
def test_a_version_that_can_answer_no_image_is_refused(
    shop: Shop, broken: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Echo):
        def predict(self, images: Any, *, target: object = None) -> Any:
            if target in broken:
                raise MemoryError("no memory for attention")
            return super().predict(images, target=target)

    def load(manifest: Any, files: Any, **how: Any) -> Any:
        return Broken(manifest.version, manifest.content_sha256, b"weights", ("low", "mid"))

    shop.release(GOOD)
    options = LoadOptions(find=lambda flavor: load)
    says = "v1.0.0 can't answer an image of low: MemoryError: no memory for attention"
    if "mid" in broken:
        with pytest.raises(LoadFailed, match=re.escape(says)):
            load_version(shop.versions, shop.blobs, shop.pointer(GOOD), options)
    else:
        assert load_version(shop.versions, shop.blobs, shop.pointer(GOOD), options).version == GOOD
        assert says in caplog.text
