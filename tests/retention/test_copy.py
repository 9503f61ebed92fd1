"""A version copied to another store, and through a folder on a disk: whole, verified, and bound last."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest

from registry.api import Registry
from registry.errors import (
    BadInput,
    BadManifest,
    BadSetting,
    CorruptBlob,
    MissingBlob,
    ObjectNotFound,
    UnsafePath,
    VersionExists,
    VersionNotFound,
)
from registry.formats.canonical import sha256
from registry.machine.clock import timestamp
from registry.progress import open_no_progress
from registry.retention import copied_documents
from registry.retention.copy import Copy, FromFolder
from registry.retention.forget import RetentionRule
from registry.store import folder, layout
from registry.store.blobs import BlobEntry
from registry.store.folder import Folder
from registry.trust.statement import MAX_SIGNATURE
from registry.versions.backbones import MirroredBackbone
from registry.versions.bindings import Binding
from registry.versions.manifest import BackboneRef, FileEntry, Manifest
from tests.support.registries import bind, listing
from tests.support.run_ulora import complains, ulora
from tests.support.store_with_clock import Calendar, has, manifest_of, open_calendar, release
from tests.support.working_trees import write_tree

WEIGHTS = b"the weights of a backbone"


@pytest.fixture
def here(store_url: str, model: str, tmp_path: Path) -> Registry:
    """A store that holds v1.0.0 of two files, with evidence and a signature, live in production."""
    registry = _registry(tmp_path / "here", store_url, model)
    release(registry, "v1.0.0", b"one", b"two")
    for key_of, body in ((layout.evidence, b'{"accuracy":1}'), (layout.signature, b"signed")):
        registry.store.create(key_of(model, "v1.0.0", sha256(body)), body)
    registry.promote("v1.0.0", "production")
    return registry


@pytest.fixture
def there(here: Registry, tmp_path: Path) -> Registry:
    """Another store, which holds nothing yet."""
    return _registry(tmp_path / "there", f"{here.settings.store}-there", here.model)


def _registry(folder: Path, store: str, model: str) -> Registry:
    registry, calendar = open_calendar(folder, store, model)
    calendar.initialise()
    registry.wiring.check_writable()
    return registry


def test_approvals_and_verdicts_stay(here: Registry, there: Registry) -> None:
    here.approve("v1.0.0")
    assert documents(here, "approvals", "verdicts")
    here.copy_to("v1.0.0", there.settings.store)
    assert is_bound(there)
    assert documents(there, "approvals", "verdicts") == set()


def steps_of(registry: Registry) -> list[str]:
    assert isinstance(registry.store, Calendar)
    return registry.store.steps


def documents(registry: Registry, *kinds: str) -> set[str]:
    return {key for key in listing(registry) if any(f"/{kind}/" in key for kind in kinds)}


def is_bound(registry: Registry, version: str = "v1.0.0") -> bool:
    return registry.store.head(layout.version(registry.model, version)) is not None


def test_what_belongs_to_a_version_travels_and_its_history_stays(here: Registry, there: Registry) -> None:
    planned = here.copy_to("v1.0.0", there.settings.store, dry_run=True)
    assert (planned.blobs, planned.evidence, planned.signatures) == (3, 1, 1)
    assert not is_bound(there)
    done = here.copy_to("v1.0.0", there.settings.store)
    assert (done.is_new, done.blobs, done.blobs_of, done.size) == (True, 3, 3, planned.size)
    assert there.verify("v1.0.0", read_data=True).ok
    assert there.manifest("v1.0.0").to_bytes() == here.manifest("v1.0.0").to_bytes()
    carried = documents(here, "versions", "evidence", "signatures")
    assert documents(there, "versions", "evidence", "signatures") == carried
    assert documents(there, "channels", "verdicts", "policies", "passed") == set()
    again = here.copy_to("v1.0.0", there.settings.store)
    assert (again.is_new, again.blobs, again.size) == (False, 0, 0)


def test_a_folder_carries_a_version_to_where_no_network_leads(here: Registry, there: Registry, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    assert here.copy_to("v1.0.0", str(disk)).blobs == 3
    release(here, "v1.1.0", b"one", b"three")
    assert here.copy_to("v1.1.0", str(disk)).blobs == 2
    assert there.copy_from("v1.0.0", disk, dry_run=True).blobs == 3
    for version in ("v1.0.0", "v1.1.0"):
        there.copy_from(version, disk)
        assert there.verify(version, read_data=True).ok
    assert documents(there, "evidence", "signatures") == documents(here, "evidence", "signatures")
    on_disk = {path.relative_to(disk).as_posix() for path in disk.rglob("*") if path.is_file()}
    assert on_disk == set(listing(here)) - documents(here, "channels", "verdicts", "policies")


def test_the_backbone_travels_if_the_store_holds_it(here: Registry, there: Registry, tmp_path: Path) -> None:
    ref = BackboneRef(family="dinov2", sha256=sha256(WEIGHTS), name="plant-vit")
    manifest = Manifest.make(
        **{**manifest_of(here.model, "v2.0.0").model_dump(exclude={"format", "content_sha256"}), "backbone": ref}
    )
    here.bindings.bind(manifest, here.blobs.put(manifest.to_bytes()))
    (note,) = here.copy_to("v2.0.0", str(tmp_path / "without"), dry_run=True).notes
    assert "plant-vit" in note
    here.blobs.put(WEIGHTS)
    mirrored = MirroredBackbone(format=1, backbone=ref, size=len(WEIGHTS), who="ann", when=timestamp())
    here.store.create(layout.backbone(ref.sha256), mirrored.to_bytes())
    here.copy_to("v2.0.0", str(tmp_path / "disk"))
    assert there.copy_from("v2.0.0", tmp_path / "disk").backbone == "plant-vit"
    assert [each.backbone.name for each in there.backbones()] == ["plant-vit"]
    assert has(there, WEIGHTS)


def test_an_interrupted_copy_is_completed_by_the_next_one(here: Registry, tmp_path: Path) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt() -> None:
        raise Interrupted

    disk = tmp_path / "disk"
    here.copy_to("v1.0.0", str(disk))
    whole = _registry(tmp_path / "whole", f"{here.settings.store}-whole", here.model)
    first = len(steps_of(whole))
    whole.copy_from("v1.0.0", disk)
    steps = steps_of(whole)[first:]
    writes = [number for number, step in enumerate(steps) if step.startswith(("create", "upload"))]
    assert steps[writes[-1]] == f"create {layout.version(here.model, 'v1.0.0')}"
    assert sum(step.startswith("head blobs/") for step in steps) == 3, "each blob is looked at once"
    for number in writes:
        there = _registry(tmp_path / f"{number}", f"{here.settings.store}-{number}", here.model)
        assert isinstance(there.store, Calendar)
        there.store.at_step(number, interrupt)
        with pytest.raises(Interrupted):
            there.copy_from("v1.0.0", disk)
        assert not is_bound(there)
        there.copy_from("v1.0.0", disk)
        assert there.verify("v1.0.0", read_data=True).ok


def test_the_same_name_with_other_content_is_left_alone(here: Registry, there: Registry) -> None:
    release(there, "v1.0.0", b"something else")
    before = listing(there)
    with pytest.raises(VersionExists, match="other content"):
        here.copy_to("v1.0.0", there.settings.store)
    assert listing(there) == before


def test_equal_content_created_there_keeps_its_own_manifest(here: Registry, there: Registry) -> None:
    manifest = here.manifest("v1.0.0").model_copy(update={"description": "made there"})
    for body in (b"one", b"two"):
        there.blobs.put(body)
    there.bindings.bind(manifest, there.blobs.put(manifest.to_bytes()))
    done = here.copy_to("v1.0.0", there.settings.store)
    assert (done.is_new, done.signatures) == (False, 0)
    assert "not copied: 1 signature" in done.notes[0]
    assert there.manifest("v1.0.0").description == "made there"
    assert documents(there, "signatures") == set()


def test_a_forgotten_version_is_brought_back(here: Registry, there: Registry) -> None:
    assert isinstance(there.store, Calendar)
    here.copy_to("v1.0.0", there.settings.store)
    bind(there, "v2.0.0")
    there.store.days = 31
    for _ in range(2):
        there.collect_garbage(RetentionRule(keep=1))
        there.store.days += 2
    assert not has(there, b"one")
    here.copy_to("v1.0.0", there.settings.store)
    assert there.promote("v1.0.0", "staging").changed


def test_a_dry_run_refuses_a_target_that_is_not_a_store(here: Registry, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    for dry_run in (True, False):
        with pytest.raises(ObjectNotFound) as refused:
            here.copy_to("v1.0.0", f"{here.settings.store}-nowhere", dry_run=dry_run)
        assert "ulora store init" in refused.value.hint
        with pytest.raises(BadInput, match="holds other files"):
            here.copy_to("v1.0.0", str(tmp_path / "full"), dry_run=dry_run)
        with pytest.raises(BadInput, match="the store to copy from"):
            here.copy_to("v1.0.0", f"{here.settings.store}/", dry_run=dry_run)
    for missing in (tmp_path / "empty", tmp_path / "full"):
        with pytest.raises(BadInput, match="holds no copies"):
            here.copy_from("v1.0.0", missing)
    with pytest.raises(VersionNotFound):
        here.copy_to("v7.0.0", str(tmp_path / "disk"))


def test_a_damaged_store_gives_no_version_away(here: Registry, there: Registry) -> None:
    key = layout.blob(sha256(b"two"))
    here.store.overwrite(key, b"owt")
    with pytest.raises(CorruptBlob, match=sha256(b"two")):
        here.copy_to("v1.0.0", there.settings.store)
    here.store.delete(key)
    with pytest.raises(MissingBlob, match=sha256(b"two")):
        here.copy_to("v1.0.0", there.settings.store)
    assert not is_bound(there)
    here.blobs.put(b"two")
    assert here.copy_to("v1.0.0", there.settings.store).is_new


def test_what_a_disk_may_bring_is_checked(here: Registry, there: Registry, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    here.copy_to("v1.0.0", str(disk))
    blob = disk / layout.blob(sha256(b"one"))
    blob.write_bytes(b"eno")
    with pytest.raises(CorruptBlob, match="SHA-256 mismatch"):
        there.copy_from("v1.0.0", disk)
    os.truncate(blob, 1 << 40)  # takes no space on the disk, and hours to read
    with pytest.raises(CorruptBlob, match="SHA-256 mismatch"):
        there.copy_from("v1.0.0", disk)
    assert here.copy_to("v1.0.0", str(disk)).blobs == 1, "a file of another size is another blob"
    assert blob.read_bytes() == b"one"
    blob.unlink()
    blob.symlink_to("/etc/hostname")
    with pytest.raises(UnsafePath, match="is a link"):
        there.copy_from("v1.0.0", disk)
    binding = disk / layout.version(here.model, "v1.0.0")
    other = Binding.parse(binding.read_bytes(), "it").model_copy(update={"content_sha256": "0" * 64})
    binding.write_bytes(other.to_bytes())
    with pytest.raises(BadManifest, match="about different versions"):
        there.copy_from("v1.0.0", disk)
    assert not is_bound(there)


def test_a_damaged_result_stays_behind(here: Registry, there: Registry) -> None:
    here.store.overwrite(layout.evidence(here.model, "v1.0.0", sha256(b'{"accuracy":1}')), b'{"accuracy":2}')
    done = here.copy_to("v1.0.0", there.settings.store)
    assert done.evidence == 0
    assert "is damaged" in done.notes[0]
    assert documents(there, "evidence") == set()


def test_a_file_too_large_for_a_version_is_not_read(here: Registry, tmp_path: Path) -> None:
    local = FromFolder(Folder(tmp_path))
    with (
        pytest.raises(BadInput, match="more than the 68719476736 that a file may have"),
        local(BlobEntry("0" * 64, 1 << 40)),
    ):
        pass


def test_documents_are_read_when_their_turn_comes(here: Registry, tmp_path: Path) -> None:
    """Whoever writes to the source may leave thousands there, of 16 MiB each."""
    disk, other = tmp_path / "disk", Folder(tmp_path / "other")
    here.copy_to("v1.0.0", str(disk))
    sizes = [4 * 1024 * 1024 + number for number in range(40)]
    put_zeros(disk / layout.outcomes(here.model, "v1.0.0"), ".jsonl.gz", sizes)
    copy = Copy(Folder(disk), other, FromFolder(Folder(disk)), here.model)
    for act in (copy.plan, partial(copy.run, open_progress=open_no_progress)):
        tracemalloc.start()
        try:
            done = act("v1.0.0")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (done.evidence, done.notes) == (1, ())
        assert peak < 80 * 1024 * 1024, "half of what is copied"
    copied = other.path(layout.outcomes(here.model, "v1.0.0"))
    assert sorted(path.stat().st_size for path in copied.iterdir()) == sizes


def put_zeros(folder: Path, suffix: str, sizes: Iterable[int]) -> None:
    """Files of so many zeros, under their digests."""
    folder.mkdir(parents=True, exist_ok=True)
    for size in sizes:
        path = folder / f"{sha256(bytes(size))}{suffix}"
        path.touch()
        os.truncate(path, size)


def test_no_more_than_a_signature_can_have_is_read(here: Registry, there: Registry, tmp_path: Path) -> None:
    signatures = layout.signature(here.model, "v1.0.0")
    long = bytes(MAX_SIGNATURE + 1)
    here.store.create(f"{signatures}{sha256(long)}.json", long)
    disk = tmp_path / "disk"
    done = here.copy_to("v1.0.0", str(disk))
    assert (done.signatures, len(done.notes)) == (1, 1)
    put_zeros(disk / signatures, ".json", [len(long)])
    done = there.copy_from("v1.0.0", disk)
    assert (done.signatures, done.notes) == (1, (f"{signatures}{sha256(long)}.json is damaged, it was not copied",))
    assert len(documents(there, "signatures")) == 1


def test_all_documents_together_are_bounded(here: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes, disk = layout.outcomes(here.model, "v1.0.0"), tmp_path / "disk"
    here.copy_to("v1.0.0", str(disk))
    for number in range(30):
        write_tree(disk, {f"{outcomes}{number:064d}.jsonl.gz": "o"})
    copy = Copy(Folder(disk), Folder(tmp_path / "other"), FromFolder(Folder(disk)), here.model)
    *damaged, more = copy.plan("v1.0.0").notes
    assert (len(damaged), more) == (20, "10 more are damaged, they were not copied")
    monkeypatch.setattr(copied_documents, "MAX_BYTES", 35)
    (note,) = [each for each in copy.plan("v1.0.0").notes if "damaged" not in each]
    assert note.startswith(f"15 documents or more below {outcomes} not copied: 10,000 documents of a kind and 35 bytes")
    monkeypatch.setattr(copied_documents, "MAX_DOCUMENTS", 2)
    assert any("1 document or more below" in each for each in copy.plan("v1.0.0").notes)
    monkeypatch.setattr(folder, "MAX_LISTED", 29)
    with pytest.raises(BadInput, match="holds more than 29 files"):
        copy.plan("v1.0.0")


def test_a_folder_leads_nowhere_else(here: Registry, tmp_path: Path) -> None:
    disk, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"
    here.copy_to("v1.0.0", str(disk))
    elsewhere.mkdir()
    (disk / "models" / here.model / "versions").rename(tmp_path / "versions")
    (disk / "models" / here.model / "versions").symlink_to(elsewhere)
    release(here, "v1.1.0", b"more")
    with pytest.raises(UnsafePath):
        here.copy_to("v1.1.0", str(disk))
    assert list(elsewhere.iterdir()) == []


def test_the_command_copies_both_ways(
    here: Registry, there: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULORA_MODEL", here.model)
    disk = tmp_path / "disk"
    assert "would copy" in ulora("store", "copy", "v1.0.0", "--to", disk, "--dry-run").out
    assert "3 of 3 blobs" in ulora("store", "copy", "v1.0.0", "--to", disk).out
    back = ulora("store", "copy", "v1.0.0", "--from", disk, "--store", there.settings.store, "--json")
    assert (back.document["is_new"], back.document["blobs"]) == (True, 3)
    across = ulora("store", "copy", "v1.0.0", "--to", there.settings.store, "--endpoint-url", _endpoint())
    assert "was there already" in across.out


def _endpoint() -> str:
    return os.environ["AWS_ENDPOINT_URL_S3"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--to PLACE, or --from PLACE"),
        (["--to", "x", "--from", "y"], "--to PLACE, or --from PLACE"),
        (["--to", "x", "--to-profile", "p"], "about the other store"),
        (["--to", "s3://no"], "is not a store"),
        (["--to", "S3://bucket/x"], "is not a store"),
        (["--to", "https://x/y"], "neither a store nor a folder"),
        (["--to", ""], "neither a store nor a folder"),
        (["--to", "/proc/x"], "choose a folder that can be written"),
        (["--to", "s3://bucket/x", "--to-profile", "nobody"], "nobody"),
        (["--to", "x", "--plain-http"], "about an OCI registry"),
        (["--to", "oci://localhost/a", "--endpoint-url", "http://x"], "about the other store"),
        (["--to", f"oci://localhost/a@sha256:{'0' * 64}"], "names a digest"),
        (["--from", "oci://localhost/A"], "is not of the form oci://REGISTRY/REPO:TAG"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_can_t_be_meant_is_refused(here: Registry, words: list[str], says: str) -> None:
    complains(ulora("store", "copy", "v1.0.0", "--model", here.model, *words), 2, says)


def test_a_file_entry_is_carried_once(here: Registry, tmp_path: Path) -> None:
    release(here, "v3.0.0", b"same", b"same")
    done = here.copy_to("v3.0.0", str(tmp_path / "disk"))
    assert (done.blobs, done.blobs_of) == (2, 2)
    assert isinstance(here.manifest("v3.0.0").files[0], FileEntry)


def test_a_link_in_the_cache_is_not_followed(here: Registry, there: Registry, tmp_path: Path) -> None:
    elsewhere, copying = tmp_path / "elsewhere", here.settings.cache / "copying"
    elsewhere.mkdir()
    copying.parent.mkdir(parents=True, exist_ok=True)
    copying.symlink_to(elsewhere)
    before = elsewhere.stat().st_mtime_ns
    with pytest.raises(BadSetting, match=r"copying can't be written") as refused:
        here.copy_to("v1.0.0", there.settings.store)
    assert "remove it if it is a link" in refused.value.hint
    assert (elsewhere.stat().st_mtime_ns, list(elsewhere.iterdir())) == (before, [])
    copying.unlink()
    assert here.copy_to("v1.0.0", there.settings.store).is_new
    assert list(copying.iterdir()) == []
