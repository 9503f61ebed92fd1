"""Ctrl-C ends a transfer, says how to go on, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from registry.store import layout
from tests.servers.proxy import Exchange, Proxy
from tests.support.registries import create, open_registry, small_bundle


def begun(words: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "registry", *words],
        env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.acceptance
@pytest.mark.parametrize("way", ["upload", "download"])
def test_a_transfer_is_interrupted_and_goes_on(
    store_url: str, model: str, tmp_path: Path, proxy: Proxy, way: str
) -> None:
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    create(registry, "v1.0.0", tmp_path)
    bundle = small_bundle(tmp_path / "bundle", seed=5)
    env = {"ULORA_MODEL": model, "ULORA_S3_ENDPOINT": proxy.url, "ULORA_CACHE": str(tmp_path / "empty")}
    words, method = {
        "upload": (["create", "v2.0.0", "--from", str(bundle), "--offline"], "PUT"),
        "download": (["restore", "v1.0.0", "--target", str(tmp_path / "tree")], "GET"),
    }[way]
    arrived, over = threading.Event(), threading.Event()
    # The manifest is read as a document; what is held is a file's bytes.
    held = (
        {layout.blob(file.sha256) for file in registry.manifest("v1.0.0").files} if way == "download" else {"/blobs/"}
    )

    def hold(exchange: Exchange) -> None:
        arrived.set()
        over.wait(300)
        exchange.reset()

    for part in held:
        proxy.next(hold, method=method, containing=part, times=10_000)
    process = begun(words, env)
    assert arrived.wait(300)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    over.set()
    assert (process.returncode, out) == (130, "")
    assert [line.partition(":")[0] for line in err.splitlines()][-2:] == ["interrupted", "hint"]
    assert "run the same command again" in err
    assert [str(name) for name in registry.bindings.names()] == ["v1.0.0"]
    proxy.clear()
    again = begun(words, env)
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
