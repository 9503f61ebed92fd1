"""Make the golden store of format 1: `python -m tests.version_tests.make_format1 FOLDER`.

It was run once, by the release that made format 1 final, and what it wrote is `format1/`: never make that again. A
store of a later format gets a folder and a script of its own beside it; every release reads all of them.

Added since by hand, as later kinds of documents of the same format: `ticks/`.

The keys are files below `store/`; `expected.json` has what readers must find; `keys/` what signed it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import chdir
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from adapters import bundle
from registry.api import Registry
from registry.channels.channel import PromoteOptions, RollbackOptions
from registry.channels.record import Canary, Record
from registry.devstack.s3_server import S3Server
from registry.evidence.results import BenchmarkRun, Evidence, Measurement, Metric
from registry.retention.forget import RetentionRule
from registry.serving.fleet import Heartbeat
from registry.settings import Settings
from registry.store import layout
from registry.usecases.options import CreateOptions
from registry.versions.bundle import ReleaseNotes
from registry.versions.manifest import Manifest
from tests.support.bundles import add_goldens, png, write_bundle
from tests.support.signing_keys import certified, key_pair

MODEL = "golden"
PART = "adapters/low"
LATER = {"of_a_later_release": {"kept": [1, None, "ä", 0.5]}}
ROSTER = ("v0.9.0", "v1.0.0", "v1.1.0-dinov3", "v1.2.0")
POLICY = """format: 1
channels:
  staging: {defaults: [{metric: accuracy, per: target}]}
  production:
    requires: staging
    defaults: [{metric: accuracy, min: 0.5, per: target}, {metric: accuracy, max_decrease: 0.4, per: target}]
"""


def main(folder: Path) -> None:
    """Tell the story to a server, then write down what it holds and what must be read from it."""
    folder = folder.absolute()
    with TemporaryDirectory() as place, chdir(place):  # what a manifest calls its source is no path of this machine
        work = Path(place)
        server = S3Server(work / "s3", bucket="golden-bucket").start()
        try:
            os.environ.update(server.env)
            (work / "policy.yaml").write_text(POLICY)
            registry = Registry(
                settings=Settings(
                    MODEL,
                    "s3://golden-bucket/store",
                    cache=work / "cache",
                    policy=work / "policy.yaml",
                    who="ana@golden",
                )
            )
            tell(registry, work, folder / "keys")
            write_down(registry, folder)
        finally:
            server.kill()


def tell(registry: Registry, work: Path, keys: Path) -> None:
    """A model's life: versions, measurements, promotions, a trial, rollbacks, notes."""
    registry.store.initialise()
    release_notes = ReleaseNotes(
        "Ünïcode: größer, besser", {"why": ["Ä", 1, None]}, ("labels changed",), "none", "look at it"
    )
    for position, name in enumerate(ROSTER[:3]):
        source = golden_bundle(Path("bundles") / name, position)
        parent = ROSTER[position - 1] if position > 1 else None
        registry.create(name, source, CreateOptions(release_notes=release_notes, parent=parent), offline=True)
    bind_again(registry, ROSTER[2], ROSTER[3])
    for position, name in enumerate(ROSTER):
        measure(registry, name, successes=90 + position)
    sign(registry, keys)
    for name in ROSTER[1:3]:
        registry.promote(name, "staging", reason="looks good")
        registry.promote(name, "production", reason="ships")
    add_record(registry, "canary", canary=Canary(**pointer(registry, "v1.2.0"), weight=5.0), **LATER)
    registry.rollback(reason="the trial was bad")
    add_record(registry, "of-a-later-release")
    registry.promote("v1.2.0", "production", PromoteOptions(force=True), reason="forced: no past in staging")
    registry.rollback(reason="the error rate", options=RollbackOptions(leave="v1.2.0"))
    registry.rollback(reason="tomatoes only", options=RollbackOptions(again=True), only=[PART])
    registry.rollback_script("v1.0.0", reason="on the night shift's stick")
    registry.collect_garbage(RetentionRule(keep=4, older_than=timedelta(0)), reason="tidying")
    registry.store.overwrite(layout.replica(MODEL, "production", "leaf-1"), heartbeat(registry).to_bytes())


def golden_bundle(folder: Path, position: int) -> Path:
    """A small bundle; the versions share most files."""
    write_bundle(folder, seed=7, targets=("low",))
    inner = folder / PART
    width, labels = 96, ["zero", "one", "two", "three"]
    random = np.random.default_rng(7)
    means = random.standard_normal((4, width)).astype(np.float32)
    document = {
        **json.loads((inner / "ood.json").read_bytes()), "features": "cls", "inputs": width, "labels": labels,
    }  # fmt: skip
    tensors = {
        "means": means / np.linalg.norm(means, axis=1, keepdims=True),
        "whitening": np.eye(width, dtype=np.float32),
        "thresholds": np.full(4, 4.0, dtype=np.float32),
    }
    bundle.write_document(inner / "ood.json", document)
    bundle.write_tensors(inner / "ood.safetensors", tensors)
    if position == 2:  # another adapter
        other = write_bundle(folder.parent / "other", seed=8, targets=("low",)) / PART
        shutil.copy(other / bundle.ADAPTER_WEIGHTS, inner / bundle.ADAPTER_WEIGHTS)
    (folder / "project").mkdir(exist_ok=True)
    run = folder / "project" / "run.sh"
    run.write_text(f"#!/bin/sh\necho release {position}\n")
    run.chmod(0o755)
    return add_goldens(folder, count=1) if position else folder


