"""Damaged, malformed and hostile files are refused, and nothing in them is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from adapters.importing import conversion, convert, untrusted_files
from adapters.importing.layouts import find_adapters
from adapters.importing.untrusted_files import by_class
from registry.errors import BadBundle, BadInput, BadWeights, UloraError
from tests.support.importing import edited, taken_in
from tests.support.other_adapter_layouts import LABELS, edit_json
from tests.support.peft_models import backbone

pytestmark = pytest.mark.acceptance


class Hostile:
    """A pickle of it runs code where it is unpickled without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def compress(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def more_classes(path: Path) -> None:
    edit_json(path, lambda meta: meta["class_to_idx"].update(scab=3))


def gap_in_classes(path: Path) -> None:
    edit_json(path, lambda meta: meta["class_to_idx"].update(rust=7))


def flip_a_bit(path: Path) -> None:
    """In the numbers of the largest tensor, which torch reads without looking at its checksum."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    data[largest.header_offset + 256] ^= 1
    path.write_bytes(data)


def renamed(*names: tuple[str, str]) -> Callable[[Path], None]:
    """A second tensor under another name beside the first that has the first part of a pair in its name."""

    def change(path: Path) -> None:
        state = torch.load(path, weights_only=True)
        first = next(name for name in state if all(old in name for old, _ in names))
        other = first
        for old, new in names:
            other = other.replace(old, new)
        torch.save(state | {other: state[first] + 1}, path)

    return change


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)

    return spoil


def cyclic(content: dict[str, Any]) -> None:
    content["state_dict"] = content


def not_a_number(path: Path) -> None:
    edit_json(path, lambda meta: meta.update(temperature=float("nan")))


def save(content: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path)


LINEAR = {"weight": torch.randn(3, 96), "bias": torch.randn(3)}


PHASE_FILES: list[tuple[str, Callable[[Path], None], str]] = [
    ("classifier.pth", truncate, "not a valid file"),
    ("classifier.pth", flip_a_bit, "damaged"),
    ("classifier.pth", changed(cyclic), "too deep"),
    ("classifier.pth", save(LINEAR | {"weight": torch.full((3, 96), 1e300, dtype=torch.float64)}), "not finite"),
    ("classifier.pth", save(LINEAR | {"weight": torch.zeros(3, 96, dtype=torch.complex64)}), "not a plain tensor"),
    ("classifier.pth", save(LINEAR | {"\ud800": torch.zeros(3)}), "lone surrogate|not a valid file"),
    ("ood_components.pt", flip_a_bit, "damaged"),
    ("ood_components.pt", changed(lambda it: it.update({5: 1, "5": 2})), "same string"),
    ("ood_components.pt", changed(lambda it: it.update(__metadata__=torch.zeros(2))), "not a plain tensor"),
    ("ood_components.pt", changed(lambda it: it.update(mahalanobis=[1])), "mahalanobis is not a dictionary"),
    ("ood_components.pt", changed(lambda it: it.update(thresholds={"0": 1.0, 0: 2.0})), "same string"),
    ("ood_components.pt", changed(lambda it: it.update(thresholds={"scab": 1.0})), "not one of the 3 classes"),
    ("ood_components.pt", changed(lambda it: it.update(thresholds={0: 1e300})), "not a number"),
    ("ood_components.pt", changed(lambda it: it.update({"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)})), "two"),
    ("adapter/pytorch_model.bin", renamed((".weight", ".other.weight"), ("lora_A", "lora_A")), "have the same meaning"),
    ("adapter/pytorch_model.bin", renamed(("base_model.model.", "")), "have the same meaning"),
    ("adapter/pytorch_model.bin", renamed(("attention.attention.query", "attention.q_proj")), "transformers 5"),
    ("adapter/pytorch_model.bin", renamed(("base_model.model.", "base_model.model.dinov2.")), "transformers 5"),
    ("adapter/pytorch_model.bin", renamed(("lora_B.weight", "lora_B.bias")), "neither LoRA nor"),
    (
        "adapter/pytorch_model.bin",
        changed(lambda it: it.update({f"{n}classifier.weight": torch.ones(3, 96) for n in ("", "head.")})),
        "have the same meaning",
    ),
    ("adapter/adapter_config.json", edited(lora_alpha=10**200), "64 bits"),
    ("adapter/adapter_config.json", edited(task_type="\ud800"), "lone surrogate"),
    ("adapter_meta.json", lambda path: path.write_text('{"a":' * 900 + "1" + "}" * 900), "too deep|nested|JSON"),
    ("classifier.pth", compress, "compressed archive"),
    ("classifier.pth", lambda path: path.write_bytes(b"no archive"), "not a valid file"),
    ("classifier.pth", save(LINEAR | {"weight": torch.full((3, 96), float("nan"))}), "not finite"),
    ("classifier.pth", save(LINEAR | {"weight": torch.zeros(1).expand(3, 10**12)}), "more numbers than the file has"),
    ("classifier.pth", save(LINEAR | {"weight": torch.randn(3, 96).to_sparse()}), "not a plain tensor"),
    ("classifier.pth", save(LINEAR | {"weight": torch.randn(3, 50)}), "classifier_input_size 96"),
    ("classifier.pth", save(LINEAR | {"gate": torch.randn(3)}), "not a single linear layer"),
    ("classifier.pth", save([1, 2]), "not a state_dict"),
    ("adapter_meta.json", more_classes, "3 classes, but adapter_meta.json names 4"),
    ("adapter_meta.json", gap_in_classes, "from 0 to 2"),
    ("adapter_meta.json", not_a_number, "NaN"),
    ("adapter_meta.json", truncate, "not valid JSON"),
    ("adapter_meta.json", lambda path: edit_json(path, lambda meta: meta.pop("class_to_idx")), "class_to_idx"),
    ("ood_components.pt", truncate, "not a valid file"),
    ("ood_components.pt", save({"thresholds": 3.0}), "prototypes"),
    ("ood_components.pt", save({"mahalanobis": {"mean": torch.zeros(96)}, "thresholds": 1.0}), "covariance"),
    ("ood_components.pt", save({"thresholds": {0: -1.0}}), "not positive"),
    ("adapter/pytorch_model.bin", truncate, "not a valid file"),
    ("adapter/pytorch_model.bin", save({"encoder.layer.0.norm1.weight": torch.ones(96)}), "neither LoRA nor"),
    ("adapter/pytorch_model.bin", save({"layer.lora_A.weight": torch.ones(4, 96)}), "does not fit"),
    ("adapter/pytorch_model.bin", Path.unlink, "not one of"),
    ("adapter/adapter_config.json", lambda path: edit_json(path, lambda it: it.update(r=5)), "shapes"),
    ("adapter/adapter_config.json", lambda path: edit_json(path, lambda it: it.update(peft_type="IA3")), "not LORA"),
    (
        "adapter/adapter_config.json",
        lambda path: edit_json(path, lambda it: it.update(lora_alpha={})),
        "alpha|malformed",
    ),
]


RELEASE_FILES: list[tuple[str, Callable[[Path], None], str]] = [
    ("fusion.pth", truncate, "not a valid file"),
    ("fusion.pth", save({"scale_logits": torch.zeros(4)}), "norm.weight"),
    ("classifier.pth", save({"weight": torch.randn(3, 25), "bias": torch.randn(3)}), "takes 25"),
    ("classifier.pth", Path.unlink, "no classifier.pth"),
    ("adapter_meta.json", edited(ood_state=[1]), "ood_state is not an object"),
    ("adapter_meta.json", edited(ood_state={"class_stats": [1]}), "class_stats is not an object"),
    ("adapter_meta.json", edited(fusion=[2, 5, 8, 11]), "fusion is not an object"),
    ("adapter_model.safetensors", truncate, "truncated"),
    ("adapter_meta.json", not_a_number, "NaN"),
    (
        "adapter_meta.json",
        lambda path: edit_json(path, lambda it: it["ood_state"]["class_stats"]["1"].update(mean=[0.0] * 23)),
        "mean of rust has the shape",
    ),
    (
        "adapter_meta.json",
        lambda path: edit_json(path, lambda it: it["ood_state"]["class_stats"].update({"9": {}})),
        "not one of the 3 classes",
    ),
    (
        "adapter_meta.json",
        lambda path: edit_json(path, lambda it: it["ood_state"].update(primary_score_method="vim")),
        "'vim' is not one of",
    ),
    (
        "adapter_meta.json",
        lambda path: edit_json(path, lambda it: it["ood_state"].update(primary_score_method=["knn"])),
        "is not one of",
    ),
    (
        "adapter_meta.json",
        lambda path: edit_json(path, lambda it: it["ood_state"].update(react_enabled=True)),
        "ReAct",
    ),
]


def refused(source: Path, place: str, spoil: Callable[[Path], object], says: str) -> None:
    spoil(source / place)
    with pytest.raises(UloraError, match=says) as refusal:
        convert(source, source.parent / "bundle", target="tomato")
    assert isinstance(refusal.value, BadBundle | BadWeights | BadInput)
    assert Path(place).parts[0] in str(refusal.value), "a refusal names the file"


@pytest.mark.parametrize(("place", "spoil", "says"), PHASE_FILES)
def test_an_unsound_file_of_a_phase_is_refused(
    phase: Path, place: str, spoil: Callable[[Path], object], says: str
) -> None:
    refused(phase, place, spoil, says)


@pytest.mark.parametrize(("place", "spoil", "says"), RELEASE_FILES)
def test_an_unsound_file_of_a_release_is_refused(
    release: Path, place: str, spoil: Callable[[Path], object], says: str
) -> None:
    refused(release, place, spoil, says)


def reshaped(content: Any, shape: tuple[int, ...], names: tuple[str, ...]) -> Any:
    """The content of a file with one tensor, by its keys, of another shape."""
    name, *rest = names
    return content | {name: reshaped(content[name], shape, tuple(rest)) if rest else torch.ones(shape)}


def tensors_in(content: Any, names: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if torch.is_tensor(content):
        return [names]
    inner = content.items() if isinstance(content, dict) else ()
    return [found for name, value in inner for found in tensors_in(value, (*names, name))]


@pytest.mark.parametrize("shape", [(), (2,), (2, 2, 2)], ids=str)
@pytest.mark.parametrize(
    ("layout", "place"), [("phase", "classifier.pth"), ("phase", "ood_components.pt"), ("release", "fusion.pth")]
)
def test_tensors_of_any_shape_are_read_or_refused(
    made: Path, tmp_path: Path, layout: str, place: str, shape: tuple[int, ...]
) -> None:
    adapter = find_adapters(shutil.copytree(made / layout, tmp_path / "source"), "tomato").adapters[0]
    content = torch.load(tmp_path / "source" / place, weights_only=True)
    for names in tensors_in(content):
        torch.save(reshaped(content, shape, names), tmp_path / "source" / place)
        with suppress(BadBundle, BadWeights):
            conversion._convert(adapter, conversion.BackboneInfo.of(backbone("dinov2")))


def test_a_mean_that_is_one_number_is_refused(phase: Path) -> None:
    refused(phase, "ood_components.pt", changed(lambda it: it["mahalanobis"].update(mean=5.0)), "a mean of")


def test_a_target_has_a_name_that_a_folder_can_have(phase: Path) -> None:
    with pytest.raises(BadInput, match="300 characters of at most 200"):
        convert(phase, phase.parent / "bundle", target="a" * 300)


@pytest.mark.parametrize("name", ["classifier.pth", "ood_components.pt", "adapter/pytorch_model.bin"])
@pytest.mark.parametrize("how", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_pickle_is_never_run(phase: Path, name: str, how: Callable[[Any, Path], object]) -> None:
    marker = phase.parent / "it-ran"
    how({"weight": Hostile(marker)}, phase / name)
    with pytest.raises(BadWeights, match=Path(name).name):
        convert(phase, phase.parent / "bundle", target="tomato")
    assert not marker.exists()


def test_a_file_over_the_bounds_is_refused_unread(phase: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted_files, "MAX_JSON", 50)
    with pytest.raises(BadBundle, match="more than the allowed 50"):
        convert(phase, phase.parent / "bundle", target="tomato")
    monkeypatch.undo()
    monkeypatch.setattr(untrusted_files, "MAX_WEIGHTS", 2000)
    with pytest.raises(BadWeights, match="more than the allowed 2000"):
        convert(phase, phase.parent / "bundle", target="tomato")


def test_scores_that_are_not_finite_are_kept_as_text(phase: Path) -> None:
    changed(lambda it: it.update(metrics={"auroc": float("nan"), "tags": {"b", "a"}}))(phase / "ood_components.pt")
    taken_in(phase, target="tomato")
    kept = json.loads((phase.parent / "bundle/adapters/tomato/source_meta.json").read_text())
    assert kept["ood_components.pt"]["metrics"] == {"auroc": "nan", "tags": ["a", "b"]}


def test_tensors_anywhere_in_a_file_are_kept_as_tensors(phase: Path) -> None:
    changed(lambda it: it.update(history={"runs": [{"mean": torch.ones(3)}, 2]}))(phase / "ood_components.pt")
    taken_in(phase, target="tomato")
    place = phase.parent / "bundle/adapters/tomato"
    assert torch.equal(load_file(place / "source.safetensors")["history.runs.0.mean"], torch.ones(3))
    kept = json.loads((place / "source_meta.json").read_text())
    assert kept["ood_components.pt"]["history"] == {"runs": [{"mean": None}, 2]}


@pytest.mark.parametrize("keys", [range(4), "0123"])
def test_numbers_of_classes_are_no_labels_that_look_like_numbers(keys: Any) -> None:
    labels = ("0", "1", "10", "2")  # as folders are sorted
    assert by_class({key: float(key) for key in keys}, labels, "it") == {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}


def test_labels_that_look_like_numbers_are_labels_otherwise() -> None:
    labels = ("0", "1", "10", "2")
    assert by_class({label: label for label in labels}, labels, "it") == dict(enumerate(labels))
    assert by_class({"2": "two"}, labels, "it") == {3: "two"}
    assert by_class({"2": "two", "rust": "one"}, LABELS, "it") == {2: "two", 1: "one"}
    with pytest.raises(BadBundle, match="not one of the 4"):
        by_class({"3": 1.0}, labels, "it")
