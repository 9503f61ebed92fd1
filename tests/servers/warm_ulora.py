"""An `ulora` for scripts that starts in milliseconds: a process that has imported everything forks for each command.

The documentation's scripts run dozens of commands, and importing MLflow and torch takes seconds in each. What runs is
the real command line in a process of its own, with the script's arguments, folder, environment and streams.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[2]
_WARM = (
    *("boto3", "mlflow", "mlflow.pyfunc", "torch", "transformers", "peft", "sklearn.covariance", "PIL.Image"),
    *("adapters.answer.loading", "adapters.model", "adapters.fitting.fit", "adapters.fitting.image_folder"),
    *("benchmarks.accuracy", "benchmarks.latency", "benchmarks.memory", "benchmarks.ood", "benchmarks.routing"),
    *(
        "registry.api",
        "registry.catalog.client",
        "registry.catalog.mirror",
        "registry.serving.follow",
        "registry.doctor",
    ),
)
_MAX_REQUEST = 1024 * 1024
_CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
asking = socket.socket(socket.AF_UNIX)
asking.connect({address!r})
signal.signal(signal.SIGTERM, lambda *_: asking.shutdown(socket.SHUT_WR))
words = {{"words": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
socket.send_fds(asking, [json.dumps(words).encode() + b"\\n"], [0, 1, 2])
code = asking.recv(1)
sys.exit(code[0] if code else 1)
"""


@contextmanager
def warm_ulora(folder: Path) -> Iterator[Path]:
    """A folder for PATH in which `ulora` is answered by a warm process, which ends with the context."""
    address, commands = folder / "warm", folder / "bin"
    commands.mkdir(parents=True)
    client = commands / "ulora"
    client.write_text(_CLIENT.format(python=sys.executable, address=str(address)))
    client.chmod(0o755)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    serving = [sys.executable, "-m", "tests.servers.warm_ulora", str(address)]
    with subprocess.Popen(serving, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield commands
        finally:
            process.kill()


def _serve(address: str) -> NoReturn:
    for module in _WARM:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the commands are not waited for
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            asking, _ = listening.accept()
            with asking:
                if os.fork() == 0:
                    _answer(asking)


def _answer(asking: socket.socket) -> NoReturn:
    """Run the command that is asked for, and send its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = 1
    try:
        data, streams, _, _ = socket.recv_fds(asking, _MAX_REQUEST, 3)
        while not data.endswith(b"\n"):
            data += asking.recv(_MAX_REQUEST)
        threading.Thread(target=_end_with, args=(asking,), daemon=True).start()
        code = _run(json.loads(data), streams)
    finally:
        asking.send(bytes([code]))
        os._exit(code)


def _end_with(asking: socket.socket) -> None:
    """Stop this process, as SIGTERM does, when the client was stopped or killed."""
    asking.recv(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _run(asked: dict[str, Any], streams: list[int]) -> int:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    from registry.cli.main import main

    try:
        main(asked["words"])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    _serve(sys.argv[1])
