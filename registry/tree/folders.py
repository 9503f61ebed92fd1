"""Folders held by open descriptors. Every step of every path is taken without following a link, so that a link which
lies there, or is put there meanwhile, leads nowhere."""

from __future__ import annotations

import ctypes
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

from registry.errors import DISK_FULL, BadInput, CorruptBlob, DiskFull, NotNow, UnsafePath

CHUNK = 1024 * 1024
MAX_DEPTH = 256
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
_NO_LINKS = (errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP)


class Described(Protocol):
    """A file as a manifest describes it."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def mode(self) -> str: ...
    @property
    def sha256(self) -> str: ...


class Folder:
    """An open folder. Paths are relative to it, with `/` between their parts; none of the parts may be a link."""

    def __init__(self, fd: int, path: Path) -> None:
        """`path` is only for messages."""
        self.fd = fd
        self.path = path

    @classmethod
    def at(cls, path: Path, *, make: bool = False) -> Self:
        """Open a folder that somebody named; with `make`, make it and those around it where they are missing.

        Raises:
            UnsafePath: it is a link, or lies behind one; the hint says which folder that leads to.
            FileNotFoundError, NotADirectoryError.
        """
        start = Path("/") if path.is_absolute() else Path()
        with Folder(os.open(start, _FOLDER), start) as root:
            parts = path.parts[1:] if path.is_absolute() else path.parts
            try:
                return cls(root._walk(parts, make), path)
            except UnsafePath as error:
                raise UnsafePath(str(error), hint=f"name the real folder{_real(path)}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self.fd)

    # --- looking -----------------------------------------------------------------------------------------------------

    def folder(self, path: str, *, make: bool = False) -> Folder:
        """A folder below this one, the empty path being this one again.

        Raises:
            UnsafePath: a part of the path is a link.
            FileNotFoundError, NotADirectoryError.
        """
        return Folder(self._walk(tuple(filter(None, path.split("/"))), make), self.path / path)

    def look(self, path: str) -> os.stat_result | None:
        """What lies at a path, itself and not what it may link to; None for nothing."""
        try:
            with self._parent(path) as (parent, name):
                return os.stat(name, dir_fd=parent, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def walk(self) -> Iterator[tuple[str, os.stat_result]]:
        """Everything below, folders before what they hold. Links are given, not followed.

        Raises:
            BadInput: it is nested too deep.
        """
        pending = [""]
        while pending:
            here = pending.pop()
            if here.count("/") >= MAX_DEPTH:
                raise BadInput(f"{self.path / here} is nested deeper than {MAX_DEPTH} folders")
            for name, info in self._list(here):
                path = f"{here}/{name}" if here else name
                yield path, info
                if stat.S_ISDIR(info.st_mode):
                    pending.append(path)

    def open(self, path: str) -> BinaryIO:
        """A regular file, for reading.

        Raises:
            UnsafePath: it is something else by now.
        """
        with self._parent(path) as (parent, name):
            try:
                fd = os.open(name, _FILE, dir_fd=parent)
            except OSError as error:
                raise self._explained(error, path) from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise UnsafePath(f"{self.path / path} is no file", hint="move it away; nothing was changed")
        return os.fdopen(fd, "rb")

    def read(self, path: str, limit: int) -> bytes | None:
        """A small file's bytes, one more than `limit` at most; None when there is none."""
        try:
            with self.open(path) as file:
                return file.read(limit + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self) -> list[str]:
        """The names in this folder."""
        return [name for name, _ in self._list("")]

    def digest(self, path: str) -> str:
        """The sha256 of a file's bytes, in hex."""
        digest = hashlib.sha256()
        with self.open(path) as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def link_text(self, path: str) -> str:
        """What a link says."""
        with self._parent(path) as (parent, name):
            return os.readlink(name, dir_fd=parent)

    # --- changing ----------------------------------------------------------------------------------------------------

    def create(self, path: str, mode: int) -> BinaryIO:
        """A new file for writing, in folders that are made as needed. FileExistsError if there is one."""
        with self._parent(path, make=True) as (parent, name):
            fd = os.open(name, _NEW, 0o600, dir_fd=parent)
        os.fchmod(fd, mode)
        return os.fdopen(fd, "wb")

    def fill(self, file: Described, source: BinaryIO, told: Callable[[int], None]) -> None:
        """Write a new file from bytes that are hashed on the way.

        Raises:
            CorruptBlob: they are not what they should be; the file is not to be used.
        """
        digest = hashlib.sha256()
        with self.create(file.path, int(file.mode, 8)) as copy:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                copy.write(chunk)
                told(len(chunk))
        if digest.hexdigest() != file.sha256:
            raise CorruptBlob(
                f"the bytes of {file.path} in {source.name} changed while they lay there; nothing was restored",
                hint="run it again; from a stash, take the changed file by hand",
            )

    def write(self, path: str, data: bytes) -> None:
        """A small file's new content: beside, then renamed."""
        beside = f"{path}.new"
        self.remove(beside)
        with self.create(beside, 0o644) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.rename(beside, self, path)

    def link(self, path: str, other: Folder, other_path: str) -> None:
        """Give a file (or a link itself) a second name in another folder; a copy where that can't be.

        Raises:
            BadInput: it is on another file system, or somebody else's, and can't be given to them.
        """
        with self._parent(path) as (parent, name), other._parent(other_path, make=True) as (their, their_name):
            try:
                os.link(name, their_name, src_dir_fd=parent, dst_dir_fd=their, follow_symlinks=False)
                return
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
        info = self.look(path)
        if info is not None and stat.S_ISLNK(info.st_mode):
            other.symlink(self.link_text(path), other_path)
        else:
            self._copy(path, other, other_path)

    def symlink(self, text: str, path: str) -> None:
        """A link that says `text`."""
        with self._parent(path, make=True) as (parent, name):
            os.symlink(text, name, dir_fd=parent)

    def rename(self, path: str, other: Folder, other_path: str) -> None:
        """Move something; what had that name is replaced if it is of the same kind."""
        with self._parent(path) as (parent, name), other._parent(other_path) as (their, their_name):
            os.rename(name, their_name, src_dir_fd=parent, dst_dir_fd=their)

    def exchange(self, name: str, other: Folder, other_name: str) -> bool:
        """Swap two names at one instant; False where the system or the file system can't."""
        try:
            renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
        except (OSError, AttributeError):
            return False
        if renameat2(self.fd, os.fsencode(name), other.fd, os.fsencode(other_name), _RENAME_EXCHANGE) == 0:
            return True
        code = ctypes.get_errno()
        if code in _NO_EXCHANGE:
            return False
        raise OSError(code, os.strerror(code), str(self.path / name))

    def remove(self, path: str) -> None:
        """Remove a file, a link or a whole folder; fine if there is none."""
        info = self.look(path)
        if info is None:
            return
        if not stat.S_ISDIR(info.st_mode):
            with self._parent(path) as (parent, name), suppress(FileNotFoundError):
                os.unlink(name, dir_fd=parent)
            return
        with self.folder(path) as inner:
            os.fchmod(inner.fd, stat.S_IMODE(info.st_mode) | stat.S_IRWXU)
            for name, _ in inner._list(""):
                inner.remove(name)
        with self._parent(path) as (parent, name):
            os.rmdir(name, dir_fd=parent)

    def settle(self) -> None:
        """Return when what was written on this file system would outlive a power cut."""
        try:
            syncfs = ctypes.CDLL(None, use_errno=True).syncfs
        except (OSError, AttributeError):
            os.sync()
            return
        if syncfs(self.fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(self.path))

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold a lock that ends with the process.

        Raises:
            NotNow: somebody else holds it.
        """
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=self.fd)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise NotNow(
                    f"somebody else is changing {self.path.parent} at this moment",
                    hint="run it again when that has finished; nothing was changed",
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
            raise _is_a_link(self.path / path) if is_link else self._explained(error, path) from error

    @contextmanager
    def _parent(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        above, _, name = path.rpartition("/")
        with self.folder(above, make=make) as folder:
            yield folder.fd, name

    def _list(self, path: str) -> list[tuple[str, os.stat_result]]:
        found = []
        with self.folder(path) as folder, os.scandir(folder.fd) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    found.append((entry.name, entry.stat(follow_symlinks=False)))
        return sorted(found)

    def _copy(self, path: str, other: Folder, other_path: str) -> None:
        with self.open(path) as source:
            info = os.fstat(source.fileno())
            with other.create(other_path, 0o600) as copy:
                while chunk := source.read(CHUNK):
                    copy.write(chunk)
                copy.flush()
                take_after(copy.fileno(), info, self.path / path)
                os.utime(copy.fileno(), ns=(info.st_atime_ns, info.st_mtime_ns))

    def _explained(self, error: OSError, path: str) -> OSError | UnsafePath:
        if error.errno == errno.ELOOP:
            return _is_a_link(self.path / path)
        error.filename = str(self.path / path)
        return error


def take_after(fd: int, info: os.stat_result, path: Path) -> None:
    """Give an open file or folder the owner and the mode of the one at `path`, which it is to replace.

    Raises:
        BadInput: that is somebody else's, and only root could give it to them.
    """
    mode = stat.S_IMODE(info.st_mode)
    try:
        os.fchown(fd, info.st_uid, info.st_gid)
    except PermissionError as error:
        if info.st_uid != os.geteuid():
            raise BadInput(
                f"{path} belongs to {_owner(info)} and would become yours; nothing was changed",
                hint="run it as root or as its owner",
            ) from error
        mode &= ~(stat.S_ISUID | stat.S_ISGID)  # it has another group now
    os.fchmod(fd, mode)


def _owner(info: os.stat_result) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(info.st_uid).pw_name
    return f"user {info.st_uid}"


@contextmanager
def tree_errors(place: Path) -> Iterator[None]:
    """Turn what the file system refuses while `place` is read or written into errors of ours."""
    try:
        yield
    except OSError as error:
        what = error.filename or place
        if error.errno in DISK_FULL:
            raise DiskFull(
                f"no space left while writing beside {place}; it is as it was", hint="free some and run it again"
            ) from error
        if error.errno in (errno.EXDEV, errno.EBUSY):
            raise BadInput(
                f"{place} can't be swapped as a whole: it is a mount point, holds one, or lies in a container's image",
                hint="restore into a folder inside that mount, for example --target …/current",
            ) from error
        raise BadInput(
            f"{what}: {error.strerror}", hint="it is done wholly or not at all: mend that and run it again"
        ) from error


def _is_a_link(path: Path) -> UnsafePath:
    return UnsafePath(f"{path} is a link, and a link may lead anywhere", hint="move it away; nothing was changed")


def _real(path: Path) -> str:
    with suppress(OSError, RuntimeError):
        return f": {path.resolve(strict=True)}"
    return ""
