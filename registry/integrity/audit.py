"""What `verify --all` checks beside the files of versions: channel logs, documents, backbones, garbage collection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from registry.channels.channel import Channel
from registry.channels.readable_log import read_log
from registry.errors import BadInput, BadManifest, IntegrityError, NotAsListed, NotNow, ObjectNotFound, StoreDenied
from registry.evidence.approvals import Approval
from registry.evidence.ledger import Passed
from registry.evidence.outcomes import unpacked
from registry.evidence.results import Evidence
from registry.evidence.ticks import Tick
from registry.evidence.verdict import Verdict
from registry.formats import canonical
from registry.integrity.operations import Operation
from registry.integrity.rebound import BoundNames
from registry.integrity.report import BadFile, ChainCheck, Documents, GarbageCheck
from registry.names import is_version_name
from registry.parallel import in_parallel
from registry.retention.notes import Forgotten, Pin
from registry.retention.references import References
from registry.serving.fleet import Heartbeat
from registry.store import layout
from registry.store.blobs import Blobs
from registry.store.gc_marks import read_marks
from registry.store.objects import ObjectStore
from registry.store.refusals import MAY_NOT
from registry.versions.backbones import BackboneMirror
from registry.versions.manifest import FileEntry

_BATCH = 256
_MAX_OBSERVATIONS = 512 * 1024


@dataclass(frozen=True)
class _Said:
    """What a document says: the key that it should have, and which manifest or content of which version it is about."""

    key: str
    version: str = ""
    manifest_sha256: str = ""
    content_sha256: str = ""


ReadDocument = Callable[[str, bytes, str], _Said]
"""Reads a document, given its model, its bytes and the key that it has."""


def check_backbones(mirror: BackboneMirror) -> Iterator[tuple[str, list[FileEntry], BadFile | None]]:
    """Every backbone of the store: its name, its weights, and what is wrong with what the store says of it."""
    found = mirror.all()
    for each in found:
        yield f"backbone {each.backbone.name}", [each.weights], None
    for problem in found.damaged:
        yield problem.partition(":")[0], [], BadFile("note", "", problem.partition(": ")[2])
    for key, why in found.refused.items():
        yield key, [], BadFile.unread("note", why)


def check_chain(store: ObjectStore, model: str, name: str, names: BoundNames) -> ChainCheck:
    """Check a channel's log as far as it may be read."""
    try:
        log = read_log(Channel(store, model, name))
    except (IntegrityError, BadInput) as error:
        return ChainCheck(name, None, str(error))
    problem, refused = "; ".join(names.contradictions(log.records)), tuple(map(str, log.refused))
    return ChainCheck(name, None if refused else len(log.entries), problem, refused)


def check_garbage(store: ObjectStore, blobs: Blobs) -> GarbageCheck:
    """What garbage collection can't read, over all models of the store. Until it can, it deletes nothing."""
    problems, refused = [], []
    for read in (lambda: read_marks(store), References(store, blobs)):
        try:
            read()
        except IntegrityError as error:
            problems.append(str(error))
        except StoreDenied as error:
            refused.append(f"{MAY_NOT}: {error}")
        except NotNow:  # a newer release wrote something, which is not an error
            pass
    return GarbageCheck(tuple(problems), tuple(refused))


def check_documents(store: ObjectStore, model: str, names: BoundNames) -> Documents:
    """Read every document of a model, and compare what it says with its key, and with what its version's name is bound
    to.

    Channel logs and the bindings of versions are checked elsewhere. Folders that only a newer release knows are left
    out.
    """
    folder = layout.model_folder(model)

    def kind(key: str) -> str:
        return key.removeprefix(folder).partition("/")[0]

    keys = [info.key for info in store.list(folder) if kind(info.key) in _READ and not _is_name(info.key, model)]
    refused: dict[str, str] = {}

    def problem(key: str) -> str:
        try:
            said = _READ[kind(key)](model, store.get(key).body, key)
        except ObjectNotFound as error:
            if kind(key) not in _TAKEN_BACK:
                refused[key] = f"{MAY_NOT}: {NotAsListed(error.key)}"
            return ""
        except IntegrityError as error:
            return str(error)
        except StoreDenied as error:
            refused[key] = f"{MAY_NOT}: {error}"
            return ""
        if said.key != key:
            return f"what it holds belongs to {said.key}"
        return names.contradicts(said.version, said.manifest_sha256, said.content_sha256)

    bad: dict[str, str] = {}
    for start in range(0, len(keys), _BATCH):
        batch = keys[start : start + _BATCH]
        bad |= {key: found for key, found in zip(batch, in_parallel(problem, batch), strict=True) if found}
    return Documents(len(keys), bad, dict(sorted(refused.items())))


