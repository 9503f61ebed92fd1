"""A process that has loaded everything and forks a child for each command: a case costs no start of Python.

It reads one JSON job a line, and answers with the child's process id, then with how it ended. It never opens a
connection nor starts a thread itself, so its children share nothing.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

from tests.faults.calls import mlflow_name, s3_name

ROOT = Path(__file__).resolve().parents[2]
_CHANGES = {
    "os.rename": (0, 2), "os.mkdir": (0, 2), "os.rmdir": (0, 1), "os.remove": (0, 1), "os.link": (1, 3),
    "os.symlink": (1, 2), "os.chmod": (0, 2), "os.truncate": (0, -1),
}  # fmt: skip
"""Audited changes of files: which of their arguments is the path, and which the folder that it is relative to."""
_NOT_LOADED = (
    "registry.__main__", "registry.breakglass.rollback_script", "registry.breakglass.verify_audit",
    "registry.catalog.reference_code", "registry.dashboard",
)  # fmt: skip
"""Programs, code that MLflow runs with a model's configuration, and pages, which draw when they are loaded."""
_WRITES = os.O_WRONLY | os.O_RDWR


class Injected(Exception):
    """What a case raises in the command's own process."""


@dataclass(frozen=True)
class Ended:
    """How a child ended: what it said (None when it was killed) and the signal that killed it, or 0."""

    said: dict[str, Any] | None
    signal: int


