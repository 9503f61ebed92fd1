"""Write the adapters that were found as a bundle, and check the bundle as a loader would."""

from __future__ import annotations

import re
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from safetensors.torch import save_file

from adapters import bundle as layout
from adapters.answer.features import POOLINGS, Tap
from adapters.answer.heads import Head, LinearHead, read_head
from adapters.answer.ood import read_detector
from adapters.answer.ood_imported import ImportedDetector
from adapters.backbone import backbones
from adapters.backbone.families import Family, family_named
from adapters.bank.lora import read_adapter
from adapters.bundle import ADAPTER_CONFIG, ADAPTER_WEIGHTS, COMPONENT, HEAD, OOD, BundleFiles
from adapters.importing import Imported, ImportedAdapter, phases, release
from adapters.importing.layouts import (
    CLASSIFIER,
    FUSION,
    META,
    OOD_COMPONENTS,
    PHASES,
    RELEASE,
    VERSION,
    Found,
    Leaf,
    meta_of,
    read_meta,
)
from adapters.importing.peft import PeftFolder, backbone_of, modern_config, modern_tensors, read_folder
from adapters.importing.preprocessing import FILES as PREPROCESSING_FILES
from adapters.importing.preprocessing import stated_preprocessing
from adapters.importing.reading import PICKLES, labels_of, read_json, read_linear, read_state
from registry.errors import BackboneNotFound, BadBundle, BadInput, BadManifest, BadWeights
from registry.versions.manifest import BackboneRef

SOURCE_META = "source_meta.json"
SOURCE_TENSORS = "source.safetensors"
PROJECT = "project"
_SAY_IT = "say which one it is with --backbone DIR-or-ID"
CONFIG_SOURCE = "config/source"
"""Where files that state how the images of the whole tree were prepared are kept."""

_OURS = {
    ADAPTER_CONFIG, ADAPTER_WEIGHTS, COMPONENT, SOURCE_META, SOURCE_TENSORS, layout.GOLDEN, "exits", "exits.json",
    "source",
    *(f"{name}.{kind}" for name in (HEAD, OOD) for kind in ("json", "safetensors")),
}  # fmt: skip


@dataclass(frozen=True)
class Frozen:
    """The backbone that a bundle is for.

    Attributes:
        ref: its reference.
        family: what is particular to its family.
        linears: the modules that a LoRA may change.
        depth: its blocks.
        hidden_size: its width.
        patch: side of its patches in pixels.
    """

    ref: BackboneRef
    family: Family
    linears: Mapping[str, torch.nn.Module]
    depth: int
    hidden_size: int
    patch: int

    @classmethod
    def of(cls, ref: BackboneRef) -> Frozen:
        """Without its weights: only shapes are asked."""
        family = family_named(ref.family)
        model: Any = backbones.shapes(ref)
        depth, hidden_size, patch = model.config.num_hidden_layers, model.config.hidden_size, model.config.patch_size
        return cls(ref, family, family.linears_of(model), depth, hidden_size, patch)


@dataclass(frozen=True)
class Converted:
    """One adapter in memory.

    Attributes:
        kept: tensors of the source that neither LoRA, head nor detector holds.
        meta: fields of the source likewise, by the file that they come from.
        read: the files that were read, all of whose content is in one of these.
        notes: for people.
    """

    leaf: Leaf
    folder: PeftFolder
    head: Head | None
    detector: ImportedDetector | None
    kept: Mapping[str, torch.Tensor]
    meta: Mapping[str, Any]
    read: frozenset[Path]
    notes: tuple[str, ...]


