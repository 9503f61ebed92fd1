"""What an old `version.json` says of its files is checked, and takes no longer than the files are large."""

from __future__ import annotations

import hashlib
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from registry.errors import BadBundle
from registry.progress import say_nothing
from registry.versions import importing


def test_a_file_with_many_names_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "a/b/c"
    inner.mkdir(parents=True)
    (inner / "file").write_bytes(b"x")
    (tmp_path / "again").hardlink_to(inner / "file")
    names = ["".join(pair) + "file" for pair in product(("a/", "a\\"), ("b/", "b\\"), ("c/", "c\\"))]
    hashed: list[Any] = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *what: hashed.append(what) or real(*what))
    right, listed = hashlib.sha256(b"x").hexdigest(), [*names, "again"]
    importing._check_digests(tmp_path, {"files": {name: {"hash": right} for name in listed}}, say_nothing)
    assert len(hashed) == 1
    wrong = {name: {"hash": right} for name in names} | {"again": {"hash": "0" * 64}}
    with pytest.raises(BadBundle, match="again is damaged"):
        importing._check_digests(tmp_path, {"files": wrong}, say_nothing)
    with pytest.raises(BadBundle, match="is damaged"):
        importing._check_digests(tmp_path, {"files": {"again": {"hash": "0" * 40}}}, say_nothing)
