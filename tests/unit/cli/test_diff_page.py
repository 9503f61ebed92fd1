"""The page of `ulora diff --html`: whatever labels and files are called, it is a page and shows what can be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from registry.cli.diff_page import write_page
from registry.evidence.differences import Disagreement
from registry.formats.canonical import sha256
from registry.usecases.diff import VersionDiff
from registry.versions.changes import ManifestChanges

SCRIPT = '"><script>alert(1)</script>'


@pytest.fixture
def found() -> VersionDiff:
    image = Disagreement(sha256(b"a picture"), "low", SCRIPT, SCRIPT, None, "older")
    return VersionDiff("v1.0.0", "v2.0.0", ManifestChanges((), (), 0, {}), (), 1, (image,))


def test_labels_and_names_of_files_are_no_markup(found: VersionDiff, tmp_path: Path) -> None:
    name = os.fsdecode(b'no text \xff "onerror=x.png')
    (tmp_path / name).write_bytes(b"a picture")
    assert write_page(tmp_path / "page.html", found, tmp_path) == 1
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<script>" not in page
    assert '"onerror' not in page
    assert "data:image/png;base64," in page
