"""The proofs of the versions in memory: computed again and again, and gone with their version."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from registry.serving.proof import prove
from registry.serving.proofs import Proofs
from registry.versions.pointer import Pointer
from tests.support.echo_releases import wait_until

POINTER = Pointer(version="v1.0.0", manifest_sha256="a" * 64)


class Changing:
    """A version in memory; each look at its weights is counted, and may have to wait."""

    version, golden_sha256 = "v1.0.0", ""

    def __init__(self) -> None:
        self.digest = "1" * 64
        self.looks = 0
        self.gate = threading.Event()
        self.gate.set()

    def weights_sha256(self) -> Mapping[str, str]:
        self.looks += 1
        digest = self.digest
        assert self.gate.wait(300)
        return {"router": digest}


class Memory:
    """What is in memory, and how often there was news of it."""

    def __init__(self) -> None:
        self.versions: dict[str, Any] = {}
        self.news = 0
        self.proofs = Proofs(lambda: dict(self.versions), self.changed, every=0.01)

    def changed(self) -> None:
        self.news += 1

    def add(self, version: Changing) -> None:
        self.versions[POINTER.manifest_sha256] = version
        self.proofs.add(prove(POINTER, version))  # type: ignore[arg-type]

    def problem(self) -> str:
        proof = self.proofs.get(POINTER)
        return proof.problem if proof else "none"


@pytest.fixture
def memory() -> Iterator[Memory]:
    memory = Memory()
    memory.proofs.start()
    yield memory
    memory.proofs.close(60)


def test_a_change_is_told_once_and_so_is_its_end(memory: Memory) -> None:
    version = Changing()
    memory.add(version)
    wait_until(lambda: version.looks > 3)
    assert (memory.problem(), memory.news) == ("", 0)
    version.digest = "2" * 64
    wait_until(memory.problem)
    looks = version.looks
    wait_until(lambda: version.looks > looks + 3)
    assert memory.news == 1
    version.digest = "1" * 64
    wait_until(lambda: not memory.problem())


def test_what_left_memory_has_no_proof_however_late_it_comes(memory: Memory) -> None:
    version = Changing()
    memory.add(version)
    version.gate.clear()
    looks = version.looks
    wait_until(lambda: version.looks > looks)
    memory.versions.clear()
    memory.proofs.remove(POINTER.manifest_sha256)
    version.gate.set()
    looks = version.looks
    other = Changing()
    other.digest = "3" * 64
    memory.add(other)
    wait_until(lambda: other.looks > 3)
    assert (memory.problem(), version.looks) == ("", looks)
    memory.versions.clear()
    memory.proofs.remove(POINTER.manifest_sha256)
    assert memory.proofs.get(POINTER) is None


def test_the_end_waits_for_no_more_than_it_is_given(memory: Memory) -> None:
    version = Changing()
    memory.add(version)
    version.gate.clear()
    looks = version.looks
    wait_until(lambda: version.looks > looks)
    memory.proofs.close(0.01)
    assert [thread for thread in threading.enumerate() if thread.name == "ulora-proofs"]
    version.gate.set()
    memory.proofs.close(60)
    assert not [thread for thread in threading.enumerate() if thread.name == "ulora-proofs"]
