"""Linux system calls that Python does not offer: swap two names atomically, flush one file system."""

from __future__ import annotations

import ctypes
import errno
import os

_RENAME_EXCHANGE = 2
_NOT_SUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


def exchange(folder: int, name: str, other: int, other_name: str) -> bool:
    """Swap two names in two open folders atomically; False where that is not supported.

    Raises:
        OSError: the file system refuses it.
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if renameat2(folder, os.fsencode(name), other, os.fsencode(other_name), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NOT_SUPPORTED:
        return False
    raise OSError(code, os.strerror(code), name)


def sync_file_system(descriptor: int) -> None:
    """Flush the file system of an open file to the disk; all file systems where a single one can't be flushed.

    Raises:
        OSError: the disk refuses it.
    """
    try:
        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        os.sync()
        return
    if syncfs(descriptor) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
