"""Proof of what a replica has in memory: digests of a version's weights, and what its manifest says they are.

The digests are those of the components that answer, `adapters/<target>` and `router`, as `registry.versions.weights`
defines them. `/health` has each; a heartbeat, which has to stay small, one digest over all of them, and their number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Self

from registry.errors import LoadFailed, first_line
from registry.formats import canonical
from registry.machine import clock
from registry.serving.loaders import Loaded, TellsWeights
from registry.versions.manifest import Manifest
from registry.versions.pointer import Pointer

ProofState = Literal["ok", "differs", "not told", "unknown"]
"""`not told`: the replica does not say what it has in memory. `unknown`: what it should be can't be read."""

MAX_COMPONENTS = 10_000
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class Proof:
    """What a version in memory was found to be.

    Attributes:
        manifest_sha256: of the manifest that it was loaded by.
        weights: component -> digest of its tensors in memory; empty if its flavor does not tell.
        weights_sha256: one digest over all of them; empty if there are none.
        golden_sha256: the fingerprint of the outputs that its self-test computed here; empty if there were none.
        when: when the digests were computed, UTC, ISO 8601.
        problem: what is wrong with them; empty if nothing is.
    """

    manifest_sha256: str
    weights: Mapping[str, str] = field(default_factory=dict)
    weights_sha256: str = ""
    golden_sha256: str = ""
    when: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Released:
    """What a replica has in memory if it serves what was released: the digests that a manifest names."""

    manifest_sha256: str
    weights_sha256: str

    @classmethod
    def of(cls, pointer: Pointer, manifest: Manifest) -> Self:
        """What a manifest says, which `pointer` names."""
        weights = {name: component.weights_sha256 for name, component in manifest.components.items()}
        digests = {name: digest for name, digest in weights.items() if digest and _answers(name)}
        return cls(pointer.manifest_sha256, digest_of(digests))

    def compare(self, manifest_sha256: str, weights_sha256: str) -> ProofState:
        """How it compares with what a replica says; both are empty where it says nothing."""
        if manifest_sha256 and manifest_sha256 != self.manifest_sha256:
            return "differs"
        if not manifest_sha256 or (self.weights_sha256 and not weights_sha256):
            return "not told"
        return "ok" if weights_sha256 == self.weights_sha256 else "differs"


def prove(pointer: Pointer, loaded: Loaded) -> Proof:
    """Compute the digests of a version in memory. Never raises: a version that can't tell them answers all the same."""
    blank = Proof(pointer.manifest_sha256, when=clock.timestamp())
    if not isinstance(loaded, TellsWeights):
        return blank
    try:
        weights = _checked(loaded.weights_sha256())
        golden = loaded.golden_sha256
        if golden and not _SHA256.fullmatch(golden):
            raise LoadFailed("its golden fingerprint is not a sha256")
    except Exception as error:  # of any kind: a flavor's own code
        return replace(blank, problem=f"{pointer.version}: no digests of its weights in memory: {first_line(error)}")
    return replace(blank, weights=weights, weights_sha256=digest_of(weights), golden_sha256=golden)


def prove_again(pointer: Pointer, loaded: Loaded, first: Proof) -> Proof:
    """Compute the digests once more; with a `problem` if they are not those of the first time."""
    now = prove(pointer, loaded)
    changed = sorted(name for name, digest in first.weights.items() if now.weights.get(name) != digest)
    if now.problem or not changed:
        return now
    return replace(now, problem=f"{pointer.version}: {_names(changed)} changed in memory since it was loaded")


def digest_of(weights: Mapping[str, str]) -> str:
    """One digest over those of components; empty if there are none."""
    return canonical.digest(dict(weights)) if weights else ""


def _answers(component: str) -> bool:
    return component == "router" or component.startswith("adapters/")


def _names(components: list[str]) -> str:
    more = f" and {len(components) - 3} more" if len(components) > 3 else ""
    return f"the weights of {', '.join(components[:3])}{more}"


def _checked(weights: object) -> dict[str, str]:
    """What a flavor says, without components that do not answer.

    Raises:
        LoadFailed: it is something else.
    """
    if not isinstance(weights, Mapping) or len(weights) > MAX_COMPONENTS:
        raise LoadFailed(f"its flavor gives no mapping of at most {MAX_COMPONENTS} components to digests")
    for name, digest in weights.items():
        if not (isinstance(name, str) and isinstance(digest, str) and _SHA256.fullmatch(digest)):
            raise LoadFailed(f"its flavor gives no sha256 for {str(name)[:80]}")
    return {name: digest for name, digest in sorted(weights.items()) if _answers(name)}
