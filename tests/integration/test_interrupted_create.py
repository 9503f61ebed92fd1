"""`create` killed by SIGKILL between any two of its steps, then run again: it finishes, and nothing travels twice.

A driver process loads everything once and forks a child for each step; the child kills itself there. The steps are the
calls to S3 (before the request is sent, after the reply has come), and those to MLflow.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from registry.api import Registry
from tests.registries import open_registry, small_bundle

_DRIVER = """
import json, os, signal, sys, threading
from pathlib import Path
from registry.api import Registry
from registry.settings import Settings
from registry.bundles import read_bundle
import boto3, registry.answers

model, store, tracking_uri, folder, *steps = sys.argv[1:]
if tracking_uri:
    import mlflow.pyfunc, adapters.model, requests

session = boto3.session.Session()
session.client("s3")                   # its models are read once, here; nothing is connected

def registry_of(step):
    settings = Settings(model=f"{model}-{step}", store=f"{store}/{step}", tracking_uri=tracking_uri or None,
                        cache=Path(folder) / f"cache-{step}", who="a test")
    found = Registry(settings=settings)
    found.store._session = session
    return found

class Countdown:
    def __init__(self, left):
        self.left, self.lock = left, threading.Lock()
    def __call__(self, *_, **__):
        with self.lock:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

def die_at(step, registry):
    countdown = Countdown(step)
    if tracking_uri:
        send = requests.Session.send
        def counted(self, *arguments, **options):
            countdown()
            reply = send(self, *arguments, **options)
            countdown()
            return reply
        requests.Session.send = counted
    else:
        for event in ("before-call.s3", "after-call.s3"):
            registry.store._session.events.register(event, countdown)

def create(step, armed):
    registry = registry_of(step)
    if armed:
        die_at(step, registry)
    created = registry.create("v1.0.0", Path(folder) / "bundle", offline=not tracking_uri)
    return created.uploaded

def in_child(step, armed):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, json.dumps(create(step, armed)).encode())
        except BaseException as error:
            os.write(write, json.dumps(repr(error)).encode())
        os._exit(0)
    os.close(write)
    said = os.fdopen(read).read()
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else json.loads(said)

def present(step):
    blobs = {info.key.rpartition("/")[2] for info in registry_of(step).store.list("blobs/")}
    return [digest for digest in sources if digest in blobs]

sources = {digest: path.stat().st_size for digest, path in read_bundle(Path(folder) / "bundle").sources.items()}
for step in map(int, steps) if steps else range(1, 1000):
    def look(act):
        child = os.fork()          # the driver itself never opens a connection, so that its children share none
        if child == 0:
            act(); os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    look(lambda: registry_of(step).store.initialise())
    first = in_child(step, armed=True)
    saved = Path(folder) / f"present-{step}"
    look(lambda: saved.write_text(json.dumps([present(step), [str(n) for n in registry_of(step).bindings.names()]])))
    had, names = json.loads(saved.read_text())
    again = in_child(step, armed=False)
    look(lambda: print(json.dumps(registry_of(step).verify("v1.0.0", read_data=True).ok), file=saved.open("w")))
    missing = sum(size for digest, size in sources.items() if digest not in had)
    print(json.dumps({"step": step, "first": first, "bound": names, "missing": missing, "again": again,
                      "whole": json.loads(saved.read_text())}), flush=True)
    if first is not None:
        break
"""


def drive(model: str, store: str, tracking_uri: str, folder: Path, *steps: int) -> list[dict[str, Any]]:
    """Kill and repeat a `create` at each of the steps, or at every one until it comes through; what was seen."""
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, model, store, tracking_uri, str(folder), *map(str, steps)],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small bundle: few files, so that its steps are few."""
    bundle = small_bundle(tmp_path / "bundle")
    for path in bundle.rglob("*"):
        if path.is_file() and path.name not in ("backbone.json", "adapter_model.safetensors", "preprocessing.json"):
            path.unlink()
    return tmp_path


def test_killed_at_any_call_to_the_store_it_finishes_when_run_again(folder: Path, store_url: str, model: str) -> None:
    seen = drive(model, store_url, "", folder)
    killed, completed = seen[:-1], seen[-1]
    assert len(killed) >= 20
    assert completed["first"] > 0
    for one in killed:
        assert one["first"] is None
        # What was acknowledged does not travel again; once the name is bound, nothing does.
        assert one["again"] == (0 if one["bound"] else one["missing"]), one
        assert one["whole"]
        # The name is bound only when everything is there.
        assert one["missing"] == 0 or not one["bound"]
    assert {bool(one["bound"]) for one in killed} == {True, False}


def test_killed_at_a_call_to_mlflow_it_is_one_version_there_when_run_again(
    folder: Path, store_url: str, tracking_uri: str, model: str
) -> None:
    for one in drive(model, store_url, tracking_uri, folder, 1, 6, 14, 20):
        assert one["first"] is None
        registry: Registry = open_registry(
            folder / "look", f"{store_url}/{one['step']}", f"{model}-{one['step']}", tracking_uri=tracking_uri
        )
        (found,) = registry.catalog.versions(registry.model)
        assert (found.version, found.number) == ("v1.0.0", 1)
        assert one["again"] == (0 if one["bound"] else one["missing"])
