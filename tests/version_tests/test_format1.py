"""The golden store of format 1: every release reads it, finds what is pinned in it, and goes on from there."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry.api import Registry
from registry.breakglass import verify_audit
from registry.channels.channel import PromoteOptions, RollbackOptions
from registry.devstack.s3_server import S3Server
from registry.errors import NotTrusted, VersionForgotten
from registry.formats.canonical import sha256
from registry.names import VersionName
from registry.retention.notes import check_remembered
from registry.settings import Settings
from registry.store import layout
from registry.usecases.audit_options import AuditOptions, ChecklistOptions
from registry.versions.bundle import read_bundle
from tests.support.bundles import png
from tests.support.registries import write_policy
from tests.support.run_ulora import ulora

HERE = Path(__file__).parent / "format1"
EXPECTED: dict[str, Any] = json.loads((HERE / "expected.json").read_bytes())
VERSIONS: dict[str, Any] = EXPECTED["versions"]
COMPOSED = next(name for name in VERSIONS if ".p" in name)
MODEL = "golden"


def upload(registry: Registry) -> None:
    """Put the golden store's files where the registry's store is."""
    for path in sorted(path for path in (HERE / "store").rglob("*") if path.is_file()):
        key, data = path.relative_to(HERE / "store").as_posix(), path.read_bytes()
        if key.startswith(layout.BLOBS_PREFIX):
            registry.store.upload(key, path, path.name, len(data))
        else:
            registry.store.create(key, data)


@pytest.fixture(scope="module")
def golden(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The golden store in a server, for tests that only read."""
    folder = tmp_path_factory.mktemp("golden")
    policy = write_policy(folder)
    store = f"s3://{s3.bucket}/golden-{uuid.uuid4().hex}"
    settings = Settings(MODEL, store, cache=folder / "cache", policy=policy, who="a reader")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.env.items():
            patch.setenv(name, value)
        upload(Registry(settings=settings))
    return settings


