"""The one place that starts other programs: git, the Python of this installation, the servers of `devstack`, and hooks.

What a program reads may come from anybody, so nothing that it reads may decide what is run. Python runs modules of this
installation only; git gets a short list of commands and a configuration that nobody else wrote, see
`registry.machine.repository`; servers are started by `registry/devstack/` alone, on data that they made. A hook
is the command line that the user of `ulora follow` gave; what the store says reaches it by variables only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from registry.errors import BadInput, UloraError

Process = subprocess.Popen
StillRuns = subprocess.TimeoutExpired
"""What waiting for a process raises when its time is over."""
PIPE, DEVNULL = subprocess.PIPE, subprocess.DEVNULL

STARTED = ("sh", "weed")
"""What `start` may run besides the Python of this installation."""
GIT_COMMANDS = ("cat-file", "check-ref-format", "ls-tree", "rev-parse", "tag", "var")
"""What git is asked to do. None of them looks at files outside of the repository's own folder, or at attributes."""
MAX_ANSWER = 64 * 1024 * 1024
"""Bytes of the longest answer of a program that is read: git's list of about half a million files."""
MAX_SAID = 64 * 1024
"""Bytes of the longest answer in words, such as a commit or a name, and of the longest complaint that is kept."""
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "SYSTEMROOT", "LD_LIBRARY_PATH")
"""The variables that a program gets from this process's environment."""
_FOLDERS = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH")
"""Those that list folders in which programs, their libraries, or Python's modules are."""
_GIT = {
    "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_PAGER": "cat", "GIT_EDITOR": "false", "GIT_ALLOW_PROTOCOL": "none", "GIT_ALLOC_LIMIT": "1g",
}  # fmt: skip
_GIT_SETTINGS = ("core.fsmonitor=false", f"core.hooksPath={os.devnull}", "tag.gpgSign=false")
"""Said on the command line too, where no file can say otherwise."""


@dataclass(frozen=True)
class GitAnswer:
    """What git, or a module of ours, answered: its exit status, and what it printed."""

    code: int
    out: bytes
    err: str


@dataclass(frozen=True)
class HookAnswer:
    """How a hook ended: its exit status, None if it was ended, and the last of what it printed."""

    code: int | None
    said: str


_HOOK_LOOK = 0.05
"""Seconds between two looks at a running hook."""
_HOOK_GRACE = 2.0
"""Seconds that a hook gets to end after SIGTERM."""
_HOOK_READ, _HOOK_READS = 64 * 1024, 64
"""Bytes that one look reads at a time, and how often: a hook that never stops to print must not hold up the look."""
_HOOK_OUTPUT = 4096
"""Bytes of its output that are kept: the last ones."""
_WATCHDOG = Path(__file__).with_name("watchdog.py")
_watchdogs: dict[int, subprocess.Popen[bytes]] = {}
"""By the process that each watches: a fork has none."""


