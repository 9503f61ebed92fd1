"""Unpickle what `torch.save` wrote, without torch, to see whether that stays within bounds of memory and time.

`torch.load(weights_only=True)` runs no code, but a pickle can still ask it for any amount of memory: an opcode of one
byte makes an object of 64 or 200, and two of them copy an object that exists. So
`adapters.importing.untrusted_files` first runs this module as a program, in a process with limits. It does the same
steps with the same values, but for tensors, whose numbers stay in the file: a tensor is an object of the size that
torch needs without its numbers, and gives none. What fits here fits there.

A tensor is a view of a storage, and torch believes what the pickle says of both. So every storage must have its numbers
in the file, and no tensor may have more than its storage: torch would show memory of this process in their place, or
take gigabytes for a few bytes.

It starts in a few hundredths of a second because it imports the standard library only; keep it so. Nothing that a
pickle names is imported: it may use the few names below, as they are meant here.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import resource
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar, Final, NoReturn

MAX_SECONDS: Final = 60
"""Of processor time: this process ends even if the one that started it was killed and can't end it."""
MAX_MEMORY: Final = 1 << 30
"""Bytes of address space, with the pickle itself; those of the largest known release take a hundredth of it."""

_TOO_MUCH_MEMORY = f"to read it takes more than {MAX_MEMORY} bytes of memory"
"""Made before there is no memory left for it."""
_TENSOR_BYTES = 2048
"""Of a tensor in torch with its storage, besides the numbers, rounded up."""
_MAX_DIMENSIONS = 64
_ELEMENT_BYTES = {
    "torch.FloatStorage": 4, "torch.DoubleStorage": 8, "torch.HalfStorage": 2, "torch.BFloat16Storage": 2,
    "torch.LongStorage": 8, "torch.IntStorage": 4, "torch.ShortStorage": 2, "torch.CharStorage": 1,
    "torch.ByteStorage": 1, "torch.BoolStorage": 1,
}  # fmt: skip
_COUNT_BYTES = 8
"""Before the numbers of a storage in the format before torch 1.6: how many they are."""
_LATIN = ("latin1", "latin-1")
_OPCODES = (
    pickle.PROTO + pickle.STOP + pickle.MARK + pickle.GLOBAL + pickle.NEWOBJ + pickle.REDUCE + pickle.BUILD
    + pickle.APPEND + pickle.APPENDS + pickle.SETITEM + pickle.SETITEMS
    + pickle.TUPLE + pickle.TUPLE1 + pickle.TUPLE2 + pickle.TUPLE3
    + pickle.EMPTY_TUPLE + pickle.EMPTY_LIST + pickle.EMPTY_DICT + pickle.EMPTY_SET
    + pickle.NONE + pickle.NEWTRUE + pickle.NEWFALSE + pickle.BININT + pickle.BININT1 + pickle.BININT2 + pickle.LONG1
    + pickle.BINFLOAT + pickle.BINUNICODE + pickle.SHORT_BINSTRING + pickle.BINPERSID
    + pickle.BINGET + pickle.LONG_BINGET + pickle.BINPUT + pickle.LONG_BINPUT
)  # fmt: skip
"""Those that torch reads (`torch._weights_only_unpickler`); `torch.save` writes no others."""


class _Tensor:
    """Stands for a tensor or its storage. No set can be made from it: in torch that would have all of its numbers."""

    def __init__(self) -> None:
        self.memory = bytearray(_TENSOR_BYTES)
        self.state: list[Any] = []


class _Storage(_Tensor):
    """Stands for a storage of so many elements."""

    def __init__(self, kind: str, count: int) -> None:
        super().__init__()
        self.kind, self.count = kind, count

    @property
    def size(self) -> int:
        """Its bytes in the file."""
        return self.count * _ELEMENT_BYTES[self.kind]


