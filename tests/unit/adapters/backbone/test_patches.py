"""A square has as many patches as a replica can compute: of a new version, and of one that exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapters.answer.loading import load
from adapters.backbone.patches import MAX_LOADED, check_patches
from adapters.bank.peft_fields import refused_documents
from adapters.importing.literal_names import literal_documents
from registry.errors import BadManifest
from registry.versions.bundle import read_bundle
from tests.support.bundles import crop_to, manifest_of, write_bundle
from tests.support.bundles import read_bundle as files_of


def refused(folder: Path) -> dict[str, str]:
    files = files_of(folder)
    return refused_documents(files, lambda path: files[path].read_bytes())


@pytest.mark.parametrize(("side", "patch"), [(224, 14), (518, 14), (1024, 16), (1792, 14), (2048, 16)])
def test_the_sizes_of_released_backbones_are_taken(side: int, patch: int) -> None:
    check_patches(side, {"patch_size": patch})


@pytest.mark.parametrize("patch", [14, 16])
def test_what_could_be_created_on_released_backbones_still_loads(patch: int) -> None:
    check_patches(4096, {"patch_size": patch}, MAX_LOADED)


@pytest.mark.parametrize(("side", "patch"), [(6, 7), (903, 7), (2064, 16), (4096, 1), (28, 0), (28, [7]), (28, True)])
def test_other_sizes_are_no_version(side: int, patch: Any) -> None:
    with pytest.raises(BadManifest):
        check_patches(side, {"patch_size": patch})


def test_a_bundle_with_too_many_patches_is_no_version(tmp_path: Path) -> None:
    bundle = read_bundle(crop_to(write_bundle(tmp_path, targets=("low",)), 4096))
    with pytest.raises(BadManifest, match=r"4096 x 4096 pixels are .* patches of 7 pixels, more than 16,384"):
        literal_documents(bundle.paths, bundle.backbone)


def test_a_version_that_no_replica_could_answer_is_not_loaded(tmp_path: Path) -> None:
    crop_to(write_bundle(tmp_path, targets=("low",)), 4096)
    with pytest.raises(BadManifest, match="342,225 patches"):
        load(manifest_of(tmp_path), files_of(tmp_path))
    assert "342,225 patches" in refused(tmp_path)["config/preprocessing.json"]


def test_a_version_from_before_the_bound_is_loaded(tmp_path: Path) -> None:
    crop_to(write_bundle(tmp_path, targets=("low",)), 1024)  # 21,316 patches
    assert load(manifest_of(tmp_path), files_of(tmp_path)).targets == ("low",)
    assert refused(tmp_path) == {}
