"""Write an audit's archive: a zip file whose bytes depend on what is in it only."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from registry.errors import disk_errors

_BEGIN = (1980, 1, 1, 0, 0, 0)
"""The time of every file: the earliest that a zip file can say."""
_MODE = 0o100644
Content = bytes | Path
"""A file of the archive: its bytes, or where they are on this disk."""


def write_archive(place: Path, files: Mapping[str, Content]) -> None:
    """Write the archive, whole or not at all; an older one there is replaced.

    Raises:
        BadSetting: it can't be written there.
        DiskFull: there is no space for it.
    """
    with disk_errors(place, hint="give another --out FILE"), _beside(place) as scratch:
        with zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            for name, content in sorted(files.items()):
                _add(archive, name, content)
        with scratch.open("rb") as written:
            os.fsync(written.fileno())
        scratch.replace(place)


def _add(archive: zipfile.ZipFile, name: str, content: Content) -> None:
    entry = zipfile.ZipInfo(name, _BEGIN)
    entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, _MODE << 16
    if isinstance(content, bytes):
        archive.writestr(entry, content)
        return
    entry.file_size = content.stat().st_size  # by which it is known whether 32 bits are enough
    with content.open("rb") as source, archive.open(entry, "w") as target:
        shutil.copyfileobj(source, target, 1024 * 1024)


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """A file beside a path that is gone afterwards, unless it was renamed."""
    opened, name = tempfile.mkstemp(prefix=f".{place.name[:100]}.", dir=place.parent)
    os.close(opened)
    scratch = Path(name)
    try:
        scratch.chmod(0o644)
        yield scratch
    finally:
        with suppress(FileNotFoundError):
            scratch.unlink()
