"""A flipped byte, a lost blob, a poisoned cache: named, and never used."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.api import Registry
from registry.errors import BadInput, CorruptBlob, MissingBlob, VersionNotFound
from registry.formats.canonical import sha256
from registry.integrity.report import BadFile
from registry.names import VersionName
from registry.store import layout
from registry.usecases.options import VerifyOptions
from tests.support.registries import bind, create, file_of, flip_a_byte, open_registry, rebind
from tests.support.run_ulora import complains, ulora

WEIGHTS = "adapters/low/adapter_model.safetensors"


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    create(registry, "v1.0.0", tmp_path)
    return registry


def test_a_whole_version_is_verified_by_checksums_and_by_reading(registry: Registry) -> None:
    size, done = registry.manifest("v1.0.0").size, []
    asked, read = registry.verify("v1.0.0"), registry.verify("v1.0.0", read_data=True, progress=done.append)
    assert (asked.ok, asked.read, read.ok, read.read) == (True, False, True, True)
    assert (asked.size, asked.files) == (size, len(registry.manifest("v1.0.0").files))
    assert sum(done) == sum({file.sha256: file.size for file in registry.manifest("v1.0.0").files}.values())


@pytest.mark.parametrize("read_data", [False, True])
def test_the_file_with_a_flipped_byte_is_named(registry: Registry, read_data: bool) -> None:
    flip_a_byte(registry, "v1.0.0", WEIGHTS)
    sha256 = file_of(registry, "v1.0.0", WEIGHTS).sha256
    assert registry.verify("v1.0.0", read_data=read_data).bad == (BadFile(WEIGHTS, sha256, "corrupt"),)


def test_a_byte_flipped_on_the_server_is_found_by_reading(registry: Registry) -> None:
    # The server's checksum is that of what was written; only reading shows that the bytes have changed since.
    file = file_of(registry, "v1.0.0", WEIGHTS)
    body = registry.store.get(layout.blob(file.sha256)).body
    client = registry.store._client
    client.transfers.put_object(
        **client.at(layout.blob(file.sha256)),
        Body=bytes([body[0] ^ 1]) + body[1:],
        Metadata={"sha256": file.sha256},  # what a multipart object says of itself
    )
    assert [bad.problem for bad in registry.verify("v1.0.0", read_data=True).bad] == ["corrupt"]


@pytest.mark.acceptance
@pytest.mark.parametrize("read_data", [False, True])
def test_every_file_of_a_lost_blob_is_named(registry: Registry, tmp_path: Path, read_data: bool) -> None:
    bundle = tmp_path / "v1.0.0"
    for name in ("a", "b"):
        (bundle / f"config/{name}.json").write_text('{"twin":1}')
    registry.create("v1.1.0", bundle, offline=True)
    registry.store.delete(layout.blob(file_of(registry, "v1.1.0", "config/a.json").sha256))
    found = registry.verify("v1.1.0", read_data=read_data)
    assert [(bad.path, bad.problem) for bad in found.bad] == [
        ("config/a.json", "missing"),
        ("config/b.json", "missing"),
    ]
    assert registry.verify("v1.0.0", read_data=read_data).ok


def test_a_version_with_a_flipped_byte_is_not_loaded(registry: Registry) -> None:
    flip_a_byte(registry, "v1.0.0", WEIGHTS)
    with pytest.raises(CorruptBlob, match=file_of(registry, "v1.0.0", WEIGHTS).sha256):
        registry.load("v1.0.0")


def test_a_poisoned_cache_is_fetched_again_before_it_is_loaded(registry: Registry) -> None:
    before = registry.load("v1.0.0")
    file = file_of(registry, "v1.0.0", WEIGHTS)
    cached = registry.blobs.fetch([file])[file.sha256]
    cached.chmod(0o644)
    data = cached.read_bytes()
    cached.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert registry.load("v1.0.0").content_sha256 == before.content_sha256
    assert cached.read_bytes() == data


def test_a_damaged_manifest_names_its_version(registry: Registry) -> None:
    pointer = registry.bindings.get(VersionName(1, 0, 0)).pointer
    key = layout.blob(pointer.manifest_sha256)
    body = registry.store.get(key).body
    registry.store.overwrite(key, body.replace(b"v1.0.0", b"v1.0.1"))
    for act in (registry.verify, registry.manifest, registry.promote, registry.load):
        with pytest.raises(CorruptBlob, match=r"the manifest of v1\.0\.0"):
            act("v1.0.0")
    registry.store.delete(key)
    with pytest.raises(MissingBlob, match=r"the manifest of v1\.0\.0"):
        registry.verify("v1.0.0")


def test_a_version_that_is_not_there_is_not_found(registry: Registry) -> None:
    with pytest.raises(VersionNotFound):
        registry.verify("v9.0.0")


def test_verify_all_reports_each_result_at_once(registry: Registry) -> None:
    flip_a_byte(registry, "v1.0.0", WEIGHTS)
    told: list[object] = []
    report = registry.verify_all(tell=told.append)
    assert [type(each).__name__ for each in told] == [
        "Verification", "ChainCheck", "ChainCheck", "Documents", "GarbageCheck",
    ]  # fmt: skip
    assert told == [*report.versions, *report.chains, report.documents, report.garbage]
    assert report.problems == [f"v1.0.0 {WEIGHTS} (corrupt)"]
    assert report.seed is None


def test_a_share_is_read_and_can_be_read_again_by_its_seed(registry: Registry) -> None:
    report = registry.verify_all(["v1.0.0"], VerifyOptions(share=0.01))
    again = registry.verify_all(["v1.0.0"], VerifyOptions(share=0.01, seed=report.seed))
    assert 0 < report.versions[0].bytes_read == again.versions[0].bytes_read < report.versions[0].size
    assert (report.chains, report.documents, report.garbage) == ((), None, None)
    with pytest.raises(BadInput, match="--read-data"):
        VerifyOptions(read_data=True, share=0.01)


@pytest.mark.acceptance
def test_a_name_that_was_bound_again_is_found(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    bind(registry, "v2.0.0")
    registry.promote("v1.0.0", "staging")
    registry.promote("v1.0.0", "production")
    registry.promote("v2.0.0", "production")
    before, after = rebind(registry, "v1.0.0")
    says = f"generation 2 of production names v1.0.0 with the manifest {before}, but its name is bound to {after} now"
    (bad,) = registry.verify("v1.0.0").bad
    assert bad == BadFile("binding", "", says)
    report = registry.verify_all()
    chains = {chain.channel: (chain.records, chain.problem) for chain in report.chains}
    assert chains["production"] == (2, says)
    assert chains["staging"][1].startswith("generation 1 of staging names v1.0.0")
    assert not report.versions[0].ok
    assert report.versions[1].ok
    monkeypatch.setenv("ULORA_MODEL", registry.model)
    monkeypatch.setenv("ULORA_CACHE", str(registry.settings.cache))
    complains(ulora("verify", "v1.0.0"), 6, before, after)
    complains(ulora("verify", "--all"), 6, before, after)


def test_a_binding_that_says_another_content_is_found(registry: Registry) -> None:
    bound = registry.bindings.get(registry.manifest("v1.0.0").name)
    other = bound.model_copy(update={"content_sha256": "0" * 64})
    registry.store.overwrite(layout.version(registry.model, "v1.0.0"), other.to_bytes())
    says = f"it says the content {'0' * 12}, but its manifest has {bound.content_sha256[:12]}"
    assert registry.verify("v1.0.0").bad == (BadFile("binding", "", says),)
    assert registry.verify_all().problems == [f"v1.0.0 binding ({says})"]


@pytest.mark.acceptance
def test_a_rebound_name_is_found_by_documents_and_old_records(registry: Registry) -> None:
    names = [f"v2.{number}.0" for number in range(12)]
    bind(registry, *names)
    registry.promote("v1.0.0", "staging")
    for name in names:  # so that it is on no stack any more
        registry.promote(name, "staging")
    old = registry.manifest("v1.0.0").content_sha256[:12]
    rebind(registry, "v1.0.0")
    assert registry.verify("v1.0.0").ok, "only the ends of the logs are read for one version"
    report = registry.verify_all()
    (problem,) = [chain.problem for chain in report.chains if chain.problem]
    assert "of staging names v1.0.0" in problem
    assert report.documents
    assert {key.split("/")[2] for key in report.documents.bad} == {"verdicts", "passed"}
    assert all(f"it is about the content {old} of v1.0.0" in each for each in report.documents.bad.values())


@pytest.mark.acceptance
def test_counts_and_decisions_are_compared_with_their_keys(registry: Registry) -> None:
    model, store = registry.model, registry.store
    right = (layout.observation(model, "production", "one"), layout.decision(model, "production", sha256(b"{}")))
    wrong = (layout.observation(model, "production", "two"), layout.decision(model, "production", sha256(b"[]")))
    for place, body in zip((*right, *wrong), (b'{"replica":"one"}', b"{}") * 2, strict=True):
        store.create(place, body)
    documents = registry.verify_all().documents
    assert documents
    assert set(documents.bad) == set(wrong)
