"""Write an audit's archive: a zip file whose bytes depend on what is in it only."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

from registry.errors import BadInput, disk_errors
from registry.formats.own_file import check_own, is_audit_archive, own_file

_BEGIN = (1980, 1, 1, 0, 0, 0)
"""The time of every file: the earliest that a zip file can say."""
_MODE = 0o100644
_ELSEWHERE = "give --out FILE.zip in a folder that exists"
Content = bytes | Path
"""A file of the archive: its bytes, or where they are on this disk."""


def check_place(place: Path) -> None:
    """Check that an archive can be written there, over nothing but an older one.

    Raises:
        BadInput: it can't.
        BadSetting: it can't be looked at.
    """
    check_own(place, is_audit_archive, hint=_ELSEWHERE)
    with disk_errors(place, hint=_ELSEWHERE):
        if not place.parent.is_dir():
            raise BadInput(f"{place} can't be a file", hint=_ELSEWHERE)


def write_archive(place: Path, files: Mapping[str, Content]) -> None:
    """Write the archive, whole or not at all; an older one there is replaced, and nothing else.

    Raises:
        BadInput: something else has the name.
        BadSetting: it can't be written there.
        DiskFull: there is no space for it.
    """
    with (
        own_file(place, is_audit_archive, hint=_ELSEWHERE) as part,
        zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive,
    ):
        for name, content in sorted(files.items()):
            _add(archive, name, content)


def _add(archive: zipfile.ZipFile, name: str, content: Content) -> None:
    entry = zipfile.ZipInfo(name, _BEGIN)
    entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, _MODE << 16
    if isinstance(content, bytes):
        archive.writestr(entry, content)
        return
    entry.file_size = content.stat().st_size  # by which it is known whether 32 bits are enough
    with content.open("rb") as source, archive.open(entry, "w") as target:
        shutil.copyfileobj(source, target, 1024 * 1024)
