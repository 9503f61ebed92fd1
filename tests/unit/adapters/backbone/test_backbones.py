"""Backbones are found offline, checked, and held once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from adapters.backbone.build import new_model
from adapters.backbone.families import family_named
from adapters.backbone.locate import FOLDERS_VARIABLE, TINY, FetchWeights, find_weights
from adapters.backbone.resolve import ref_of_folder, reference, resolve
from registry.errors import (
    BackboneNotFound,
    BadInput,
    BadManifest,
    BadWeights,
    CorruptBlob,
)
from registry.versions.manifest import BackboneRef

_OLD_NAMES = {
    "dinov2": {"attention.q_proj": "attention.attention.query", "attention.o_proj": "attention.output.dense"},
    "dinov3": {"model.layer.": "layer."},
}
"""What transformers 4 called some weights, as the hub's files still do."""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A team's own backbone: the tiny one's shape, other weights, in a folder `own`."""
    folder = tmp_path / "own"
    shutil.copytree(TINY / "dinov3-tiny", folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_the_shipped_weights_are_those_of_the_digests_file() -> None:
    digests = json.loads((TINY / "digests.json").read_text())
    assert digests == {name: ref_of_folder(TINY / name).sha256 for name in ("dinov2-tiny", "dinov3-tiny")}


@pytest.mark.parametrize("family", ["dinov2", "dinov3"])
def test_a_loaded_backbone_computes_what_transformers_computes(family: str) -> None:
    ref = ref_of_folder(TINY / f"{family}-tiny")
    row = family_named(family)
    plain = getattr(transformers, row.model_class)(row.new_config(ref.config))
    plain.load_state_dict(load_file(TINY / f"{family}-tiny" / "model.safetensors"))
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = plain.eval()(pixel_values=pixels).last_hidden_state
        actual = new_model(ref)(pixel_values=pixels).last_hidden_state
    assert torch.equal(actual, expected)
    assert actual.shape == (2, row.prefix_tokens(ref.config) + 16, 96)


def test_a_backbone_with_registers_computes_like_transformers(tmp_path: Path) -> None:
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_register_tokens": 3}
    config = transformers.Dinov2WithRegistersConfig(**sizes, mlp_ratio=2, patch_size=7, image_size=28)
    torch.manual_seed(0)
    plain = transformers.Dinov2WithRegistersModel(config).eval()
    plain.save_pretrained(tmp_path)
    ref = ref_of_folder(tmp_path)
    pixels = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        expected = plain(pixel_values=pixels).last_hidden_state
        actual = new_model(ref, folders=[tmp_path])(pixel_values=pixels).last_hidden_state
    assert ref.family == "dinov2_with_registers"
    assert torch.equal(actual, expected)
    assert actual.shape == (2, family_named(ref.family).prefix_tokens(ref.config) + 16, 24)


@pytest.mark.parametrize("family", _OLD_NAMES)
def test_weights_that_were_saved_with_transformers_4_load(family: str, tmp_path: Path) -> None:
    shutil.copy(TINY / f"{family}-tiny" / "config.json", tmp_path)
    modern = load_file(TINY / f"{family}-tiny" / "model.safetensors")
    old = {_old_name(name, _OLD_NAMES[family]): tensor for name, tensor in modern.items()}
    assert old.keys() != modern.keys()
    save_file(old, tmp_path / "model.safetensors")
    loaded = dict(new_model(ref_of_folder(tmp_path), folders=[tmp_path]).named_parameters())
    assert loaded.keys() == modern.keys()
    assert all(torch.equal(loaded[name], modern[name]) for name in modern)


def _old_name(name: str, old_names: dict[str, str]) -> str:
    for new, old in old_names.items():
        name = name.replace(new, old)
    return name


def test_two_module_trees_share_one_copy_of_the_weights() -> None:
    ref = ref_of_folder(TINY / "dinov3-tiny")
    models = [new_model(ref) for _ in range(2)]
    first, second = (dict(model.named_parameters()) for model in models)
    assert first.keys() == second.keys()
    assert all(first[name].data_ptr() == second[name].data_ptr() for name in first)
    assert not any(parameter.requires_grad for parameter in first.values())


def test_a_folder_that_the_caller_gives_is_enough(own: Path) -> None:
    ref = ref_of_folder(own)
    assert find_weights(ref, [own]) == own / "model.safetensors"
    assert find_weights(ref, [own.parent]) == own / "model.safetensors"


def test_folders_of_the_environment_are_searched(own: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ref = ref_of_folder(own)
    monkeypatch.setenv(FOLDERS_VARIABLE, os.pathsep.join([str(tmp_path / "empty"), str(own.parent)]))
    assert find_weights(ref) == own / "model.safetensors"


def test_a_missing_backbone_lists_where_it_was_looked_for(own: Path, tmp_path: Path) -> None:
    ref = ref_of_folder(own)
    shutil.rmtree(own)
    with pytest.raises(BackboneNotFound, match="elsewhere") as raised:
        find_weights(ref, [tmp_path / "elsewhere"])
    assert FOLDERS_VARIABLE in raised.value.hint


def test_a_missing_hub_backbone_says_how_to_get_it(own: Path) -> None:
    ref = ref_of_folder(own, hub_id="facebook/dinov2-base", revision="main")
    with pytest.raises(BackboneNotFound) as raised:
        find_weights(ref)
    assert "HF_HUB_OFFLINE" in str(raised.value)
    assert "ulora backbone add facebook/dinov2-base --revision main" in raised.value.hint


def test_the_store_is_searched_by_digest_after_this_machine(own: Path, tmp_path: Path) -> None:
    ref, asked = ref_of_folder(own), []

    def fetch(sha256: str) -> Path | None:
        asked.append(sha256)
        return mirrored if mirrored.is_file() else None

    mirrored = tmp_path / "blob"
    assert find_weights(ref, [own], fetch) == own / "model.safetensors"
    assert asked == []
    (own / "model.safetensors").rename(mirrored)
    assert find_weights(ref, [own], fetch) == mirrored
    assert new_model(ref, folders=[own], fetch=fetch).config.num_hidden_layers == ref.config["num_hidden_layers"]
    mirrored.unlink()
    with pytest.raises(BackboneNotFound, match="the store"):
        find_weights(ref, [own], fetch)
    assert set(asked) == {ref.sha256}


def test_the_store_is_preferred_to_other_weights_of_the_name(own: Path, tmp_path: Path) -> None:
    ref, mirrored = ref_of_folder(own), tmp_path / "blob"
    shutil.move(own / "model.safetensors", mirrored)
    shutil.copy(TINY / "dinov3-tiny" / "model.safetensors", own)
    assert find_weights(ref, [own], lambda sha256: mirrored) == mirrored


@pytest.mark.parametrize("damage", [{"hub_id": "../../etc"}, {"hub_id": "a/b", "revision": "../../../refs"}])
def test_a_reference_never_leads_out_of_the_hub_s_cache(own: Path, damage: dict[str, str]) -> None:
    with pytest.raises(BadManifest, match="own"):
        find_weights(ref_of_folder(own).model_copy(update={**damage, "sha256": "0" * 64}))


def test_a_folder_is_what_it_holds(own: Path) -> None:
    assert resolve(own) == resolve(str(own)) == (ref_of_folder(own), own / "model.safetensors")
    with pytest.raises(BadInput, match="no revisions"):
        resolve(own, revision="main")


@pytest.mark.parametrize("spec", ["team-vit", "team/vit", "the digest"])
def test_a_stored_backbone_is_found_by_name_hub_id_and_digest(own: Path, spec: str) -> None:
    ref = ref_of_folder(own, name="team-vit", hub_id="team/vit", revision="c0ffee")
    other = ref.model_copy(update={"sha256": "0" * 64, "name": "other", "hub_id": None})
    known = [other, ref]
    spec = ref.sha256[:12] if spec == "the digest" else spec
    assert resolve(spec, known=known, fetch=_holds(ref, own)) == (ref, own / "model.safetensors")
    assert resolve(spec, revision="c0ffee", known=known, fetch=_holds(ref, own))[0] == ref


def test_a_name_of_two_stored_backbones_is_refused(own: Path) -> None:
    ref = ref_of_folder(own)
    with pytest.raises(BadInput, match="2 backbones") as raised:
        resolve("own", known=[ref, ref.model_copy(update={"sha256": "0" * 64})])
    assert ref.sha256 in raised.value.hint


def test_a_backbone_that_ships_is_known_by_its_name() -> None:
    assert resolve("dinov3-tiny")[0] == ref_of_folder(TINY / "dinov3-tiny")


@pytest.mark.parametrize("spec", ["nothing", "../nothing/here", "/no/folder", "team/vit/extra"])
def test_what_is_neither_a_folder_nor_a_name_is_refused(spec: str) -> None:
    with pytest.raises((BackboneNotFound, BadInput)) as raised:
        resolve(spec)
    assert spec in str(raised.value)


def _holds(held: BackboneRef, folder: Path) -> FetchWeights:
    """A mirror that holds one backbone."""
    return lambda sha256: folder / "model.safetensors" if sha256 == held.sha256 else None


def test_weights_with_another_digest_are_never_used(own: Path) -> None:
    ref = ref_of_folder(own)
    shutil.copy(TINY / "dinov3-tiny" / "model.safetensors", own)
    with pytest.raises(CorruptBlob, match="own"):
        new_model(ref, folders=[own])


def test_weights_that_do_not_fit_their_configuration_are_refused(own: Path) -> None:
    ref = ref_of_folder(own)
    deeper = ref.model_copy(update={"config": {**ref.config, "num_hidden_layers": 7}})
    with pytest.raises(BadWeights, match="missing"):
        new_model(deeper, folders=[own])


def rewrite(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": "x"}, {"hidden_size": 10**200}, {"num_hidden_layers": 10**9}, {"patch_size": 0},
        {"num_attention_heads": 0}, {"num_register_tokens": -1}, {"image_size": [28, 56]}, {"image_size": "28"},
        {"image_size": None}, {"hidden_act": "no such"},
    ],
)  # fmt: skip
def test_a_configuration_that_is_no_backbone_s_is_refused(own: Path, fields: dict[str, object]) -> None:
    rewrite(own / "config.json", **fields)
    with pytest.raises(BadManifest, match=next(iter(fields)) if "hidden_act" not in fields else "is invalid"):
        resolve(own)


def test_a_configuration_with_unstorable_texts_is_refused(own: Path) -> None:
    rewrite(own / "config.json", _name_or_path="\ud800")
    with pytest.raises(BadManifest, match="lone surrogate"):
        resolve(own)


def test_a_square_image_size_is_one_number(own: Path) -> None:
    rewrite(own / "config.json", image_size=[28, 28])
    ref, _ = resolve(own)
    assert family_named("dinov3").preprocessing(ref.config)["crop"] == 28


def test_weights_that_do_not_fit_the_configuration_are_refused(own: Path) -> None:
    rewrite(own / "config.json", intermediate_size=100)
    with pytest.raises(BadWeights, match=r"does not fit the config\.json beside it.*100"):
        resolve(own)
    rewrite(own / "config.json", intermediate_size=384, num_hidden_layers=13)
    with pytest.raises(BadWeights, match=r"model\.layer\.10\S+ is missing"):
        resolve(own)


def test_one_weight_under_an_old_and_a_new_name_is_refused(own: Path) -> None:
    tensors = load_file(own / "model.safetensors")
    name = next(name for name in tensors if name.startswith("model.layer."))
    save_file(tensors | {name.removeprefix("model."): tensors[name].clone()}, own / "model.safetensors")
    with pytest.raises(BadWeights, match="both"):
        resolve(own)
    with pytest.raises(BadWeights, match="both"):
        new_model(ref_of_folder(own), folders=[own])


def test_a_reference_is_resolved_without_fetching_weights(own: Path) -> None:
    ref = ref_of_folder(own, name="team-vit")
    assert reference("team-vit", known=[ref]) == ref
    assert reference(own) == ref_of_folder(own)


def test_a_folder_without_weights_is_no_backbone(tmp_path: Path) -> None:
    with pytest.raises(BackboneNotFound, match=r"config\.json"):
        ref_of_folder(tmp_path)


def test_another_kind_of_model_is_refused(own: Path) -> None:
    (own / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(BadInput, match="bert"):
        ref_of_folder(own)


def test_released_backbones_are_fed_224_pixels() -> None:
    assert family_named("dinov2").preprocessing({"image_size": 518, "patch_size": 14})["crop"] == 224
    assert family_named("dinov3").preprocessing({"image_size": 224, "patch_size": 16})["crop"] == 224


@pytest.mark.parametrize("family", ["dinov2", "dinov3"])
def test_a_configuration_can_only_say_what_the_family_knows(family: str) -> None:
    """`num_labels` is a table that transformers fills; an attention of a hub repository is code that it fetches."""
    row, config = family_named(family), ref_of_folder(TINY / f"{family}-tiny").config
    hostile = {"num_labels": 1000, "attn_implementation": "somebody/code", "return_dict": False, "_name_or_path": "x"}
    assert row.new_config({**config, **hostile}).to_dict() == row.new_config(config).to_dict()
    row.new_model({**config, **hostile})
