"""Read untrusted files: bounded in size, and unpickled only to plain tensors and values."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from adapters.backbone.sanitise import sanitise
from registry.errors import BadBundle, BadManifest, BadWeights, LoadFailed, UloraError, first_line
from registry.formats import canonical
from registry.machine.programs import ask_module
from registry.versions.weights import read_header

MAX_WEIGHTS = 2 * 1024**3
"""Bytes of the largest weights file, and of all its tensors in memory."""
MAX_SIZED = 64 * 1024
"""Elements of a value that is kept as text, such as bytes or a set."""
MAX_TEXTS = 64 * 1024**2
"""Characters of all values of a file that are kept as text."""
MAX_JSON = 256 * 1024**2
"""Bytes of the largest JSON file; those of real releases contain feature vectors and have up to 34 MB."""
MAX_PICKLE = 64 * 1024**2
"""Bytes of what a file says besides the numbers of its tensors. Real releases have less than 1 MiB."""
UNPICKLE_SECONDS = 60.0
"""Real releases take a tenth of a second, most of it the start of a process."""
MAX_CLASSES = 10_000

_DTYPES = {
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
}  # fmt: skip
_ARCHIVE = b"PK\x03\x04"
_LEGACY_PICKLES = 5
"""In a file of the format before torch 1.6: a magic number, a version, the machine, the content, the keys of storages;
then come the numbers (`torch.serialization._legacy_save`)."""
_REHEARSAL = f"{__package__}.pickle_rehearsal"
_UNSAFE_ADVICE = "weights_only"
_METADATA = "__metadata__"  # reserved in a safetensors header
_MAX_FLOAT = torch.finfo(torch.float32).max
_HINT = "nothing was created; get the file again, or save plain tensors: torch.save(module.state_dict(), …)"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        BadBundle: when it is missing, unreadable, too large, too deep, not JSON, or has a value that can't be stored.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON:
            raise BadBundle(f"{path} is {size} bytes, more than the allowed {MAX_JSON}")
        document: dict[str, Any] = sanitise(canonical.decode(path.read_bytes(), str(path), MAX_JSON))
        return document
    except OSError as error:
        raise BadBundle(f"{path} can't be read: {error.strerror}", hint="nothing was created") from error
    except ValueError as error:
        raise BadBundle(f"{path}: {error}", hint="nothing was created; repair the file") from error
    except BadManifest as error:
        raise BadBundle(str(error), hint="nothing was created; repair the file") from error


def read_pickle(path: Path) -> Any:
    """Read a file that `torch.save` wrote: tensors, numbers and strings in dictionaries and lists. Code in it is not
    run.

    Other values become strings, see also `adapters.backbone.sanitise.sanitise`; tensors of float64 become float32.

    Raises:
        BadWeights: when it is truncated, damaged, too large, too deep or compressed, contains code, takes too much
            memory or time besides its numbers, or has tensors of other kinds or with numbers that are not finite in
            float32.
        LoadFailed: when no process can be started to look at it first.
    """
    with _as_bad_weights(path):
        _check_size(path)
        is_zip = _begins_like_archive(path)
        if is_zip:
            _check_archive(path)
        _check_pickles(path, is_zip=is_zip)
        return sanitise(torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip or None), _tensor_check())


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a safetensors file; float64 becomes float32.

    Raises:
        BadWeights: when it is truncated, malformed or too large, or has numbers that are not finite in float32.
    """
    from safetensors.torch import load_file

    with _as_bad_weights(path):
        _check_size(path)
        read_header(path)
        tensors: dict[str, torch.Tensor] = sanitise(load_file(path), _tensor_check())
        return tensors


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read a module's state (names and tensors) in either format.

    Raises:
        BadWeights: when the file can't be read safely, or is not a state.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    content = read_pickle(path)
    while isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content or not all(map(torch.is_tensor, content.values())):
        raise BadWeights(f"{path} is not a state_dict of names and tensors", hint=_HINT)
    return {str(name): tensor for name, tensor in content.items()}


