"""A bundle on disk: read completely, or refused with the file's name before anything is uploaded."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.errors import BadBundle, BadInput, BadWeights, UloraError
from registry.formats.canonical import sha256
from registry.names import VersionName
from registry.versions.bundle import ReleaseNotes, describe, file_entries, read_bundle, read_component_files
from registry.versions.weights import weights_sha256
from tests.support.bundles import manifest_of, write_bundle

WEIGHTS = "adapters/low/adapter_model.safetensors"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", targets=("low",))


def test_a_bundle_is_its_files_hashed_and_its_components(bundle: Path) -> None:
    (bundle / "project/src").mkdir(parents=True)
    (bundle / "project/src/run.sh").write_text("#!/bin/sh\n")
    (bundle / "project/src/run.sh").chmod(0o700)
    read = read_bundle(bundle)
    assert [file.path for file in read.files] == sorted(
        path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()
    )
    for file in read.files:
        data = (bundle / file.path).read_bytes()
        assert (file.size, file.sha256) == (len(data), sha256(data))
        assert file.mode == ("0755" if file.path == "project/src/run.sh" else "0644")
    assert sorted(read.components) == ["adapters/low", "backbone", "config", "project", "router"]
    low = {path.name: path for path in (bundle / "adapters/low").iterdir()}
    assert read.components["adapters/low"].weights_sha256 == weights_sha256(low)
    assert read.components["adapters/low"].requires["backbone"] == read.backbone.sha256


def sparse(path: str) -> Callable[[Path], None]:
    """A file of 1 TiB that needs no space on the disk."""

    def act(bundle: Path) -> None:
        (bundle / path).parent.mkdir(parents=True, exist_ok=True)
        with (bundle / path).open("wb") as file:
            file.truncate(1024**4)

    return act


def spoil(path: str, data: bytes) -> Callable[[Path], None]:
    def act(bundle: Path) -> None:
        (bundle / path).parent.mkdir(parents=True, exist_ok=True)
        (bundle / path).write_bytes(data)

    return act


def remove(path: str) -> Callable[[Path], None]:
    return lambda bundle: shutil.rmtree(bundle / path) if (bundle / path).is_dir() else (bundle / path).unlink()


def remove_weights(bundle: Path) -> None:
    for path in (bundle / "adapters/low").glob("*.safetensors"):
        path.unlink()


def link(path: str, to: str) -> Callable[[Path], None]:
    return lambda bundle: (bundle / path).symlink_to(to)


def folder_instead(path: str) -> Callable[[Path], None]:
    def act(bundle: Path) -> None:
        (bundle / path).unlink()
        (bundle / path).mkdir()

    return act


def nest(bundle: Path) -> None:
    (bundle / "project" / Path(*["d"] * 40)).mkdir(parents=True)


def listen(bundle: Path) -> None:
    before = Path.cwd()
    os.chdir(bundle / "config")  # a socket's path is short
    try:
        socket.socket(socket.AF_UNIX).bind("socket")
    finally:
        os.chdir(before)


def other_backbone(bundle: Path) -> None:
    path = bundle / "adapters/low/component.json"
    document = json.loads(path.read_bytes())
    document["requires"]["backbone"] = "0" * 64
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (remove("backbone.json"), r"backbone\.json is missing"),
        (folder_instead("backbone.json"), r"backbone\.json"),
        (spoil("backbone.json", b"{"), r"backbone\.json is not valid JSON"),
        (spoil("backbone.json", b'{"family":"dinov3","family":"dinov2"}'), "twice"),
        (spoil("backbone.json", b'{"family":"dinov3"}'), r"backbone\.json does not follow the format: sha256"),
        (remove("adapters"), "no adapters/<target>/"),
        (remove_weights, r"adapters/low has no \.safetensors"),
        (spoil("adapters/Bad-Name/x.safetensors", b""), "'Bad-Name' is not a target"),
        (spoil("adapters/loose.txt", b""), r"adapters/loose\.txt is not in a folder"),
        (spoil("adapters/mid/notes.txt", b""), r"adapters/mid has no \.safetensors"),
        (spoil("README.md", b""), r"README\.md is not allowed in a bundle"),
        (spoil("adapters/low/component.json", b"[]"), "adapters/low/component.json is not a JSON object"),
        (spoil("adapters/low/component.json", b'{"requires":{"a":1}}'), "adapters/low/component.json"),
        (other_backbone, "adapters/low was made for another backbone"),
        (link("project", "/etc"), "project is a link"),
        (link("config/gone", "nowhere"), "config/gone is a link"),
        (spoil("project/.git/config", b""), r"\.git"),
        (spoil("project/a\\b", b""), "backslash"),
        (spoil("project/a\nb", b""), "control"),
        (spoil("project/cafe\u0301", b""), "NFC"),
        (lambda bundle: [spoil(f"project/{name}", b"")(bundle) for name in ("a", "A")], "ignores case"),
        (lambda bundle: (bundle / os.fsdecode(b"config/\xff")).write_bytes(b""), "Unicode"),
        (spoil("config/NUL.json", b""), "device on Windows"),
        (spoil("project/when?", b""), "not every system"),
        (spoil("adapters/low/CLASSIFIER.PTH", b"\x80\x02."), r"may contain code: adapters/low/CLASSIFIER\.PTH"),
        (spoil("router/table.npy", b""), r"may contain code: router/table\.npy"),
        (spoil("config/deep/optimizer.pkl", b""), r"may contain code: config/deep/optimizer\.pkl"),
        (spoil("config/model.dill", b""), r"may contain code: config/model\.dill"),
        (spoil("config/model.PT2", b""), r"may contain code: config/model\.PT2"),
        (spoil("router/model.joblib.gz", b""), r"may contain code: router/model\.joblib\.gz"),
        (spoil("adapters/low/best.pth.tar", b""), r"may contain code: adapters/low/best\.pth\.tar"),
        (sparse("config/huge.json"), r"config/huge\.json' has 1099511627776 bytes, more than the 68719476736"),
        (nest, "nested more than"),
        (listen, "neither a file nor a folder"),
    ],
)
def test_an_invalid_bundle_is_refused_with_the_file_name(bundle: Path, act: Callable[[Path], None], says: str) -> None:
    act(bundle)
    with pytest.raises(UloraError, match=says) as refused:
        read_bundle(bundle)
    assert refused.value.exit_code == 2
    assert isinstance(refused.value, BadInput)


def test_a_pickle_is_allowed_in_a_project_only(bundle: Path, tmp_path: Path) -> None:
    spoil("project/data/old.pkl", b"\x80\x02.")(bundle)
    assert "project/data/old.pkl" in read_bundle(bundle).paths
    spoil("adapter/classifier.pth", b"")(tmp_path)
    with pytest.raises(BadBundle, match=r"adapters/low/classifier\.pth"):
        read_component_files("adapters/low", tmp_path / "adapter")


@pytest.mark.parametrize("name", ["model.bin.index.json", "pickle.json", "weights.tar", "p"])
def test_a_name_that_only_resembles_a_pickle_is_allowed(bundle: Path, name: str) -> None:
    spoil(f"config/{name}", b"{}")(bundle)
    assert f"config/{name}" in read_bundle(bundle).paths


def test_a_huge_file_of_a_project_is_refused_by_its_size(tmp_path: Path) -> None:
    sparse("project.bin")(tmp_path)
    with pytest.raises(BadBundle, match="more than the 68719476736"):
        file_entries({"project/project.bin": tmp_path / "project.bin"})


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_weights_are_refused_with_the_file_name(bundle: Path, keep: int) -> None:
    data = (bundle / WEIGHTS).read_bytes()
    (bundle / WEIGHTS).write_bytes(data[:keep])
    with pytest.raises(BadWeights, match=r"adapter_model\.safetensors"):
        read_bundle(bundle)


_TIMES = itertools.count()


def append(log: Path) -> None:
    with log.open("ab") as file:
        file.write(b"more")


def write_anew(log: Path) -> None:
    os.utime(log, ns=(0, next(_TIMES)))


@pytest.mark.parametrize("act", [append, write_anew])
def test_a_file_that_changes_while_it_is_read_is_refused(bundle: Path, act: Callable[[Path], None]) -> None:
    spoil("project/log.txt", b"more")(bundle)
    with pytest.raises(BadBundle, match=r"log\.txt changed while it was read"):
        read_bundle(bundle, progress=lambda done: act(bundle / "project/log.txt"))


def test_a_path_that_is_not_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, says in (("missing", "no such folder"), ("file", "is not a folder")):
        with pytest.raises(BadBundle, match=says):
            read_bundle(tmp_path / name)


def test_a_version_says_what_changed_against_its_parent(bundle: Path, tmp_path: Path) -> None:
    parent = manifest_of(bundle, version="v1.0.0")
    (bundle / "config/added.json").write_text("{}")
    (bundle / "adapters/low/ood.json").unlink()
    (bundle / WEIGHTS).chmod(0o755)
    made = describe(
        "aads-ulora",
        VersionName(1, 1, 0),
        read_bundle(bundle),
        source=tmp_path,
        release_notes=ReleaseNotes("new"),
        parent=parent,
    )
    assert made.files_added == ("config/added.json",)
    assert made.files_modified == (WEIGHTS,)
    assert made.files_removed == ("adapters/low/ood.json",)
    assert made.parent is not None
    assert (made.parent.version, made.parent.content_sha256) == ("v1.0.0", parent.content_sha256)
    assert made.provenance["git_commit"] is None
    assert made.provenance["libraries"]["boto3"]


@pytest.mark.parametrize(
    "release_notes", [ReleaseNotes("x" * 70_000), ReleaseNotes(changes={"loss": float("nan")})], ids=["long", "NaN"]
)
def test_invalid_release_notes_are_bad_input(bundle: Path, release_notes: ReleaseNotes) -> None:
    with pytest.raises(BadInput, match=r"v1\.0\.0"):
        describe(
            "m", VersionName(1, 0, 0), read_bundle(bundle), source=bundle, release_notes=release_notes, parent=None
        )
