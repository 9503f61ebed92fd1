"""Ctrl-C ends a transfer, says how to go on, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from registry.__main__ import main
from registry.store import layout
from tests.servers.proxy import Exchange, Proxy, drip_body
from tests.support.echo_releases import wait_until
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


SLOW_END = """
import atexit, sys, threading

def wait():
    print("ending", flush=True)
    threading.Event().wait({seconds})

atexit.register(wait)
{first}
from registry.__main__ import main
sys.argv = ["ulora", *{words}]
main()
"""


def ended_by(first: str, seconds: float, words: list[str]) -> tuple[int, str]:
    """The exit status and the errors of a command that is sent SIGINT while the interpreter ends, slowly."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_END.format(first=first, seconds=seconds, words=words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    while process.stdout.readline() != "ending\n":
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    return process.returncode, err


def test_ctrl_c_at_the_very_end_changes_no_exit_status() -> None:
    assert ended_by("", 1, ["--version"]) == (0, "")
    status, err = ended_by("", 1, ["no-such-command"])
    assert (status, "Traceback" in err) == (2, False)


INTERRUPT = """
import os, signal

class Interrupt:
    def find_spec(self, name, *others):
        if name == "registry.cli.main":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
"""


def test_ctrl_c_just_before_the_status_is_kept_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[object] = []

    def keep(status: object) -> None:
        kept.append(status)
        if len(kept) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("registry.__main__._keep", keep)
    monkeypatch.setattr(sys, "argv", ["ulora", "no-such-command"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, kept) == (130, [2, 130])


LOST = """
import signal, sys
from pydantic_core import SchemaValidator, ValidationError, core_schema
from registry.api import Registry
from registry.errors import BadManifest
from registry.__main__ import main

class Pattern(str):
    def __str__(self):
        signal.raise_signal(signal.SIGINT)

def backbones(self):
    try:
        SchemaValidator(core_schema.str_schema(pattern=Pattern("^[0-9a-f]+$"))).validate_python("ab")
    except ValidationError as error:
        raise BadManifest("a backbone does not follow the format") from error

Registry.backbones = backbones
sys.argv = ["ulora", "backbone", "list", "--store", "s3://bucket/x"]
main()
"""


def test_ctrl_c_while_checks_are_made_is_no_damage() -> None:
    """pydantic loses an interrupt while it makes a pattern, and then refuses what is right."""
    done = subprocess.run([sys.executable, "-c", LOST], check=False, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (130, "")
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["interrupted", "hint"], done.stderr


def test_a_second_ctrl_c_ends_at_once_with_130() -> None:
    assert ended_by(INTERRUPT, 300, ["--version"]) == (130, "interrupted\n")


LEFT_BEHIND = """
import sys, threading, time
begun = threading.Event()

def compute():
    {work}

threading.Thread(target=compute, name="ulora-compute", daemon=True).start()
begun.wait()
{then}
from registry.__main__ import main
sys.argv = ["ulora", *{words}]
main()
"""
WAITS = "begun.set(); threading.Event().wait()"
COMPUTES = """import torch
    rows = torch.randn(1, 12, 20000, 64)
    begun.set()
    torch.nn.functional.scaled_dot_product_attention(rows, rows, rows)"""


def left_behind(work: str, words: list[str], then: str = "") -> tuple[int, str, str]:
    """The exit status of a command beside a computation that does not end, and what it says."""
    code = LEFT_BEHIND.format(work=work, words=words, then=then)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    return done.returncode, done.stdout, done.stderr


def test_a_computation_that_hangs_is_not_waited_for() -> None:
    at_exit = "import atexit; atexit.register(lambda: print('the end'))"
    status, out, _ = left_behind(WAITS, ["--version"], at_exit)
    assert (status, out.startswith("ulora"), "the end" in out) == (0, True, False)
    assert left_behind(WAITS, ["no-such-command"])[0] == 2


LOGS = """
import logging, sys, threading
import registry.cli.main
from registry.cli.logs import start_logging

def run():
    start_logging("text")
    for number in range(200):
        logging.getLogger("registry").info("line %d", number)
    sys.exit(0)

threading.Thread(target=threading.Event().wait, name="ulora-load-v1.0.0", daemon=True).start()
registry.cli.main.main = run
from registry.__main__ import main
main()
"""


def test_what_was_logged_is_printed_also_beside_what_hangs() -> None:
    done = subprocess.run([sys.executable, "-c", LOGS], capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 200)


POOL = """
import atexit, concurrent.futures, sys, threading
begun = threading.Event()
pool = concurrent.futures.ThreadPoolExecutor(1)

def download():
    begun.set()
    {work}

pool.submit(download)
begun.wait()
atexit.register(lambda: print("the end"))
from registry.__main__ import main
sys.argv = ["ulora", *{words}]
main()
"""


@pytest.mark.parametrize(("words", "status"), [(["--version"], 0), (["no-such-command"], 2)])
def test_a_pool_whose_threads_hang_is_not_waited_for(words: list[str], status: int) -> None:
    code = POOL.format(work="threading.Event().wait()", words=words)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout.startswith("ulora"), "the end" in done.stdout) == (status, not status, False)


def test_beside_a_pool_without_work_a_process_ends_as_usual() -> None:
    code = POOL.format(work="pass", words=["--version"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "the end")


@pytest.mark.acceptance
def test_a_download_from_mlflow_that_drips_is_interrupted(
    store_url: str, model: str, tmp_path: Path, mlflow_proxy: Proxy
) -> None:
    registry = open_registry(tmp_path, store_url, model, tracking_uri=mlflow_proxy.url)
    registry.store.initialise()
    number = registry.create("v1.0.0", small_bundle(tmp_path / "bundle")).catalog_number
    env = {
        "ULORA_MODEL": model, "MLFLOW_TRACKING_URI": mlflow_proxy.url, "ULORA_CACHE": str(tmp_path / "cache"),
    }  # fmt: skip
    mlflow_proxy.next(drip_body, method="GET", containing="/mlflow-artifacts/artifacts/", times=10_000)
    mlflow_proxy.requests.clear()
    process = begun(["create", "v2.0.0", "--from", f"models:/{model}/{number}"], env)
    try:
        wait_until(lambda: any("/mlflow-artifacts/artifacts/" in path for _, path in mlflow_proxy.requests))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert (process.returncode, "interrupted\n" in err) == (130, True)


@pytest.mark.acceptance
def test_a_computation_that_hangs_aborts_no_process() -> None:
    """Torch's threads do so where the interpreter's end takes them away."""
    status, _, err = left_behind(COMPUTES, ["--version"], "time.sleep(1)")
    assert (status, err) == (0, "")
