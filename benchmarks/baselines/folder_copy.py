"""The older practice: each version is a folder, and a rollback copies one of them into `current/`.

Its best settings: files on one disk, in the page cache, and `shutil.copytree`, which copies inside the kernel where
that is possible. A server that reads `current/` meanwhile sees half of each.
"""

from __future__ import annotations

import shutil
from pathlib import Path


def copy_into_current(version: Path, current: Path) -> None:
    """Replace `current` by a copy of a version's folder."""
    shutil.rmtree(current, ignore_errors=True)
    shutil.copytree(version, current)
