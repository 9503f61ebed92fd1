"""What a verdict names, read again from the store: each document is checked against its digest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from registry.channels.record import Record
from registry.errors import CorruptBlob, NotFound, ObjectNotFound
from registry.evidence import kept_policy
from registry.evidence.approvals import Approval
from registry.evidence.basis import Basis, NotedOutcomes
from registry.evidence.candidate import Candidate
from registry.evidence.gates import GateInputs, Past
from registry.evidence.outcomes import ImageOutcome, unpacked
from registry.evidence.policy import Policy
from registry.evidence.results import Evidence, ReadOutcomes
from registry.evidence.verdict import Verdict
from registry.evidence.verdict_inputs import RecordName, VerdictInputs
from registry.formats import canonical
from registry.parallel import in_parallel
from registry.store import layout
from registry.usecases.judge import stable_pointer, unreadable
from registry.versions.manifest import Manifest
from registry.versions.pointer import Pointer
from registry.wiring import Wiring

_SHOWN = 10


@dataclass
class NamedInputs:
    """The documents that a verdict names.

    Attributes:
        found: their bytes by key, as far as they were read.
    """

    wiring: Wiring
    kept: Verdict
    names: VerdictInputs
    found: dict[str, bytes] = field(default_factory=dict)

    def basis(self) -> Basis:
        """What the verdict was made from.

        Raises:
            NotFound: some of it is gone; the message names it.
            IntegrityError: some of it does not hash to its name, or does not follow its format.
        """
        kept, names = self.kept, self.names
        self._load(self._first())
        policy, head = self._policy(), self._record(kept.channel, names.head)
        candidate = Candidate.of(self._manifest(Pointer(version=kept.version, manifest_sha256=names.manifest)))
        stable = stable_pointer(policy, kept.channel, candidate, head)
        self._load(self._second(policy, stable))
        evidence = self._evidence(kept.version, names.evidence)
        theirs = self._evidence(stable.version, names.stable_evidence) if stable else []
        outcomes = NotedOutcomes(self._outcomes([*evidence, *theirs]), [*evidence, *theirs])
        inputs = GateInputs(
            kept.channel,
            candidate,
            evidence,
            past=self._past(policy),
            withdrawn=head is not None and kept.version in head.withdrawn,
            stable=self._stable(stable, candidate),
            stable_evidence=theirs,
            approvals=self._approvals(),
            unread=names.unread,
            outcomes=outcomes,
        )
        return Basis(policy, inputs, outcomes, names, kept.timestamp, kept.who, kept.forced)

    # --- which documents ---------------------------------------------------------------------------------------------

    def _first(self) -> dict[str, str]:
        """The digests, by key, of what tells what else is needed."""
        kept, names = self.kept, self.names
        wanted = {layout.policy(self._model, kept.policy): kept.policy, layout.blob(names.manifest): names.manifest}
        return wanted | self._key_of(kept.channel, names.head)

    def _second(self, policy: Policy, stable: Pointer | None) -> dict[str, str]:
        """The digests, by key, of the rest but outcomes."""
        kept, names, required = self.kept, self.names, policy.required_channel(self.kept.channel)
        wanted = {layout.evidence(self._model, kept.version, digest): digest for digest in names.evidence}
        wanted |= {layout.approval(self._model, kept.version, digest): digest for digest in names.approvals}
        if required:
            wanted |= self._key_of(required, names.past) | self._key_of(required, names.past_head)
        if stable:
            theirs = {layout.evidence(self._model, stable.version, digest): digest for digest in names.stable_evidence}
            wanted |= theirs
            if names.stable_manifest:
                wanted[layout.blob(stable.manifest_sha256)] = stable.manifest_sha256
        return wanted

    def _key_of(self, channel: str, name: RecordName | None) -> dict[str, str]:
        return {layout.record(self._model, channel, name.generation): name.sha256} if name else {}

    def _load(self, wanted: Mapping[str, str]) -> None:
        """Read documents, given their digests by key.

        Raises:
            NotFound: some are gone.
            CorruptBlob: one does not hash to its name.
        """
        keys = list(wanted)
        read = zip(keys, in_parallel(self._read, keys), strict=True)
        found = {key: body for key, body in read if body is not None}
        gone = [key for key in keys if key not in found]
        if gone:
            more = f" and {len(gone) - _SHOWN} more" if len(gone) > _SHOWN else ""
            raise NotFound(
                f"verdict {self.kept.sha256[:12]} can't be computed again, as some of what it names is gone: "
                + ", ".join(gone[:_SHOWN])
                + more,
                hint="bring it back from the bucket's own versions, or a copy of it",
            )
        for key, body in found.items():
            if canonical.sha256(body) != wanted[key]:
                raise CorruptBlob(
                    f"{key} hashes to {canonical.sha256(body)[:12]}, and verdict {self.kept.sha256[:12]} names "
                    f"{wanted[key][:12]}",
                    hint="`ulora verify --all` says what is damaged",
                )
        self.found |= found

    def _read(self, key: str) -> bytes | None:
        try:
            return self.wiring.store.get(key).body
        except ObjectNotFound:
            return None

    # --- what they say -----------------------------------------------------------------------------------------------

    @property
    def _model(self) -> str:
        return self.wiring.model

    def _policy(self) -> Policy:
        key = layout.policy(self._model, self.kept.policy)
        return kept_policy.read(self.found[key], key)

    def _record(self, channel: str, name: RecordName | None) -> Record | None:
        if name is None:
            return None
        key = layout.record(self._model, channel, name.generation)
        return Record.parse(self.found[key], key)

    def _manifest(self, pointer: Pointer) -> Manifest:
        key = layout.blob(pointer.manifest_sha256)
        return Manifest.parse(self.found[key], f"the manifest of {pointer.version}")

    def _stable(self, pointer: Pointer | None, candidate: Candidate) -> Candidate | None:
        if pointer is None:
            return None
        return Candidate.of(self._manifest(pointer)) if self.names.stable_manifest else unreadable(pointer, candidate)

    def _past(self, policy: Policy) -> Past | None:
        required, names = policy.required_channel(self.kept.channel), self.names
        if not required or names.past is None or names.past_head is None:
            return None
        made = self._record(required, names.past)
        head = self._record(required, names.past_head)
        if made is None or made.stable is None or head is None:
            return None
        self._load({layout.blob(made.stable.manifest_sha256): made.stable.manifest_sha256})
        return Past(
            required, self._manifest(made.stable).content_sha256, names.past.sha256,
            withdrawn=self.kept.version in head.withdrawn, generation=names.past.generation, head=names.past_head,
        )  # fmt: skip

    def _evidence(self, version: str, digests: Iterable[str]) -> list[Evidence]:
        keys = [layout.evidence(self._model, version, digest) for digest in digests]
        return [Evidence.parse(self.found[key], key) for key in keys]

    def _approvals(self) -> list[Approval]:
        keys = [layout.approval(self._model, self.kept.version, digest) for digest in self.names.approvals]
        return [Approval.parse(self.found[key], key) for key in keys]

    def _outcomes(self, evidence: Iterable[Evidence]) -> ReadOutcomes:
        """Gives what was answered for each image, where the verdict names that.

        Two versions that answered the same have a copy each under the same digest, of which one will do.
        """
        copies: dict[str, list[str]] = {}
        for version, digest in dict.fromkeys((one.version, one.outcomes) for one in evidence):
            if digest and digest in self.names.outcomes:
                copies.setdefault(digest, []).append(layout.outcomes(self._model, version, digest))
        keys = {digest: self._first_whole(digest, these) for digest, these in copies.items()}
        self._load({key: digest for digest, key in keys.items()})

        def read(one: Evidence) -> Sequence[ImageOutcome]:
            key = keys.get(one.outcomes or "")
            return unpacked(self.found[key], key) if key else ()

        return read

    def _first_whole(self, digest: str, keys: Sequence[str]) -> str:
        """The first of some copies that is in the store as it was written; the first of all if none is."""
        if len(keys) == 1:
            return keys[0]
        return next((key for key in keys if canonical.sha256(self._read(key) or b"") == digest), keys[0])
