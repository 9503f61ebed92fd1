"""Verify by a sample, and repair from whatever holds the right bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from registry.api import Registry
from registry.channels.record import Author, ChannelPosition, promoted
from registry.errors import BadInput, KeyExists
from registry.formats.canonical import sha256 as digest_of
from registry.integrity.repair import BlobRepair, FilesByDigest
from registry.integrity.report import Mended, Verification
from registry.integrity.verify import Sample
from registry.machine.clock import timestamp
from registry.names import VersionName
from registry.retention.notes import Forgotten
from registry.store import layout
from registry.store.uploads import PART_BYTES
from registry.usecases.options import VerifyOptions
from tests.support.registries import create, file_of, flip_a_byte, listing, open_registry
from tests.support.run_ulora import complains, ulora

WEIGHTS, CONFIG = "adapters/low/adapter_model.safetensors", "config/preprocessing.json"
V1, V2 = "v1.0.0", "v1.1.0"


@pytest.fixture
def registry(store_url: str, s3, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Two versions, whose bundles lie in `tmp_path`; the settings are in the environment too."""
    registry = open_registry(tmp_path, store_url, model)
    monkeypatch.setenv("ULORA_MODEL", model)
    monkeypatch.setenv("ULORA_CACHE", str(registry.settings.cache))
    monkeypatch.setenv("ULORA_POLICY", str(registry.settings.policy))
    registry.store.initialise()
    create(registry, V1, tmp_path)
    create(registry, V2, tmp_path)
    return registry


def repaired(registry: Registry, source: Path) -> tuple[Verification, tuple[Mended, ...]]:
    """Repair the version from a folder: how it is afterwards, and what was repaired."""
    report = registry.verify_all([V1], VerifyOptions(repair_from=source))
    return report.versions[0], report.mended


def lose(registry: Registry, version: str, path: str) -> None:
    registry.store.delete(layout.blob(file_of(registry, version, path).sha256))


def without_names(bundle: Path, folder: Path) -> Path:
    """The same bytes under names that say nothing."""
    folder.mkdir()
    for number, path in enumerate(each for each in bundle.rglob("*") if each.is_file()):
        shutil.copyfile(path, folder / str(number))
    return folder


def test_a_sample_reads_its_share_and_says_its_seed(registry: Registry) -> None:
    size = registry.manifest(V1).size
    done = ulora("verify", V1, "--sample", "10%", "--seed", "7", "--json")
    assert done.code == 0, done
    checked = done.document["versions"][0]
    assert size / 10 <= checked["bytes_read"] < size
    assert (checked["read"], done.document["seed"]) == (False, 7)
    assert "--seed" in ulora("verify", V1, "--sample", "10").out
    complains(ulora("verify", V1, "--sample", "0%"), 2, "10%")
    complains(ulora("verify", V1, "--sample", "5%", "--read-data"), 2, "--sample")


def test_a_seed_draws_the_same_sample_of_at_least_one_file(registry: Registry) -> None:
    files = registry.manifest(V1).files
    assert Sample(0.3, 1).choose(files) == Sample(0.3, 1).choose(tuple(reversed(files)))
    assert len({tuple(Sample(0.01, seed).choose(files)) for seed in range(20)}) > 1
    assert len(Sample(1e-6).choose(files)) == 1
    assert len(Sample(1.0).choose(files)) == len(files)
    assert Sample(0.0).choose(files) == []


@pytest.mark.acceptance
def test_a_dry_run_shows_the_repairs_and_makes_none(registry: Registry, tmp_path: Path) -> None:
    flip_a_byte(registry, V1, WEIGHTS)
    lose(registry, V1, CONFIG)
    before = listing(registry)
    done = ulora("verify", V1, "--repair", tmp_path / V1, "--dry-run")
    complains(done, 6, f"{V1} {WEIGHTS} (corrupt)", "again without --dry-run", "holds copies of 2 blobs")
    assert f"would put {tmp_path / V1 / WEIGHTS} there" in done.out
    assert listing(registry) == before
    assert not registry.verify(V1, read_data=True).ok