def _is_name(key: str, model: str) -> bool:
    stem = layout.stem(key)
    return is_version_name(stem) and key == layout.version(model, stem)


def _foreign(model: str, body: bytes, key: str) -> _Said:
    raise BadManifest("it is not the name of a version: it was not written by ulora")


def _evidence(model: str, body: bytes, key: str) -> _Said:
    evidence = Evidence.parse(body, key)
    place = layout.evidence(evidence.model, evidence.version, evidence.sha256)
    return _Said(place, evidence.version, content_sha256=evidence.content_sha256)


def _outcomes(model: str, body: bytes, key: str) -> _Said:
    unpacked(body, key)
    return _Said(layout.outcomes(model, key.split("/")[-2], canonical.sha256(body)))


def _approval(model: str, body: bytes, key: str) -> _Said:
    approval = Approval.parse(body, key)
    place = layout.approval(approval.model, approval.version, approval.sha256)
    return _Said(place, approval.version, content_sha256=approval.content_sha256)


def _tick(model: str, body: bytes, key: str) -> _Said:
    tick = Tick.parse(body, key)
    return _Said(layout.tick(tick.model, tick.version, tick.sha256), tick.version, content_sha256=tick.content_sha256)


def _policy(model: str, body: bytes, key: str) -> _Said:
    return _Said(layout.policy(model, canonical.sha256(body)))


def _verdict(model: str, body: bytes, key: str) -> _Said:
    verdict = Verdict.parse(body, key)
    place = layout.verdict(verdict.model, verdict.sha256)
    return _Said(place, verdict.version, content_sha256=verdict.content_sha256)


def _passed(model: str, body: bytes, key: str) -> _Said:
    note = Passed.parse(body, key)
    place = layout.passed(model, key.split("/")[-3], note.version, note.record_sha256)
    return _Said(place, note.version, content_sha256=note.content_sha256)


def _forgotten(model: str, body: bytes, key: str) -> _Said:
    note = Forgotten.parse(body, key)
    return _Said(layout.forgotten(note.model, note.version), note.version, note.manifest_sha256)


def _pin(model: str, body: bytes, key: str) -> _Said:
    note = Pin.parse(body, key)
    return _Said(layout.pin(note.model, note.version), note.version, note.manifest_sha256)


def _replica(model: str, body: bytes, key: str) -> _Said:
    return _Said(layout.replica(model, key.split("/")[-2], Heartbeat.parse(body, key).id))


def _observation(model: str, body: bytes, key: str) -> _Said:
    replica = canonical.decode(body, key, _MAX_OBSERVATIONS).get("replica")
    return _Said(layout.observation(model, key.split("/")[-2], str(replica)))


def _decision(model: str, body: bytes, key: str) -> _Said:
    return _Said(layout.decision(model, key.split("/")[-2], canonical.sha256(body)))


def _operation(model: str, body: bytes, key: str) -> _Said:
    return _Said(Operation.parse(body, key).key)


def _signature(model: str, body: bytes, key: str) -> _Said:
    return _Said(layout.signature(model, key.split("/")[-2], canonical.sha256(body)))


def _script(model: str, body: bytes, key: str) -> _Said:
    return _Said(layout.script(model, key.split("/")[-3], canonical.sha256(body)))


_TAKEN_BACK = ("forgotten", "pins", "replicas", "observations", "operations")
"""What may be deleted between a listing and a look."""
_READ: dict[str, ReadDocument] = {
    "versions": _foreign,
    "evidence": _evidence,
    "outcomes": _outcomes,
    "approvals": _approval,
    "ticks": _tick,
    "policies": _policy,
    "verdicts": _verdict,
    "passed": _passed,
    "forgotten": _forgotten,
    "pins": _pin,
    "replicas": _replica,
    "observations": _observation,
    "decisions": _decision,
    "signatures": _signature,
    "operations": _operation,
    "scripts": _script,
}
"""By the folder below that of the model."""