class Warm:
    """The driver process, as its parent sees it. One child at a time."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests.faults.warm import serve; serve()"],
            cwd=ROOT, env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def begin(self, job: Mapping[str, Any]) -> int:
        """Start a child on a job and return its process id."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(self._answer()["pid"])

    def end(self) -> Ended:
        """Wait for the child."""
        answer = self._answer()
        return Ended(answer["said"], answer["signal"])

    def close(self) -> None:
        """End the driver."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the driver process died"
        answer: dict[str, Any] = json.loads(line)
        return answer


# --- in the driver ---------------------------------------------------------------------------------------------------


def serve() -> None:
    """Load everything, then answer jobs until standard input ends."""
    _load()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a child prints is no answer
    for line in sys.stdin:
        _in_child(json.loads(line), answers)


def _load() -> None:
    import boto3
    from botocore.retries import standard

    import registry
    from registry.retention import prune
    from registry.store import client, gc_marks, objects

    tests = ("tests.support.run_ulora", "tests.faults.scenarios")
    found = (one.name for one in pkgutil.walk_packages(registry.__path__, "registry."))
    modules = {name for name in found if not name.startswith(_NOT_LOADED)}
    for name in sorted({*modules, "mlflow.pyfunc", "adapters.model", *tests}):
        importlib.import_module(name)
    session = boto3.session.Session()
    session.client("s3")  # its models are read once, here; nothing is connected
    client.boto3.session.Session = lambda **_: session
    # Pauses between tries, and how long is waited for a store that stays away, made short.
    standard.ExponentialBackoff._DEFAULT_BACKOFF_CONFIG["throttling_base_scale"] = 0.05
    objects.ObjectStore.__init__.__kwdefaults__["deadline"] = 4.0
    os.environ["MLFLOW_HTTP_REQUEST_BACKOFF_JITTER"] = "0"
    gc_marks.LEASE, prune.LEASE_MARGIN = timedelta(seconds=3), timedelta(seconds=1)


def _in_child(job: dict[str, Any], answers: TextIO) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        with os.fdopen(write, "w") as out:
            _say(out, job)
        os._exit(0)
    os.close(write)
    print(json.dumps({"pid": child}), file=answers, flush=True)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    ended = {"said": json.loads(said) if said else None, "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0}
    print(json.dumps(ended), file=answers, flush=True)


# --- in a child ------------------------------------------------------------------------------------------------------


def _say(out: TextIO, job: dict[str, Any]) -> None:
    """Do a job and write what came of it. A signal to interrupt may come at any time, also while this is written."""
    try:
        try:
            said = _do(job)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        said = {"code": 130, "error": "Interrupted"}
    except BaseException as error:
        said = {"code": None, "error": repr(error)}
    out.write(json.dumps(said))


def _do(job: dict[str, Any]) -> dict[str, Any]:
    os.environ.update(job["env"])
    os.chdir(job["folder"])
    if job.get("hasty"):
        _hurry()
    changes = _Changes(job) if "watch" in job else None
    raising = _raise_at(job["raise"]) if "raise" in job else None
    if job.get("act"):
        module, _, name = job["act"].partition(":")
        getattr(importlib.import_module(module), name)(*job.get("arguments", ()))
        return {"code": 0}
    from tests.support.run_ulora import ulora

    done = ulora(*job["words"])
    said: dict[str, Any] = {"code": done.code, "out": done.out, "err": done.err[-2000:]}
    if changes:
        said |= {"changes": changes.seen, "raised": changes.has_raised}
    if raising:
        said["raised"] = raising.has_raised
    return said


def _hurry() -> None:
    """Time-outs of fractions of a second, for servers that never answer."""
    from botocore.config import Config

    from registry.catalog import client as catalog_client
    from registry.catalog import connection
    from registry.store import client as store_client

    def hasty(**options: Any) -> Config:
        if "read_timeout" in options:
            options["read_timeout"] = 0.5
        return Config(**options)

    store_client.Config = hasty
    short = connection.Limits(timeout=1, retries=0, turn=60)
    catalog_client.PING = catalog_client.HASTY = short
    catalog_client.Catalog.__init__.__defaults__ = (*catalog_client.Catalog.__init__.__defaults__[:-1], short)


class _Countdown:
    """Raises when the wanted call comes by."""

    def __init__(self, planned: dict[str, Any]) -> None:
        self._name, self._left, self._lock = planned["name"], planned["n"], threading.Lock()
        self.has_raised = False

    def __call__(self, name: str) -> None:
        with self._lock:
            self._left -= name == self._name
            if name == self._name and self._left == 0:
                self.has_raised = True
                raise Injected(name)


def _raise_at(planned: dict[str, Any]) -> _Countdown:
    """Raise in this process at a call: before it is sent, or after its reply has come."""
    countdown, before = _Countdown(planned), planned["moment"] == "before"
    if planned["server"] == "s3":
        _raise_at_s3(countdown, before)
    else:
        _raise_at_mlflow(countdown, before)
    return countdown


def _raise_at_s3(countdown: Callable[[str], None], before: bool) -> None:
    from registry.store import client

    current = threading.local()

    def begin(params: Mapping[str, Any], **_: Any) -> None:
        parts = urlsplit(params["url"])
        current.name = s3_name(params["method"], parts._replace(scheme="", netloc="").geturl())
        if before:
            countdown(current.name)

    def end(**_: Any) -> None:
        if not before:
            countdown(current.name)

    events = client.boto3.session.Session().events
    events.register_first("before-call.s3", begin)
    events.register_first("after-call.s3", end)


def _raise_at_mlflow(countdown: Callable[[str], None], before: bool) -> None:
    import requests

    send = requests.Session.send

    def counted(self: Any, request: Any, **options: Any) -> Any:
        name = mlflow_name(request.method, request.path_url)
        if before:
            countdown(name)
        reply = send(self, request, **options)
        if not before:
            countdown(name)
        return reply

    requests.Session.send = counted  # type: ignore[method-assign]


class _Changes:
    """Counts every change of a file below a folder, and stops or fails the process at one of them."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.seen: list[str] = []
        self.has_raised = False
        self._folder = job["watch"]
        self._planned: dict[str, Any] = job.get("disk") or {}
        self._counts: Counter[str] = Counter()
        self._lock = threading.RLock()
        sys.addaudithook(self._look)

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        path = descriptor = None
        if event in _CHANGES:
            which, relative_to = _CHANGES[event]
            path, descriptor = arguments[which], arguments[relative_to] if relative_to >= 0 else None
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES:
            path = arguments[0]
        if isinstance(path, str | bytes | os.PathLike) and self._is_below(os.fsdecode(path), descriptor):
            self._note(event)

    def _is_below(self, path: str, descriptor: int | None) -> bool:
        """Whether a path is below the folder; what a file that is opened is relative to is not told: assume so."""
        if not Path(path).is_absolute() and descriptor is None:
            return True
        return (_folder_of(descriptor) / path).is_relative_to(self._folder)

    def _note(self, event: str) -> None:
        with self._lock:
            self.seen.append(event)
            self._counts[event] += 1
            if (self._planned.get("name"), self._planned.get("n")) == (event, self._counts[event]):
                if self._planned["moment"] == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                self.has_raised = True
                raise OSError(errno.ENOSPC, "no space left: injected")


def _folder_of(descriptor: int | None) -> Path:
    with suppress(OSError):
        if descriptor is not None and descriptor >= 0:
            return Path(f"/proc/self/fd/{descriptor}").readlink()
    return Path.cwd()