def write(
    found: Found,
    source: Path,
    bundle: Path,
    *,
    backbone: str | None,
    known: Sequence[BackboneRef],
    say: Callable[[str], None],
) -> Imported:
    """Write a bundle; see `adapters.importing.convert`."""
    ref = backbones.reference(backbone or _named_backbone(found.leaves), known=known)
    frozen = Frozen.of(ref)
    usual = frozen.family.preprocessing(ref.config)
    preprocessing, notes = stated_preprocessing(source, found.leaves, usual, frozen.patch)
    layout.write_document(bundle / layout.BACKBONE, ref.model_dump(mode="json"))
    layout.write_document(bundle / layout.PREPROCESSING, preprocessing)
    layout.write_document(bundle / layout.INFERENCE, layout.DEFAULT_INFERENCE)
    made: list[ImportedAdapter] = []
    left_out = [path.relative_to(source).as_posix() for path in found.left_out]
    left_out += _copy_beside(found, bundle)
    for number, leaf in enumerate(found.leaves, start=1):
        say(f"converting {leaf.target} ({number} of {len(found.leaves)})")
        converted = _convert(leaf, frozen)
        _write_adapter(converted, frozen, preprocessing, bundle)
        left_out += _copy_rest(converted, bundle / layout.adapter_folder(leaf.target), found)
        _check(leaf, bundle, frozen)
        made.append(_describe(converted, source, notes[leaf.target]))
    left_out += _copy_project(found.project, bundle)
    return Imported(found.layout, ref.name, tuple(made), tuple(left_out), found.version)


def _named_backbone(leaves: Sequence[Leaf]) -> str:
    """What the source calls its backbone, the same for all adapters.

    Raises:
        BadBundle: they are for different ones.
        BadInput: it names none.
        BackboneNotFound: it names a folder that is not on this machine.
    """
    names: dict[str, str] = {}
    for leaf in leaves:
        stated = leaf.meta.get("backbone")
        in_meta = stated.get("model_name") if isinstance(stated, Mapping) else leaf.meta.get("model_name")
        name = backbone_of(leaf.peft) or (in_meta if isinstance(in_meta, str) else None)
        if not name:
            raise BadInput(f"{leaf.peft / ADAPTER_CONFIG} names no backbone", hint=_SAY_IT)
        if _is_place(name) and not Path(name).is_dir():
            raise BackboneNotFound(
                f"{leaf.peft / ADAPTER_CONFIG} names the folder {name[:200]!r} as its backbone, which is not here",
                hint=_SAY_IT,
            )
        names.setdefault(name, leaf.target)
    if len(names) > 1:
        raise BadBundle(
            f"the adapters are for different backbones: {', '.join(f'{n} ({t})' for n, t in names.items())}"[:400],
            hint="a version has one; import them apart, or say --backbone if these are names of the same",
        )
    return next(iter(names))


def _is_place(name: str) -> bool:
    """Whether a name can only be a path: an absolute one, of this or another system, or one from the folder around."""
    return _is_absolute(name) or name.startswith((".", "~")) or "\\" in name


def _convert(leaf: Leaf, frozen: Frozen) -> Converted:
    """Read one adapter."""
    folder = read_folder(leaf.peft)
    meta: dict[str, Any] = {"layout": leaf.layout, ADAPTER_CONFIG: dict(folder.config)}
    head, notes = _read_head(leaf, folder, frozen)
    detector: ImportedDetector | None = None
    kept: dict[str, torch.Tensor] = {}
    more = ["it has no detector: nothing will be flagged"] if head else []
    if head and leaf.layout == RELEASE:
        detector, kept, meta[META], more = release.read_detector(leaf, head.labels, _width(head))
    else:
        meta[META] = read_meta(leaf.folder)
    if head and leaf.layout == PHASES:
        detector, kept, meta[OOD_COMPONENTS], more = phases.read_detector(leaf, head.labels, _width(head))
    if folder.classifier and (leaf.folder / CLASSIFIER).is_file():
        kept |= {f"{folder.weights.name}.classifier.{name}": tensor for name, tensor in folder.classifier.items()}
        more = [*more, f"{CLASSIFIER} is its head; the classifier inside {folder.weights.name} is kept aside"]
    return Converted(leaf, folder, head, detector, kept, meta, _read_files(leaf, folder), (*notes, *more))


