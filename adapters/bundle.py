"""The files of a bundle, and how they are read and written. Equal content gives equal bytes.

    backbone.json                                the backbone, as a BackboneRef
    adapters/<target>/adapter_config.json        the LoRA, as PEFT writes it
                      adapter_model.safetensors
                      head.json  head.safetensors       optional: without them it gives features, no labels
                      ood.json   ood.safetensors        optional: without them nothing is flagged
                      exits.json exits/<block>/…        optional: heads and detectors at earlier blocks
                      golden.safetensors         optional: recorded inputs and outputs; without a head: features
                      component.json             labels, and what it requires from the version
    router/           head.json  head.safetensors  golden.safetensors  component.json        optional
    config/           preprocessing.json  inference.json  runtimes.json (optional: the results of the gate of runtimes)

Every JSON file is canonical, with a newline at its end; no file contains a time or a path of a machine.
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from registry.errors import BadWeights, MissingBlob
from registry.formats import canonical
from registry.formats.local_file import LocalFile
from registry.versions.manifest import BackboneRef
from registry.versions.weights import MAX_HEADER, read_header

if TYPE_CHECKING:
    import numpy as np
    import torch

BACKBONE = "backbone.json"
PREPROCESSING = "config/preprocessing.json"
INFERENCE = "config/inference.json"
ROUTER = "router"
ADAPTERS = "adapters"

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
HEAD = "head"
OOD = "ood"
GOLDEN = "golden.safetensors"
COMPONENT = "component.json"

KINDS = ("F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")
"""The dtypes that tensors may have, in the words of safetensors: those that float32 represents exactly, and
integers."""

DEFAULT_INFERENCE: dict[str, Any] = {
    "router_threshold": 0.5,
    "tolerance": {"torch-fp32": {"logits": 1e-3, "ood_score": 1e-2}},
}
"""The content of `inference.json`: the smallest confidence at which the router's choice is used, and how far a
version's outputs may differ from its recorded ones, per runtime (`ood_score` in thresholds); see
`adapters.answer.selftest.difference`."""


class Saveable(Protocol):
    """A head or a detector."""

    def document(self) -> dict[str, Any]:
        """The content of its JSON file."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """The content of its safetensors file."""


class BundleDocuments:
    """Read a bundle's JSON files and what its weights files are: all that does not need them in memory.

    Files are found by their path in the bundle; on the disk they may have other names, such as their digests.
    """

    def __init__(self, files: Mapping[str, LocalFile]) -> None:
        self._files = files

    def __contains__(self, path: str) -> bool:
        return path in self._files

    def document(self, path: str) -> dict[str, Any]:
        """Read a JSON file.

        Raises:
            MissingBlob: when the bundle has no such file.
            BadManifest: when it is not a JSON object, or too large.
        """
        return canonical.decode(self.document_bytes(path), path)

    def document_bytes(self, path: str) -> bytes:
        """Read the bytes of a JSON file.

        Raises:
            MissingBlob: when the bundle has no such file.
            BadManifest: when it is too large.
        """
        return canonical.read_file(self._file(path), path)

    def dtypes(self, path: str) -> dict[str, str]:
        """The dtype of each tensor of a safetensors file, in the format's words, e.g. `F32`."""
        return {span.name: span.dtype for span in read_header(self._file(path), path)}

    def _file(self, path: str) -> LocalFile:
        if path not in self._files:
            raise MissingBlob(
                f"the version has no file {path}", hint="make the bundle again; adapters/bundle.py lists its files"
            )
        return self._files[path]