def test_bad_files_are_repaired_from_copies_with_any_name(registry: Registry, tmp_path: Path) -> None:
    flip_a_byte(registry, V1, WEIGHTS)
    lose(registry, V1, CONFIG)
    copies = without_names(tmp_path / V1, tmp_path / "backup")
    done = ulora("verify", V1, "--read-data", "--repair", copies, "--json")
    assert done.code == 0, done
    mended = {each["path"]: (each["problem"], each["done"]) for each in done.document["mended"]}
    assert mended == {WEIGHTS: ("corrupt", True), CONFIG: ("missing", True)}
    assert registry.verify(V1, read_data=True).ok
    assert registry.verify(V1).ok


def test_what_no_copy_is_found_of_stays_bad_and_is_named(registry: Registry, tmp_path: Path) -> None:
    flip_a_byte(registry, V1, WEIGHTS)
    lose(registry, V1, CONFIG)
    (tmp_path / "half").mkdir()
    shutil.copyfile(tmp_path / V1 / CONFIG, tmp_path / "half" / "x")
    shutil.copyfile(tmp_path / V2 / WEIGHTS, tmp_path / "half" / "of the same size")
    done = ulora("verify", V1, "--repair", tmp_path / "half")
    complains(done, 6, f"1 bad: {V1} {WEIGHTS} (corrupt)", "holds no copy")
    assert f"{V1} {CONFIG} was missing, is good now" in done.out
    with pytest.raises(BadInput):
        repaired(registry, tmp_path / "nowhere")


def test_a_lost_manifest_is_repaired_before_the_files_it_names(registry: Registry, tmp_path: Path) -> None:
    manifest = registry.manifest(V1)
    registry.switch(V1, tmp_path / "tree")
    lose(registry, V1, CONFIG)
    key = layout.blob(registry.bindings.get(VersionName.parse(V1)).manifest_sha256)
    for damage in (lambda: registry.store.delete(key), lambda: registry.store.overwrite(key, b"{}")):
        damage()
        left, mended = repaired(registry, tmp_path / "tree")
        assert left.ok
        assert mended[0].path == "version.json"
    assert registry.manifest(V1) == manifest


def test_the_own_cache_of_blobs_is_a_source_of_copies(registry: Registry) -> None:
    registry.blobs.fetch(registry.manifest(V1).files)
    flip_a_byte(registry, V1, WEIGHTS)
    left, _ = repaired(registry, registry.settings.cache)
    assert left.ok


@pytest.mark.acceptance
def test_good_bytes_without_a_digest_are_uploaded_again(registry: Registry, tmp_path: Path) -> None:
    # As after other tools copied the bucket: the bytes are right, but the store keeps no digest to ask for.
    key = layout.blob(file_of(registry, V1, WEIGHTS).sha256)
    registry.store.overwrite(key, registry.store.get(key).body)
    assert [bad.problem for bad in registry.verify(V1).bad] == ["unproven"]
    assert registry.verify(V1, read_data=True).ok
    (tmp_path / "empty").mkdir()
    left, mended = repaired(registry, tmp_path / "empty")
    assert (left.ok, mended[0].problem, mended[0].done) == (True, "unproven", True)
    assert registry.verify(V1).ok


def test_a_blob_that_became_good_meanwhile_is_not_overwritten(registry: Registry, tmp_path: Path) -> None:
    file = file_of(registry, V1, WEIGHTS)
    key = layout.blob(file.sha256)
    flip_a_byte(registry, V1, WEIGHTS)
    mender = BlobRepair(registry.store, registry.blobs, FilesByDigest(tmp_path / V1))
    plan = mender.plan(file.sha256, file.size)
    registry.store.overwrite(key, b"somebody else's attempt")
    with pytest.raises(KeyExists):
        mender.apply(plan)
    assert registry.store.get(key).body == b"somebody else's attempt"
    again = mender.plan(file.sha256, file.size)
    assert mender.apply(again)
    assert mender.apply(again), "the same bytes are there already: another repair was first"


