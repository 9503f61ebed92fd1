"""What `verify` found: frozen dataclasses, which the command line prints as text or JSON.

What the store refuses to give, e.g. an object under its writer's own key, is not called bad: it may be whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from registry.formats.html import HtmlTable
from registry.store.refusals import MAY_NOT


@dataclass(frozen=True)
class BadFile:
    """A file of a version whose blob is `missing`, `corrupt`, or `unproven`: the store keeps no digest of it, as after
    it was copied by other tools. `path` may also be `version.json`, `binding` or `signature`, with what is wrong.
    `unusable` is true where the bytes are right, but loading refuses what they say; `refused` where the store does not
    let them be read."""

    path: str
    sha256: str
    problem: str
    unusable: bool = False
    refused: bool = False

    @classmethod
    def unread(cls, path: str, why: object = "", sha256: str = "") -> BadFile:
        """A file that the store refuses to give; `why` says more."""
        return cls(path, sha256, f"{MAY_NOT}: {why}" if why else MAY_NOT, refused=True)


@dataclass(frozen=True)
class Verification(HtmlTable):
    """What `verify` found of one version.

    Attributes:
        read: whether all bytes were read, instead of asking for checksums; `bytes_read` how many in this call.
        bad: what is bad, and what may not be read.
        note: what else the caller should know, e.g. that it was forgotten.
    """

    version: str
    files: int
    size: int
    read: bool
    bad: tuple[BadFile, ...]
    bytes_read: int = 0
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether every file is there, has the right digest, and is not known to be refused at loading."""
        return not self.bad

    @property
    def is_unread(self) -> bool:
        """Whether nothing is known to be bad, but something may not be read."""
        return not self.ok and all(bad.refused for bad in self.bad)


@dataclass(frozen=True)
class Mended:
    """A bad blob, and whether it was repaired.

    Attributes:
        problem: confirmed by reading: `missing`, `corrupt`, `unproven`; empty if it is good; or that it may not be
            read.
        source: the file that it is replaced from; empty if no copy was found.
        done: whether it is good now.
    """

    version: str
    path: str
    sha256: str
    problem: str
    source: str
    done: bool


@dataclass(frozen=True)
class Documents:
    """How many documents were compared with their keys, what is wrong with the bad ones, and why others may not be
    read, by key."""

    checked: int
    bad: Mapping[str, str]
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ChainCheck:
    """A channel's log: how many records its chain has, None where it is broken or has a gap; the problem; and the
    records that may not be read, over which the chain can't be checked."""

    channel: str
    records: int | None
    problem: str = ""
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class GarbageCheck:
    """Why garbage collection can't tell what is needed: what is wrong, and what may not be read. Empty where it can."""

    problems: tuple[str, ...]
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerificationReport(HtmlTable):
    """What `verify_all` found.

    Attributes:
        chains, documents, backbones, garbage: only where everything was verified; else empty or None.
        mended: bad blobs, and what became of them.
        seed: of the sample, where a share of the bytes was read.
    """

    versions: tuple[Verification, ...]
    chains: tuple[ChainCheck, ...] = ()
    documents: Documents | None = None
    backbones: tuple[Verification, ...] = ()
    garbage: GarbageCheck | None = None
    mended: tuple[Mended, ...] = ()
    seed: int | None = None

    @property
    def bad_files(self) -> list[tuple[str, BadFile]]:
        """The bad files of versions and backbones, each with the name of what it belongs to."""
        return [(name, bad) for name, bad in self._found() if not bad.refused]

    @property
    def problems(self) -> list[str]:
        """Everything that is bad, in words; empty when all that may be read is well."""
        found = [f"{version} {bad.path} ({bad.problem})" for version, bad in self.bad_files]
        found += [f"{chain.channel} ({chain.problem})" for chain in self.chains if chain.problem]
        found += [f"{key} ({problem})" for key, problem in (self.documents.bad if self.documents else {}).items()]
        found += [f"garbage ({problem})" for problem in (self.garbage.problems if self.garbage else ())]
        return found

    @property
    def refused(self) -> list[str]:
        """Everything that may not be read."""
        found = [f"{version} {bad.path}" for version, bad in self._found() if bad.refused]
        found += [record for chain in self.chains for record in chain.refused]
        found += self.documents.refused if self.documents else ()
        return found + [f"garbage ({why})" for why in (self.garbage.refused if self.garbage else ())]

    def _found(self) -> Iterator[tuple[str, BadFile]]:
        return ((checked.version, bad) for checked in (*self.versions, *self.backbones) for bad in checked.bad)