class BundleFiles(BundleDocuments):
    """Read a bundle's files, its tensors too: their paths in the bundle, and the verified files on this disk."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        super().__init__(files)
        self._places = files

    def children(self, folder: str) -> tuple[str, ...]:
        """The names of the folders in a folder, sorted."""
        parts = [path.removeprefix(f"{folder}/").split("/") for path in self._places if path.startswith(f"{folder}/")]
        return tuple(sorted({first for first, *rest in parts if rest}))

    def within(self, folder: str) -> dict[str, Path]:
        """The files below a folder, by their paths inside it."""
        return {p.removeprefix(f"{folder}/"): place for p, place in self._places.items() if p.startswith(f"{folder}/")}

    def tensors(self, path: str) -> dict[str, torch.Tensor]:
        """Read the tensors of a safetensors file into memory; floating point tensors become float32.

        Raises:
            MissingBlob: when the bundle has no such file.
            BadWeights: when it is truncated or malformed, or has a number that is not finite.
        """
        tensors = {}
        for name, tensor in self.mapped_tensors(path).items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise BadWeights(f"{path} has numbers that are not finite in {name!r}")
            tensors[name] = tensor.float() if tensor.is_floating_point() else tensor
            if tensors[name] is tensor:
                tensors[name] = tensor.clone()
        return tensors

    def mapped_tensors(self, path: str) -> dict[str, torch.Tensor]:
        """Map the tensors of a safetensors file into memory, with their dtypes in the file. Copy them; do not keep
        them.

        Raises:
            MissingBlob: when the bundle has no such file.
            BadWeights: when it is truncated or malformed, or has a dtype that is not supported.
        """
        return self.weights_file(path).tensors()

    def weights_file(self, path: str) -> WeightsFile:
        """Open a safetensors file. Only its header is read, and nothing is checked yet.

        Raises:
            MissingBlob: when the bundle has no such file.
        """
        with self._file(path).open("rb") as file:
            lead = file.read(8)
            header = lead + file.read(min(int.from_bytes(lead, "little"), MAX_HEADER))
            return WeightsFile(header, file.seek(0, io.SEEK_END), self._places[path], path)


@dataclass(frozen=True)
class WeightsFile:
    """A safetensors file. Two are equal if they have the same tensors at the same positions, whatever their numbers.

    Attributes:
        header: all bytes before the numbers.
        size: of the file, in bytes.
        place: its path on this disk.
        path: its path in the bundle.
    """

    header: bytes
    size: int
    place: Path = field(compare=False)
    path: str = field(compare=False)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Map its tensors into memory, in the order in which they are stored. Copy them; do not keep them.

        Raises:
            BadWeights: when it is truncated or malformed, or has a dtype that float32 can't represent.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            spans = read_header(self.place)
            tensors = load_file(self.place)
        except BadWeights as error:
            raise BadWeights(f"{self.path}: {error}", hint=error.hint) from error
        except (SafetensorError, ValueError) as error:
            raise BadWeights(f"{self.path} is not a valid safetensors file: {error}") from error
        others = [span for span in spans if span.dtype not in KINDS]
        if others:
            raise BadWeights(
                f"{self.path}: {others[0].name!r} is of kind {others[0].dtype}, which is not supported",
                hint=f"convert it to one of {', '.join(KINDS)}",
            )
        return {span.name: tensors[span.name] for span in sorted(spans, key=lambda span: span.start)}

    def floats(self) -> torch.Tensor:
        """All numbers of a valid file of only float32 tensors, in its order, mapped into memory: [n]."""
        import torch

        with self.place.open("rb") as file:
            # A private, writable mapping avoids torch's warning; nothing writes to it. The tensor keeps it open.
            memory = mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_COPY)
        return torch.frombuffer(memory, dtype=torch.float32, offset=len(self.header))


def check_shapes(tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], path: str) -> None:
    """Check that a file has exactly these tensors.

    Raises:
        BadWeights: when one is missing, unexpected, or has another shape.
    """
    actual = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if actual != dict(shapes):
        raise BadWeights(f"{path} has the tensors {actual}, not the expected {dict(shapes)}"[:600])


def adapter_folder(target: str) -> str:
    """The folder of a target's adapter in a bundle."""
    return f"{ADAPTERS}/{target}"


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file, creating its folder."""
    _write(path, canonical.encode(document) + b"\n")


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray | torch.Tensor]) -> None:
    """Write a safetensors file, creating its folder. Equal tensors give equal bytes."""
    import numpy as np
    from safetensors.numpy import save as save_arrays

    arrays = {
        name: tensor if isinstance(tensor, np.ndarray) else tensor.detach().cpu().numpy()
        for name, tensor in tensors.items()
    }
    _write(path, save_arrays({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def save(folder: Path, name: str, part: Saveable) -> None:
    """Write a head or a detector into a folder as `<name>.json` and `<name>.safetensors`."""
    write_document(folder / f"{name}.json", part.document())
    write_tensors(folder / f"{name}.safetensors", part.tensors())


def component_document(
    labels: Sequence[str], backbone: BackboneRef, preprocessing: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of `component.json`."""
    return {
        "labels": list(labels),
        "requires": {
            "backbone": backbone.sha256,
            "labels": canonical.digest(list(labels)),
            "preprocessing": canonical.digest(dict(preprocessing)),
        },
    }


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o644)
