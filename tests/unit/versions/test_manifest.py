"""The manifest: every valid manifest keeps its guarantees, and invalid ones are refused."""

from __future__ import annotations

import json
import unicodedata
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import BadManifest
from registry.formats import canonical
from registry.versions.manifest import (
    BackboneRef,
    Component,
    FileEntry,
    Manifest,
    check_new_path,
    check_path,
    check_unique,
)

A, B = "a" * 64, "b" * 64
FIELDS: dict[str, Any] = {
    "model": "aads-ulora",
    "version": "v5.5.4-dinov3",
    "flavor": "dino-lora",
    "backbone": BackboneRef(family="dinov3", sha256=A, name="tiny", config={"hidden_size": 96}),
    "components": {"adapters/tomato": Component(weights_sha256=B, requires={"backbone": A})},
    "files": [FileEntry(path="adapters/tomato/x.safetensors", size=3, sha256=B)],
    "timestamp": "2026-11-21T12:00:00Z",
}


def document(**changes: Any) -> dict[str, Any]:
    """A manifest as plain JSON, changed; its digest is what the changed content has."""
    plain = json.loads(Manifest.make(**FIELDS).to_bytes()) | changes
    if "content_sha256" not in changes:
        plain["content_sha256"] = canonical.digest(
            {name: plain[name] for name in ("model", "flavor", "backbone", "components", "files")}
        )
    return plain


def file(path: str) -> dict[str, Any]:
    return {"path": path, "size": 1, "sha256": A}


def refused(plain: dict[str, Any], match: str) -> None:
    with pytest.raises(BadManifest, match=match):
        Manifest.parse(json.dumps(plain).encode())


def test_a_manifest_reads_as_it_was_made() -> None:
    made = Manifest.make(**FIELDS, description="x", changes={"a": [1, {"b": None}]})
    read = Manifest.parse(made.to_bytes())
    assert read == made
    assert (str(read.name), read.size) == ("v5.5.4-dinov3", 3)
    assert read.sha256 == canonical.sha256(made.to_bytes())


def test_the_digest_of_a_content_is_pinned() -> None:
    # Formats are for ever: this number may never change.
    assert Manifest.make(**FIELDS).content_sha256 == "6970634352953e1adef13ded6f5459e8a60b627b569f5b0718942beca761a9af"


@given(
    timestamp=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    description=st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
    version=st.sampled_from(["v1.0.0", "v2.0.0-x"]),
)
def test_release_notes_do_not_change_the_content_digest(timestamp: str, description: str, version: str) -> None:
    changed = FIELDS | {"timestamp": timestamp, "description": description, "version": version}
    assert Manifest.make(**changed).content_sha256 == Manifest.make(**FIELDS).content_sha256


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"flavor": "other"},
        {"backbone": None},
        {"components": {}},
        {"files": []},
        {"files": [FileEntry(path="adapters/tomato/x.safetensors", size=3, sha256=A)]},
        {"files": [FileEntry(path="adapters/tomato/x.safetensors", size=3, sha256=B, mode="0755")]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_part_of_a_content_is_part_of_its_digest(change: dict[str, Any]) -> None:
    assert Manifest.make(**(FIELDS | change)).content_sha256 != Manifest.make(**FIELDS).content_sha256


def test_a_manifest_of_a_newer_release_keeps_its_bytes() -> None:
    plain = document(from_the_future={"x": 1})
    plain["files"][0]["compression"] = "zstd"
    plain["components"]["adapters/tomato"]["requires_more"] = [1]
    plain = document(**{name: plain[name] for name in ("files", "components", "from_the_future")})
    data = json.dumps(plain, indent=3).encode()
    assert Manifest.parse(data).to_bytes() == data


def test_a_copy_with_other_fields_has_other_bytes() -> None:
    read = Manifest.parse(Manifest.make(**FIELDS).to_bytes())
    assert b"new words" in read.model_copy(update={"description": "new words"}).to_bytes()
    assert b"new words" not in read.to_bytes()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "upgrade|format 2"),
        ({"format": "1"}, "format 1"),
        ({"format": True}, "format True"),
        ({"version": "5"}, "not a version name"),
        ({"model": "../x"}, "not a model's name"),
        ({"content_sha256": B}, "but its content has"),
        ({"content_sha256": "B" * 64}, "content_sha256"),
        ({"files": {}}, "files"),
        ({"files": [file("b"), file("a")]}, "not sorted"),
        ({"files": [file("a"), file("a")]}, "the same"),
        ({"files": [{**file("a"), "size": -1}]}, "size"),
        ({"files": [{**file("a"), "size": 2**60}]}, "size"),
        ({"files": [{**file("a"), "size": 1.0}]}, "size"),
        ({"files": [{**file("a"), "size": "1"}]}, "size"),
        ({"files": [{**file("a"), "mode": "0777"}]}, "mode"),
        ({"files": [{**file("a"), "mode": "4755"}]}, "mode"),
        ({"files": [{**file("a"), "sha256": "a" * 63}]}, "sha256"),
        ({"files": [{**file("a"), "sha256": A + "\n"}]}, "sha256"),
        ({"backbone": {"family": "dinov3"}}, "backbone"),
        ({"description": "x" * 70_000}, "description"),
        ({"flavor": "../x"}, "flavor"),
    ],
    ids=str,
)  # fmt: skip
def test_an_invalid_manifest_is_refused_with_the_reason(change: dict[str, Any], says: str) -> None:
    refused(document(**change), says)


