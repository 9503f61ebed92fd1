"""The documents of a version that a copy carries: the outcomes of each image, evidence, and signatures.

Whoever may write to the source may put thousands there, each as large as one may be. So only keys and sizes are
kept; a document is read when its turn comes, checked by its own digest, and let go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from registry.errors import BadManifest, ObjectNotFound, StoreDenied
from registry.evidence.outcomes import MAX_STORED
from registry.evidence.results import Evidence
from registry.formats import canonical
from registry.formats.counts import counted
from registry.parallel import WORKERS, in_parallel
from registry.store import layout
from registry.store.object_info import ObjectInfo
from registry.store.refusals import Refusals
from registry.store.storage import ReadableStorage
from registry.trust.statement import MAX_SIGNATURE

MAX_DOCUMENTS = 10_000
"""Outcomes, results, and signatures of one version that are copied at most, of each."""
MAX_BYTES = 4 * 1024**3
"""Bytes of all of them together."""
_MAX_IN_MEMORY = 64 * 1024 * 1024
"""Bytes of those that are read at a time."""
_SHOWN = 20

Act = Callable[[str, bytes], object]
"""What is done with a document: its key and its bytes."""


@dataclass(frozen=True)
class DocumentKind:
    """Documents below one folder of the source, which are named by their own digests. `limit` is bytes of one.

    Attributes:
        found: keys and sizes; `left_out` says how many more there are, at least.
    """

    folder: str
    suffix: str
    limit: int
    found: tuple[ObjectInfo, ...] = ()
    left_out: int = 0

    def listed(self, source: ReadableStorage, at_most: int) -> DocumentKind:
        """The same with what the source has, so many bytes of it at most."""
        listed = list(islice(source.list(self.folder), MAX_DOCUMENTS + 1))
        found, left = [], at_most
        for info in listed[:MAX_DOCUMENTS]:
            left -= min(info.size, self.limit)  # a longer one is damaged, and not read
            if left < 0:
                break
            found.append(info)
        return replace(self, found=tuple(found), left_out=len(listed) - len(found))

    @property
    def size(self) -> int:
        """Bytes that are read at most."""
        return sum(min(info.size, self.limit) for info in self.found)

    def each(self, source: ReadableStorage, act: Act) -> list[str]:
        """Read each document, and act on those that are whole; return the keys of the others.

        Raises:
            StoreDenied: all are refused.
        """
        refusals = Refusals()

        def carry(info: ObjectInfo) -> bool:
            try:
                body = source.get(info.key, min(info.size, self.limit)).body
            except (ObjectNotFound, BadManifest, StoreDenied) as error:
                refusals.note(error)
                return False
            if info.key != f"{self.folder}{canonical.sha256(body)}{self.suffix}":
                return False
            act(info.key, body)
            return True

        whole = in_parallel(carry, self.found, min(WORKERS, _MAX_IN_MEMORY // self.limit))
        refusals.check(len(self.found))
        return [info.key for info, is_whole in zip(self.found, whole, strict=True) if not is_whole]


@dataclass(frozen=True)
class Carried:
    """What was done: how many results and signatures were whole, and notes for people."""

    evidence: int
    signatures: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class VersionDocuments:
    """The documents of one version in the source: listed, not read."""

    source: ReadableStorage
    outcomes: DocumentKind
    evidence: DocumentKind
    signatures: DocumentKind

    @classmethod
    def of(cls, source: ReadableStorage, model: str, version: str) -> VersionDocuments:
        """List them. Evidence and signatures first: outcomes are by far the largest."""
        left = MAX_BYTES
        kinds = []
        for kind in (
            DocumentKind(layout.evidence(model, version), ".json", Evidence.LIMIT),
            DocumentKind(layout.signature(model, version), ".json", MAX_SIGNATURE),
            DocumentKind(layout.outcomes(model, version), ".jsonl.gz", MAX_STORED),
        ):
            kinds.append(kind.listed(source, left))
            left -= kinds[-1].size
        evidence, signatures, outcomes = kinds
        return cls(source, outcomes, evidence, signatures)

    def each(self, act: Act, *, signed: bool) -> Carried:
        """Read them one after the other and act on each that is whole: outcomes, the evidence that names them, and
        signatures if `signed`."""
        kinds = (self.outcomes, self.evidence, *([self.signatures] if signed else []))
        bad = [kind.each(self.source, act) for kind in kinds]
        notes = _damaged([key for keys in bad for key in keys])
        signatures = len(self.signatures.found) - len(bad[2]) if signed else 0
        return Carried(len(self.evidence.found) - len(bad[1]), signatures, (*notes, *_left_out(kinds)))


def _damaged(keys: Sequence[str]) -> list[str]:
    notes = [f"{key} is damaged, it was not copied" for key in keys[:_SHOWN]]
    return [*notes, f"{len(keys) - _SHOWN} more are damaged, they were not copied"] if len(keys) > _SHOWN else notes


def _left_out(kinds: Sequence[DocumentKind]) -> list[str]:
    reason = f"{MAX_DOCUMENTS:,} documents of a kind and {MAX_BYTES:,} bytes are copied at most"
    return [
        f"{counted(kind.left_out, 'document')} or more below {kind.folder} not copied: {reason}"
        for kind in kinds
        if kind.left_out
    ]
