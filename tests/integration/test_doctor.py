"""What the doctor finds, each with what to run."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry.answers import Finding
from registry.api import Registry
from registry.doctor import examine
from registry.doctor.channels import check_replicas
from registry.doctor.store import check_clock
from registry.machine.clock import timestamp
from registry.names import VersionName
from registry.retention.notes import Forgotten
from registry.serving.fleet import Heartbeat
from registry.store import layout
from registry.store.objects import ObjectStore
from registry.versions.manifest import Component, Manifest
from tests.support.registries import bind, create, file_of, flip_a_byte, open_registry, rebind
from tests.support.run_ulora import ulora
from tests.support.store_with_clock import open_calendar

V1, V2 = "v1.0.0", "v1.1.0"
WEIGHTS = "adapters/low/adapter_model.safetensors"


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Without MLflow: two versions, both were in production; the second is."""
    registry = open_registry(tmp_path, store_url, model)
    monkeypatch.setenv("ULORA_MODEL", model)
    monkeypatch.setenv("ULORA_CACHE", str(registry.settings.cache))
    monkeypatch.chdir(tmp_path)
    registry.store.initialise()
    bind(registry, V2)
    create(registry, V1, tmp_path)
    for name in (V1, V2):
        registry.promote(name, "production")
    return registry


def found(registry: Registry, subject: str) -> list[Finding]:
    return [finding for finding in examine(registry) if finding.subject == subject]


def one(registry: Registry, subject: str) -> Finding:
    (finding,) = found(registry, subject)
    return finding


def test_a_sound_registry_has_no_errors_and_warnings_have_a_fix(registry: Registry) -> None:
    findings = {finding.subject: finding for finding in examine(registry)}
    assert not [finding for finding in findings.values() if finding.level == "error"]
    assert all(finding.fix for finding in findings.values() if finding.level != "ok")
    assert "may read, may list, may create, may delete" in findings["rights"].detail
    assert findings["versioning"].detail.startswith("off")
    assert (findings["lifecycle"].level, findings["clock"].level) == ("ok", "ok")
    assert findings["garbage"].detail == "none"
    assert findings["disk"].level == "ok"


def test_a_clock_that_is_wrong_is_told_with_how_much(store_url: str, model: str, tmp_path: Path) -> None:
    registry, store = open_calendar(tmp_path, store_url, model)
    store.days = 1
    (finding,) = check_clock(registry)
    assert (finding.level, finding.fix) == ("warning", "set this machine's clock (NTP)")
    assert 86_300 < int(finding.detail.removesuffix(" s behind the store's")) < 86_500


@pytest.mark.acceptance
def test_the_rollback_target_is_to_be_read_daily(registry: Registry) -> None:
    assert one(registry, "rollback target").level == "warning"
    assert "doctor --read-data" in one(registry, "rollback target").fix
    done = ulora("doctor", "--read-data", "--json")
    assert done.code == 0, done
    told = {finding["subject"]: finding["detail"] for finding in done.document}
    assert f"of {V1} were read" in told["rollback target"]
    assert f"of {V2} were read" in told["stable"]
    assert one(registry, "rollback target").level == "ok"

    pointer = registry.bindings.get(VersionName.parse(V1)).pointer
    note = registry.wiring.last_reads.find(pointer.manifest_sha256)
    assert note is not None
    yesterday = note.model_copy(update={"when": datetime.now(UTC) - timedelta(hours=25)})
    registry.wiring.last_reads._place(pointer.manifest_sha256).write(yesterday.to_bytes())
    assert "25 h ago" in one(registry, "rollback target").detail
    assert one(registry, "rollback target").level == "warning"


@pytest.mark.acceptance
def test_a_bad_target_stays_an_error_until_it_is_read_again(registry: Registry, tmp_path: Path) -> None:
    flip_a_byte(registry, V1, WEIGHTS)
    assert ulora("verify", V1, "--read-data").code == 6
    bad = one(registry, "rollback target")
    assert (bad.level, "--repair" in bad.fix) == ("error", True)
    assert WEIGHTS in bad.detail
    assert ulora("doctor").code == 1
    assert ulora("verify", V1, "--read-data", "--repair", tmp_path / V1).code == 0
    assert ulora("verify", V1, "--read-data").code == 0
    assert one(registry, "rollback target").level == "ok"


def test_a_rule_that_expires_our_objects_is_an_error(registry: Registry) -> None:
    client, bucket = registry.store._client.transfers, registry.store.bucket
    prefix = registry.settings.store.rpartition("/")[2]
    rules = [
        {"ID": "ours", "Prefix": f"{prefix}/blobs", "Expiration": {"Days": 30}},
        {"ID": "others", "Prefix": "elsewhere/", "Expiration": {"Days": 1}},
    ]
    client.put_bucket_lifecycle_configuration(
        Bucket=bucket,
        LifecycleConfiguration={
            "Rules": [
                {"ID": rule["ID"], "Status": "Enabled", "Filter": {"Prefix": rule["Prefix"]},
                 "Expiration": rule["Expiration"]}
                for rule in rules
            ]
        },
    )  # fmt: skip
    try:
        finding = one(registry, "lifecycle")
    finally:
        client.delete_bucket_lifecycle(Bucket=bucket)
    assert finding.level == "error"
    assert "ours expires objects after 30 days" in finding.detail


