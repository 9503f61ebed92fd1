"""What ends a command after its record was sent does not hide that the channel has moved, or may have."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from registry.api import Registry
from registry.store import layout
from tests.servers.proxy import Exchange, Proxy
from tests.support.registries import create, open_registry
from tests.support.run_script import serve, serve_three
from tests.support.run_ulora import ulora

WAYS = ("promote", "rollback", "script")
WRITTEN = "production serves {}, generation {}: that record is written"
UNKNOWN = "not known whether production serves {}, generation {}: that record was sent"


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    """Production serves v2.0.0, after v1.0.0."""
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    for number, name in enumerate(("v1.0.0", "v2.0.0", "v3.0.0")):
        create(registry, name, tmp_path, seed=number)
    for name in ("v1.0.0", "v2.0.0"):
        serve(registry, name)
    return registry


class Held:
    """Holds one request of a command, at the proxy, until it has ended."""

    def __init__(self, proxy: Proxy, moment: str) -> None:
        self._proxy = proxy
        self.arrived, self.over = threading.Event(), threading.Event()
        proxy.next(
            self._hold if moment == "in flight" else self._pass, method="PUT", containing="/channels/production/"
        )

    def _hold(self, exchange: Exchange) -> None:
        exchange.forward()
        self.arrived.set()
        self.over.wait(300)
        exchange.reset()

    def _pass(self, exchange: Exchange) -> None:
        self._proxy.next(self._hold, method="GET", containing="/channels/production/")
        exchange.send(exchange.forward())


def interrupted(words: list[str], env: dict[str, str], held: Held, number: int) -> tuple[int, str, str]:
    """The exit status, the output and the errors of a command that is sent a signal at that moment."""
    process = subprocess.Popen(
        words, env=os.environ | env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not held.arrived.wait(0.1) and process.poll() is None:
        pass
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    held.over.set()
    return process.returncode, out, err


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("moment", "number"), [("in flight", signal.SIGINT), ("after", signal.SIGTERM)], ids=["in flight", "after"]
)
@pytest.mark.parametrize("way", WAYS)
def test_an_interrupt_says_what_became_of_the_record(
    registry: Registry, proxy: Proxy, tmp_path: Path, way: str, moment: str, number: int
) -> None:
    env = {"ULORA_MODEL": registry.model, "ULORA_S3_ENDPOINT": proxy.url, "ULORA_CACHE": str(tmp_path / "empty")}
    words = {
        "promote": ["promote", "v3.0.0", "--channel", "production", "--force", "--reason", "x"],
        "rollback": ["rollback", "--reason", "x", "--no-mirror"],
    }
    script = registry.rollback_script("v1.0.0").write(tmp_path / "script.py")
    command = [str(script), "--yes", "--reason", "x"] if way == "script" else ["-m", "registry", *words[way]]
    held = Held(proxy, moment)
    code, out, err = interrupted([sys.executable, *command], env, held, number)
    newest = registry.channel("production").head()
    assert newest
    assert newest.stable
    assert (code, newest.generation) == (130, 3), err
    said = (UNKNOWN if moment == "in flight" else WRITTEN).format(newest.stable.version, 3)
    answered = f"went from v2.0.0 to {newest.stable.version}"  # before the look at the log below, which is interrupted
    assert said in err or (moment == "after" and answered in out), (out, err)
    assert "interrupted" in err
    if way != "script":  # which goes to one version, however often
        assert "look before you change it again" in err
        assert "it is safe" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_an_overwritten_record_is_not_said_to_be_written(
    registry: Registry, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    monkeypatch.setenv("ULORA_MODEL", registry.model)

    def replaced(exchange: Exchange) -> None:
        """Another writer's record stands there when it is read back."""
        reply = exchange.forward()
        key = layout.record(registry.model, "production", 3)
        registry.store.overwrite(key, registry.store.get(key).body.replace(b'"reason":"x"', b'"reason":"y"'))
        exchange.send(reply)

    words = ("promote", "v3.0.0", "--channel", "production", "--force", "--reason", "x")
    proxy.next(replaced, method="PUT", containing="/channels/production/")
    done = ulora(*words, *(["--json"] if as_json else []))
    known = WRITTEN.format("v3.0.0", 3)
    assert done.code == 6
    assert known not in done.err
    if as_json:
        said = json.loads(done.err.splitlines()[-1])
        assert (said["error"], said["message"].startswith("generation 3")) == ("Overwritten", True)
    else:
        assert done.err.splitlines()[0].startswith("error: generation 3")


def test_a_refused_write_says_nothing_of_a_record(
    store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = open_registry(tmp_path, store_url, model)
    serve_three(registry)
    monkeypatch.setenv("ULORA_MODEL", model)
    again = ulora("rollback", "--to", "v9.0.0", "--reason", "x")
    assert (again.code, "record" in again.err) == (5, False)
    stale = ulora("rollback", "--expected", "9", "--reason", "x")
    assert (stale.code, "written" in stale.err) == (5, False)