def _read_files(leaf: Leaf, folder: PeftFolder) -> frozenset[Path]:
    """The files that an adapter of this layout is made of. Others in its folder are copied, or listed as left out."""
    parts = {RELEASE: (CLASSIFIER, FUSION), PHASES: (CLASSIFIER, FUSION, OOD_COMPONENTS)}.get(leaf.layout, ())
    read = [leaf.peft / ADAPTER_CONFIG, folder.weights, *(leaf.folder / name for name in parts)]
    meta = meta_of(leaf.folder)
    return frozenset([*read, meta] if meta else read)


def _read_head(leaf: Leaf, folder: PeftFolder, frozen: Frozen) -> tuple[Head | None, list[str]]:
    notes: list[str] = []
    path = leaf.folder / CLASSIFIER
    if path.is_file():
        weight, bias = read_linear(path, read_state(path))
        phases.check_sizes(leaf, weight)
        labels = labels_of(leaf.meta.get("class_to_idx"), str(leaf.folder / META))
    elif folder.classifier:
        path = folder.weights
        weight, bias = read_linear(path, folder.classifier)
        labels, notes = _peft_labels(leaf, len(weight))
    elif (leaf.folder / FUSION).is_file():
        raise BadBundle(f"{leaf.folder} has {FUSION}, but no {CLASSIFIER}", hint="nothing was created")
    else:
        return None, ["it has no classifier: it gives features, and predicts no label"]
    if len(labels) != len(weight):
        raise BadBundle(
            f"{path} tells {len(weight)} classes apart, but {META} names {len(labels)} in class_to_idx",
            hint="nothing was created",
        )
    if (leaf.folder / FUSION).is_file():
        return release.read_fusion(leaf, labels, (weight, bias), frozen.depth), notes
    return LinearHead(labels, _pooled_as_wide_as(weight, frozen, path), weight, bias), notes


def _peft_labels(leaf: Leaf, count: int) -> tuple[tuple[str, ...], list[str]]:
    """The labels of a classifier that was saved inside a PEFT folder: the files around may name them."""
    if "class_to_idx" in leaf.meta:
        return labels_of(leaf.meta["class_to_idx"], str(leaf.folder / META)), []
    config = leaf.folder / "config.json"
    label2id = read_json(config).get("label2id") if config.is_file() else None
    if label2id:
        return labels_of(label2id, str(config)), []
    return tuple(map(str, range(count))), ["no file names its classes: they are called by their numbers"]


def _pooled_as_wide_as(weight: torch.Tensor, frozen: Frozen, path: Path) -> Tap:
    """CLS, or CLS and the mean of the patches, after the last block and its norm, whichever the classifier takes."""
    for pooling in ("cls", "cls+mean"):
        if weight.shape[1] == POOLINGS[pooling] * frozen.hidden_size:
            return Tap(frozen.depth, pooling)
    raise BadBundle(
        f"{path} takes features {weight.shape[1]} wide, but {frozen.ref.name} gives {frozen.hidden_size}",
        hint="nothing was created; is it the right --backbone?",
    )


def _width(head: Head) -> int:
    """Width of the embedding that its linear classifier takes."""
    return int(head.weight.shape[1] if isinstance(head, LinearHead) else head.classifier[0].shape[1])  # type: ignore[attr-defined]


def _write_adapter(converted: Converted, frozen: Frozen, preprocessing: Mapping[str, Any], bundle: Path) -> None:
    place = bundle / layout.adapter_folder(converted.leaf.target)
    config = modern_config(converted.folder, frozen.family, frozen.linears, frozen.ref.name)
    layout.write_document(place / ADAPTER_CONFIG, _without_paths(config))
    _write_tensors(place / ADAPTER_WEIGHTS, modern_tensors(converted.folder, frozen.family))
    for name, part in ((HEAD, converted.head), (OOD, converted.detector)):
        if part is not None:
            layout.write_document(place / f"{name}.json", part.document())
            _write_tensors(place / f"{name}.safetensors", part.tensors())
    if converted.kept:
        _write_tensors(place / SOURCE_TENSORS, converted.kept)
    layout.write_document(place / SOURCE_META, _without_paths(converted.meta))
    labels = converted.head.labels if converted.head else ()
    layout.write_document(place / COMPONENT, layout.component_document(labels, frozen.ref, preprocessing))