def test_something_needed_that_is_forgotten_is_an_error(registry: Registry) -> None:
    binding = registry.bindings.get(VersionName.parse(V1))
    registry.wiring.forgotten.add(
        Forgotten(
            format=1,
            model=registry.model,
            version=V1,
            manifest_sha256=binding.manifest_sha256,
            who="a test",
            when=timestamp(),
        )
    )
    finding = one(registry, "notes")
    assert (finding.level, finding.fix) == ("error", f"ulora store remember {V1}")
    assert "on the stack of production" in finding.detail
    registry.store.delete(layout.blob(file_of(registry, V1, WEIGHTS).sha256))
    assert one(registry, "production rollback target").level == "error"
    assert f"ulora create {V1}" in one(registry, "notes").fix


def test_garbage_is_counted_or_the_reason_why_not_is_an_error(registry: Registry) -> None:
    registry.blobs.put(b"nobody refers to this")
    assert one(registry, "garbage").detail.startswith("1 blob that nothing refers to")
    junk = layout.replica(registry.model, "production", "x")
    registry.store.overwrite(junk, b"junk")
    finding = one(registry, "garbage")
    assert (finding.level, finding.fix.partition(":")[0]) == ("error", f"delete {junk}")


def test_an_identity_that_may_not_write_is_told_what_it_may(registry: Registry, monkeypatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    denied = Registry(settings=registry.settings)
    assert [finding.level for finding in examine(denied)] == ["error"], "without reading there is nothing to examine"
    monkeypatch.undo()


def test_rights_are_found_out_without_leaving_anything(registry: Registry) -> None:
    before = [info.key for info in registry.store.list("")]
    assert set(vars(registry.store.rights()).values()) == {True}
    empty = ObjectStore(f"{registry.settings.store}-empty")
    assert (empty.rights().create, empty.first("")) == (None, None), "nothing to try it on, and nothing was made"
    assert [info.key for info in registry.store.list("")] == before


def test_a_replica_is_said_to_be_behind_unready_or_silent(registry: Registry) -> None:
    def beat(name: str, **fields) -> None:
        said = {
            "format": 1, "id": name, "host": "h", "pid": 1, "device": "cpu", "state": "serving", "version": V2,
            "generation": 2, "newest": 2, "rollback_ready": True, "resident": (V2,), "error": "", "when": timestamp(),
        }  # fmt: skip
        key = layout.replica(registry.model, "production", name)
        registry.store.overwrite(key, Heartbeat.model_validate({**said, **fields}).to_bytes())

    beat("fine")
    beat("behind", generation=1, version=V1)
    beat("unready", rollback_ready=False)
    beat("failing", error="out of memory")
    told = {finding.subject: finding for finding in check_replicas(registry)}
    assert told["replica fine"].level == "ok"
    assert "behind production, which is at 2" in told["replica behind"].detail
    assert f"{V1} is not in its memory" in told["replica unready"].detail
    assert "out of memory" in told["replica failing"].detail


@pytest.mark.acceptance
def test_a_missing_git_tag_of_a_version_is_reported(registry: Registry, tmp_path: Path) -> None:
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert found(registry, "git tags") == [], "outside of a repository nobody can tell"
    git("init", "-q")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "one")
    commit = git("rev-parse", "HEAD")
    for name, tag, of in (
        ("v3.0.0", "v3.0.0", commit), ("v4.0.0", "v4.0.0", "0" * 40),
        ("v5.0.0", "v\0", commit), ("v6.0.0", "v" * 200_000, commit), ("v7.0.0", "--delete", commit),
    ):  # fmt: skip
        manifest = Manifest.make(
            model=registry.model, version=name, flavor="empty", backbone=None, files=[],
            components={"x": Component()}, timestamp="2026-11-21T12:00:00Z",
            provenance={"git_tag": tag, "git_commit": of},
        )  # fmt: skip
        registry.bindings.bind(manifest, registry.blobs.put(manifest.to_bytes()))
    missing = one(registry, "git tags")
    assert missing.fix == f"git tag -a v3.0.0 -m v3.0.0 {commit}"
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", *missing.fix.split()[1:]], cwd=tmp_path, check=True
    )
    assert found(registry, "git tags") == []


def test_a_version_that_was_bound_again_is_an_error(registry: Registry) -> None:
    before, after = rebind(registry, V1)
    errors = [finding for finding in examine(registry) if finding.level == "error"]
    assert {"production", "production rollback target"} <= {finding.subject for finding in errors}
    (chain,) = [finding for finding in errors if finding.subject == "production"]
    assert f"names {V1} with the manifest {before}, but its name is bound to {after} now" in chain.detail
    assert "bring the true one back" in chain.fix