def ask_module(module: str, question: bytes, *, seconds: float) -> bytes:
    """Run a Python module of this installation in a process of its own; returns what it prints.

    It is for work that could hang or hold the interpreter's lock for ever: the process is killed at the deadline.

    Args:
        module: its dotted name; it reads `question` from standard input and answers on standard output.
        seconds: after which it is killed.

    Raises:
        TimeoutError: it did not answer in time.
        UloraError: it failed; the message is the last line that it printed on standard error. Or its answer is longer
            than MAX_ANSWER.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", module], stdin=PIPE, stdout=PIPE, stderr=PIPE, env=_clean_environment()
    )
    done = _asked(process, question, module, seconds, MAX_ANSWER)
    if done.code != 0:
        lines = done.err.strip().splitlines() or ["it printed nothing"]
        raise UloraError(f"{module} failed: {lines[-1][:300]}")
    return done.out


def ask_git(
    words: Sequence[str], *, cwd: Path, seconds: float, env: Mapping[str, str], at_most: int = MAX_SAID,
    question: bytes = b"",
) -> GitAnswer:  # fmt: skip
    """Run a git command.

    Args:
        words: one of `GIT_COMMANDS`, and its arguments.
        cwd: where it runs.
        seconds: after which it is killed.
        env: variables besides those that every program gets.
        at_most: bytes of the longest answer that is read.
        question: what it reads from standard input.

    Raises:
        BadInput: git is not installed.
        TimeoutError: it did not answer in time.
        UloraError: its answer is longer than `at_most`.
    """
    if words[0] not in GIT_COMMANDS:
        raise ValueError(f"git {words[0]} is not on the list of what may be run")
    settings = [word for setting in _GIT_SETTINGS for word in ("-c", setting)]
    try:
        process = subprocess.Popen(
            ["git", "-C", str(cwd.absolute()), "--no-pager", *settings, *words],  # git itself starts elsewhere
            stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd="/", env={**_clean_environment(), **_GIT, **env},
        )  # fmt: skip
    except FileNotFoundError as error:
        raise BadInput("git is not installed", hint="install git") from error
    return _asked(process, question, f"git {words[0]}", seconds, at_most)


def _asked(process: Process[bytes], question: bytes, name: str, seconds: float, at_most: int) -> GitAnswer:
    """What a program answers to what it is asked; see `_answer`."""
    pipe, process.stdin = process.stdin, None  # closed by the thread alone
    asking = threading.Thread(target=_ask, args=(pipe, question), daemon=True)
    asking.start()
    try:
        return _answer(process, name, seconds, at_most)
    finally:
        asking.join()


def _ask(pipe: IO[bytes], question: bytes) -> None:
    """Write a question, as far as it is read. In a thread of its own: the answer may begin before its end."""
    with suppress(BrokenPipeError), pipe:
        pipe.write(question)


def _answer(process: Process[bytes], name: str, seconds: float, at_most: int) -> GitAnswer:
    """What a program answers, at most so many bytes, within so many seconds. It has ended afterwards."""
    with process:
        assert process.stdout is not None and process.stderr is not None  # noqa: S101, PT018  pipes were asked for
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            out = process.stdout.read(at_most + 1)
            if len(out) > at_most:
                raise UloraError(f"{name} answered with more than {at_most} bytes")
            err = process.stderr.read(MAX_SAID).decode("utf-8", "replace")
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()
    if code == -signal.SIGKILL:
        raise TimeoutError(f"{name} did not finish within {seconds:g} s")
    return GitAnswer(code, out, err)


def start(command: Sequence[str], **options: Any) -> Process[Any]:
    """Start a server, its watchdog, or a module of this installation.

    Args:
        command: the program and its arguments. Python gets one more, so that it imports nothing from the folder that it
            runs in.
        options: those of `subprocess.Popen`.

    Raises:
        OSError: the program can't be run.
    """
    if command[0] != sys.executable and Path(command[0]).name not in STARTED:
        raise ValueError(f"{command[0]} is not on the list of what may be run")
    is_python = command[0] == sys.executable
    return subprocess.Popen([sys.executable, "-P", *command[1:]] if is_python else command, **options)


def run_hook(command: str, *, seconds: float, env: Mapping[str, str], stopped: Callable[[], bool]) -> HookAnswer:
    """Run a command line that the user of this process gave, by `sh`, as a process group of its own.

    It gets this process's environment. The group is ended if it takes too long, if `stopped` becomes true, or if this
    call is interrupted; what the command left running in the background after its end is left alone.

    Args:
        seconds: after which it is ended.
        env: variables besides those of this process. Values go there and never into the command line.

    Raises:
        OSError: there is no `sh`.
    """
    process = subprocess.Popen(
        ["sh", "-c", command], stdin=DEVNULL, stdout=PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env={**_absolute(os.environ), **env},
    )  # fmt: skip
    return _watch(process, seconds, stopped)


def run_module(module: str, words: Sequence[str], *, seconds: float, env: Mapping[str, str]) -> HookAnswer:
    """Run a Python module of this installation as a process group of its own.

    The group is ended if it takes too long, or if this call is interrupted.

    Args:
        module: its dotted name; `words` are its arguments.
        seconds: after which it is ended.
        env: all of its variables.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", module, *words], stdin=DEVNULL, stdout=PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, env=_absolute(env),
    )  # fmt: skip
    return _watch(process, seconds, lambda: False)


