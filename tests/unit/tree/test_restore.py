"""`restore` and `undo` on real folders: what is kept, what is stashed, what is refused."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import BadInput, CorruptBlob, NotFound, NotNow, UnsafePath
from registry.machine.safe_folder import SafeFolder
from registry.tree import restore_target, stash
from registry.tree.restore import is_unfinished, recover, restore, undo
from registry.tree.restore_target import RestoreTarget, swap_atomically, swap_in_two_steps
from tests.support.working_trees import Content, Shelf, link_to_the_same_bytes, tree_of, write_tree

OLD: Content = {"app.py": "old", "bin/run*": "run", "config/a.yaml": "a", "gone/x": "x"}
NEW: Content = {"app.py": "new", "bin/run*": "run", "config/a.yaml": "b", "config/b.yaml": "b"}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "shelf")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "place" / "current"


def test_a_version_is_restored_with_its_modes_into_a_new_folder(shelf: Shelf, target: Path) -> None:
    before = os.umask(0o077)
    try:
        done = restore(shelf.order("v1.0.0", OLD), target)
    finally:
        os.umask(before)
    assert tree_of(target) == OLD
    assert stat.S_IMODE((target / "bin/run").stat().st_mode) == 0o755
    assert stat.S_IMODE((target / "app.py").stat().st_mode) == 0o644
    assert [file.path for file in done.added] == ["app.py", "bin/run", "config/a.yaml", "gone/x"]


def test_a_dry_run_reports_all_changes_and_writes_nothing(shelf: Shelf, target: Path) -> None:
    planned = restore(shelf.order("v1.0.0", OLD), target, dry_run=True)
    assert len(planned.added) == 4
    assert not planned.done
    assert not target.parent.exists()
    assert shelf.fetched == []


def test_only_files_of_an_earlier_restore_are_removed(shelf: Shelf, target: Path) -> None:
    restore(shelf.order("v1.0.0", OLD), target)
    write_tree(target, {"data/images.bin": "mine", "logs/today": "mine", "config/local.yaml": "mine"})
    (target / "empty").mkdir()
    (target / "latest").symlink_to("data")
    done = restore(shelf.order("v2.0.0", NEW), target)
    mine = {"data/images.bin": "mine", "logs/today": "mine", "config/local.yaml": "mine", "empty/": ""}
    assert tree_of(target) == {**NEW, **mine, "latest": "-> data"}
    assert [file.path for file in done.removed] == ["gone/x"]
    assert not (target / "gone").exists()
    assert set(done.kept) == {"data/images.bin", "logs/today", "config/local.yaml", "latest"}
    assert (done.unchanged, done.edited) == (1, ())


def test_kept_files_are_the_same_inodes(shelf: Shelf, target: Path) -> None:
    restore(shelf.order("v1.0.0", OLD), target)
    with (target / "today.log").open("w") as log:
        log.write("before, ")
        restore(shelf.order("v2.0.0", NEW), target)
        log.write("after")
    assert (target / "today.log").read_text() == "before, after"


def test_the_same_restore_again_does_nothing(shelf: Shelf, target: Path) -> None:
    restore(shelf.order("v1.0.0", OLD), target)
    inode = target.stat().st_ino
    shelf.fetched.clear()
    again = restore(shelf.order("v1.0.0", OLD), target)
    assert (again.done, again.undo, again.unchanged, shelf.fetched) == (False, None, 4, [])
    assert target.stat().st_ino == inode


def test_only_the_files_that_differ_are_fetched(shelf: Shelf, target: Path) -> None:
    restore(shelf.order("v1.0.0", OLD), target)
    shelf.fetched.clear()
    restore(shelf.order("v2.0.0", NEW), target)
    assert shelf.fetched == ["app.py", "config/a.yaml", "config/b.yaml"]


def test_local_edits_are_put_back_by_the_undo(shelf: Shelf, target: Path) -> None:
    restore(shelf.order("v1.0.0", OLD), target)
    mine = {"app.py*": "my edit", "gone/x": "my other edit", "config/b.yaml": "mine, not theirs"}
    write_tree(target, mine)
    before = tree_of(target)
    done = restore(shelf.order("v2.0.0", NEW), target)
    assert set(done.edited) == {"app.py", "gone/x", "config/b.yaml"}
    assert tree_of(target) == NEW
    back = undo(done.undo or "", target)
    assert tree_of(target) == before
    assert tree_of(target) != tree_of(target.parent)
    undo(back.undo or "", target)
    assert tree_of(target) == NEW, "an undo can be undone"


def test_a_file_that_only_lost_its_mode_is_changed(shelf: Shelf, target: Path) -> None:
    restore(shelf.order("v1.0.0", OLD), target)
    (target / "bin/run").chmod(0o644)
    done = restore(shelf.order("v1.0.0", OLD), target)
    assert [(file.path, file.was, file.mode) for file in done.changed] == [("bin/run", "0644", "0755")]
    assert tree_of(target) == OLD


def test_only_edits_stay_in_the_stash(shelf: Shelf, target: Path) -> None:
    restore(shelf.order("v1.0.0", OLD), target)
    write_tree(target, {"app.py": "my edit"})
    edited = restore(shelf.order("v2.0.0", NEW), target)
    plain = [restore(shelf.order("v1.0.0", OLD), target), restore(shelf.order("v2.0.0", NEW), target)]
    with pytest.raises(NotFound):
        undo(plain[0].undo or "", target)
    undo(plain[1].undo or "", target)
    assert tree_of(target) == OLD
    undo(edited.undo or "", target)
    assert (target / "app.py").read_text() == "my edit"


@pytest.mark.parametrize("path", ["../out", "../../out", "a/../../../out", "..", ".", "", "/out", "a//b", "x\0y"])
@pytest.mark.parametrize("field", ["kept", "links", "added"])
def test_an_undo_writes_nothing_outside_its_tree(shelf: Shelf, target: Path, field: str, path: str) -> None:
    restore(shelf.order("v1.0.0", OLD), target)
    done = restore(shelf.order("v2.0.0", NEW), target)
    stored = target.parent / ".current.ulora" / "stash" / f"{done.undo}.json"
    entry = json.loads(stored.read_text())
    false = {"kept": [{**entry["kept"][0], "path": path}], "links": {path: "/etc"}, "added": [path]}
    stored.write_text(json.dumps({**entry, field: false[field]}))
    before = tree_of(target.parent.parent)
    with pytest.raises(NotFound):
        undo(done.undo or "", target)
    assert tree_of(target.parent.parent) == before


@pytest.mark.parametrize("damage", ["no json", '{"format":2}', ""])
def test_a_damaged_entry_of_the_stash_keeps_its_files(shelf: Shelf, target: Path, damage: str) -> None:
    restore(shelf.order("v1.0.0", OLD), target)
    write_tree(target, {"app.py": "my edit"})
    done = restore(shelf.order("v2.0.0", NEW), target)
    stash = target.parent / ".current.ulora" / "stash"
    whole = (stash / f"{done.undo}.json").read_bytes()
    (stash / f"{done.undo}.json").write_text(damage)
    for version, content in (("v1.0.0", OLD), ("v2.0.0", NEW)):
        restore(shelf.order(version, content), target)
    (stash / f"{done.undo}.json").write_bytes(whole)
    undo(done.undo or "", target)
    assert (target / "app.py").read_text() == "my edit"


def test_a_safe_folder_has_no_path_that_leads_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    with SafeFolder.at(tmp_path / "inner") as folder:
        for act in (folder.folder, folder.open, folder.remove, folder.stat, lambda path: folder.create(path, 0o644)):
            for path in ("..", "../out", "a/../../out", "x\0y"):
                with pytest.raises(UnsafePath):
                    act(path)
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]


def test_an_unknown_undo_lists_the_known_ones(shelf: Shelf, target: Path) -> None:
    with pytest.raises(NotFound):
        undo("20200101T000000-0000", target)
    assert not target.parent.exists()
    done = restore(shelf.order("v1.0.0", OLD), target)
    with pytest.raises(NotFound) as refused:
        undo("../../etc", target)
    assert (done.undo or "?") in refused.value.hint


def test_only_restores_the_named_files(shelf: Shelf, target: Path) -> None:
    restore(shelf.order("v1.0.0", OLD), target)
    done = restore(shelf.order("v2.0.0", NEW, "./config/"), target)
    assert tree_of(target) == {**OLD, "config/a.yaml": "b", "config/b.yaml": "b"}
    assert {file.path for file in (*done.added, *done.changed)} == {"config/a.yaml", "config/b.yaml"}
    restore(shelf.order("v3.0.0", {"app.py": "newest"}), target)
    assert tree_of(target) == {"app.py": "newest"}, "what parts of versions put there goes with the rest"


def test_only_removes_files_in_the_named_folders_alone(shelf: Shelf, target: Path) -> None:
    restore(shelf.order("v2.0.0", NEW), target)
    done = restore(shelf.order("v1.0.0", OLD, "config", "app.py"), target)
    assert [file.path for file in done.removed] == ["config/b.yaml"]
    assert tree_of(target) == {"app.py": "old", "bin/run*": "run", "config/a.yaml": "a"}


@pytest.mark.parametrize("only", ["conf", "config/a", "config/a.yaml/", "nothing", "../config", "/config", "*"])
def test_only_refuses_names_that_match_nothing(shelf: Shelf, target: Path, only: str) -> None:
    if only == "config/a.yaml/":  # a file with a slash is that file
        restore(shelf.order("v1.0.0", OLD, only), target)
        assert tree_of(target) == {"config/a.yaml": "a"}
        return
    with pytest.raises(NotFound) as refused:
        restore(shelf.order("v1.0.0", OLD, only), target)
    assert "app.py, bin/, config/, gone/" in refused.value.hint


def test_clean_removes_other_files_but_never_git_folders(shelf: Shelf, target: Path) -> None:
    write_tree(target, {".git/HEAD": "ref", "lib/.git/HEAD": "ref", "mine": "mine", "old/deep/file*": "mine"})
    (target / "old/link").symlink_to("/nowhere")
    before = tree_of(target)
    done = restore(shelf.order("v1.0.0", OLD, clean=True), target)
    assert tree_of(target) == {**OLD, ".git/HEAD": "ref", "lib/.git/HEAD": "ref"}
    undo(done.undo or "", target)
    assert tree_of(target) == before


def test_a_file_replaces_a_folder_and_a_folder_a_file(shelf: Shelf, target: Path) -> None:
    write_tree(target, {"app.py/inner/one": "mine", "app.py/two": "mine", "config": "mine"})
    before = tree_of(target)
    done = restore(shelf.order("v1.0.0", OLD), target)
    assert tree_of(target) == OLD
    assert set(done.edited) == {"app.py/inner/one", "app.py/two", "config"}
    undo(done.undo or "", target)
    assert tree_of(target) == before


@pytest.mark.parametrize("place", ["app.py", "config", "bin"])
def test_a_link_in_the_way_is_refused_and_not_followed(shelf: Shelf, target: Path, place: str) -> None:
    outside = write_tree(target.parent / "outside", {"a.yaml": "theirs", "run": "theirs"})
    write_tree(target, {"mine": "mine"})
    (target / place).symlink_to(outside if place != "app.py" else outside / "run")
    before = tree_of(target.parent)
    with pytest.raises(UnsafePath, match=place):
        restore(shelf.order("v1.0.0", OLD), target)
    assert {path: text for path, text in tree_of(target.parent).items() if ".ulora/" not in path} == before


def test_a_socket_in_the_way_is_refused_and_elsewhere_kept(shelf: Shelf, target: Path) -> None:
    target.mkdir(parents=True)
    os.mkfifo(target / "queue")
    restore(shelf.order("v1.0.0", OLD), target)
    assert stat.S_ISFIFO((target / "queue").stat().st_mode)
    with pytest.raises(UnsafePath, match="queue"):
        restore(shelf.order("v2.0.0", {"queue": "a file"}), target)


def test_a_target_that_is_or_is_behind_a_link_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    real = write_tree(tmp_path / "real", {"mine": "mine"})
    (tmp_path / "link").symlink_to(real)
    for target in (tmp_path / "link", tmp_path / "link" / "current"):
        for dry_run in (True, False):
            with pytest.raises(UnsafePath, match="is a symbolic link"):
                restore(shelf.order("v1.0.0", OLD), target, dry_run=dry_run)
    assert tree_of(real) == {"mine": "mine"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real", "shelf"]


def test_dangerous_targets_are_refused(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = write_tree(tmp_path / "homes" / "me", {".profile": "mine"})
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(write_tree(tmp_path / "here" / "inner", {"mine": "mine"}))
    refused = [
        "/",
        "",
        ".",
        "..",
        home,
        home.parent,
        tmp_path / "x" / ".git",
        tmp_path / ".GIT" / "x",
        "../../here",
        "../inner",
    ]
    for target in refused:
        with pytest.raises((UnsafePath, BadInput)):
            restore(shelf.order("v1.0.0", OLD), Path(target))
    restore(shelf.order("v1.0.0", OLD), Path("../beside"))
    assert tree_of(tmp_path / "here" / "beside") == OLD
    assert not (tmp_path / "x").exists()
    assert (home / ".profile").read_text() == "mine"


def test_a_file_as_target_is_refused(shelf: Shelf, target: Path) -> None:
    write_tree(target.parent, {"current": "a file"})
    with pytest.raises(BadInput, match="is not a folder"):
        restore(shelf.order("v1.0.0", OLD), target)


def test_a_damaged_blob_leaves_the_tree_as_it_was(shelf: Shelf, target: Path) -> None:
    restore(shelf.order("v1.0.0", OLD), target)
    order = shelf.order("v2.0.0", NEW)
    (shelf.folder / next(file.sha256 for file in order.files if file.path == "app.py")).write_text("not it")
    with pytest.raises(CorruptBlob, match=r"app\.py"):
        restore(order, target)
    assert tree_of(target) == OLD
    assert sorted(path.name for path in (target.parent / ".current.ulora").iterdir()) == ["lock", "stash"]


def test_bytes_beyond_the_end_of_a_file_are_not_written(shelf: Shelf, target: Path) -> None:
    order, written = shelf.order("v1.0.0", {"app.py": "new"}), []
    os.truncate(shelf.folder / order.files[0].sha256, 8 * 1024 * 1024)
    with pytest.raises(CorruptBlob, match=r"app\.py"):
        restore(order, target, progress=written.append)
    assert sum(written) <= len("new")


@pytest.mark.parametrize("exchange", [os.mkfifo, link_to_the_same_bytes])
def test_a_pipe_or_a_link_in_the_cache_is_not_opened(
    shelf: Shelf, target: Path, exchange: Callable[[Path], None]
) -> None:
    restore(shelf.order("v1.0.0", OLD), target)
    order = replace(shelf.order("v2.0.0", NEW), fetch=shelf.fetch_and_exchange(exchange))
    with pytest.raises(CorruptBlob, match="was exchanged"):
        restore(order, target)
    assert tree_of(target) == OLD


@pytest.mark.parametrize("clean", [False, True])
def test_a_file_too_large_to_keep_is_refused_unread(shelf: Shelf, target: Path, clean: bool) -> None:
    restore(shelf.order("v1.0.0", OLD), target)
    path = target / ("mine" if clean else "app.py")
    path.touch()
    os.truncate(path, 1 << 40)
    for dry_run in (True, False):
        with pytest.raises(BadInput, match=f"{path} has more than 68719476736 bytes") as refused:
            restore(shelf.order("v2.0.0", NEW, clean=clean), target, dry_run=dry_run)
        assert "move it away; nothing was changed" in refused.value.hint
    assert path.stat().st_size == 1 << 40
    assert (target / "gone/x").exists()


def test_an_undo_does_not_read_a_file_of_any_size(shelf: Shelf, target: Path) -> None:
    restore(shelf.order("v1.0.0", OLD), target)
    done = restore(shelf.order("v2.0.0", NEW), target)
    os.truncate(target / "app.py", 1 << 40)
    with pytest.raises(BadInput, match=r"app\.py has more than"):
        undo(done.undo or "", target)
    (target / "app.py").unlink()
    undo(done.undo or "", target)
    assert tree_of(target) == OLD


def test_a_second_restore_at_the_same_time_is_refused(shelf: Shelf, target: Path) -> None:
    order = shelf.order("v1.0.0", OLD)
    refused = []

    def fetch(files: object) -> dict[str, Path]:
        with pytest.raises(NotNow) as error:
            restore(order, target)
        refused.append(error)
        return shelf.fetch(files)  # type: ignore[arg-type]

    restore(type(order)("v1.0.0", order.files, fetch), target)
    assert len(refused) == 1
    assert tree_of(target) == OLD


def test_an_interrupt_leaves_the_old_tree_or_the_new_one(shelf: Shelf, target: Path) -> None:
    restore(shelf.order("v1.0.0", OLD), target)
    write_tree(target, {"app.py": "my edit"})
    before = tree_of(target)

    def interrupt(place: RestoreTarget) -> None:
        raise KeyboardInterrupt

    def interrupt_after(place: RestoreTarget) -> None:
        swap_atomically(place)
        raise KeyboardInterrupt

    for swap, after in ((interrupt, before), (interrupt_after, NEW)):
        with pytest.raises(KeyboardInterrupt):
            restore(shelf.order("v2.0.0", NEW), target, swap=swap)
        assert tree_of(target) == after
        assert not is_unfinished(target)
    newest = max((target.parent / ".current.ulora/stash").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    undo(newest.stem, target)
    assert tree_of(target) == before


@pytest.mark.parametrize("largest", [None, 10], ids=["small", "too large to be hashed twice"])
def test_files_changed_during_a_restore_are_not_lost(
    shelf: Shelf, target: Path, monkeypatch: pytest.MonkeyPatch, largest: int | None
) -> None:
    for module in (restore_target, stash) if largest else ():
        monkeypatch.setattr(module, "MAX_FILE", largest)
    restore(shelf.order("v1.0.0", OLD), target)

    def write_meanwhile(place: RestoreTarget) -> None:
        write_tree(target, {"logs/new": "came late", "app.py": "edited late"})
        (target / "config/a.yaml").unlink()
        write_tree(target, {"config/a.yaml": "written anew"})
        swap_in_two_steps(place)

    done = restore(shelf.order("v2.0.0", NEW), target, swap=write_meanwhile)
    assert set(done.late) == {"logs/new", "app.py", "config/a.yaml"}
    assert tree_of(target) == {**NEW, "logs/new": "came late"}
    undo(done.undo or "", target)
    found = tree_of(target)
    assert (found["app.py"], found["config/a.yaml"]) == ("edited late", "written anew")


def test_a_tree_without_its_record_keeps_all_its_files(shelf: Shelf, target: Path) -> None:
    restore(shelf.order("v1.0.0", OLD), target)
    (target / ".ulora/restored.json").write_text("{")
    done = restore(shelf.order("v2.0.0", NEW), target)
    assert "gone/x" in done.kept
    assert set(done.edited) == {"app.py", "config/a.yaml"}


def test_modes_and_owners_of_folders_are_kept(shelf: Shelf, target: Path) -> None:
    restore(shelf.order("v1.0.0", OLD), target)
    write_tree(target, {"private/key": "mine"})
    (target / "private").chmod(0o700)
    target.chmod(0o750)
    restore(shelf.order("v2.0.0", NEW), target)
    assert stat.S_IMODE((target / "private").stat().st_mode) == 0o700
    assert stat.S_IMODE(target.stat().st_mode) == 0o750


@pytest.mark.skipif(
    os.geteuid() != 0 or Path("/proc/sys/fs/protected_hardlinks").read_text() != "1\n",
    reason="needs root, to become somebody else, and a system where nobody links other people's files",
)
@pytest.mark.parametrize("theirs", ["app.log", "logs"])
def test_files_of_other_users_keep_their_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: str) -> None:
    monkeypatch.chdir(tmp_path)
    shelf, target = Shelf(Path("shelf")), Path("current")
    order = shelf.order("v1.0.0", OLD)
    write_tree(target, {"app.log": "l"}).joinpath("logs").mkdir()
    for place in {Path(), target, target / "app.log", target / "logs"} - {target / theirs}:
        os.chown(place, 65534, 65534)
    (target / theirs).chmod(0o4755)
    os.seteuid(65534)
    try:
        with pytest.raises(BadInput, match=f"{theirs} belongs to root") as refused:
            restore(order, target)
    finally:
        os.seteuid(0)
    assert refused.value.hint == "run it as root or as its owner"
    assert tree_of(target) == {"app.log" + "*" * (theirs == "app.log"): "l", "logs/": ""}
    restore(order, target)
    assert ((target / theirs).stat().st_uid, stat.S_IMODE((target / theirs).stat().st_mode)) == (0, 0o4755)


def test_swapping_a_folder_for_a_link_writes_nothing_outside(shelf: Shelf, target: Path) -> None:
    outside = write_tree(target.parent / "outside", {"a.yaml": "theirs"})
    write_tree(target, {"config/mine": "mine"})
    (target.parent / "trap").symlink_to(outside)
    stop, swapped = threading.Event(), []

    def swap() -> None:
        with SafeFolder.at(target.parent) as parent:
            while not stop.is_set():
                try:
                    with parent.folder("current") as tree:
                        swapped.append(tree.exchange("config", parent, "trap"))
                except (OSError, UnsafePath):
                    continue

    attacker = threading.Thread(target=swap)
    attacker.start()
    try:
        for number in range(30):
            content = {"app.py": str(number), "config/a.yaml": str(number)}
            with suppress(UnsafePath, BadInput):
                restore(shelf.order(f"v1.0.{number}", content), target)
    finally:
        stop.set()
        attacker.join()
    assert any(swapped)
    assert tree_of(outside) == {"a.yaml": "theirs"}


# --- a full disk -----------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_tree_as_it_was(shelf: Shelf, target: Path) -> None:
    restore(shelf.order("v1.0.0", OLD), target)
    order = shelf.order("v2.0.0", {**NEW, "large": "x" * 300_000})
    child = os.fork()
    if child == 0:
        import resource
        import signal

        from registry.errors import DiskFull

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            restore(order, target)
        except DiskFull:
            os._exit(17)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
    assert tree_of(target) == OLD
    assert not (target.parent / ".current.ulora" / "next").exists()
    restore(order, target)
    assert (target / "large").stat().st_size == 300_000


# --- any two trees ---------------------------------------------------------------------------------------------------

_NAMES = st.sampled_from(["a", "b", "c/d", "c/e", "c", "f/g/h", "f/g", "f"])
_TREES = st.dictionaries(_NAMES, st.sampled_from(["1", "2", "3"]), max_size=5).filter(
    lambda tree: not any(other.startswith(f"{path}/") for path in tree for other in tree)
)


@settings(max_examples=30)
@given(old=_TREES, mine=_TREES, new=_TREES, only=st.sampled_from([(), ("c",), ("f/g",)]), clean=st.booleans())
def test_restore_and_undo_work_on_any_tree(
    tmp_path_factory: pytest.TempPathFactory,
    old: Content,
    mine: Content,
    new: Content,
    only: tuple[str, ...],
    clean: bool,
) -> None:
    place = tmp_path_factory.mktemp("any")
    shelf, target = Shelf(place / "shelf"), place / "current"
    restore(shelf.order("v1.0.0", old), target)
    for path, text in mine.items():
        if not any(parent.is_file() for parent in (target / path).parents) and not (target / path).is_dir():
            write_tree(target, {path: text})
    before = tree_of(target)
    try:
        done = restore(shelf.order("v2.0.0", new, *only, clean=clean), target)
    except NotFound:
        assert only
        return
    wanted = {path: text for path, text in new.items() if not only or path == only[0] or path.startswith(f"{only[0]}/")}
    after = tree_of(target)
    assert wanted.items() <= after.items()
    if clean and not only:
        assert after == wanted
    if done.undo:
        undo(done.undo, target)
    assert tree_of(target) == before
    assert not recover(target)
