"""Backbones are found offline, checked, and held once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from adapters import backbones
from adapters.backbones import TINY, find, new_model, ref_of_folder
from adapters.families import FAMILIES, family_named
from registry.errors import BackboneNotFound, BadInput, BadWeights, CorruptBlob


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


@pytest.mark.parametrize("family", FAMILIES)
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


def test_two_module_trees_share_one_copy_of_the_weights() -> None:
    ref = ref_of_folder(TINY / "dinov3-tiny")
    models = [new_model(ref) for _ in range(2)]
    first, second = (dict(model.named_parameters()) for model in models)
    assert first.keys() == second.keys()
    assert all(first[name].data_ptr() == second[name].data_ptr() for name in first)
    assert not any(parameter.requires_grad for parameter in first.values())


def test_a_folder_that_the_caller_gives_is_enough(own: Path) -> None:
    ref = ref_of_folder(own)
    assert find(ref, [own]) == own / "model.safetensors"
    assert find(ref, [own.parent]) == own / "model.safetensors"


def test_folders_of_the_environment_are_searched(own: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ref = ref_of_folder(own)
    monkeypatch.setenv(backbones.FOLDERS_VARIABLE, os.pathsep.join([str(tmp_path / "empty"), str(own.parent)]))
    assert find(ref) == own / "model.safetensors"


def test_a_missing_backbone_lists_where_it_was_looked_for(own: Path, tmp_path: Path) -> None:
    ref = ref_of_folder(own)
    shutil.rmtree(own)
    with pytest.raises(BackboneNotFound, match="elsewhere") as raised:
        find(ref, [tmp_path / "elsewhere"])
    assert backbones.FOLDERS_VARIABLE in raised.value.hint


def test_a_missing_hub_backbone_says_how_to_get_it(own: Path) -> None:
    ref = ref_of_folder(own, hub_id="facebook/dinov2-base", revision="main")
    with pytest.raises(BackboneNotFound) as raised:
        find(ref)
    assert "hf download facebook/dinov2-base --revision main" in raised.value.hint


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
