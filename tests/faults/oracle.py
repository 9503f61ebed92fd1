"""What must be true of a store after anything, read from its bare objects without the code under test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_FREE = ("replicas", "observations", "probe")
"""Folders whose objects may change: heartbeats, what replicas count, and the probe's own."""
_NEWEST_FIRST = 10**12
OWN_MODEL = "model-"
"""How the models are called that belong to one case, as MLflow is shared."""
_OWN = "(its own)"


@dataclass(frozen=True)
class Stored:
    """An object as the server gives it."""

    etag: str
    body: bytes


@dataclass(frozen=True)
class Snapshot:
    """All objects below a prefix, by key relative to it."""

    objects: Mapping[str, Stored]

    def below(self, folder: str) -> dict[str, bytes]:
        """The bodies of a folder's objects, by the rest of their key."""
        return {key.removeprefix(folder): stored.body for key, stored in self.objects.items() if key.startswith(folder)}

    def blobs(self) -> dict[str, bytes]:
        """The blobs by digest."""
        return {key.rpartition("/")[2]: body for key, body in self.below("blobs/sha256/").items()}

    def models(self) -> set[str]:
        """The models that have any object."""
        return {key.split("/")[1] for key in self.objects if key.startswith("models/")}

    def bindings(self, model: str) -> dict[str, dict[str, Any]]:
        """What each name is bound to."""
        return {
            name.removesuffix(".json"): json.loads(body)
            for name, body in self.below(f"models/{model}/versions/").items()
        }

    def forgotten(self, model: str) -> set[str]:
        """The names whose files may be gone."""
        return {name.removesuffix(".json") for name in self.below(f"models/{model}/forgotten/")}

    def logs(self, model: str) -> dict[str, list[bytes]]:
        """Each channel's records, oldest first."""
        logs: dict[str, dict[int, bytes]] = {}
        for rest, body in self.below(f"models/{model}/channels/").items():
            channel, key = rest.split("/")
            logs.setdefault(channel, {})[_NEWEST_FIRST - int(key.removesuffix(".json"))] = body
        for channel, records in logs.items():
            assert sorted(records) == list(range(1, len(records) + 1)), f"{channel} has generations {sorted(records)}"
        return {channel: [body for _, body in sorted(records.items())] for channel, records in logs.items()}


def check_promises(before: Snapshot, after: Snapshot, may_free_blobs: bool = False) -> None:
    """Check what must be true whatever happened between two snapshots."""
    check_nothing_changed(before, after, may_free_blobs)
    blobs = after.blobs()
    for digest, body in blobs.items():
        assert hashlib.sha256(body).hexdigest() == digest, f"blob {digest} holds other bytes"
    for model in after.models():
        bindings = after.bindings(model)
        for version, binding in bindings.items():
            assert (binding["model"], binding["version"]) == (model, version)
            if version not in after.forgotten(model):
                check_whole(blobs, binding["manifest_sha256"], version)
        for channel, log in after.logs(model).items():
            check_log(log, model, channel, bindings, blobs)


def check_nothing_changed(before: Snapshot, after: Snapshot, may_free_blobs: bool) -> None:
    """Check that each object of before is there with its bytes and its ETag: all prefixes are create-only but few."""
    for key, stored in before.objects.items():
        if key == "gc.json" or any(f"/{folder}/" in f"/{key}" for folder in _FREE):
            continue
        found = after.objects.get(key)
        if found is None and may_free_blobs and key.startswith("blobs/"):
            continue  # whether it was needed, `check_whole` tells
        assert found is not None, f"{key} is gone"
        assert found == stored, f"{key} was overwritten"


def check_log(
    log: list[bytes], model: str, channel: str, bindings: Mapping[str, dict[str, Any]], blobs: Mapping[str, bytes]
) -> None:
    """Check that a log is one linear chain, and that what it serves and goes back to is whole."""
    previous = None
    for generation, body in enumerate(log, start=1):
        record = json.loads(body)
        assert (record["model"], record["channel"], record["generation"]) == (model, channel, generation)
        assert record.get("previous") == previous, f"generation {generation} of {channel} breaks the chain"
        assert record["who"], f"generation {generation} of {channel} does not say who"
        previous = hashlib.sha256(body).hexdigest()
    nonces = [json.loads(body)["nonce"] for body in log]
    assert len(set(nonces)) == len(nonces)
    head = json.loads(log[-1])
    live = [pointer for pointer in (head.get("stable"), head.get("canary")) if pointer]
    for pointer in [*live, *targets(head)]:
        bound = bindings.get(pointer["version"])
        assert bound, f"{channel} names {pointer['version']}, which is not bound"
        assert bound["manifest_sha256"] == pointer["manifest_sha256"]
        check_whole(blobs, pointer["manifest_sha256"], pointer["version"])