def read_linear(path: Path, state: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [classes, inputs] and bias [classes] of the only linear layer in a state, float32.

    Raises:
        BadWeights: when it is anything else.
    """
    weights = [tensor for name, tensor in state.items() if name.rpartition(".")[2] == "weight"]
    biases = [tensor for name, tensor in state.items() if name.rpartition(".")[2] == "bias"]
    if len(weights) != 1 or len(biases) > 1 or len(state) != len(weights) + len(biases) or weights[0].ndim != 2:
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        raise BadWeights(f"{path} is not a single linear layer: {shapes}"[:400], hint="nothing was created")
    weight = weights[0].float()
    bias = biases[0].float() if biases else torch.zeros(len(weight))
    if bias.shape != (len(weight),):
        raise BadWeights(f"{path}: a bias of shape {tuple(bias.shape)} for {len(weight)} classes")
    return weight, bias


def as_tensor(value: Any, what: str) -> torch.Tensor:
    """A list of numbers, or of lists of numbers, as float32.

    Raises:
        BadBundle: when it is anything else, or not finite.
    """
    try:
        tensor = value.float() if torch.is_tensor(value) else torch.tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadBundle(f"{what} is not a table of numbers: {error}"[:300], hint="nothing was created") from error
    if not bool(tensor.isfinite().all()):
        raise BadBundle(f"{what} has numbers that are not finite", hint="nothing was created")
    return tensor


def as_number(value: Any, what: str) -> float:
    """A number that is finite in float32; a tensor with one element is accepted.

    Raises:
        BadBundle: when it is anything else.
    """
    if torch.is_tensor(value) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MAX_FLOAT:
        raise BadBundle(f"{what} is {str(value)[:40]!r}, not a number", hint="nothing was created")
    return float(value)


def labels_of(class_to_idx: Any, what: str) -> tuple[str, ...]:
    """The labels in the order of their numbers.

    Raises:
        BadBundle: when the numbers are not 0 to n - 1, each once.
    """
    if not isinstance(class_to_idx, Mapping) or not 0 < len(class_to_idx) <= MAX_CLASSES:
        raise BadBundle(f"{what} has no class_to_idx that names its classes", hint="nothing was created")
    by_number = {number: label for label, number in class_to_idx.items() if type(number) is int}
    if sorted(by_number) != list(range(len(class_to_idx))):
        raise BadBundle(
            f"{what}: class_to_idx does not number its {len(class_to_idx)} classes from 0 to {len(class_to_idx) - 1}",
            hint="nothing was created",
        )
    return tuple(str(by_number[number]) for number in sorted(by_number))


def by_class(stated: Mapping[Any, Any], labels: Sequence[str], what: str) -> dict[int, Any]:
    """Values by class number.

    Integers are class numbers, and so are strings that together are exactly 0 to n - 1. Other strings are labels; they
    are numbers only if no label looks like one: folders called 0, 1, 10, 2 are sorted like this, and get other numbers.

    Raises:
        BadBundle: when a key is not a class, or two are the same.
    """
    by_label = {label: number for number, label in enumerate(labels)}
    by_digits = {str(number): number for number in range(len(labels))}
    if {key for key in stated if isinstance(key, str)} == by_digits.keys():
        names = by_digits
    else:
        names = by_label if by_label.keys() & by_digits.keys() else by_label | by_digits
    found: dict[int, Any] = {}
    for key, value in stated.items():
        number = names.get(key) if isinstance(key, str) else key
        if not isinstance(number, int) or number not in range(len(labels)) or number in found:
            raise BadBundle(
                f"{what} of {str(key)[:80]!r}, which is not one of the {len(labels)} classes, or is there twice",
                hint="nothing was created",
            )
        found[number] = value
    return found


@contextmanager
def _as_bad_weights(path: Path) -> Iterator[None]:
    """Turn every exception of reading a damaged or unsafe file into `BadWeights` or `BadBundle`."""
    try:
        yield
    except BadWeights as error:
        raise BadWeights(str(error), hint=error.hint or _HINT) from error
    except LoadFailed:
        raise
    except (PermissionError, FileNotFoundError, IsADirectoryError) as error:
        raise BadBundle(f"{path} can't be read: {error.strerror}", hint="nothing was created") from error
    except Exception as error:  # torch raises many kinds of exceptions for malformed files
        first = first_line(error)
        if _UNSAFE_ADVICE in str(error):  # torch says how to run the code in it
            first = "torch refuses to read it safely"
        raise BadWeights(f"{path} is not a valid file of plain tensors: {first[:200]}", hint=_HINT) from error


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    if size > MAX_WEIGHTS:
        raise BadWeights(f"{path} is {size} bytes, more than the allowed {MAX_WEIGHTS}")


def _check_archive(path: Path) -> None:
    """Check an archive: torch stores files uncompressed, and a compressed one could expand to a huge size.

    The checksums are checked here, because torch does not.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise BadWeights(f"{path} is a compressed archive, which torch.save never writes")
        if sum(member.file_size for member in members) > MAX_WEIGHTS:
            raise BadWeights(f"{path} expands to more than the allowed {MAX_WEIGHTS} bytes")
        if damaged := archive.testzip():
            raise BadWeights(f"{path} is damaged: {damaged[:80]!a} in it does not match its checksum")


def _begins_like_archive(path: Path) -> bool:
    """Whether torch takes a file for an archive, wherever its directory may be."""
    with path.open("rb") as file:
        return file.read(len(_ARCHIVE)) == _ARCHIVE


def _check_pickles(path: Path, *, is_zip: bool) -> None:
    """Check that what torch will unpickle takes a bounded amount of memory and time, in a process of its own."""
    if is_zip:  # by torch's own reader, so that both look at the same bytes
        data = torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")
        if len(data) > MAX_PICKLE:
            raise BadWeights(f"{path}: its values besides the numbers of tensors have more than {MAX_PICKLE} bytes")
    else:
        with path.open("rb") as file:
            data = file.read(MAX_PICKLE)  # the numbers follow, or the rest of a pickle that is too long
    count = 1 if is_zip else _LEGACY_PICKLES
    try:
        problem, needed = json.loads(ask_module(_REHEARSAL, bytes([count]) + data, seconds=UNPICKLE_SECONDS))
    except TimeoutError as error:
        raise BadWeights(f"{path} can't be read within {UNPICKLE_SECONDS:g} s") from error
    except OSError as error:
        raise LoadFailed(f"{path}: no process can be started to look at it: {error}") from error
    except UloraError as error:
        raise BadWeights(f"{path} can't be read within bounds of memory and time") from error
    if problem or needed > path.stat().st_size:
        raise ValueError(problem or "it ends before the last of its numbers")


def _tensor_check() -> Callable[[str, Any], Any]:
    """The check that `sanitise` applies to one file's tensors: their total size, and each one's kind and numbers."""
    total = text_total = 0

    def check(name: str, value: Any) -> Any:
        nonlocal total, text_total
        if not torch.is_tensor(value):
            if isinstance(value, Sized) and len(value) > MAX_SIZED:
                raise ValueError(f"{name[:80]!a} is a {type(value).__name__} of {len(value)} elements")
            text = str(value)
            text_total += len(text)  # once for each reference: a pickle has one object in many places
            if text_total > MAX_TEXTS:
                raise ValueError(
                    f"its values other than tensors and numbers have more than {MAX_TEXTS} characters as text"
                )
            return text
        what = f"{name[:80]!a}" if name else "its tensor"
        plain_layout = value.layout == torch.strided and value.device.type == "cpu"
        if not plain_layout or value.dtype not in _DTYPES or name == _METADATA:
            raise ValueError(f"{what} is not a plain tensor")
        size = value.numel() * value.element_size()
        if size > value.untyped_storage().nbytes():  # a few bytes can say that they are any number of numbers
            raise ValueError(f"{what} has more numbers than the file has for it; save it after `.contiguous()`")
        total += size
        if total > MAX_WEIGHTS:
            raise ValueError(f"its tensors have more than the allowed {MAX_WEIGHTS} bytes")
        tensor = value.detach()
        tensor = tensor.float() if tensor.dtype == torch.float64 else tensor
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{what} has numbers that are not finite in float32")
        return tensor

    return check