def bind_again(registry: Registry, source: str, name: str) -> None:
    """The same content under another name, as a later release may describe it."""
    found = registry.manifest(source)
    fields = {field: getattr(found, field) for field in found.model_fields_set - {"format", "content_sha256"}}
    manifest = Manifest.make(**{**fields, "version": name, **LATER})
    registry.bindings.bind(manifest, registry.blobs.put(manifest.to_bytes()))


def measure(registry: Registry, name: str, successes: int) -> None:
    manifest = registry.manifest(name)
    measurement = Measurement(
        (Metric.proportion("accuracy", successes, 100, target="low"), Metric.of("odd", None, n=0)),
        data_sha256="d" * 64, data_name="golden digits", data_n=100, notes={"ood": "photos"},
    )  # fmt: skip
    run = BenchmarkRun(
        benchmark="accuracy", model=MODEL, version=name, content_sha256=manifest.content_sha256,
        device="cpu", runtime="torch-fp32", timestamp="2026-11-21T10:00:00Z", seconds=1.5,
        libraries={"torch": "2.13.0"}, who="ana@golden",
    )  # fmt: skip
    evidence = Evidence.of(measurement, run)
    registry.wiring.ledger.add(Evidence.model_validate({**evidence.model_dump(exclude_unset=True), **LATER}))


def sign(registry: Registry, keys: Path) -> None:
    """One version by a key, another by a key with a certificate, the third by nobody. Only what is public is kept."""
    keys.mkdir(parents=True, exist_ok=True)
    plain, vouched = key_pair(keys, "release"), certified(keys, "team", days=3650)
    registry.sign("v1.0.0", plain.key)
    registry.sign("v1.1.0-dinov3", vouched.key)
    for path in (plain.private, vouched.private, vouched.certificate):
        if path:
            path.unlink()


def add_record(registry: Registry, action: str, **fields: Any) -> None:
    """A record as a later release may write it."""
    log = registry.channel("production")
    head = log.head()
    assert head
    made = {
        **head.model_dump(exclude={"verdict", "canary"}, exclude_unset=True), "action": action, "previous": head.sha256,
        "generation": head.generation + 1, "nonce": f"{head.generation:032x}", "reason": action, "who": "ben@golden",
        "when": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields,
    }  # fmt: skip
    log.commit(Record.model_validate(made))


def pointer(registry: Registry, name: str) -> dict[str, str]:
    return {"version": name, "manifest_sha256": registry.bindings.get(registry.manifest(name).name).manifest_sha256}


def heartbeat(registry: Registry) -> Heartbeat:
    head = registry.channel("production").head()
    assert head
    assert head.stable
    return Heartbeat(
        format=1, id="leaf-1", host="leaf", pid=1, device="cpu", runtime="torch-fp32", state="serving",
        version=head.stable.version, generation=head.generation, newest=head.generation, rollback_ready=True,
        resident=(head.stable.version,), error="", when=head.when,
    )  # fmt: skip


def write_down(registry: Registry, folder: Path) -> None:
    shutil.rmtree(folder / "store", ignore_errors=True)
    scripts = 0
    for info in registry.store.list(""):
        scripts += "/scripts/" in info.key
        if "/scripts/" in info.key and scripts > 1:
            continue  # each is 30 KB, and one shows what it is
        path = folder / "store" / info.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(registry.store.get(info.key).body)
    text = json.dumps(expected(registry), indent=1, ensure_ascii=False, sort_keys=True)
    (folder / "expected.json").write_text(text + "\n")


def expected(registry: Registry) -> Mapping[str, Any]:
    names = [str(name) for name in registry.bindings.names()]
    manifests = {name: registry.manifest(name) for name in names}
    answer = registry.load("v1.1.0-dinov3").predict([png(0)], target=["low"])[0].to_dict()
    return {
        "versions": {
            name: {
                "content_sha256": manifest.content_sha256,
                "manifest_sha256": manifest.sha256,
                "weights": {part: component.weights_sha256 for part, component in manifest.components.items()},
                "files": {file.path: [file.size, file.mode, file.sha256] for file in manifest.files},
            }
            for name, manifest in manifests.items()
        },
        "history": {
            channel: [
                [record.generation, record.action, record.sha256, record.stable.version if record.stable else None,
                 [one.version for one in record.stack], list(record.withdrawn), record.reason]
                for record in registry.history(channel)
            ]
            for channel in ("production", "staging")
        },
        "evidence": {name: [one.sha256 for one in registry.evidence(name)] for name in names},
        "forgotten": registry.wiring.forgotten.versions(),
        "answer": {name: answer[name] for name in ("label", "outcome", "target")},
    }  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
