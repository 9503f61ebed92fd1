"""What is attached to a version in an OCI registry: signatures, results, outcomes, in artifacts that refer to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from registry.errors import BadManifest, CorruptBlob
from registry.oci import documents as oci
from registry.oci.documents import OciDescriptor, OciManifest
from registry.oci.repository import OciRepository
from registry.parallel import in_parallel, time_limit

MAX_ATTACHED = 1_000
"""Artifacts that are read: 64 signatures and 10,000 results are below 100."""
MAX_LAYERS = 30_000
"""Documents of all of them after which no further one is read."""
_AT_A_TIME = 4
SECONDS = 600.0
"""For finding them all."""
_KINDS = (oci.SIGNATURE_TYPE, oci.EVIDENCE_TYPE)
_SUFFIXES = {"signatures": ".json", "evidence": ".json", "outcomes": ".jsonl.gz"}


@dataclass(frozen=True)
class Attached:
    """Layers by their titles, which are those that `artifacts.document_layer` gives; and notes for people."""

    documents: Mapping[str, OciDescriptor]
    notes: tuple[str, ...] = ()


def read_attached(repository: OciRepository, digest: str) -> Attached:
    """Find what is attached to a manifest. Documents are listed, not read. What is damaged is left out with a note.

    Raises:
        BadManifest: the list itself is damaged.
        OciUnreachable, OciDenied: the registry does not answer, or goes on listing for longer than SECONDS.
    """
    with time_limit(SECONDS):
        return _read_attached(repository, digest)


def _read_attached(repository: OciRepository, digest: str) -> Attached:
    listed = [each for each in repository.referrers(digest) if each.artifactType in _KINDS and each.sha256]
    documents: dict[str, OciDescriptor] = {}
    bad: list[str] = []
    read = 0
    while read < min(len(listed), MAX_ATTACHED) and len(documents) < MAX_LAYERS:
        some = listed[read : read + _AT_A_TIME]
        for each, layers in zip(some, in_parallel(partial(_layers, repository, digest), some), strict=True):
            documents |= {layer.said(oci.TITLE): layer for layer in layers or ()}
            bad += [each.digest] if layers is None else []
        read += len(some)
    notes = [f"{each} of {repository.reference} is damaged, it was not copied" for each in bad[:20]]
    if read < len(listed):
        notes.append(f"{repository.reference} lists {len(listed)} signatures and results; {read} were read")
    return Attached(documents, tuple(notes))


def _layers(repository: OciRepository, subject: str, listed: OciDescriptor) -> list[OciDescriptor] | None:
    """The documents of one artifact; None if it is damaged, or about something else."""
    try:
        found = repository.find(listed.digest)
        manifest = OciManifest.parse(found.body, f"manifest {listed.digest}") if found else None
    except (BadManifest, CorruptBlob):
        return None
    if manifest is None or manifest.subject is None or manifest.subject.digest != subject:
        return None
    return [layer for layer in manifest.layers if _is_document(layer)]


def _is_document(layer: OciDescriptor) -> bool:
    """Whether a layer's title is that of a document with its digest. Those of others, cosign's for example, are not."""
    kind, _, name = layer.said(oci.TITLE).partition("/")
    return bool(layer.sha256) and kind in _SUFFIXES and name == f"{layer.sha256}{_SUFFIXES[kind]}"
