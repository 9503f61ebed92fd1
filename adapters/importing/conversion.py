"""Write the adapters that were found as a bundle, and check the bundle in the same way as a loader."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from safetensors.torch import save_file

from adapters import bundle as layout
from adapters.answer.heads import Head, LinearHead, read_head
from adapters.answer.loaded import LoadedVersion
from adapters.answer.ood import read_detector
from adapters.answer.ood_imported import ImportedDetector
from adapters.backbone.build import shapes
from adapters.backbone.families import Family, family_named
from adapters.backbone.features import POOLINGS, FeatureSpec
from adapters.backbone.locate import FetchWeights
from adapters.backbone.resolve import reference
from adapters.bank.peft_files import read_adapter
from adapters.bundle import ADAPTER_CONFIG, ADAPTER_WEIGHTS, COMPONENT, HEAD, OOD, BundleFiles
from adapters.importing import ImportedAdapter, ImportResult, layout_phases, layout_release
from adapters.importing.goldens import BackbonePlace, record
from adapters.importing.kept_files import SOURCE_META, SOURCE_TENSORS, copy_beside, copy_project, copy_rest
from adapters.importing.layout_peft import (
    PeftFolder,
    backbone_of,
    checked_config,
    modern_config,
    modern_tensors,
    read_folder,
)
from adapters.importing.layouts import (
    CLASSIFIER,
    FUSION,
    META,
    OOD_COMPONENTS,
    PHASES,
    RELEASE,
    AdapterFolder,
    FoundAdapters,
    meta_of,
    read_meta,
)
from adapters.importing.preprocessing import stated_preprocessing
from adapters.importing.untrusted_files import labels_of, read_json, read_linear, read_state
from registry.errors import BackboneNotFound, BadBundle, BadInput, BadManifest, BadWeights
from registry.versions.manifest import BackboneRef

_NAME_IT = "name it with --backbone DIR-or-ID"


@dataclass(frozen=True)
class BackboneInfo:
    """The backbone that a bundle is for.

    Attributes:
        ref: its reference.
        family: its family.
        linears: the modules that a LoRA may change.
        depth: the number of blocks.
        hidden_size: its width.
    """

    ref: BackboneRef
    family: Family
    linears: Mapping[str, torch.nn.Linear]
    depth: int
    hidden_size: int

    @classmethod
    def of(cls, ref: BackboneRef) -> BackboneInfo:
        """Read the shapes, without the weights."""
        family = family_named(ref.family)
        model: Any = shapes(ref)
        return cls(ref, family, family.linears_of(model), model.config.num_hidden_layers, model.config.hidden_size)


@dataclass(frozen=True)
class ConvertedAdapter:
    """One adapter in memory.

    Attributes:
        kept: tensors of the source that are in neither LoRA, head nor detector.
        meta: fields of the source likewise, by the file that they come from.
        read: the files that were read completely.
        notes: for people.
    """

    adapter: AdapterFolder
    folder: PeftFolder
    head: Head | None
    detector: ImportedDetector | None
    kept: Mapping[str, torch.Tensor]
    meta: Mapping[str, Any]
    read: frozenset[Path]
    notes: tuple[str, ...]


def write(
    found: FoundAdapters,
    source: Path,
    bundle: Path,
    *,
    backbone: str | None,
    known: Sequence[BackboneRef],
    fetch: FetchWeights | None,
    say: Callable[[str], None],
) -> ImportResult:
    """Write a bundle; see `adapters.importing.convert`."""
    for adapter in found.adapters:
        checked_config(adapter.peft)  # first of all: where it is not a LoRA, nothing else is worth a message
    named = backbone or _named_backbone(found.adapters)
    ref = reference(named, known=known)
    place = BackbonePlace(ref, (Path(named),) if Path(named).is_dir() else (), fetch)
    info = BackboneInfo.of(ref)
    stated = stated_preprocessing(source, found.adapters, info.family, ref.config)
    preprocessing = stated.document
    layout.write_document(bundle / layout.BACKBONE, ref.model_dump(mode="json"))
    layout.write_document(bundle / layout.PREPROCESSING, preprocessing)
    layout.write_document(bundle / layout.INFERENCE, layout.DEFAULT_INFERENCE)
    made: list[ImportedAdapter] = []
    last_loaded: list[LoadedVersion] = []  # it keeps the backbone's weights in memory for the next adapter
    left_out = [path.relative_to(source).as_posix() for path in found.left_out]
    left_out += copy_beside(found, bundle)
    for number, adapter in enumerate(found.adapters, start=1):
        say(f"converting {adapter.target} ({number} of {len(found.adapters)})")
        converted = _convert(adapter, info)
        _write_adapter(converted, info, preprocessing, bundle)
        left_out += copy_rest(adapter, converted.read, bundle / layout.adapter_folder(adapter.target), found)
        _check(adapter, bundle, info)
        last_loaded[:] = [record(adapter, (converted.folder, converted.head, converted.detector), place, bundle)]
        made.append(_describe(converted, source, stated.notes[adapter.target]))
    left_out += copy_project(found.project, bundle)
    return ImportResult(found.layout, ref.name, tuple(made), tuple(left_out), stated.assumed, found.version)


def _named_backbone(adapters: Sequence[AdapterFolder]) -> str:
    """The backbone that the source names, the same for all adapters.

    Raises:
        BadBundle: when they name different ones.
        BadInput: when one names none.
        BackboneNotFound: when one names a folder that is not on this machine.
    """
    names: dict[str, str] = {}
    for adapter in adapters:
        stated = adapter.meta.get("backbone")
        in_meta = stated.get("model_name") if isinstance(stated, Mapping) else adapter.meta.get("model_name")
        name = backbone_of(adapter.peft) or (in_meta if isinstance(in_meta, str) else None)
        if not name:
            raise BadInput(f"{adapter.peft / ADAPTER_CONFIG} names no backbone", hint=_NAME_IT)
        if _is_path(name) and not Path(name).is_dir():
            raise BackboneNotFound(
                f"{adapter.peft / ADAPTER_CONFIG} names the folder {name[:200]!r} as its backbone, "
                "but it is not on this machine",
                hint=_NAME_IT,
            )
        names.setdefault(name, adapter.target)
    if len(names) > 1:
        raise BadBundle(
            f"the adapters are for different backbones: {', '.join(f'{n} ({t})' for n, t in names.items())}"[:400],
            hint="a version has one backbone; import them separately, or give --backbone if these are the same",
        )
    return next(iter(names))


def _is_path(name: str) -> bool:
    """Whether a name can only be a path: absolute on this or another system, or relative to the current folder."""
    return _is_absolute(name) or name.startswith((".", "~")) or "\\" in name


def _convert(adapter: AdapterFolder, info: BackboneInfo) -> ConvertedAdapter:
    """Read one adapter."""
    folder = read_folder(adapter.peft)
    meta: dict[str, Any] = {"layout": adapter.layout, ADAPTER_CONFIG: dict(folder.config)}
    head, notes = _read_head(adapter, folder, info)
    detector: ImportedDetector | None = None
    kept: dict[str, torch.Tensor] = {}
    detector_notes = ["it has no detector: no image will be flagged"] if head else []
    if head and adapter.layout == RELEASE:
        detector, kept, meta[META], detector_notes = layout_release.read_detector(adapter, head.labels, _width(head))
    else:
        meta[META] = read_meta(adapter.folder)
    if head and adapter.layout == PHASES:
        detector, kept, meta[OOD_COMPONENTS], detector_notes = layout_phases.read_detector(
            adapter, head.labels, _width(head)
        )
    if folder.classifier and (adapter.folder / CLASSIFIER).is_file():
        kept |= {f"{folder.weights.name}.classifier.{name}": tensor for name, tensor in folder.classifier.items()}
        detector_notes = [
            *detector_notes,
            f"{CLASSIFIER} is its head; the classifier in {folder.weights.name} is only kept",
        ]
    return ConvertedAdapter(
        adapter, folder, head, detector, kept, meta, _read_files(adapter, folder), (*notes, *detector_notes)
    )


def _read_files(adapter: AdapterFolder, folder: PeftFolder) -> frozenset[Path]:
    """The files that were converted. Other files in the folder are copied, or listed as left out."""
    parts = {RELEASE: (CLASSIFIER, FUSION), PHASES: (CLASSIFIER, FUSION, OOD_COMPONENTS)}.get(adapter.layout, ())
    read = [adapter.peft / ADAPTER_CONFIG, folder.weights, *(adapter.folder / name for name in parts)]
    meta = meta_of(adapter.folder)
    return frozenset([*read, meta] if meta else read)


def _read_head(adapter: AdapterFolder, folder: PeftFolder, info: BackboneInfo) -> tuple[Head | None, list[str]]:
    notes: list[str] = []
    path = adapter.folder / CLASSIFIER
    if path.is_file():
        weight, bias = read_linear(path, read_state(path))
        layout_phases.check_sizes(adapter, weight)
        labels = labels_of(adapter.meta.get("class_to_idx"), str(adapter.folder / META))
    elif folder.classifier:
        path = folder.weights
        weight, bias = read_linear(path, folder.classifier)
        labels, notes = _peft_labels(adapter, len(weight))
    elif (adapter.folder / FUSION).is_file():
        raise BadBundle(f"{adapter.folder} has {FUSION}, but no {CLASSIFIER}", hint="nothing was created")
    else:
        return None, ["it has no classifier: it gives features, but no labels"]
    if len(labels) != len(weight):
        raise BadBundle(
            f"{path} has {len(weight)} classes, but {META} names {len(labels)} in class_to_idx",
            hint="nothing was created",
        )
    if (adapter.folder / FUSION).is_file():
        return layout_release.read_fusion(adapter, labels, (weight, bias), info.depth), notes
    return LinearHead(labels, _features_as_wide_as(weight, info, path), weight, bias), notes


def _peft_labels(adapter: AdapterFolder, count: int) -> tuple[tuple[str, ...], list[str]]:
    """The labels of a classifier that was saved inside a PEFT folder, if other files name them."""
    if "class_to_idx" in adapter.meta:
        return labels_of(adapter.meta["class_to_idx"], str(adapter.folder / META)), []
    config = adapter.folder / "config.json"
    label2id = read_json(config).get("label2id") if config.is_file() else None
    if label2id:
        return labels_of(label2id, str(config)), []
    return tuple(map(str, range(count))), ["no file names its classes: their numbers are used as labels"]


def _features_as_wide_as(weight: torch.Tensor, info: BackboneInfo, path: Path) -> FeatureSpec:
    """CLS, or CLS and the mean of the patches, after the last block: whichever has the classifier's width."""
    for pooling in ("cls", "cls+mean"):
        if weight.shape[1] == POOLINGS[pooling] * info.hidden_size:
            return FeatureSpec(info.depth, pooling)
    raise BadBundle(
        f"{path} takes features {weight.shape[1]} wide, but {info.ref.name} gives {info.hidden_size}",
        hint="nothing was created; is it the right --backbone?",
    )


