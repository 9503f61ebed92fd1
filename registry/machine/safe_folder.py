"""Folders that are used through open file descriptors and never follow a symbolic link.

Every part of every path is opened with O_NOFOLLOW, so neither an existing link nor one created by another process at
the same time can redirect a read or a write to another place.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import pwd
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from registry.errors import BadInput, CorruptBlob, NotNow, UnsafePath
from registry.formats.bounded import file_digest
from registry.machine import system_calls
from registry.progress import ignore

CHUNK = 1024 * 1024
MAX_DEPTH = 256
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS = (errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP)


class FileDescription(Protocol):
    """A file as a manifest describes it."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def mode(self) -> str: ...
    @property
    def sha256(self) -> str: ...


class SafeFolder:
    """An open folder. Paths are relative to it, with `/` between their parts; none may be `..` or a symbolic link."""

    def __init__(self, fd: int, path: Path) -> None:
        """`path` is used in messages only."""
        self.fd = fd
        self.path = path

    @classmethod
    def at(cls, path: Path, *, make: bool = False) -> Self:
        """Open a folder; with `make`, create it and its missing parents.

        Raises:
            UnsafePath: a part of the path is a link; the hint gives the real folder.
            FileNotFoundError: it does not exist.
            NotADirectoryError: a part of the path is not a folder.
        """
        start = Path("/") if path.is_absolute() else Path()
        with SafeFolder(os.open(start, _FOLDER), start) as root:
            parts = path.parts[1:] if path.is_absolute() else path.parts
            try:
                return cls(root._walk(parts, make), path)
            except UnsafePath as error:
                raise UnsafePath(str(error), hint=f"give the real folder{_real(path)}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self.fd)

    # --- reading -----------------------------------------------------------------------------------------------------

    def folder(self, path: str, *, make: bool = False) -> SafeFolder:
        """A folder below this one; for the empty path, this one opened again.

        Raises:
            UnsafePath: a part of the path is a link, or leads out of this folder.
            FileNotFoundError: it does not exist.
            NotADirectoryError: a part of the path is not a folder.
        """
        self._check_inside(path)
        return SafeFolder(self._walk(tuple(filter(None, path.split("/"))), make), self.path / path)

    def stat(self, path: str) -> os.stat_result | None:
        """The status of a path, of a link itself and not of its target; None if nothing is there."""
        try:
            with self._parent(path) as (parent, name):
                return os.stat(name, dir_fd=parent, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def walk(self) -> Iterator[tuple[str, os.stat_result]]:
        """Everything below, folders before their contents. Links are listed, not followed.

        Raises:
            BadInput: it is nested too deeply.
        """
        pending = [""]
        while pending:
            here = pending.pop()
            if here.count("/") >= MAX_DEPTH:
                raise BadInput(f"{self.path / here} is nested more than {MAX_DEPTH} folders deep")
            for name, info in self.entries(here):
                path = f"{here}/{name}" if here else name
                yield path, info
                if stat.S_ISDIR(info.st_mode):
                    pending.append(path)

    def open(self, path: str) -> BinaryIO:
        """Open a regular file for reading.

        Raises:
            UnsafePath: it is not a regular file.
        """
        with self._parent(path) as (parent, name):
            try:
                fd = os.open(name, _FILE, dir_fd=parent)
            except OSError as error:
                raise self._with_path(error, path) from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise UnsafePath(f"{self.path / path} is not a file", hint="move it away; nothing was changed")
        return os.fdopen(fd, "rb")

    def read(self, path: str, limit: int) -> bytes | None:
        """The bytes of a small file, at most `limit` + 1 of them; None if it does not exist."""
        try:
            with self.open(path) as file:
                return file.read(limit + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def entries(self, path: str) -> list[tuple[str, os.stat_result]]:
        """The names in a folder, sorted, each with its status: of a link its own."""
        found = []
        with self.folder(path) as folder, os.scandir(folder.fd) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    found.append((entry.name, entry.stat(follow_symlinks=False)))
        return sorted(found)

    def names(self) -> list[str]:
        """The names in this folder."""
        return [name for name, _ in self.entries("")]

    def digest(self, path: str, at_most: int, progress: Callable[[int], object] = ignore) -> str | None:
        """The sha256 of a file's bytes, in hex; None if they are more than `at_most`, see `file_digest`."""
        with self.open(path) as file:
            return file_digest(file.fileno(), at_most, progress)

    def read_link(self, path: str) -> str:
        """The target of a symbolic link, as text."""
        with self._parent(path) as (parent, name):
            return os.readlink(name, dir_fd=parent)

    # --- writing -----------------------------------------------------------------------------------------------------

    def create(self, path: str, mode: int) -> BinaryIO:
        """Open a new file for writing; missing folders are created.

        Raises:
            FileExistsError: the path exists.
        """
        with self._parent(path, make=True) as (parent, name):
            fd = os.open(name, _NEW, 0o600, dir_fd=parent)
        os.fchmod(fd, mode)
        return os.fdopen(fd, "wb")

    def write_verified(self, file: FileDescription, source: BinaryIO, progress: Callable[[int], None]) -> None:
        """Write a new file, hashing its bytes while they are written.

        Raises:
            CorruptBlob: they have another sha256, or are more than the file's; the file must not be used.
        """
        digest, left = hashlib.sha256(), file.size
        with self.create(file.path, int(file.mode, 8)) as copy:
            while chunk := source.read(min(CHUNK, left + 1)):
                digest.update(chunk)
                left -= len(chunk)
                if left < 0:
                    break
                copy.write(chunk)
                progress(len(chunk))
        if digest.hexdigest() != file.sha256:
            raise CorruptBlob(
                f"{source.name} no longer has the sha256 of {file.path}; nothing was restored",
                hint="run it again; to use a changed file of a stash, copy it by hand",
            )

    def write(self, path: str, data: bytes) -> None:
        """Replace the content of a small file: write a temporary file, then rename it."""
        temporary = f"{path}.new"
        self.remove(temporary)
        with self.create(temporary, 0o644) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.rename(temporary, self, path)

    def link(self, path: str, other: SafeFolder, other_path: str) -> None:
        """Hard-link a file (or a symbolic link itself) into another folder; copy it where that is not possible.

        Raises:
            BadInput: the copy would need another owner, and this process may not set it.
        """
        with self._parent(path) as (parent, name), other._parent(other_path, make=True) as (to, new_name):
            try:
                os.link(name, new_name, src_dir_fd=parent, dst_dir_fd=to, follow_symlinks=False)
                return
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
        info = self.stat(path)
        if info is not None and stat.S_ISLNK(info.st_mode):
            other.symlink(self.read_link(path), other_path)
        else:
            self._copy(path, other, other_path)

    def symlink(self, text: str, path: str) -> None:
        """Create a symbolic link to `text`."""
        with self._parent(path, make=True) as (parent, name):
            os.symlink(text, name, dir_fd=parent)

    def rename(self, path: str, other: SafeFolder, other_path: str) -> None:
        """Move a path; whatever of the same kind had the new name is replaced."""
        with self._parent(path) as (parent, name), other._parent(other_path) as (to, new_name):
            os.rename(name, new_name, src_dir_fd=parent, dst_dir_fd=to)

    def exchange(self, name: str, other: SafeFolder, other_name: str) -> bool:
        """Swap two names atomically; False where the operating system or the file system does not support it."""
        try:
            return system_calls.exchange(self.fd, name, other.fd, other_name)
        except OSError as error:
            raise self._with_path(error, name) from error

    def remove(self, path: str) -> None:
        """Remove a file, a link or a whole folder, if it exists."""
        info = self.stat(path)
        if info is None:
            return
        if not stat.S_ISDIR(info.st_mode):
            with self._parent(path) as (parent, name), suppress(FileNotFoundError):
                os.unlink(name, dir_fd=parent)
            return
        with self.folder(path) as inner:
            os.fchmod(inner.fd, stat.S_IMODE(info.st_mode) | stat.S_IRWXU)
            for name, _ in inner.entries(""):
                inner.remove(name)
        with self._parent(path) as (parent, name):
            os.rmdir(name, dir_fd=parent)

    def sync(self) -> None:
        """Flush this file system to the disk, so that what was written survives a power failure."""
        try:
            system_calls.sync_file_system(self.fd)
        except OSError as error:
            raise self._with_path(error, "") from error

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold a lock file; the lock is released when the process ends.

        Raises:
            NotNow: another process holds it.
        """
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=self.fd)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise NotNow(
                    f"another process is changing {self.path.parent}; nothing was changed",
                    hint="run it again when that has finished",
                ) from error
            yield
        finally:
            os.close(fd)

    # --- parts -------------------------------------------------------------------------------------------------------

    def _walk(self, parts: tuple[str, ...], make: bool) -> int:
        fd = os.open(".", _FOLDER, dir_fd=self.fd)
        try:
            for depth, part in enumerate(parts):
                inner = self._step(fd, part, "/".join(parts[: depth + 1]), make)
                os.close(fd)
                fd = inner
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _step(self, fd: int, part: str, path: str, make: bool) -> int:
        if make:
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=fd)
        try:
            return os.open(part, _FOLDER, dir_fd=fd)
        except OSError as error:
            is_link = False
            with suppress(OSError):
                is_link = stat.S_ISLNK(os.stat(part, dir_fd=fd, follow_symlinks=False).st_mode)
            raise _is_a_link(self.path / path) if is_link else self._with_path(error, path) from error

    @contextmanager
    def _parent(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        self._check_inside(path)
        above, _, name = path.rpartition("/")
        with self.folder(above, make=make) as folder:
            yield folder.fd, name

    def _check_inside(self, path: str) -> None:
        if "\0" in path or ".." in path.split("/"):
            raise UnsafePath(f"{self.path}/{path!a} leads out of its folder", hint="nothing was changed")

    def _copy(self, path: str, other: SafeFolder, other_path: str) -> None:
        with self.open(path) as source:
            info = os.fstat(source.fileno())
            with other.create(other_path, 0o600) as copy:
                while chunk := source.read(CHUNK):
                    copy.write(chunk)
                copy.flush()
                copy_owner_and_mode(copy.fileno(), info, self.path / path)
                os.utime(copy.fileno(), ns=(info.st_atime_ns, info.st_mtime_ns))

    def _with_path(self, error: OSError, path: str) -> OSError | UnsafePath:
        if error.errno == errno.ELOOP:
            return _is_a_link(self.path / path)
        error.filename = str(self.path / path)
        return error


def copy_owner_and_mode(fd: int, info: os.stat_result, path: Path) -> None:
    """Give an open file or folder the owner and the mode of the one at `path`, which it will replace.

    Raises:
        BadInput: another user owns that, and this process may not set the owner.
    """
    mode = stat.S_IMODE(info.st_mode)
    try:
        os.fchown(fd, info.st_uid, info.st_gid)
    except PermissionError as error:
        if info.st_uid != os.geteuid():
            raise BadInput(
                f"{path} belongs to {_owner(info)}, and its owner would change; nothing was changed",
                hint="run it as root or as its owner",
            ) from error
        mode &= ~(stat.S_ISUID | stat.S_ISGID)  # the group has changed: these bits would grant its rights
    os.fchmod(fd, mode)


def _owner(info: os.stat_result) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(info.st_uid).pw_name
    return f"user {info.st_uid}"


def _is_a_link(path: Path) -> UnsafePath:
    return UnsafePath(f"{path} is a symbolic link; links are not followed", hint="move it away; nothing was changed")


def _real(path: Path) -> str:
    with suppress(OSError, RuntimeError):
        return f": {path.resolve(strict=True)}"
    return ""
