"""The names of what a verdict was made from, kept in it, so that it can be computed again from the store."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from registry.formats.document import DocumentPart, Sha256

MAX_NAMED = 10_000
"""So many measurements of a version, and approvals, are looked at, the newest: a verdict stays below its limit."""

MAX_UNREAD = 100
"""So many keys of evidence that could not be read are named."""

MEANING = 2
"""What rules mean in the verdicts of this release.

In verdicts of meaning 1, which do not say so, the newest ratio to stable counts alone, at the rule's own confidence,
`max_increase` and `max_decrease` compare times of two runs, and `end` is not rounded.
"""


Key = Annotated[str, Field(max_length=1024)]
"""A key in the store; S3 has none that is longer."""


class RecordName(DocumentPart):
    """A record of a channel's log."""

    generation: int = Field(ge=1)
    sha256: Sha256


class VerdictInputs(DocumentPart):
    """The digests of all that a verdict was made from, besides the policy, which the verdict names itself.

    Attributes:
        release: of ulora-registry that judged: another one may say the same in other words.
        meaning: what rules mean in it, see `MEANING`.
        manifest: of the version.
        head: the channel's newest record: what was stable, what had been withdrawn. None while the log was empty.
        past: the record that made the version stable in the required channel, None if none did.
        past_head: the newest record of that channel: whether the version was withdrawn there since.
        stable_manifest: of the version that relative rules compared with; None without one, or if it could not be read.
        evidence: what was measured of the version's content, newest first. `stable_evidence` is the same of stable.
        unread: keys of evidence of the version that could not be read, the first `MAX_UNREAD`; looked at only if the
            policy asks for a ratio.
        outcomes: the answers for each image that could be read, and were needed.
        approvals: of this content for this channel; looked at only if the policy asks for any.
    """

    release: str = Field(default="", max_length=100)
    meaning: int = Field(default=1, ge=1)
    manifest: Sha256
    head: RecordName | None = None
    past: RecordName | None = None
    past_head: RecordName | None = None
    stable_manifest: Sha256 | None = None
    evidence: tuple[Sha256, ...] = Field(default=(), max_length=MAX_NAMED)
    stable_evidence: tuple[Sha256, ...] = Field(default=(), max_length=MAX_NAMED)
    unread: tuple[Key, ...] = Field(default=(), max_length=MAX_UNREAD)
    outcomes: tuple[Sha256, ...] = Field(default=(), max_length=2 * MAX_NAMED)
    approvals: tuple[Sha256, ...] = Field(default=(), max_length=MAX_NAMED)
