"""The cores that this process may use: how many, and how its threads wait for each other on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """The cores that the system and the quota of its container let this process keep busy, at least 1.

    A quota of 1.5 cores is 1: a second thread would wait.

    Args:
        root: where `proc` and `sys` are.
    """
    return max(1, int(min([allowed_cores(), *_quotas(root)])))


def allowed_cores() -> int:
    """The cores that the system lets this process run on, whatever its quota."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota(root: Path = Path("/")) -> float | None:
    """The smallest quota of the process's container and of those around it, in cores; None without one."""
    return min(_quotas(root), default=None)


def wait_without_spinning() -> None:
    """Let the threads of OpenMP sleep while they wait for each other, unless the environment says how they wait.

    By default they keep their cores busy. On cores that other work uses too, an operation then takes until the system
    has given every thread its turn, which is many times as long. To be called before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _quotas(root: Path) -> Iterator[float]:
    """The quotas of the process's control groups and of those above, in cores."""
    for controllers, path in _groups(root):
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        inner = top / path.strip("/")
        for folder in (inner, *inner.parents):
            if folder.is_relative_to(top):
                with suppress(OSError, ValueError, ZeroDivisionError):  # no file, or `max`: no quota here
                    yield _quota_of_version_1(folder) if controllers else _quota_of_version_2(folder)


def _groups(root: Path) -> Iterator[tuple[str, str]]:
    """(controllers, path) of the groups that may have a quota; version 2 of control groups names no controllers."""
    with suppress(OSError, UnicodeDecodeError):
        for line in (root / "proc/self/cgroup").read_text("utf-8").splitlines():
            _, controllers, path = (*line.split(":", 2), "", "")[:3]
            if not controllers or "cpu" in controllers.split(","):
                yield controllers, path


def _quota_of_version_1(folder: Path) -> float:
    quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text("ascii")) for name in ("quota", "period"))
    return _positive(quota / period)


def _quota_of_version_2(folder: Path) -> float:
    quota, period = (folder / "cpu.max").read_text("ascii").split()
    return _positive(int(quota) / int(period))


def _positive(cores: float) -> float:
    if cores <= 0:
        raise ValueError("no quota")
    return cores
