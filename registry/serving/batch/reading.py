"""Read one file of an input. What is wrong with it alone is told in its row; all else ends the run, until later.

Of a disk that is not mounted every file "does not exist", and rows that say so would stay for ever.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from registry.errors import BadManifest, BadSetting, BucketNotFound, ObjectNotFound, StoreDenied, UloraError
from registry.formats.bounded import read_regular
from registry.serving.batch.rows import ReadFile
from registry.store.objects import ObjectStore

MAX_BYTES = 32 * 1024 * 1024
"""Of a file, as a replica takes it."""
S3 = "s3://"
_OF_THE_FILE = (
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EAGAIN,
    errno.ENAMETOOLONG, errno.ENXIO,
)  # fmt: skip
"""What one file alone can be to blame for. All else, such as a disk that fails, ends the run: it can go on later."""
_NO_FOLDER = (errno.ENOTDIR, errno.ENAMETOOLONG)
"""What is said of a folder that no disk can bring back."""
_OTHERS = 8
"""Objects that a store is asked for at most before it counts as one that refuses all."""


@dataclass(frozen=True)
class InputFile:
    """A file as its input names it, and its target if the input names that too."""

    path: str
    target: str | None = None


class _NotRead(Exception):
    """A file can't be read, and may be to blame for that alone. Its cause is the error."""


def read_local(file: InputFile, path: Path, origin: Path) -> ReadFile:
    """Read a file on this machine.

    Args:
        path: where it is.
        origin: the folder or the table that named it.

    Raises:
        UloraError: it can't be read, and nothing says that it is to blame.
    """
    return _read(file, lambda: _local(path), lambda error: _check_folder(path, origin))


def read_object(file: InputFile, store: ObjectStore, others: Callable[[], Iterator[InputFile]]) -> ReadFile:
    """Read an object in S3.

    Args:
        others: the files of the same input.

    Raises:
        UloraError: it can't be read, and nothing says that it is to blame.
    """
    return _read(file, lambda: _object(store, file), lambda error: _check_store(store, file, error, others()))


def _read(file: InputFile, read: Callable[[], bytes], check: Callable[[BaseException | None], None]) -> ReadFile:
    """Read a file; where that fails, check that it is to blame, and read it once more: it may have been away."""
    name = _as_text(file.path)
    try:
        try:
            data = read()
        except _NotRead as error:
            check(error.__cause__)
            data = read()
    except _NotRead as error:
        return ReadFile(name, target=file.target, problem=str(error))
    if len(data) > MAX_BYTES:
        return ReadFile(name, target=file.target, problem=f"it has more than {MAX_BYTES >> 20} MiB")
    return ReadFile(name, data, file.target)


def _as_text(path: str) -> str:
    r"""A path as it stands in a row: bytes that are no UTF-8 as `\xff`, which every format of parts can hold."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


# --- on this machine --------------------------------------------------------------------------------------------------


def _local(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_BYTES)
    except ValueError as error:
        raise _NotRead("its path has a null byte") from error
    except OSError as error:
        if error.errno in _OF_THE_FILE:
            raise _NotRead(error.strerror or str(error)) from error
        raise UloraError(
            f"{path} can't be read: {error.strerror or error}", hint="what was written stays; the same call goes on"
        ) from error


def _check_folder(path: Path, origin: Path) -> None:
    """Check that the folder which the file is really in, behind all links, may be entered, and that it, or where it is
    not there the next one above it, has something in it: a place without its disk is empty.

    Raises:
        UloraError: it is not so, or what named the file has gone: so it may be with every file, and no row says that.
    """
    place, gone = origin, "is not there any more, is empty, or may not be entered: was a disk unmounted?"
    try:
        origin.stat()
        place = _nearest_folder(Path(os.path.realpath(path)))
        with os.scandir(f"{place}/.") as entries:  # the dot needs the right to enter, not only that to list
            # Some mark a mount point with a hidden file, which shows while no disk is there.
            if all(entry.name.startswith(".") for entry in entries):
                raise _gone(path, f"{place} {gone}")
    except ValueError:  # a null byte
        return
    except OSError as error:
        if error.errno not in _NO_FOLDER:
            raise _gone(path, f"{place} {gone}") from error


def _nearest_folder(path: Path) -> Path:
    """The innermost folder above a path that is there."""
    return next((folder for folder in path.parents if _is_there(folder)), Path(path.anchor))


def _is_there(folder: Path) -> bool:
    try:
        folder.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # it can't be looked at: that is found out by who enters it
        return True
    return True


def _gone(path: Path | str, what: str) -> UloraError:
    return UloraError(
        f"{path} can't be read: {what}",
        hint="what was written stays; bring it back, and the same command goes on. If it is gone for good, leave the "
        "file out of the input, and give another --out",
    )


# --- in S3 ------------------------------------------------------------------------------------------------------------


def _object(store: ObjectStore, file: InputFile) -> bytes:
    try:
        return store.get(_key(store, file), MAX_BYTES).body
    except ObjectNotFound as error:
        raise _NotRead("it is not there") from error
    except (StoreDenied, BadManifest) as error:
        raise _NotRead(str(error)) from error
    except (BucketNotFound, BadSetting) as error:
        of_a_bucket = "is it spelled right? A corrected table needs another --out"
        hint = error.hint if isinstance(error, BadSetting) else of_a_bucket
        raise type(error)(f"{file.path} can't be read: {error}", hint=hint) from error


def _check_store(store: ObjectStore, file: InputFile, error: BaseException | None, others: Iterator[InputFile]) -> None:
    """Check that S3 still has something beside an object that it does not have; or, where it refuses to give one or to
    list, that it gives another one of the input.

    Raises:
        UloraError: it does not.
    """
    try:
        if isinstance(error, ObjectNotFound):
            folder = "".join(_key(store, file).rpartition("/")[:2])
            if store.first(folder) is None:
                raise _gone(file.path, f"nothing is there any more below {store.url}/{folder}")
            return
    except StoreDenied as refused:
        error = refused
    if isinstance(error, StoreDenied):
        same_store = (other for other in others if other.path.startswith(f"{store.url}/") and other.path != file.path)
        if not any(_is_given(store, other) for other in islice(same_store, _OTHERS)):
            raise error


def _is_given(store: ObjectStore, file: InputFile) -> bool:
    try:
        store.get(_key(store, file), MAX_BYTES)
    except (ObjectNotFound, StoreDenied):
        return False
    except BadManifest:
        pass  # it is too large, or archived: that is an answer
    return True


def _key(store: ObjectStore, file: InputFile) -> str:
    return file.path.removeprefix(f"{store.url}/")