class _Name:
    """Stands for a dtype, a kind of storage, a class: what may be named, but not called."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *values: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"what {self.name} makes is not a plain tensor")


def _tensor(storage: Any, offset: Any, size: tuple[int, ...], stride: tuple[int, ...], *others: Any) -> _Tensor:
    if len(size) > _MAX_DIMENSIONS or len(stride) != len(size):
        raise pickle.UnpicklingError(f"a tensor has more than {_MAX_DIMENSIONS} dimensions, or a stride for others")
    if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
        raise pickle.UnpicklingError("a tensor has no storage, or a size that is none")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = math.prod(size)
    if count and (last >= storage.count or count > storage.count):
        raise pickle.UnpicklingError(
            "a tensor has more numbers than the file has for it; save it after `.contiguous()`"
        )
    return _Tensor()


def _parameter(tensor: Any, requires_grad: Any, hooks: Any, state: Any = None) -> _Tensor:
    return _with_state(_Tensor(), state)


def _of_type(make: Callable[..., Any], kind: Any, values: tuple[Any, ...], state: Any) -> Any:
    return _with_state(make(*values), state)


def _with_state(made: Any, state: Any) -> _Tensor:
    if not isinstance(made, _Tensor):
        raise pickle.UnpicklingError("it gives attributes to something else than a tensor")
    made.state = [dict(part) if part else None for part in (state if isinstance(state, tuple) else (state,))]
    return made


def _encoded(text: str, encoding: str) -> bytes:
    """Python writes bytes like this in the old protocol that `torch.save` uses."""
    if encoding not in _LATIN:
        raise pickle.UnpicklingError("it names an encoding of text, which bytes do not need")
    return text.encode("latin-1")


def _device(*values: Any) -> _Name:
    return _Name("torch.device")


_NAMES: Final[dict[str, Callable[..., Any]]] = {
    "collections.OrderedDict": OrderedDict,
    "collections.Counter": Counter,
    "__builtin__.set": set,
    "__builtin__.bytearray": bytearray,
    "__builtin__.complex": complex,
    "builtins.set": set,
    "builtins.bytearray": bytearray,
    "builtins.complex": complex,
    "_codecs.encode": _encoded,
    "torch.Size": tuple,
    "torch.device": _device,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _of_type,
}
"""What a pickle may call, by its name in it (the old protocol has Python 2's names)."""


def _build(unpickler: Any) -> None:
    state = unpickler.stack.pop()
    made = unpickler.stack[-1]
    if not isinstance(made, OrderedDict | Counter):  # torch would also set a tensor's storage
        raise pickle.UnpicklingError("it changes something else than a dictionary")
    vars(made).update(state)


class _Rehearsal(pickle._Unpickler):
    """Python's own, because torch's is made from it and keeps its stacks in the same way."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        name = f"{module_name}.{global_name}"
        if name in _NAMES:
            return _NAMES[name]
        if name.startswith("torch."):  # torch has its own list, and what is not on it is refused there
            return _Name(name)
        raise pickle.UnpicklingError(f"it names {name[:80]}, which is neither a tensor nor a plain value")

    storages: dict[str, _Storage]
    """By their keys."""

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage: its kind, key, location and number of elements; in the old format also of what it is a view."""
        kind, key, count = (pid[1], pid[2], pid[4]) if isinstance(pid, tuple) and len(pid) in (5, 6) else (None,) * 3
        if not (isinstance(kind, _Name) and isinstance(key, str) and type(count) is int and count >= 0):
            raise pickle.UnpicklingError("it names something else than a storage of numbers")
        if pid[0] != "storage" or pid[5:] not in ((), (None,)) or kind.name not in _ELEMENT_BYTES:
            raise pickle.UnpicklingError(f"its storage {key[:80]!r} is not a plain tensor's")
        found = self.storages.setdefault(key, _Storage(kind.name, count))
        if (found.kind, found.count) != (kind.name, count):
            raise pickle.UnpicklingError(f"its storage {key[:80]!r} is two things at once")
        return found

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code: pickle._Unpickler.dispatch[code] for code in _OPCODES
    } | {pickle.BUILD[0]: _build}


def _load(data: io.BytesIO, storages: dict[str, _Storage]) -> Any:
    unpickler = _Rehearsal(data, encoding="utf-8")
    unpickler.storages = storages
    return unpickler.load()


def _rehearse(count: int, data: io.BytesIO) -> int:
    """Read the pickles; returns how many bytes the file needs at least, 0 where torch's reader of archives knows."""
    storages: dict[str, _Storage] = {}
    found = [_load(data, storages) for _ in range(count)]
    if count == 1:
        return 0
    keys = found[-1]
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
        raise pickle.UnpicklingError("the storages that it names are not those of which it has the numbers")
    return data.tell() + sum(_COUNT_BYTES + storage.size for storage in storages.values())


def main() -> None:
    """Read how many pickles there are (one byte) and the pickles from standard input; write as JSON what is wrong, and
    how many bytes the file needs at least."""
    for limit, value in ((resource.RLIMIT_CPU, MAX_SECONDS), (resource.RLIMIT_AS, MAX_MEMORY)):
        with suppress(ValueError, OSError):  # not every system has each limit; the deadline holds everywhere
            resource.setrlimit(limit, (value, value))
    problem, needed = "", 0
    try:
        count = sys.stdin.buffer.read(1)[0]
        needed = _rehearse(count, io.BytesIO(sys.stdin.buffer.read()))
    except (MemoryError, SystemError):  # some of Python's C code forgets to say that there is no memory
        problem = _TOO_MUCH_MEMORY
    except KeyError:
        problem = "it has an instruction that torch.save never writes"
    except EOFError:
        problem = "it ends too early"
    except Exception as error:  # a malformed pickle raises any kind
        problem = str(error)[:200] or type(error).__name__
    sys.stdout.write(json.dumps([problem, needed]))


if __name__ == "__main__":
    main()