def test_a_blob_in_parts_is_replaced_in_parts(registry: Registry, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("registry.store.uploads.PART_BYTES", 5 * 1024 * 1024)
    assert PART_BYTES > 5 * 1024 * 1024
    path = tmp_path / "big"
    path.write_bytes(bytes(5 * 1024 * 1024 + 1))
    digest = registry.blobs.put(b"{}")
    etag = registry.store.contents(layout.blob(digest)).etag
    sha256 = digest_of(path.read_bytes())
    registry.store.replace(layout.blob(digest), path, sha256, path.stat().st_size, etag)
    assert registry.store.contents(layout.blob(digest)).sha256 == sha256
    other = tmp_path / V1 / CONFIG
    with pytest.raises(KeyExists):
        registry.store.replace(layout.blob(digest), other, digest_of(other.read_bytes()), other.stat().st_size, etag)


@pytest.mark.acceptance
def test_everything_else_that_is_damaged_is_named_by_all(registry: Registry, tmp_path: Path) -> None:
    registry.promote(V1, "staging")
    drill = registry.channel("drill-1")
    pointer = registry.bindings.get(VersionName.parse(V1)).pointer
    drill.commit(promoted(ChannelPosition(registry.model, "drill-1", None), pointer, Author("a test"), None))
    emptied = layout.channel(registry.model, "Theirs") + "x"
    registry.store.overwrite(emptied, b"")
    registry.store.delete(emptied)
    fine = ulora("verify", "--all", "--json")
    assert fine.code == 0, fine
    assert fine.document["chains"]["drill-1"] == {"records": 1, "problem": "", "refused": []}
    assert fine.document["documents"]["checked"] == 3
    assert fine.document["documents"]["bad"] == {}

    store, model = registry.store, registry.model
    verdict = next(key for key in listing(registry) if "/verdicts/" in key)
    passed = next(key for key in listing(registry) if "/passed/" in key)
    evidence = layout.evidence(model, V1, "0" * 64)
    store.overwrite(layout.version(model, "v9.9.9"), b"junk")
    store.overwrite(verdict, store.get(verdict).body.replace(b"a test", b"nobody"))
    store.overwrite(passed, b"{}")
    store.overwrite(evidence, b"{}")
    store.overwrite(layout.record(model, "drill-1", 1), b"junk")
    store.overwrite(layout.backbone("1" * 64), b"junk")
    stray = [layout.versions(model) + "junk.json", layout.replica(model, "production", "x")]
    for key in (*stray, layout.version(f"{model}-2", "v1.0.0"), layout.GC_KEY):
        store.overwrite(key, b"junk")
    done = ulora("verify", "--all", "--json")
    assert done.code == 6
    assert set(done.document["documents"]["bad"]) == {verdict, passed, evidence, *stray}
    assert [problem.partition(" ")[0] for problem in done.document["garbage"]] == [layout.GC_KEY, "a"]
    store.delete(layout.backbone("1" * 64))
    assert done.document["chains"]["drill-1"]["problem"]
    assert [one["version"] for one in done.document["versions"] if one["bad"]] == ["v9.9.9"]
    assert [len(one["bad"]) for one in done.document["backbones"]] == [1]
    assert "drill-1" in done.error["message"]


def test_deleted_files_of_a_forgotten_version_are_not_bad(registry: Registry) -> None:
    pointer = registry.bindings.get(VersionName.parse(V1)).pointer
    note = {"format": 1, "model": registry.model, "who": "a test", "when": timestamp(), **pointer.model_dump()}
    registry.wiring.forgotten.add(Forgotten.model_validate(note))
    lose(registry, V1, WEIGHTS)
    checked = registry.verify(V1)
    assert checked.ok
    assert "forgotten" in checked.note
    drill = registry.channel("drill-1")
    drill.commit(promoted(ChannelPosition(registry.model, "drill-1", None), pointer, Author("a test"), None))
    assert [bad.path for bad in registry.verify(V1).bad] == [WEIGHTS]
