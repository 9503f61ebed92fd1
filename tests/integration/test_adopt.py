"""The server of `docs/adopt.md`, run as the page shows it, beside `ulora follow`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from adapters.backbone.locate import TINY
from registry import Registry
from registry.versions.bundle import DEFAULT_FLAVOR
from tests.support.bundles import png, write_bundle
from tests.support.echo_releases import Shop, wait_until
from tests.support.pages import ROOT, blocks

V2, V3 = "v5.5.3-performance", "v5.5.4-dinov3"
MOST_LINES = 30


@pytest.fixture
def place(shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with the page's backbones, and an `ulora` whose production serves the first of two versions."""
    place = tmp_path / "place"
    place.mkdir()
    (place / "backbones").symlink_to(TINY)
    monkeypatch.setenv("ULORA_MODEL", shop.model)
    monkeypatch.setenv("ULORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def shop(store_url: str, model: str, tmp_path: Path) -> Shop:
    shop = Shop(Registry(model).store, model, tmp_path)
    shop.store.initialise()
    for name, family in ((V2, "dinov2"), (V3, "dinov3")):
        shop.release(name, write_bundle(tmp_path / name, family=family), flavor=DEFAULT_FLAVOR)
    shop.promote(V2)
    return shop


@pytest.mark.acceptance
def test_a_server_of_the_teams_own_follows_production(shop: Shop, place: Path) -> None:
    app, server, follow = (block.text for block in blocks(ROOT / "docs" / "adopt.md") if block.run_by)
    assert len([line for line in app.splitlines() if line.strip()]) <= MOST_LINES
    (place / "app.py").write_text(app)
    subprocess.run(["ulora", "follow", "production", "--into", "served", "--once"], check=True)
    port = free_port()
    with ExitStack() as processes:
        processes.enter_context(running(server.replace("8000", str(port))))
        wait_until(lambda: answer(port) is not None)
        processes.enter_context(running(follow.replace("8000", str(port))))
        agrees_with_ulora(port, V2, shop.model)
        shop.promote(V3)
        wait_until(lambda: version_of(port) == V3)
        agrees_with_ulora(port, V3, shop.model)
        shop.rollback()
        wait_until(lambda: version_of(port) == V2)
        agrees_with_ulora(port, V2, shop.model)


def agrees_with_ulora(port: int, version: str, model: str) -> None:
    loaded = Registry(model).load(version)
    for seed in range(3):
        ours, theirs = loaded.predict(png(seed), target="low"), answer(port, seed)
        assert theirs is not None
        assert (theirs["version"], theirs["label"]) == (version, ours.label)
        assert theirs["confidence"] == pytest.approx(ours.confidence, abs=1e-3)


def version_of(port: int) -> object:
    return (answer(port) or {}).get("version")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def answer(port: int, seed: int = 0) -> dict[str, object] | None:
    """What the team's server answers; None while it does not."""
    try:
        replied = httpx.post(f"http://127.0.0.1:{port}/predict", files={"image": png(seed)}, timeout=300)
    except httpx.TransportError:
        return None
    return replied.raise_for_status().json()  # type: ignore[no-any-return]


@contextmanager
def running(script: str) -> Iterator[None]:
    """Run a command until the end; SIGTERM must end it with 0."""
    process = subprocess.Popen(["bash", "-c", f"exec {script.strip()}"])
    try:
        yield
        assert process.poll() is None, "it ended by itself"
        process.terminate()
        assert process.wait(60) in (0, -15)
    finally:
        process.kill()
        process.wait()