def _copy_rest(converted: Converted, place: Path, found: Found) -> list[str]:
    """Copy what lies in an adapter's folder and was not converted; paths of what has no place in a version."""
    left_out, leaf = [], converted.leaf
    for path, file in found.files.items():
        if found.owner(path) != leaf.folder:
            continue
        inner = file.relative_to(leaf.folder).as_posix()
        if file in converted.read or (found.version is not None and path == VERSION):
            continue
        if file.suffix.lower() in PICKLES:
            left_out.append(path)
        else:
            _copy(file, place / (f"source/{inner}" if inner.split("/")[0] in _OURS else inner))
    return left_out


def _copy_beside(found: Found, bundle: Path) -> list[str]:
    """Copy what says how the images of the whole tree were prepared; paths of everything else outside the adapters."""
    stated = [path for path in found.beside if PurePosixPath(path).name in PREPROCESSING_FILES]
    for path in stated:
        _copy(found.files[path], bundle / CONFIG_SOURCE / path)
    return [path for path in found.beside if path not in stated]


def _copy_project(project: Mapping[str, Path], bundle: Path) -> list[str]:
    """Copy the team's source tree; what may be a pickle is left out."""
    left_out = []
    for path, file in project.items():
        if file.suffix.lower() in PICKLES:
            left_out.append(path)
        else:
            _copy(file, bundle / PROJECT / path)
    return left_out


def _copy(file: Path, place: Path) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place, follow_symlinks=False)
        place.chmod(0o755 if file.stat().st_mode & stat.S_IXUSR else 0o644)
    except OSError as error:
        raise BadBundle(f"{file} can't be copied: {error.strerror or error}", hint="nothing was created") from error


def _check(leaf: Leaf, bundle: Path, frozen: Frozen) -> None:
    """Read what was written as a loader does: what does not fit the backbone is refused here."""
    place = layout.adapter_folder(leaf.target)
    folder = bundle / place
    files = BundleFiles({path.relative_to(bundle).as_posix(): path for path in folder.rglob("*") if path.is_file()})
    try:
        read_adapter(files, place, frozen.family, frozen.linears)
        for name, read in ((HEAD, read_head), (OOD, read_detector)):
            if f"{place}/{name}.json" in files:
                read(files, place, frozen.hidden_size, frozen.depth, "cpu")
    except (BadManifest, BadWeights) as error:
        message = str(error).replace(place, str(leaf.peft))
        raise BadWeights(f"{message} ({frozen.ref.name})", hint=error.hint or "nothing was created") from error
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:  # PEFT, of a field of another type
        raise BadBundle(
            f"{leaf.peft / ADAPTER_CONFIG} is malformed: {error}"[:400], hint="nothing was created"
        ) from error


def _describe(converted: Converted, source: Path, notes: Sequence[str]) -> ImportedAdapter:
    head, detector = converted.head, converted.detector
    return ImportedAdapter(
        target=converted.leaf.target,
        folder=converted.leaf.folder.relative_to(source).as_posix(),
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
    """Documents without this or another machine's paths: of an absolute one its last part is kept."""
    if isinstance(value, Mapping):
        return {str(key): _without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(item) for item in value]
    if isinstance(value, str) and _is_absolute(value):
        return PurePosixPath(PureWindowsPath(value).as_posix()).name
    return value


def _is_absolute(path: str) -> bool:
    return path.startswith("/") or re.match(r"[A-Za-z]:[\\/]", path) is not None