@pytest.mark.parametrize("field", ["format", "model", "version", "flavor", "files", "backbone", "timestamp"])
def test_a_manifest_without_a_field_is_refused(field: str) -> None:
    plain = document()
    del plain[field]
    refused(plain, field)


@pytest.mark.parametrize(
    "path",
    [
        "", "/etc/passwd", "..", "a/../b", "a/..", "./a", "a/./b", "a//b", "a/", "C:/x", "c:x", "a\\b", "a\nb", 
        "a\x00b",         "a\x7fb", "a\x85b", "a\u2028b", ".git", "a/.git/config", ".GIT/x",
        "a./b", "a /b", "a ", "cafe\u0301",
        "x" * 1025, "ä" * 600, "a\ud800b",
    ],
    ids=ascii,
)  # fmt: skip
def test_a_path_that_could_lead_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        check_path(path)
    if "\ud800" not in path:
        refused(document(files=[file(path)]), "path")


@pytest.mark.parametrize(
    "path",
    ["CON", "a/nul.txt", "Com1", "lpt9.tar.gz", "aux .c", "com\u00b9", "conin$", "CLOCK$.txt", "ab:c", "a/b?", "*",
     "a<b", "x|y", 'q"', "ä" * 128],
    ids=ascii,
)  # fmt: skip
def test_a_new_path_is_one_that_every_system_can_hold(path: str) -> None:
    with pytest.raises(ValueError, match="every system"):
        check_new_path(path)
    assert check_path(path) == path
    assert Manifest.parse(json.dumps(document(files=[file(path)])).encode()).files[0].path == path


@pytest.mark.parametrize("path", ["CONFIG", "a/com10", "nulls.txt", ".aux", "console/con_1", "COM", "é.txt"])
def test_ordinary_names_are_new_paths(path: str) -> None:
    assert check_new_path(path) == path


@given(st.text(max_size=30) | st.text("a./\\ :gitGIT\u0301", max_size=12))
def test_an_accepted_path_stays_below_any_folder(path: str) -> None:
    try:
        check_path(path)
    except ValueError:
        return
    parts = path.split("/")
    assert ".." not in parts
    assert "" not in parts
    assert not path.startswith(("/", "\\"))
    assert "\\" not in path
    assert all(part.casefold() != ".git" for part in parts)
    assert unicodedata.is_normalized("NFC", path)
    assert all(unicodedata.category(letter) != "Cc" for letter in path)


@pytest.mark.parametrize(
    "paths", [["a/B", "A/b"], ["a", "a/b"], ["A", "a/b"], ["straße", "STRASSE"], ["ﬁle", "file"]], ids=str
)
def test_paths_that_collide_on_some_system_are_refused(paths: list[str]) -> None:
    with pytest.raises(ValueError, match=r"same|folder"):
        check_unique(paths)
    refused(document(files=[file(path) for path in sorted(paths)]), "same|folder")


def test_fields_over_their_limits_are_refused() -> None:
    for bad in ({"description": "x" * 70_000}, {"changes": {"a": float("nan")}}, {"changes": {"a": {1}}}):
        with pytest.raises(BadManifest, match="the new manifest"):
            Manifest.make(**FIELDS, **bad)


PLAIN = document()
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ANY = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    with pytest.raises(BadManifest):
        Manifest.parse(data)


@given(st.dictionaries(st.sampled_from(sorted(PLAIN)) | st.text(max_size=5), ANY, min_size=1, max_size=3))
def test_any_change_of_a_manifest_is_one_or_refused(changes: dict[str, Any]) -> None:
    data = json.dumps(PLAIN | changes).encode()
    with suppress(BadManifest):
        assert Manifest.parse(data).to_bytes() == data


@given(st.integers(0, 5000), st.integers(0, 255))
def test_a_damaged_byte_is_noticed_or_outside_the_content(position: int, value: int) -> None:
    data = bytearray(canonical.encode(PLAIN))
    data[position % len(data)] = value
    with suppress(BadManifest):
        assert Manifest.parse(bytes(data)).content_sha256 == PLAIN["content_sha256"]
