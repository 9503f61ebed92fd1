"""`switch`: several versions in one folder, and a link that is switched between them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.errors import BadInput, BadManifest, CorruptBlob, NotFound, NotNow, UnsafePath
from registry.tree.switch import current, switch
from tests.support.working_trees import Shelf, link_to_the_same_bytes, tree_of, write_tree

ONE = {"app.py": "one", "bin/run*": "run"}
TWO = {"app.py": "two", "bin/run*": "run"}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "shelf")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "srv" / "aads"


def test_current_is_a_relative_link_to_a_whole_version(shelf: Shelf, root: Path) -> None:
    manifest = shelf.manifest("v1.0.0", ONE)
    done = switch(manifest, root, shelf.fetch)
    assert (done.done, done.before, done.folder) == (True, None, "made")
    assert (root / "current").readlink() == Path("versions/v1.0.0")
    assert tree_of(root / "current") == {**ONE, "version.json": manifest.to_bytes().decode()}
    assert current(root).version == "v1.0.0"
    assert current(root).ok


def test_switching_back_downloads_nothing(shelf: Shelf, root: Path) -> None:
    switch(shelf.manifest("v1.0.0", ONE), root, shelf.fetch)
    switch(shelf.manifest("v2.0.0", TWO), root, shelf.fetch)
    shelf.fetched.clear()
    back = switch(shelf.manifest("v1.0.0", ONE), root, shelf.fetch)
    assert (back.before, back.folder, shelf.fetched) == ("v2.0.0", "kept", [])
    again = switch(shelf.manifest("v1.0.0", ONE), root, shelf.fetch)
    assert (again.done, again.before) == (False, "v1.0.0")


@pytest.mark.parametrize("exchange", [os.mkfifo, link_to_the_same_bytes])
def test_a_pipe_or_a_link_in_the_cache_is_not_opened(
    shelf: Shelf, root: Path, exchange: Callable[[Path], None]
) -> None:
    switch(shelf.manifest("v1.0.0", ONE), root, shelf.fetch)
    with pytest.raises(CorruptBlob, match="was exchanged"):
        switch(shelf.manifest("v2.0.0", TWO), root, shelf.fetch_and_exchange(exchange))
    assert current(root).version == "v1.0.0"
    assert current(root).ok


def test_a_dry_run_changes_nothing(shelf: Shelf, root: Path) -> None:
    planned = switch(shelf.manifest("v1.0.0", ONE), root, shelf.fetch, dry_run=True)
    assert (planned.done, planned.folder) == (False, "made")
    assert not root.exists()


def test_a_damaged_version_is_replaced_and_kept_aside(shelf: Shelf, root: Path) -> None:
    manifest = shelf.manifest("v1.0.0", ONE)
    switch(manifest, root, shelf.fetch)
    write_tree(root / "current", {"app.py": "edited in place", "bin/run": "run", "log": "mine"})
    assert current(root).bad == ("app.py", "bin/run")
    done = switch(manifest, root, shelf.fetch)
    assert (done.folder, done.repaired) == ("repaired", ("app.py", "bin/run"))
    assert current(root).ok
    assert done.replaced is not None
    assert (done.replaced / "app.py").read_text() == "edited in place"
    assert (done.replaced / "log").read_text() == "mine"


def test_current_is_there_for_every_reader_during_200_switches(shelf: Shelf, root: Path) -> None:
    versions = [shelf.manifest("v1.0.0", ONE), shelf.manifest("v2.0.0", TWO)]
    for manifest in versions:
        switch(manifest, root, shelf.fetch)
    stop = threading.Event()
    seen: list[str] = []

    def look() -> None:
        while not stop.is_set():
            try:
                seen.append((root / "current" / "app.py").read_text())
            except OSError as error:
                seen.append(repr(error))

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for number in range(200):
            switch(versions[number % 2], root, shelf.fetch)
    finally:
        stop.set()
        reader.join()
    assert set(seen) == {"one", "two"}


def test_a_real_folder_named_current_is_not_changed(shelf: Shelf, root: Path) -> None:
    root = root / "my place"
    write_tree(root, {"current/mine": "mine"})
    with pytest.raises(BadInput) as refused:
        switch(shelf.manifest("v1.0.0", ONE), root, shelf.fetch)
    assert f"mv '{root}/current' '{root}/current.before'" in refused.value.hint
    assert tree_of(root) == {"current/mine": "mine"}


@pytest.mark.parametrize("place", ["", "versions", ".ulora", "versions/v1.0.0"])
def test_links_where_folders_must_be_are_refused(shelf: Shelf, root: Path, place: str) -> None:
    outside = write_tree(root.parent / "outside", {"theirs": "theirs"})
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).symlink_to(outside)
    with pytest.raises(UnsafePath) as refused:
        switch(shelf.manifest("v1.0.0", ONE), root, shelf.fetch)
    assert refused.value.hint.startswith("move it away" if place else f"give the real folder: {outside}")
    assert tree_of(outside) == {"theirs": "theirs"}
    assert not os.path.lexists(root / "current")


def test_a_link_that_leads_elsewhere_is_replaced_and_remembered(shelf: Shelf, root: Path) -> None:
    root.mkdir(parents=True)
    (root / "current").symlink_to("../release-7")
    with pytest.raises(BadInput, match="release-7"):
        current(root)
    assert switch(shelf.manifest("v1.0.0", ONE), root, shelf.fetch).before == "../release-7"


def test_a_damaged_blob_leaves_current_as_it_was(shelf: Shelf, root: Path) -> None:
    switch(shelf.manifest("v1.0.0", ONE), root, shelf.fetch)
    manifest = shelf.manifest("v2.0.0", TWO)
    (shelf.folder / manifest.files[0].sha256).write_text("not it")
    with pytest.raises(CorruptBlob):
        switch(manifest, root, shelf.fetch)
    assert current(root).version == "v1.0.0"
    assert [path.name for path in (root / "versions").iterdir()] == ["v1.0.0"]


def test_a_second_switch_at_the_same_time_is_refused(shelf: Shelf, root: Path) -> None:
    manifest = shelf.manifest("v1.0.0", ONE)

    def fetch(files: object) -> dict[str, Path]:
        with pytest.raises(NotNow):
            switch(manifest, root, shelf.fetch)
        return shelf.fetch(files)  # type: ignore[arg-type]

    switch(manifest, root, fetch)
    assert current(root).ok


def test_a_version_with_a_version_json_of_its_own_keeps_it(shelf: Shelf, root: Path) -> None:
    own = {**ONE, "version.json": '{"version": "the project\'s own"}'}
    switch(shelf.manifest("v1.0.0", own), root, shelf.fetch)
    assert tree_of(root / "current") == own
    assert current(root).ok


def test_current_reports_the_version_or_the_problem(shelf: Shelf, root: Path) -> None:
    with pytest.raises(NotFound):
        current(root)
    switch(shelf.manifest("v1.0.0", ONE), root, shelf.fetch)
    (root / "versions/v1.0.0/version.json").write_text("{}")
    with pytest.raises(BadManifest):
        current(root)
    (root / "versions/v1.0.0").rename(root / "versions/v9.9.9")
    with pytest.raises(BadInput):
        current(root)