def _watch(process: Process[bytes], seconds: float, stopped: Callable[[], bool]) -> HookAnswer:
    """How a process group ends, and the last of what it says; it is ended where it has to be."""
    assert process.stdout is not None  # noqa: S101  a pipe was asked for
    deadline, said = time.monotonic() + seconds, b""
    with process.stdout as output:
        os.set_blocking(output.fileno(), False)
        try:
            while process.poll() is None and time.monotonic() < deadline and not stopped():
                with suppress(StillRuns):
                    process.wait(_HOOK_LOOK)
                said = _last(said, output.fileno())
            said = _last(said, output.fileno())
            code = process.poll()
        finally:
            _end_group(process)
    return HookAnswer(code, said.decode("utf-8", "replace").strip())


def start_watchdog(seconds: float) -> None:
    """Let SIGTERM and SIGINT end this process within so many seconds, even if C code holds the interpreter's lock.

    A small program beside this process hears of each handled signal from C code, by Python's wakeup file descriptor,
    and kills this process (SIGKILL) if it still runs after that time. It ends with this process. Outside the main
    thread, which handles signals, nothing is started. As the first process of a container, which nothing inside can
    kill, this process is killed by the container's runtime instead.

    Args:
        seconds: those of the first call in this process count.
    """
    if threading.current_thread() is threading.main_thread() and os.getpid() not in _watchdogs:
        reads, writes = os.pipe()
        os.set_blocking(writes, False)
        try:
            _watchdogs[os.getpid()] = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_WATCHDOG), str(os.getpid()), str(seconds)],
                stdin=reads, stdout=subprocess.DEVNULL, start_new_session=True, env=_clean_environment(),
            )  # fmt: skip
        finally:
            os.close(reads)
        signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
        # The signals of a fork are its own.
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


def drop_relative_search_paths() -> None:
    """Let no library start or load a program's parts from the folder that this process runs in.

    An entry of PATH and the like that is empty or relative stands for whatever folder that is. Libraries ask programs
    such as `uname`.
    """
    os.environ.update(_absolute(os.environ))


def _last(said: bytes, descriptor: int) -> bytes:
    """The last of what was said before and of what can be read now, without waiting."""
    with suppress(BlockingIOError):
        for _ in range(_HOOK_READS):
            chunk = os.read(descriptor, _HOOK_READ)
            if not chunk:
                break
            said = (said + chunk)[-_HOOK_OUTPUT:]
    return said


def _end_group(process: Process[Any]) -> None:
    """End a process that still runs, with all that it started: that may go on when the process itself has ended. A call
    that is interrupted ends them at once."""
    if process.poll() is not None:
        return
    try:
        _end_in_turn(process)
    except BaseException:
        _signalled(process.pid, signal.SIGKILL)
        raise


def _end_in_turn(process: Process[Any]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        ends = time.monotonic() + _HOOK_GRACE
        is_there = _signalled(process.pid, number)
        while is_there and time.monotonic() < ends:
            with suppress(StillRuns):
                process.wait(_HOOK_LOOK)
            if is_there := _signalled(process.pid, 0):
                time.sleep(_HOOK_LOOK)
        if not is_there:
            return


def _signalled(group: int, number: int) -> bool:
    """Send a signal to a process group; whether there is one."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _clean_environment() -> dict[str, str]:
    return _absolute({name: value for name in _KEPT if (value := os.environ.get(name)) is not None})


def _absolute(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables, with only the absolute entries of those that list folders."""
    lists = {name: variables[name].split(os.pathsep) for name in _FOLDERS if name in variables}
    kept = {name: os.pathsep.join(filter(os.path.isabs, entries)) for name, entries in lists.items()}
    # Where PATH is empty, programs are searched for in the current folder.
    return {**variables, **kept, "PATH": kept.get("PATH") or os.defpath}
