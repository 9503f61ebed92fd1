"""What a replica says of its weights in memory, and how that compares with a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from registry.serving.loaders import Loaded
from registry.serving.proof import MAX_COMPONENTS, Proof, Released, digest_of, prove, prove_again
from registry.versions.manifest import Component, Manifest
from registry.versions.pointer import Pointer
from tests.support.echo_releases import Echo

LOW, MID, ROUTER, OTHER = ("1" * 64, "2" * 64, "3" * 64, "4" * 64)
WEIGHTS = {"adapters/low": LOW, "adapters/mid": MID, "router": ROUTER}
POINTER = Pointer(version="v1.0.0", manifest_sha256="a" * 64)


@dataclass(frozen=True)
class Telling(Echo):
    """A version whose weights can be changed while it is in memory."""

    told: Any = field(default_factory=lambda: dict(WEIGHTS))
    golden_sha256: str = ""

    def weights_sha256(self) -> Mapping[str, str]:
        if isinstance(self.told, Exception):
            raise self.told
        return self.told  # type: ignore[no-any-return]


def telling(told: Any = None, golden_sha256: str = "") -> Loaded:
    return Telling(  # type: ignore[return-value]
        "v1.0.0", "", b"", told=dict(WEIGHTS) if told is None else told, golden_sha256=golden_sha256
    )


def released(weights: Mapping[str, str | None]) -> Released:
    components = {name: Component(weights_sha256=digest) for name, digest in weights.items()}
    manifest = Manifest.make(
        model="tomato", version="v1.0.0", flavor="echo", backbone=None, files=[], components=components, timestamp=""
    )
    return Released.of(POINTER, manifest)


def test_a_proof_names_the_manifest_and_each_component() -> None:
    proof = prove(POINTER, telling(golden_sha256="5" * 64))
    assert (proof.manifest_sha256, proof.weights, proof.golden_sha256) == ("a" * 64, WEIGHTS, "5" * 64)
    assert (proof.weights_sha256, proof.problem) == (digest_of(WEIGHTS), "")
    assert proof.when


def test_a_flavor_that_does_not_tell_is_no_problem() -> None:
    proof = prove(POINTER, Echo("v1.0.0", "", b""))  # type: ignore[arg-type]
    assert (proof.manifest_sha256, proof.weights, proof.weights_sha256) == ("a" * 64, {}, "")
    assert proof.problem == ""


def test_what_was_released_is_what_was_loaded() -> None:
    proof = prove(POINTER, telling())
    assert released(WEIGHTS).compare(proof.manifest_sha256, proof.weights_sha256) == "ok"


@pytest.mark.parametrize("beside", ["config", "project", "backbone", "routers", "adapters"])
def test_only_components_that_answer_count(beside: str) -> None:
    with_others = {**WEIGHTS, beside: OTHER}
    assert released(with_others) == released({**WEIGHTS, "adapters/plain": None}) == released(WEIGHTS)
    assert prove(POINTER, telling(with_others)).weights == WEIGHTS


@pytest.mark.parametrize(
    ("manifest", "weights", "expected"),
    [
        ("a" * 64, digest_of({**WEIGHTS, "router": OTHER}), "differs"),
        ("a" * 64, digest_of({"router": ROUTER}), "differs"),
        ("b" * 64, digest_of(WEIGHTS), "differs"),
        ("b" * 64, "", "differs"),
        ("a" * 64, "", "not told"),
        ("", "", "not told"),
        ("", digest_of(WEIGHTS), "not told"),
    ],
)
def test_what_a_replica_says_is_compared(manifest: str, weights: str, expected: str) -> None:
    assert released(WEIGHTS).compare(manifest, weights) == expected


def test_a_version_without_weights_is_proved_by_its_manifest() -> None:
    assert released({"config": None}).compare("a" * 64, "") == "ok"
    assert released({"config": None}).compare("a" * 64, digest_of(WEIGHTS)) == "differs"


@pytest.mark.parametrize(
    ("told", "golden", "said"),
    [
        (RuntimeError("no such tensor"), "", "no such tensor"),
        (["adapters/low"], "", "no mapping"),
        ({f"adapters/a{number}": LOW for number in range(MAX_COMPONENTS + 1)}, "", "no mapping"),
        ({"adapters/low": "1"}, "", "no sha256 for adapters/low"),
        ({"adapters/low": None}, "", "no sha256"),
        ({7: LOW}, "", "no sha256 for 7"),
        (None, "yes", "golden fingerprint"),
        (None, 7, "v1.0.0: no digests"),
    ],
)
def test_nonsense_of_a_flavor_is_a_problem_and_no_error(told: Any, golden: Any, said: str) -> None:
    proof = prove(POINTER, telling(told, golden))
    assert said in proof.problem
    assert (proof.weights, proof.weights_sha256, proof.golden_sha256) == ({}, "", "")


def test_weights_that_changed_in_memory_are_named() -> None:
    version: Any = telling()
    first = prove(POINTER, version)
    assert prove_again(POINTER, version, first).problem == ""
    version.told["adapters/mid"] = OTHER
    changed = prove_again(POINTER, version, first)
    assert changed.problem == "v1.0.0: the weights of adapters/mid changed in memory since it was loaded"
    assert changed.weights == {**WEIGHTS, "adapters/mid": OTHER}


def test_many_changed_weights_are_counted() -> None:
    first = Proof("a" * 64, {f"adapters/a{number}": LOW for number in range(9)})
    problem = prove_again(POINTER, telling(dict.fromkeys(first.weights, OTHER)), first).problem
    assert "adapters/a0, adapters/a1, adapters/a2 and 6 more changed" in problem