def _width(head: Head) -> int:
    """The width of the embedding that its linear classifier takes."""
    return int(head.weight.shape[1] if isinstance(head, LinearHead) else head.classifier[0].shape[1])  # type: ignore[attr-defined]


def _write_adapter(
    converted: ConvertedAdapter, info: BackboneInfo, preprocessing: Mapping[str, Any], bundle: Path
) -> None:
    place = bundle / layout.adapter_folder(converted.adapter.target)
    config = modern_config(converted.folder, info.family, info.linears, info.ref.name)
    layout.write_document(place / ADAPTER_CONFIG, _without_paths(config))
    _write_tensors(place / ADAPTER_WEIGHTS, modern_tensors(converted.folder, info.family))
    for name, part in ((HEAD, converted.head), (OOD, converted.detector)):
        if part is not None:
            layout.write_document(place / f"{name}.json", part.document())
            _write_tensors(place / f"{name}.safetensors", part.tensors())
    if converted.kept:
        _write_tensors(place / SOURCE_TENSORS, converted.kept)
    layout.write_document(place / SOURCE_META, _without_paths(converted.meta))
    labels = converted.head.labels if converted.head else ()
    layout.write_document(place / COMPONENT, layout.component_document(labels, info.ref, preprocessing))


def _check(adapter: AdapterFolder, bundle: Path, info: BackboneInfo) -> None:
    """Read the written files as a loader does, and refuse what does not fit the backbone."""
    place = layout.adapter_folder(adapter.target)
    folder = bundle / place
    files = BundleFiles({path.relative_to(bundle).as_posix(): path for path in folder.rglob("*") if path.is_file()})
    try:
        read_adapter(files, place, info.family, info.linears)
        for name, read in ((HEAD, read_head), (OOD, read_detector)):
            if f"{place}/{name}.json" in files:
                read(files, place, info.hidden_size, info.depth, "cpu")
    except (BadManifest, BadWeights) as error:
        message = str(error).replace(place, str(adapter.peft))
        raise BadWeights(f"{message} ({info.ref.name})", hint=error.hint or "nothing was created") from error
    except (
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
    ) as error:  # raised by PEFT for a field of the wrong type
        raise BadBundle(
            f"{adapter.peft / ADAPTER_CONFIG} is malformed: {error}"[:400], hint="nothing was created"
        ) from error


def _describe(converted: ConvertedAdapter, source: Path, notes: Sequence[str]) -> ImportedAdapter:
    head, detector = converted.head, converted.detector
    return ImportedAdapter(
        target=converted.adapter.target,
        folder=converted.adapter.folder.relative_to(source).as_posix(),
        head=str(head.document()["kind"]) if head else None,
        labels=len(head.labels) if head else 0,
        detector=str(detector.document()["kind"]) if detector else None,
        notes=(*converted.notes, *notes),
    )


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}, path)
    path.chmod(0o644)


def _without_paths(value: Any) -> Any:
    """A document without absolute paths: only their last part is kept."""
    if isinstance(value, Mapping):
        return {str(key): _without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(item) for item in value]
    if isinstance(value, str) and _is_absolute(value):
        return PurePosixPath(PureWindowsPath(value).as_posix()).name
    return value


def _is_absolute(path: str) -> bool:
    return path.startswith("/") or re.match(r"[A-Za-z]:[\\/]", path) is not None
