"""What is known of the machine of a measurement."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.machine.hardware import Machine, this_machine


def test_the_processor_and_the_quota_are_read_from_the_system(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t:  Fast  CPU @ 2 GHz\nmodel name\t: other\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/a\n")
    (tmp_path / "sys/fs/cgroup/a").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/a/cpu.max").write_text("150000 100000\n")
    found = this_machine(threads=2, root=tmp_path)
    assert (found.cpu, found.quota, found.threads, found.accelerator) == ("Fast CPU @ 2 GHz", 1.5, 2, "")


@pytest.mark.parametrize("text", [b"", b"model name\t:\n", b"\xff\xfe"], ids=["empty", "no-name", "not-text"])
def test_an_unknown_processor_is_told_by_its_architecture(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_bytes(text)
    found = this_machine(root=tmp_path)
    assert (bool(found.cpu), found.quota) == (True, None)


def test_a_machine_is_told_in_a_line() -> None:
    machine = Machine(cpu="EPYC", cores=16, quota=8.0, load=1.25, threads=8, accelerator="NVIDIA H200")
    assert str(machine) == "NVIDIA H200, EPYC, 16 cores, quota 8, 8 threads, load 1.25"
    assert str(Machine(cpu="EPYC", cores=2, load=0.0)) == "EPYC, 2 cores, load 0"
