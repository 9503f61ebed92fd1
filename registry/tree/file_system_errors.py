"""Turn what the file system refuses while a tree is read or written into this package's errors."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.errors import DISK_FULL, BadInput, DiskFull


@contextmanager
def tree_errors(tree: Path) -> Iterator[None]:
    """Convert an OSError while `tree` is read or written.

    Raises:
        DiskFull: no space is left.
        BadInput: any other OSError; the hint says what to do.
    """
    try:
        yield
    except OSError as error:
        what = error.filename or tree
        if error.errno in DISK_FULL:
            raise DiskFull(
                f"no space left while writing next to {tree}, which was not changed",
                hint="free some space and run it again",
            ) from error
        if error.errno in (errno.EXDEV, errno.EBUSY):
            raise BadInput(
                f"{tree} can't be replaced as a whole: it is a mount point, contains one, or is part of a container's "
                "image",
                hint="restore into a folder inside that mount, for example --target …/current",
            ) from error
        raise BadInput(
            f"{what}: {error.strerror}", hint="the change is made completely or not at all: correct this, run it again"
        ) from error
