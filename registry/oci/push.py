"""Send a version to an OCI registry.

The tag of the version is written last, when everything that it needs is there: an interrupted push is no version yet.
Tags can be overwritten, and a registry offers no condition for that: so a tag is read before it is written, and again
after it. Of two writers who both found it free the later one wins, and the other is told if he reads after that.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import partial

from registry.errors import BadManifest, Overwritten, VersionExists
from registry.formats.counts import counted
from registry.names import VersionName
from registry.oci import documents as oci
from registry.oci.artifacts import (
    OciArtifact,
    adapter_artifacts,
    backbone_artifact,
    document_layer,
    evidence_artifacts,
    signature_artifact,
    version_artifact,
)
from registry.oci.attached import Attached, read_attached
from registry.oci.documents import OciDescriptor, OciManifest
from registry.oci.repository import OciRepository, fallback_tag
from registry.parallel import in_parallel
from registry.progress import OpenProgress, Progress
from registry.retention.copied_documents import Carried
from registry.retention.copy import Copied
from registry.retention.version_contents import VersionContents, read_contents
from registry.store.cache import Described
from registry.store.publishing import Local
from registry.store.storage import ReadableStorage
from registry.trust.signatures import MAX_SIGNATURES

_WORKERS = 8
_SAME = (oci.MODEL, oci.VERSION_NAME, oci.CONTENT_SHA256)
"""Annotations that are equal for two artifacts with the same content."""


@dataclass(frozen=True)
class _Target:
    """What a version becomes in a repository, compared with what is there.

    Attributes:
        version: the artifact that the tag names, ours or one with the same content that is there.
        is_new: the tag is free.
        is_signed_there: signatures of our version.json are those of the one there.
        others: adapters and backbone, as they are to be; those that are there with the same content are left out.
    """

    contents: VersionContents
    version: OciArtifact
    is_new: bool
    others: tuple[OciArtifact, ...]
    is_signed_there: bool


@dataclass
class _Documents:
    """Layers of documents that are not attached yet."""

    signatures: list[OciDescriptor] = field(default_factory=list)
    results: list[OciDescriptor] = field(default_factory=list)


@dataclass(frozen=True)
class OciPush:
    """From a store to a repository. `local` gives a file on this disk with the verified bytes of a blob."""

    source: ReadableStorage
    repository: OciRepository
    local: Local
    model: str

    def plan(self, version: str) -> Copied:
        """What `run` would do. Nothing is written.

        Raises:
            VersionNotFound, VersionExists, IntegrityError, BadInput: see `run`.
        """
        target = self._target(read_contents(self.source, self.model, VersionName.parse(version)))
        is_missing = in_parallel(self._is_missing, target.contents.blobs, _WORKERS)
        sizes = [blob.size for blob, missing in zip(target.contents.blobs, is_missing, strict=True) if missing]
        carried = target.contents.documents.each(lambda key, body: None, signed=target.is_signed_there)
        return self._answer(target, sizes, carried, ())

    def run(self, version: str, open_progress: OpenProgress) -> Copied:
        """Send what is missing there; the tag last. Running it again does what is still undone.

        Raises:
            VersionNotFound: the source does not have it.
            VersionExists: a tag has something else there. Nothing was changed.
            Overwritten: another writer has just set the tag.
            MissingBlob, CorruptBlob, BadManifest: the source, or what is there already, is damaged.
            BadInput: it has too many files for an OCI artifact.
            OciUnreachable, OciDenied: the registry does not take it.
        """
        target = self._target(read_contents(self.source, self.model, VersionName.parse(version)))
        blobs = target.contents.blobs
        with open_progress(sum(blob.size for blob in blobs)) as progress:
            sent = in_parallel(partial(self._send, progress), blobs, _WORKERS)
        attached = read_attached(self.repository, target.version.digest)
        documents, carried = self._send_documents(target, attached)
        notes = [*attached.notes, *self._attach(target, documents)]
        if target.is_new:
            self._tag(target.version)
        return self._answer(target, [size for size in sent if size is not None], carried, notes)

    # --- what is there -----------------------------------------------------------------------------------------------

    def _target(self, contents: VersionContents) -> _Target:
        backbone = backbone_artifact(contents.backbone) if contents.backbone else None
        kept = self._kept(backbone, oci.BACKBONE_SHA256) if backbone else None
        base = kept or backbone
        version = version_artifact(contents, self.repository.reference.tag, base.digest if base else "")
        bound = self._kept(version, *_SAME)
        chosen = bound or version
        adapters = adapter_artifacts(contents, version.tag, chosen.subject)
        found = in_parallel(lambda each: self._kept(each, *_SAME, oci.COMPONENT), adapters, _WORKERS)
        # One that is there is put again: it may be that it is not in the list of referrers yet.
        others = [each for each, there in zip(adapters, found, strict=True) if there is None or there is each]
        others += [backbone] if backbone and not kept else []
        is_signed_there = chosen.manifest.said(oci.MANIFEST_SHA256) == contents.binding.manifest_sha256
        return _Target(contents, chosen, bound is None, tuple(others), is_signed_there)

    def _kept(self, artifact: OciArtifact, *same: str) -> OciArtifact | None:
        """What the artifact's tag names, if that has equal annotations of these names; None if the tag is free.

        Raises:
            VersionExists: it names something else.
        """
        found = self.repository.find(artifact.tag) if artifact.tag else None
        if found is None:
            return None
        if found.digest == artifact.digest:
            return artifact
        try:
            manifest = OciManifest.parse(found.body, f"tag {artifact.tag}")
            is_same = manifest.artifactType == artifact.manifest.artifactType and all(
                manifest.said(name) == artifact.manifest.said(name) for name in same
            )
        except BadManifest:
            is_same = False
        if not is_same:
            raise VersionExists(
                f"tag {artifact.tag} of {self.repository.reference} has something else, {found.digest[:19]}; nothing "
                "was changed there",
                hint="a version never changes: send it under another tag, or remove that one if it is wrong",
            )
        return OciArtifact(artifact.tag, manifest, {}, found.body)

    def _is_missing(self, blob: Described) -> bool:
        return not self.repository.has_blob(blob.sha256, blob.size)

    # --- sending -----------------------------------------------------------------------------------------------------

    def _send(self, progress: Progress, blob: Described) -> int | None:
        """Send a blob; its size, or None if it was there."""
        if not self._is_missing(blob):
            progress(blob.size)
            return None
        with self.local(blob) as file:
            self.repository.send_blob(blob.sha256, blob.size, lambda: file.open("rb"), progress)
        return blob.size

    def _send_bytes(self, sha256: str, body: bytes) -> None:
        if not self.repository.has_blob(sha256, len(body)):
            self.repository.send_blob(sha256, len(body), lambda: io.BytesIO(body))

    def _send_documents(self, target: _Target, attached: Attached) -> tuple[_Documents, Carried]:
        """Send the documents that are not attached yet, each as a blob; the layers that they become."""
        new, contents = _Documents(), target.contents

        def send(key: str, body: bytes) -> None:
            layer = document_layer(contents, key, body)
            if layer.said(oci.TITLE) not in attached.documents:
                self._send_bytes(layer.sha256, body)
                is_signature = layer.mediaType == oci.SIGNATURE_TYPE
                (new.signatures if is_signature else new.results).append(layer)

        carried = contents.documents.each(send, signed=target.is_signed_there)
        for layers in (new.signatures, new.results):
            layers.sort(key=lambda layer: layer.digest)
        return new, carried

    def _attach(self, target: _Target, documents: _Documents) -> list[str]:
        """Write all manifests but the version's own; notes for people."""
        contents, subject = target.contents, target.version.subject
        signatures = documents.signatures[:MAX_SIGNATURES]
        attached = [
            *(artifact for artifact in target.others if artifact.manifest.subject),
            *(signature_artifact(contents, layer, subject) for layer in signatures),
            *evidence_artifacts(contents, documents.results, subject),
        ]
        for artifact in target.others:
            if not artifact.manifest.subject:
                self._put(artifact)
        unlisted = [artifact.descriptor for artifact in attached if not self._put(artifact)]
        notes = []
        if unlisted:
            self.repository.list_in_tag(target.version.digest, unlisted)
            notes.append(
                f"{self.repository.reference.registry} has no referrers API: signatures, evidence and adapters are "
                f"listed in tag {fallback_tag(target.version.digest)}"
            )
        if left := len(documents.signatures) - len(signatures):
            notes.append(f"{counted(left, 'signature')} not attached: {MAX_SIGNATURES} are at most at a time")
        return notes

    def _put(self, artifact: OciArtifact) -> bool:
        """Write a manifest and what it needs; whether the registry lists it among the referrers of its subject."""
        for sha256, body in artifact.made.items():
            self._send_bytes(sha256, body)
        return self.repository.put(artifact.tag or artifact.digest, artifact.body)

    def _tag(self, version: OciArtifact) -> None:
        """The commit. The tag is read right before it is written, and after it."""
        for sha256, body in version.made.items():
            self._send_bytes(sha256, body)
        if self._kept(version, *_SAME):
            return
        self.repository.put(version.tag, version.body)
        found = self.repository.find(version.tag)
        if found is None or found.digest != version.digest:
            now = found.digest if found else "nothing"
            raise Overwritten(
                f"{self.repository.reference} was written, and is {now} now, not {version.digest}: another writer came",
                hint="find out who; the version is whole under its digest",
            )

    def _answer(self, target: _Target, sizes: Collection[int], carried: Carried, notes: Iterable[str]) -> Copied:
        contents = target.contents
        all_notes = [*contents.notes, *carried.notes, *notes]
        left = 0 if target.is_signed_there else len(contents.documents.signatures.found)
        if left:
            all_notes.append(f"it is there with another version.json; not copied: {counted(left, 'signature')}")
        return Copied(
            model=self.model, version=contents.binding.version, place=str(self.repository.reference),
            is_new=target.is_new, blobs=len(sizes), blobs_of=len(contents.blobs), size=sum(sizes),
            evidence=carried.evidence, signatures=carried.signatures,
            backbone=contents.backbone.backbone.name if contents.backbone else "", notes=tuple(all_notes),
            digest=target.version.digest,
        )  # fmt: skip