@pytest.fixture
def registry(golden: Settings, s3_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The golden store; commands see it too."""
    names = {"STORE": golden.store, "MODEL": MODEL, "CACHE": golden.cache, "POLICY": golden.policy}
    for name, value in names.items():
        monkeypatch.setenv(f"ULORA_{name}", str(value))
    return Registry(settings=golden)


def test_every_version_is_what_it_was(registry: Registry) -> None:
    assert [str(name) for name in registry.bindings.names()] == list(VERSIONS)
    for name, expected in VERSIONS.items():
        manifest = registry.manifest(name)
        assert (manifest.content_sha256, manifest.sha256) == (expected["content_sha256"], expected["manifest_sha256"])
        assert manifest.to_bytes() == (HERE / "store" / layout.blob(manifest.sha256)).read_bytes()
        assert {file.path: [file.size, file.mode, file.sha256] for file in manifest.files} == expected["files"]
        assert {part: found.weights_sha256 for part, found in manifest.components.items()} == expected["weights"]


def test_every_byte_of_what_is_not_forgotten_verifies(registry: Registry) -> None:
    for name in VERSIONS:
        checked = registry.verify(name, read_data=True)
        assert (checked.ok, checked.files) == (True, len(VERSIONS[name]["files"]))


def test_digests_are_computed_as_they_were(registry: Registry, tmp_path: Path) -> None:
    """A bundle of today's with these files gets the digests that were given then."""
    manifest = registry.manifest("v1.1.0-dinov3")
    for digest, path in registry.blobs.fetch(manifest.files).items():
        for file in (file for file in manifest.files if file.sha256 == digest):
            target = tmp_path / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            target.chmod(int(file.mode, 8))
    read = read_bundle(tmp_path)
    assert (tuple(read.files), dict(read.components)) == (manifest.files, dict(manifest.components))


def test_the_logs_are_the_chains_that_they_were(registry: Registry) -> None:
    for channel, expected in EXPECTED["history"].items():
        records = registry.history(channel)
        found = [
            [record.generation, record.action, record.sha256, record.stable.version if record.stable else None,
             [one.version for one in record.stack], list(record.withdrawn), record.reason]
            for record in records
        ]  # fmt: skip
        assert found == expected
        for record in records:
            assert record.to_bytes() == (HERE / "store" / layout.record(MODEL, channel, record.generation)).read_bytes()


def test_evidence_and_notes_are_read(registry: Registry) -> None:
    for name, digests in EXPECTED["evidence"].items():
        assert [one.sha256 for one in registry.evidence(name)] == digests
    assert registry.wiring.forgotten.versions() == EXPECTED["forgotten"] == ["v0.9.0"]
    assert registry.is_pinned("v1.0.0")
    with pytest.raises(VersionForgotten):
        check_remembered(registry.wiring.forgotten, "v0.9.0")


def test_ticks_are_read(registry: Registry) -> None:
    ticks = registry.wiring.ledger.ticks(VersionName.parse("v1.0.0"))
    assert sorted((tick.line, bool(tick.takes_back)) for tick in ticks) == [("lessons", True), ("team-told", False)]
    found = registry.checklist("v1.0.0", ChecklistOptions(stage="before")).lines
    assert [line.said for line in found if line.id == "team-told"] == ["ana@golden, 2026-11-21T10:00: größer, besser"]


def test_an_archive_of_it_is_right(registry: Registry, tmp_path: Path) -> None:
    for name in VERSIONS:
        assert registry.report(name).unread == ()
    made = registry.audit(tmp_path / "golden.zip", AuditOptions(channel="production"))
    assert made.problem is None
    keys = ["--key", str(HERE / "keys" / "release.pub.pem")]
    assert verify_audit.main([str(tmp_path / "golden.zip"), *keys]) == 3, "one signature is by a certificate"


def test_signatures_hold_and_make_a_composed_version_trusted(registry: Registry) -> None:
    def trusting(*names: str) -> Registry:
        keys = tuple(HERE / "keys" / name for name in names)
        return Registry(settings=replace(registry.settings, trusted_keys=keys))

    both = trusting("release.pub.pem", "team.ca.pem")
    for name in ("v1.0.0", "v1.1.0-dinov3", COMPOSED):
        assert both.trusted_manifest(name).version == name
    for careful, name in ((both, "v1.2.0"), (trusting("team.ca.pem"), "v1.0.0"), (trusting("team.ca.pem"), COMPOSED)):
        with pytest.raises(NotTrusted, match=f"{name} is not trusted"):
            careful.trusted_manifest(name)


def test_a_version_loads_and_answers(registry: Registry) -> None:
    (answer,) = registry.load("v1.1.0-dinov3").predict([png(0)], target=["low"])
    assert {name: answer.to_dict()[name] for name in EXPECTED["answer"]} == EXPECTED["answer"]


@pytest.mark.usefixtures("registry")
def test_every_reading_command_reads_it() -> None:
    listed = {one["version"]: one for one in ulora("list", "--json").document}
    assert list(listed) == list(VERSIONS)
    assert all(one["evidence"] for name, one in listed.items() if name != COMPOSED)
    for name in VERSIONS:
        assert ulora("show", name, "--json").document["content_sha256"] == VERSIONS[name]["content_sha256"]
    production = ulora("status", "--json").document["channels"][1]
    generation, _, _, stable, *_ = EXPECTED["history"]["production"][0]
    assert (production["generation"], production["stable"]) == (generation, stable)
    assert [replica["id"] for replica in production["replicas"]] == ["leaf-1"]
    assert len(ulora("history", "--json").document) == generation
    checked = ulora("verify", "--all", "--read-data", "--json")
    assert (checked.code, checked.err) == (0, "")


def test_new_records_keep_the_unknown_fields_of_old_ones(store_url: str, registry: Registry, tmp_path: Path) -> None:
    fresh = Registry(settings=replace(registry.settings, store=store_url, cache=tmp_path / "cache"))
    upload(fresh)
    head = fresh.channel("production").head()
    assert head
    back = fresh.rollback(reason="from today", options=RollbackOptions(again=True))
    again = fresh.promote("v1.1.0-dinov3", "production", PromoteOptions(force=True), reason="and forward")
    records = fresh.history("production")
    assert [record.generation for record in records[:2]] == [again.generation, back.generation]
    assert back.generation == head.generation + 1
    assert (back.version, again.version) == ("v1.0.0", "v1.1.0-dinov3")
    for record in records[:2]:
        kept = json.loads(record.to_bytes())
        assert kept["of_a_later_release"] == {"kept": [1, None, "ä", 0.5]}


def test_the_files_are_what_their_names_say() -> None:
    blobs = [path for path in (HERE / "store/blobs").rglob("*") if path.is_file()]
    assert blobs
    assert all(sha256(path.read_bytes()) == path.name for path in blobs)
