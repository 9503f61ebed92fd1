"""Folders that this process may not write or enter, also when the tests run as root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOBODY = 65534


@contextmanager
def no_right_to_write(folder: Path) -> Iterator[None]:
    """Within the context nothing can be written in `folder`; root, who could, becomes the user nobody meanwhile."""
    with mode_of(folder, 0o555):
        yield


@contextmanager
def mode_of(folder: Path, mode: int) -> Iterator[None]:
    """Within the context `folder` has this mode, and it counts: root becomes the user nobody meanwhile."""
    is_root = os.geteuid() == 0
    folder.chmod(mode)
    if is_root:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o755)
