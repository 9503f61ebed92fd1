"""Which adapters, targets and layouts are found in a folder, and which folders are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from adapters.importing import convert
from registry.errors import BadBundle, BadInput
from tests.support.bundles import write_bundle
from tests.support.importing import PHASE, RELEASE, taken_in
from tests.support.other_adapter_layouts import write_phase

# --- what is found ---------------------------------------------------------------------------------------------------


def test_only_the_last_trained_phase_is_imported(source: Path) -> None:
    for phase, name in enumerate(["phase1_dora_adapter", "phase2_sd_lora_adapter", PHASE], start=1):
        write_phase(source / "models" / name, seed=phase, phase=phase, is_trained=phase < 3, crop_name="Tomato")
    _, imported = taken_in(source)
    (adapter,) = imported.adapters
    assert (adapter.target, adapter.folder) == ("tomato", "models/phase2_sd_lora_adapter")
    assert set(imported.left_out) == {f"models/{name}" for name in ("phase1_dora_adapter", PHASE)}


@pytest.mark.parametrize(
    ("layout", "place", "start", "target"),
    [
        ("phase", f"tomato/{PHASE}", "tomato", "tomato"),
        ("phase", f"tomato/{PHASE}", f"tomato/{PHASE}", "tomato"),
        ("phase", f"tomato/models/{PHASE}", "tomato", "tomato"),
        ("phase", f"models/tomato/{PHASE}", "", "tomato"),
        ("release", RELEASE, "", "tomato__leaf"),
        ("release", RELEASE, RELEASE, "tomato__leaf"),
        ("release", f"models/adapters/{RELEASE}", "", "tomato__leaf"),
        ("release", "tomato/continual_sd_lora_adapter", "", "tomato"),
        ("peft", "maize", "maize", "maize"),
        ("peft", "maize/adapter", "maize/adapter", "maize"),
        ("peft", "maize/lora", "", "maize"),
    ],
)
def test_targets_are_named_by_the_folders_around_them(
    made: Path, source: Path, layout: str, place: str, start: str, target: str
) -> None:
    shutil.copytree(made / layout, source / place)
    imported = convert(source / start, source.parent / "bundle")
    assert [adapter.target for adapter in imported.adapters] == [target]


def test_a_name_that_can_t_be_a_target_asks_for_one(made: Path, source: Path) -> None:
    shutil.copytree(made / "peft", source / "my lora")
    with pytest.raises(BadInput, match=r"my lora.*name is unknown") as refusal:
        convert(source / "my lora", source.parent / "bundle")
    assert "--target" in refusal.value.hint
    convert(source / "my lora", source.parent / "again", target="maize")


def test_one_name_can_t_be_for_two_adapters(made: Path, source: Path) -> None:
    for name in ("maize", "wheat"):
        shutil.copytree(made / "peft", source / name)
    with pytest.raises(BadInput, match="there are 2: maize, wheat"):
        convert(source, source.parent / "bundle", target="maize")


def test_checkpoints_inside_an_adapter_are_left_out(made: Path, source: Path) -> None:
    shutil.copytree(made / "peft", source / "maize")
    shutil.copytree(made / "peft", source / "maize" / "checkpoint-500")
    _, imported = taken_in(source)
    assert ([adapter.target for adapter in imported.adapters], imported.left_out) == (
        ["maize"],
        ("maize/checkpoint-500",),
    )
    assert not (source.parent / "bundle/adapters/maize/checkpoint-500").exists()


def test_a_bundle_further_down_is_pointed_to(source: Path) -> None:
    write_bundle(source / "inner", targets=("low",))
    with pytest.raises(BadBundle, match="contains a bundle") as refusal:
        convert(source, source.parent / "bundle")
    assert refusal.value.hint.endswith("inner")


def test_a_link_could_lead_out_of_the_folder_and_is_refused(made: Path, source: Path) -> None:
    shutil.copytree(made / "release", source / RELEASE)
    secret = source.parent / "secret"
    secret.write_text("key")
    (source / RELEASE / "NOTICE.md").symlink_to(secret)
    with pytest.raises(BadBundle, match=r"NOTICE\.md is a symbolic link"):
        convert(source, source.parent / "bundle")


def test_a_folder_that_holds_nothing_known_is_told_what_is(source: Path) -> None:
    source.mkdir()
    (source / "model.onnx").write_bytes(b"")
    with pytest.raises(BadBundle, match="no adapter in a known layout") as refusal:
        convert(source, source.parent / "bundle")
    for word in ("bundle", "phase", "continual_sd_lora_adapter", "PEFT", "models:/", "version.json"):
        assert word in refusal.value.hint


def test_two_layouts_in_one_tree_are_refused(made: Path, source: Path) -> None:
    shutil.copytree(made / "phase", source / "tomato" / PHASE)
    shutil.copytree(made / "release", source / RELEASE)
    with pytest.raises(BadBundle, match="different layouts"):
        convert(source, source.parent / "bundle")


def test_phases_of_which_none_is_trained_are_refused(source: Path) -> None:
    write_phase(source / "tomato" / PHASE, is_trained=False)
    with pytest.raises(BadBundle, match="has no trained phase"):
        convert(source, source.parent / "bundle")
