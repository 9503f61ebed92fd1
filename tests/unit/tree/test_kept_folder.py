"""A folder that is kept at what a channel serves: whose it is, what is written, and what a kill leaves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.errors import BadInput, BadManifest, CorruptBlob, NotFound, NotNow, UnsafePath
from registry.tree.kept_folder import FolderState, KeptFolder, version_at
from registry.tree.version_folder import FolderContent, peft_folders, whole_version
from registry.versions.manifest import Component, Manifest
from registry.versions.pointer import Pointer
from tests.support.kill_at_step import count_of, killed_at, some_steps
from tests.support.working_trees import Shelf, tree_of, write_tree

ONE = {"app.py": "one", "bin/run*": "run"}
TWO = {"app.py": "two", "bin/run*": "run"}
PURPOSE = FolderState(format=1, model="plants", channel="production", layout="bundle")


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "shelf")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "served"


def pointer(manifest: Manifest) -> Pointer:
    return Pointer(version=manifest.version, manifest_sha256=manifest.sha256)


def keep(shelf: Shelf, path: Path, manifest: Manifest, generation: int = 1) -> str:
    """Bring a folder to a version, as a round does, and remove what nobody needs."""
    with KeptFolder.opened(path, PURPOSE) as folder:
        return put(shelf, folder, manifest, generation)


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def put(shelf: Shelf, folder: KeptFolder, manifest: Manifest, generation: int = 1) -> str:
    content = whole_version(manifest)
    place = folder.find(pointer(manifest), content) or folder.put(pointer(manifest), content, shelf.fetch)
    folder.move_to(place, generation)
    for each in folder.superfluous([]):
        folder.remove(each)
    return place


def test_a_version_has_its_own_folder_and_current_leads_there(shelf: Shelf, path: Path) -> None:
    manifest = shelf.manifest("v1.0.0-fast", ONE)
    place = keep(shelf, path, manifest)
    assert place == f"v1.0.0-fast-{manifest.sha256[:12]}"
    assert (path / "current").readlink() == Path("versions") / place
    assert tree_of(path / "current") == {**ONE, "version.json": manifest.to_bytes().decode()}


@pytest.mark.parametrize(
    ("place", "version"),
    [
        ("v1.0.0-0123456789ab", "v1.0.0"),
        ("v1.0.0-ood.v2-0123456789ab.2", "v1.0.0-ood.v2"),
        ("v1.0.0", ""),
        ("mine-0123456789ab", ""),
        ("v1.0.0-0123456789ab.2/x", ""),
        ("../v1.0.0-0123456789ab", ""),
    ],
)
def test_only_our_own_names_are_places(place: str, version: str) -> None:
    assert version_at(place) == version


def test_what_was_there_before_stays_until_the_next_change(shelf: Shelf, path: Path) -> None:
    places = [keep(shelf, path, shelf.manifest(f"v{number}.0.0", ONE), number) for number in (1, 2, 3)]
    assert names(path / "versions") == places[1:]


def test_what_a_hook_told_of_last_is_not_deleted(shelf: Shelf, path: Path) -> None:
    with KeptFolder.opened(path, PURPOSE) as folder:
        told = put(shelf, folder, shelf.manifest("v1.0.0", ONE))
        folder.hook_succeeded(told)
        places = [put(shelf, folder, shelf.manifest(f"v{number}.0.0", ONE), number) for number in (2, 3, 4)]
    assert names(path / "versions") == [told, *places[1:]]


def test_a_damaged_version_is_written_beside_and_never_in_place(shelf: Shelf, path: Path) -> None:
    manifest = shelf.manifest("v1.0.0", ONE)
    place = keep(shelf, path, manifest)
    write_tree(path / "current", {"app.py": "changed"})
    assert keep(shelf, path, manifest) == f"{place}.2"
    assert (path / "versions" / place / "app.py").read_text() == "changed", "whoever reads it sees no file change"
    assert (path / "current" / "app.py").read_text() == "one"


def test_the_hook_is_due_until_it_succeeds_also_after_a_restart(shelf: Shelf, path: Path) -> None:
    manifest = shelf.manifest("v1.0.0", ONE)
    keep(shelf, path, manifest)
    with KeptFolder.opened(path, PURPOSE) as folder:
        assert folder.state.hook_is_due
        folder.hook_succeeded(folder.current)
    with KeptFolder.opened(path, PURPOSE) as folder:
        assert not folder.state.hook_is_due
        put(shelf, folder, manifest, 2)
        assert (folder.state.hook_is_due, folder.state.generation) == (False, 2)
        put(shelf, folder, shelf.manifest("v2.0.0", TWO), 3)
        assert folder.state.hook_is_due


@pytest.mark.parametrize("theirs", ["notes.txt", "current/mine", ".ulora/other", "versions/x/y"])
def test_a_folder_with_what_others_put_there_is_refused(path: Path, theirs: str) -> None:
    write_tree(path, {theirs: "mine"})
    before = tree_of(path)
    with pytest.raises(BadInput, match="did not put there") as refused, KeptFolder.opened(path, PURPOSE):
        pass
    assert "empty" in refused.value.hint
    assert tree_of(path) == before


def test_an_empty_file_system_is_taken(shelf: Shelf, path: Path) -> None:
    (path / "lost+found").mkdir(parents=True)
    keep(shelf, path, shelf.manifest("v1.0.0", ONE))
    assert (path / "lost+found").is_dir()


def test_what_others_put_there_later_is_left_alone(shelf: Shelf, path: Path) -> None:
    keep(shelf, path, shelf.manifest("v1.0.0", ONE))
    write_tree(path, {"notes": "mine", "versions/mine/x": "mine", "versions/v9.0.0": "mine"})
    for number in (2, 3):
        keep(shelf, path, shelf.manifest(f"v{number}.0.0", TWO), number)
    assert {"notes", "versions/mine/x", "versions/v9.0.0"} <= set(tree_of(path))


@pytest.mark.parametrize("change", [{"channel": "staging"}, {"layout": "peft"}, {"model": "other"}])
def test_a_folder_of_another_channel_model_or_layout_is_refused(
    shelf: Shelf, path: Path, change: dict[str, str]
) -> None:
    keep(shelf, path, shelf.manifest("v1.0.0", ONE))
    other = PURPOSE.model_copy(update=change)
    with pytest.raises(BadInput, match="is kept at plants production"), KeptFolder.opened(path, other):
        pass


def test_a_damaged_marker_is_refused(shelf: Shelf, path: Path) -> None:
    keep(shelf, path, shelf.manifest("v1.0.0", ONE))
    (path / ".ulora" / "follow.json").write_text("{}")
    with pytest.raises(BadManifest), KeptFolder.opened(path, PURPOSE):
        pass


def test_a_second_process_on_the_same_folder_is_refused(path: Path) -> None:
    with KeptFolder.opened(path, PURPOSE), pytest.raises(NotNow), KeptFolder.opened(path, PURPOSE):
        pass


@pytest.mark.parametrize("place", ["", ".ulora", "versions"])
def test_links_where_folders_must_be_are_not_followed(shelf: Shelf, path: Path, place: str) -> None:
    manifest = shelf.manifest("v1.0.0", ONE)
    keep(shelf, path, manifest)
    outside = path.parent / "outside"
    (path / place).rename(outside)
    (path / place).symlink_to(outside)
    before = tree_of(outside)
    with pytest.raises(UnsafePath):
        keep(shelf, path, shelf.manifest("v2.0.0", TWO))
    assert tree_of(outside) == before


def test_links_planted_in_and_as_versions_are_not_followed(shelf: Shelf, path: Path) -> None:
    one, two = shelf.manifest("v1.0.0", ONE), shelf.manifest("v2.0.0", TWO)
    outside = write_tree(path.parent / "outside", {"run*": "run"})
    place = keep(shelf, path, one)
    shutil.rmtree(path / "current" / "bin")
    (path / "current" / "bin").symlink_to(outside)
    planted = path / "versions" / f"v2.0.0-{two.sha256[:12]}"
    planted.symlink_to(path / "versions" / place)
    assert keep(shelf, path, one) == f"{place}.2"
    # The one that was planted is nobody's place by now: the link is deleted, and what it leads to stays.
    assert not planted.is_symlink()
    planted.symlink_to(outside)
    assert keep(shelf, path, two, 2).endswith(".2")
    assert tree_of(outside) == {"run*": "run"}


def test_a_link_that_leads_elsewhere_is_replaced(shelf: Shelf, path: Path) -> None:
    keep(shelf, path, shelf.manifest("v1.0.0", ONE))
    (path / "current").unlink()
    (path / "current").symlink_to("../outside")
    keep(shelf, path, shelf.manifest("v1.0.0", ONE))
    assert (path / "current" / "app.py").read_text() == "one"


def test_a_real_folder_named_current_is_not_changed(shelf: Shelf, path: Path) -> None:
    keep(shelf, path, shelf.manifest("v1.0.0", ONE))
    (path / "current").unlink()
    write_tree(path, {"current/mine": "mine"})
    with pytest.raises(BadInput, match="not a symbolic link"):
        keep(shelf, path, shelf.manifest("v2.0.0", TWO))
    assert (path / "current" / "mine").read_text() == "mine"


def test_corrupt_bytes_are_not_put_there(shelf: Shelf, path: Path) -> None:
    place = keep(shelf, path, shelf.manifest("v1.0.0", ONE))
    manifest = shelf.manifest("v2.0.0", TWO)
    (shelf.folder / manifest.files[0].sha256).write_text("not it")
    with pytest.raises(CorruptBlob):
        keep(shelf, path, manifest)
    assert names(path / "versions") == [place]
    assert names(path / ".ulora") == ["follow.json", "lock"]


@pytest.mark.acceptance
def test_killed_anywhere_current_is_the_old_or_the_new_version(shelf: Shelf, tmp_path: Path) -> None:
    zero, one, two = (shelf.manifest(f"v{number}.0.0", text) for number, text in enumerate((ONE, ONE, TWO)))
    start = tmp_path / "start"
    for number, manifest in enumerate((zero, one), start=1):
        keep(shelf, start, manifest, number)
    whole = {name: tree_of(_kept(shelf, tmp_path / name, manifest)) for name, manifest in (("1", one), ("2", two))}
    seen = set()
    for copy in _killed(start, lambda path: keep(shelf, path, two, 3), most=40):
        found = tree_of(copy / "current")
        assert found in whole.values()
        seen.add(found == whole["2"])
        with KeptFolder.opened(copy, PURPOSE) as folder:
            assert found == whole["1"] or folder.state.hook_is_due, "a moved link without a hook that is due"
            put(shelf, folder, two, 3)
        assert tree_of(copy / "current") == whole["2"]
        assert names(copy / ".ulora") == ["follow.json", "lock"]
        assert [version_at(name) for name in names(copy / "versions")] == ["v1.0.0", "v2.0.0"]
    assert seen == {True, False}


@pytest.mark.acceptance
def test_killed_at_the_first_start_it_begins_again(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "start").mkdir()
    one = shelf.manifest("v1.0.0", ONE)
    for copy in _killed(tmp_path / "start", lambda path: keep(shelf, path, one), most=25):
        keep(shelf, copy, one)
        assert (copy / "current" / "app.py").read_text() == "one"


def test_the_peft_layout_has_a_folder_for_each_whole_adapter() -> None:
    paths = [
        "adapters/.ulora/adapter_config.json", "adapters/.ulora/adapter_model.safetensors",
        "adapters/half/adapter_config.json",
        "adapters/low/adapter_config.json", "adapters/low/adapter_model.safetensors", "adapters/low/head.json",
        "adapters/low/x/adapter_config.json",
        "project/adapters/mid/adapter_config.json", "router/head.json",
    ]  # fmt: skip
    content = peft_folders(_version(paths))
    assert [file.path for file in content.files] == ["low/adapter_config.json", "low/adapter_model.safetensors"]
    assert content.left_out == tuple(
        path for path in paths if path[:22] != "adapters/low/adapter_m" and path != paths[3]
    )


def test_a_version_without_adapters_has_no_peft_layout() -> None:
    with pytest.raises(NotFound) as refused:
        peft_folders(_version(["project/x"]))
    assert "bundle" in refused.value.hint
    assert isinstance(whole_version(_version(["project/x"])), FolderContent)


def _version(paths: list[str]) -> Manifest:
    files = [{"path": path, "size": 0, "mode": "0644", "sha256": "0" * 64} for path in paths]
    return Manifest.make(
        model="plants", version="v1.0.0", flavor="dino-lora", backbone=None, files=files,
        components={"project": Component()}, timestamp="2026-11-21T12:00:00Z",
    )  # fmt: skip


def _kept(shelf: Shelf, path: Path, manifest: Manifest) -> Path:
    keep(shelf, path, manifest)
    return path / "current"


def _killed(start: Path, act, most: int) -> Iterator[Path]:  # type: ignore[no-untyped-def]
    """Copies of a folder in each of which `act` was killed at another step."""
    copies = start.parent / "copies"
    steps = count_of(lambda: act(_copied(start, copies / "counted")))
    fixed = count_of(lambda: _copied(start, copies / "again"))
    for step in some_steps(steps - fixed, most):
        copy = _copied(start, copies / str(step))
        if killed_at(step, lambda copy=copy: act(copy)):  # type: ignore[misc]
            yield copy


def _copied(start: Path, copy: Path) -> Path:
    return Path(shutil.copytree(start, copy, symlinks=True))
