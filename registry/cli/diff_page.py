"""The page that `ulora diff --html` writes: the images about which two versions do not agree, in one file."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from registry.formats import canonical
from registry.formats.bounded import read_regular
from registry.formats.html_page import html_page
from registry.formats.own_file import is_page, write_own_text

if TYPE_CHECKING:
    from registry.evidence.differences import Disagreement
    from registry.usecases.diff import VersionDiff

MAX_SHOWN = 200
"""Images on the page."""
_MAX_IMAGE = 1024 * 1024
"""Bytes of an image that is put into the page."""
_TYPES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif", ".bmp": "bmp"}
_STYLE = (
    "img{width:112px;height:112px;object-fit:contain;background:#eee}.older{background:#fdecea}"
    ".newer{background:#e8f5e9}"
)


class _Picture(NamedTuple):
    path: Path
    data: bytes


def write_page(page: Path, found: VersionDiff, data: Path | None) -> int:
    """Write the page, with the image files of `data`; return how many images it shows.

    Raises:
        BadInput: another file than such a page is there.
        BadSetting: the page can't be written there.
        DiskFull: there is no space for it.
    """
    shown = found.images[:MAX_SHOWN]
    files = _files(data, {each.image for each in shown}) if data else {}
    rows = "".join(_row(each, files.get(each.image)) for each in shown)
    title = f"{found.older} and {found.newer}: {len(found.images)} of {found.compared} images"
    more = f"<p>… and {len(found.images) - len(shown)} more</p>" if len(found.images) > len(shown) else ""
    head = "".join(
        f"<th>{escape(name)}</th>" for name in ("image", "target", "label", found.older, found.newer, "right")
    )
    text = html_page(
        title,
        f"<h1>{escape(title)}</h1><p>Images for which the two versions answer different labels.</p>"
        f"<table><tr>{head}</tr>{rows}</table>{more}",
        _STYLE,
    )
    write_own_text(page, text, is_page, hint="give another --html FILE")
    return len(shown)


def _row(each: Disagreement, file: _Picture | None) -> str:
    cells = (each.target, each.label, each.older, each.newer, each.right)
    return (
        f'<tr class="{each.right}"><td>{_picture(each, file)}</td>'
        + "".join(f"<td>{escape(cell or '-')}</td>" for cell in cells)
        + "</tr>"
    )


def _picture(each: Disagreement, file: _Picture | None) -> str:
    if file is None:
        return f"<code>{each.image[:16]}</code>"
    kind = _TYPES[file.path.suffix.lower()]
    source = f"data:image/{kind};base64,{base64.b64encode(file.data).decode()}"
    return f'<img loading="lazy" alt="{escape(file.path.name)}" title="{escape(str(file.path))}" src="{source}">'


def _files(data: Path, wanted: set[str]) -> Mapping[str, _Picture]:
    """The image files of a folder that have one of these digests."""
    found: dict[str, _Picture] = {}
    for path in sorted(data.rglob("*")):
        if len(found) == len(wanted):
            break
        with suppress(OSError):  # one that can't be read is not shown
            if path.suffix.lower() in _TYPES and path.is_file() and path.stat().st_size <= _MAX_IMAGE:
                shown = read_regular(path, _MAX_IMAGE)  # once: what is shown is what has the digest
                if (digest := canonical.sha256(shown)) in wanted:
                    found.setdefault(digest, _Picture(path, shown))
    return found