def targets(head: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where rollbacks go from a record, the next one first."""
    gone = [*head.get("withdrawn", ()), *(head[name]["version"] for name in ("stable", "canary") if head.get(name))]
    return [pointer for pointer in head.get("stack", ()) if pointer["version"] not in gone]


def check_whole(blobs: Collection[str] | Mapping[str, bytes], manifest_sha256: str, version: str) -> None:
    """Check that a version's manifest and files are all there; that blobs hash to their names is checked elsewhere."""
    assert isinstance(blobs, Mapping)
    assert manifest_sha256 in blobs, f"the manifest of {version} is not in the store"
    for file in json.loads(blobs[manifest_sha256])["files"]:
        assert file["sha256"] in blobs, f"{file['path']} of {version} is not in the store"
        assert len(blobs[file["sha256"]]) == file["size"], f"{file['path']} of {version} has another size"


def committed(snapshot: Snapshot) -> dict[str, Any]:
    """What people were promised, by what stays the same from case to case: names, logs, notes of gc, labels, ticks."""
    blobs = snapshot.blobs()
    found: dict[str, Any] = {}
    for model in snapshot.models():
        bindings, logs = snapshot.bindings(model), snapshot.logs(model)
        if bindings or logs:
            name = _OWN if model.startswith(OWN_MODEL) else model
            found[name] = {
                "versions": {version: _content(blobs[bound["manifest_sha256"]]) for version, bound in bindings.items()},
                "logs": {channel: [_meaning(json.loads(body)) for body in log] for channel, log in logs.items()},
                "forgotten": sorted(snapshot.forgotten(model)),
                "pins": sorted(snapshot.below(f"models/{model}/pins/")),
                "labels": sorted(_labels(snapshot, model)),
                "ticks": sorted(_ticks(snapshot, model)),
            }
    return found


def _ticks(snapshot: Snapshot, model: str) -> Iterator[str]:
    """What people said of lines of checklists."""
    for name, body in snapshot.below(f"models/{model}/ticks/").items():
        said = json.loads(body)
        yield f"{name.partition('/')[0]} {said['line']} by {said['who']}, taken back: {len(said.get('takes_back', ()))}"


def _labels(snapshot: Snapshot, model: str) -> Iterator[str]:
    """What was counted of the labels of files."""
    for name, body in snapshot.below(f"models/{model}/observations/").items():
        if name.partition("/")[2].startswith("labels-"):
            for stage in json.loads(body)["stages"]:
                yield f"{name}: {json.dumps(stage, sort_keys=True)}"


def logs(committed: Mapping[str, Any]) -> dict[str, Any]:
    """The logs of what was committed."""
    return {model: found["logs"] for model, found in committed.items()}


def is_between(old: Mapping[str, Any], now: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether each part of what was committed is the old or the new one, and no note or name is neither's."""
    if not (old.keys() <= now.keys() <= new.keys()):
        return False
    nothing: dict[str, Any] = {"versions": {}, "logs": {}, "forgotten": [], "pins": [], "labels": [], "ticks": []}
    for model, found in now.items():
        before, after = old.get(model, nothing), new[model]
        if any(
            log not in (before["logs"].get(name, []), after["logs"].get(name)) for name, log in found["logs"].items()
        ):
            return False
        for part in ("versions", "forgotten", "pins", "labels", "ticks"):
            low, middle, high = (_set(each[part]) for each in (before, found, after))
            if not low <= middle <= high:
                return False
    return True


def files(snapshot: Snapshot) -> dict[str, int]:
    """The blobs that are no manifests, and their sizes: what must be the same however a command came to its end."""
    return {digest: len(body) for digest, body in snapshot.blobs().items() if not is_manifest(body)}


def is_manifest(body: bytes) -> bool:
    """Whether a blob is a version's manifest, which holds a time and so differs from try to try."""
    return body.startswith(b"{") and b'"content_sha256":' in body and b'"components":' in body


def _set(part: Mapping[str, str] | list[str]) -> set[Any]:
    return set(part.items()) if isinstance(part, Mapping) else set(part)


def _content(manifest: bytes) -> str:
    """What a version is, without its model, time and provenance."""
    document = json.loads(manifest)
    content = {name: document.get(name) for name in ("flavor", "backbone", "components", "files")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _meaning(record: Mapping[str, Any]) -> dict[str, Any]:
    volatile = {"when", "nonce", "previous", "verdict", "model"}

    def bare(pointer: Any) -> Any:
        # A version that was bound anew has another manifest: its time.
        return {"version": pointer["version"], "weight": pointer.get("weight")} if pointer else None

    # The guard's reason has numbers, which depend on which observations it could read.
    of_guard = {"decision": True, "reason": ""} if record.get("decision") else {}
    trial = {name: value for name, value in (record.get("trial") or {}).items() if name not in ("id", "salt")}
    return {
        **{name: value for name, value in record.items() if name not in volatile},
        "trial": trial,
        **of_guard,
        "stable": bare(record.get("stable")),
        "canary": bare(record.get("canary")),
        "stack": [bare(pointer) for pointer in record.get("stack", ())],
    }
