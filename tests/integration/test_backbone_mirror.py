"""Backbones in the store: added once, listed, and loaded where no local copy exists."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adapters.backbone.locate import TINY
from adapters.backbone.resolve import ref_of_folder
from registry.api import Registry
from registry.errors import BackboneNotFound, BadManifest, CorruptBlob, MissingBlob
from registry.serving.follow import LiveOptions
from registry.store import layout
from registry.store.objects import ObjectStore
from registry.versions.backbones import FetchBlob
from registry.versions.manifest import Manifest
from tests.support.bundles import noise, write_bundle
from tests.support.echo_releases import Echo, Shop
from tests.support.other_adapter_layouts import edit_json
from tests.support.registries import listing, open_registry
from tests.support.run_ulora import complains, ulora


@pytest.fixture
def registry(tmp_path: Path, store_url: str, model: str) -> Registry:
    registry = open_registry(tmp_path / "machine", store_url, model)
    registry.store.initialise()
    return registry


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A team's own backbone: the tiny one's shape, other weights; no machine has it but in this folder."""
    folder = tmp_path / "team-vit"
    shutil.copytree(TINY / "dinov3-tiny", folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_a_backbone_is_added_once(registry: Registry, own: Path) -> None:
    ref = ref_of_folder(own)
    size = (own / "model.safetensors").stat().st_size
    told: list[int] = []
    first = registry.add_backbone(own, progress=lambda total: _Bar(total, told))
    keys = listing(registry)
    assert (first.is_new, first.uploaded, told) == (True, size, [size, size])
    assert {layout.blob(ref.sha256), layout.backbone(ref.sha256)} < keys.keys()
    assert first.mirrored.backbone == ref

    again = registry.add_backbone(own, name="another")
    assert (again.is_new, again.uploaded, again.mirrored.sha256) == (False, 0, first.mirrored.sha256)
    assert listing(registry) == keys
    assert [mirrored.backbone for mirrored in registry.backbones()] == [ref]


@dataclass(frozen=True)
class _Bar:
    """Notes the total, then what it is told."""

    total: int
    told: list[int]

    def __enter__(self) -> Any:
        self.told.append(self.total)
        return self.told.append

    def __exit__(self, *_: object) -> None:
        """It has no end."""


def test_an_interrupted_upload_adds_no_backbone(registry: Registry, own: Path) -> None:
    sha256 = ref_of_folder(own).sha256
    registry.blobs.upload({sha256: own / "model.safetensors"})  # as far as a process came that died then
    assert list(registry.backbones()) == []
    added = registry.add_backbone(own)
    assert (added.is_new, added.uploaded) == (True, 0)

    registry.store.delete(layout.blob(sha256))
    with pytest.raises(MissingBlob, match="team-vit") as raised:
        registry.wiring.backbone_mirror.fetch(sha256)
    assert "ulora backbone add" in raised.value.hint
    assert registry.add_backbone(own).uploaded == added.mirrored.size
    assert registry.wiring.backbone_mirror.fetch(sha256)


def test_weights_with_another_configuration_are_a_conflict(registry: Registry, own: Path) -> None:
    registry.add_backbone(own)
    before = listing(registry)
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.5, "rope_theta": 7.0}))
    for words in ([], ["--dry-run"]):
        complains(ulora("backbone", "add", own, *words), 4, "another layer_norm_eps, rope_theta", "team-vit")
    assert listing(registry) == before


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (truncate, 6, "truncated"),
        (lambda path: path.write_bytes(b""), 6, "truncated"),
        (
            lambda path: path.write_bytes(b"version https://git-lfs/spec/v1\noid"),
            6,
            "git lfs pull",
        ),
        (lambda path: shutil.copy(TINY / "dinov2-tiny" / path.name, path), 6, "does not fit"),
        (
            lambda path: edit_json(path.with_name("config.json"), lambda it: it.update(patch_size=0)),
            6,
            "patch",
        ),
    ],
)
def test_a_damaged_backbone_is_not_added(
    registry: Registry, own: Path, spoil: Callable[[Path], object], code: int, says: str
) -> None:
    before = listing(registry)
    spoil(own / "model.safetensors")
    complains(ulora("backbone", "add", own), code, says)
    assert listing(registry) == before


def test_a_version_loads_its_backbone_from_the_store(
    registry: Registry, own: Path, tmp_path: Path, store_url: str, model: str
) -> None:
    registry.create("v1.0.0", _bundle_on(own, tmp_path / "bundle"), offline=True)
    with pytest.raises(BackboneNotFound, match=r"not found in:.*the store") as raised:
        registry.load("v1.0.0")
    assert "ulora backbone add" in raised.value.hint

    registry.add_backbone(own)
    shutil.rmtree(own)
    elsewhere = open_registry(tmp_path / "another machine", store_url, model)
    answer = elsewhere.load("v1.0.0").predict([noise(1)], target=["low"])[0]
    assert (answer.version, answer.target) == ("v1.0.0", "low")


