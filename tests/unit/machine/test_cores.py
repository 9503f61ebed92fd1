"""The cores of a process are those of its container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from registry.machine.cores import usable_cores, wait_without_spinning

MANY = range(64)


@pytest.fixture(autouse=True)
def a_large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(MANY), raising=False)


def machine(root: Path, groups: str, **files: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_max", ".max").replace("cfs", ".cfs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_container_with_a_quota_has_that_many_cores(tmp_path: Path) -> None:
    assert usable_cores(machine(tmp_path, "0::/\n", cpu_max="250000 100000\n")) == 2


def test_the_smallest_quota_above_counts(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/a/b\n", a__b__cpu_max="max 100000", a__cpu_max="300000 100000", cpu_max="max 1")
    assert usable_cores(root) == 3


def test_less_than_one_core_is_one(tmp_path: Path) -> None:
    assert usable_cores(machine(tmp_path, "0::/\n", cpu_max="50000 100000")) == 1


def test_the_quota_of_the_older_control_groups_counts(tmp_path: Path) -> None:
    files = {"cpu__cpucfs_quota_us": "400000\n", "cpu__cpucfs_period_us": "100000\n"}
    assert usable_cores(machine(tmp_path, "3:cpu,cpuacct:/docker/x\n1:memory:/y\n", **files)) == 4


@pytest.mark.parametrize("text", ["max 100000", "", "what", "-1 100000", "5 0"])
def test_without_a_quota_all_cores_are_used(tmp_path: Path, text: str) -> None:
    assert usable_cores(machine(tmp_path, "0::/\n::\nnothing\n", cpu_max=text)) == len(MANY)


def test_a_system_without_control_groups_has_its_cores(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == len(MANY)


def test_threads_wait_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    wait_without_spinning()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    wait_without_spinning()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