def test_damaged_weights_are_never_loaded(registry: Registry, own: Path, tmp_path: Path) -> None:
    registry.create("v1.0.0", _bundle_on(own, tmp_path / "bundle"), offline=True)
    added = registry.add_backbone(own)
    key = layout.blob(added.mirrored.backbone.sha256)
    body = registry.store.get(key, limit=added.mirrored.size).body
    registry.store.overwrite(key, bytes([body[0] ^ 1]) + body[1:])
    with pytest.raises(CorruptBlob, match=added.mirrored.backbone.sha256) as raised:
        registry.load("v1.0.0")
    assert "ulora verify --all --repair" in raised.value.hint


def test_a_damaged_document_hides_no_other_backbone(registry: Registry, own: Path) -> None:
    added = registry.add_backbone(own)
    for key, body in {layout.backbone("0" * 64): b"{", layout.backbone("1" * 64): added.mirrored.to_bytes()}.items():
        registry.store.overwrite(key, body)
    found = registry.backbones()
    assert [mirrored.backbone.name for mirrored in found] == ["team-vit"]
    assert [damage.partition(":")[0] for damage in found.damaged] == [layout.backbone(64 * digit) for digit in "01"]
    with pytest.raises(BadManifest, match="other weights"):
        registry.wiring.backbone_mirror.fetch("1" * 64)


def test_the_commands_add_and_list(registry: Registry, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULORA_CACHE", str(registry.settings.cache))
    sha256 = ref_of_folder(own).sha256
    assert "no backbones yet" in ulora("backbone", "list").out
    assert "would add plants (dinov3)" in ulora("backbone", "add", own, "--name", "plants", "--dry-run").out
    assert ulora("backbone", "list", "--json").document == {"backbones": [], "damaged": [], "refused": {}}

    added = ulora("backbone", "add", own, "--name", "plants", "--json").document
    assert (added["is_new"], added["mirrored"]["backbone"]["sha256"]) == (True, sha256)
    again = ulora("backbone", "add", own)
    assert (again.code, again.err) == (0, "")
    assert "holds already plants" in again.out
    assert "0.00 MB uploaded" in again.out
    assert "keeps the name plants" in ulora("backbone", "add", own, "--name", "other").err

    header, row = ulora("backbone", "list").out.splitlines()
    assert header.split() == ["NAME", "FAMILY", "HUB", "ID", "REVISION", "MB", "DIGEST"]
    assert row.split() == ["plants", "dinov3", "-", "-", f"{added['mirrored']['size'] / 1e6:.2f}", sha256[:12]]

    registry.store.overwrite(layout.backbone("0" * 64), b"{")
    damaged = ulora("backbone", "list")
    assert "plants" in damaged.out
    complains(damaged, 6, "1 can't be read", "backbones/000")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nowhere"], 5, "'nowhere' is neither a folder"),
        (["facebook/dinov2-base"], 5, "HF_HUB_OFFLINE"),
        ([TINY / "dinov3-tiny", "--name", "a/b"], 2, "not a backbone's name"),
        ([TINY / "dinov3-tiny", "--name", ""], 2, "not a backbone's name"),
        ([TINY / "dinov3-tiny", "--revision", "main"], 2, "no revisions"),
    ],
)
def test_what_can_t_be_added_changes_nothing(registry: Registry, words: list[Any], code: int, says: str) -> None:
    before = listing(registry)
    complains(ulora("backbone", "add", *words), code, says)
    assert listing(registry) == before


def test_a_name_of_older_documents_is_explained(registry: Registry) -> None:
    done = ulora("backbone", "add", "facebook/dinov3-base", "--json")
    note, error = (json.loads(line) for line in done.err.splitlines())
    assert (done.code, error["error"]) == (5, "BackboneNotFound")
    assert "facebook/dinov3-vitb16-pretrain-lvd1689m is used instead" in note["note"]
    assert "facebook/dinov3-vitb16-pretrain-lvd1689m" in error["hint"]


@dataclass(frozen=True)
class ByRuntime(Echo):
    """An echo that knows what computes it."""

    runtime: str = "plain"


@pytest.fixture
def echoes(store_url: str, model: str, tmp_path: Path) -> Shop:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    shop.release("v1.0.0")
    shop.promote("v1.0.0")
    return shop


@pytest.mark.parametrize(("asked", "computes"), [(None, "plain"), ("quick", "quick")])
def test_a_replica_loads_by_the_runtime_it_was_asked_for(
    echoes: Shop, registry: Registry, asked: str | None, computes: str
) -> None:
    def load(
        manifest: Manifest, files: Mapping[str, Path], *, device: str, runtime: str | None, fetch: FetchBlob
    ) -> ByRuntime:
        weights = files["adapters/low/adapter_model.safetensors"].read_bytes()
        assert fetch("0" * 64) is None
        return ByRuntime(manifest.version, manifest.content_sha256, weights, runtime=runtime or "plain")

    live = registry.follow(options=LiveOptions(runtime=asked, find=lambda flavor: load))
    assert live.health().runtime == asked
    with live:
        assert live.health().runtime == computes
        assert live.predict(b"leaf").version == "v1.0.0"


def _bundle_on(backbone: Path, folder: Path) -> Path:
    """A bundle for another backbone of the tiny one's shape."""
    write_bundle(folder, targets=("low",))
    ref = ref_of_folder(backbone)
    for path in folder.rglob("*.json"):
        path.write_text(path.read_text().replace(ref_of_folder(TINY / "dinov3-tiny").sha256, ref.sha256))
    (folder / "backbone.json").write_text(ref.model_dump_json())
    return folder
