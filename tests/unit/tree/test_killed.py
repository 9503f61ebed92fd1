"""`restore`, `undo`, `switch` killed by SIGKILL at any step: the old tree or the new one, and the next one finishes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.tree.restore import is_unfinished, recover, restore, undo
from registry.tree.restore_target import swap_atomically, swap_in_two_steps
from registry.tree.switch import current, switch
from tests.support.kill_at_step import count_of, killed_at, some_steps
from tests.support.working_trees import Content, Shelf, tree_of, write_tree

pytestmark = pytest.mark.acceptance

OLD: Content = {"app.py": "old", "config/a.yaml": "a", "gone/x": "x"}
MINE: Content = {"app.py": "my edit", "logs/mine": "mine"}
NEW: Content = {"app.py": "new", "config/a.yaml": "b", "config/b/c": "c"}
EDITED = {**OLD, **MINE}
AFTER = {**NEW, "logs/mine": "mine"}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "shelf")


@pytest.fixture
def place(shelf: Shelf, tmp_path: Path) -> Path:
    """A folder with a `current` that was restored and edited."""
    place = tmp_path / "place"
    restore(shelf.order("v1.0.0", OLD), place / "current")
    write_tree(place / "current", MINE)
    return place


@pytest.mark.parametrize("swap", [swap_atomically, swap_in_two_steps])
def test_a_killed_restore_leaves_the_old_tree_or_the_new_one(
    shelf: Shelf, place: Path, swap: Callable[..., None]
) -> None:
    order = shelf.order("v2.0.0", NEW)
    seen = set()
    for copy in _killed(place, lambda target: restore(order, target, swap=swap), most=25):
        target = copy / "current"
        if swap is swap_atomically:
            assert target.is_dir(), "at no instant is there none"
        recover(target)
        found = tree_of(target)
        assert found in (EDITED, AFTER)
        seen.add(found == AFTER)
        assert not is_unfinished(target)
        restore(order, target)
        assert tree_of(target) == AFTER
        _undo_all(target)
        assert tree_of(target)["app.py"] == "my edit", "an edit outlives every kill"
    assert seen == {True, False}


def test_a_killed_undo_leaves_the_old_tree_or_the_new_one(shelf: Shelf, place: Path) -> None:
    done = restore(shelf.order("v2.0.0", NEW), place / "current")
    for copy in _killed(place, lambda target: undo(done.undo or "", target), most=15):
        target = copy / "current"
        assert tree_of(target) in (EDITED, AFTER)
        undo(done.undo or "", target)
        assert tree_of(target) == EDITED


def test_a_killed_first_restore_leaves_nothing_or_everything(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    order = shelf.order("v1.0.0", NEW)
    for copy in _killed(tmp_path / "empty", lambda target: restore(order, target), most=15):
        target = copy / "current"
        assert tree_of(target) in ({}, NEW)
        restore(order, target)
        assert tree_of(target) == NEW


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_killed_switch_leaves_the_old_version_or_the_new_one(shelf: Shelf, tmp_path: Path, is_damaged: bool) -> None:
    root = tmp_path / "root"
    one, two = shelf.manifest("v1.0.0", OLD), shelf.manifest("v2.0.0", NEW)
    if is_damaged:
        switch(two, root, shelf.fetch)
        (root / "versions/v2.0.0/app.py").write_text("damaged")
    switch(one, root, shelf.fetch)

    for copy in _killed(root, lambda target: switch(two, target.parent, shelf.fetch), most=25):
        assert current(copy).ok
        switch(two, copy, shelf.fetch)
        assert current(copy).version == "v2.0.0"
        assert current(copy).ok
        left = {path.name for path in (copy / ".ulora").iterdir()}
        assert left == ({"lock", "replaced"} if is_damaged else {"lock"})


def _killed(place: Path, act: Callable[[Path], object], most: int):  # type: ignore[no-untyped-def]
    """Copies of a folder in each of which `act` on its `current` was killed at another step."""
    copies = place.parent / "copies"
    steps = count_of(lambda: act(_copied(place, copies / "counted") / "current"))
    fixed = count_of(lambda: _copied(place, copies / "again"))
    for step in some_steps(steps - fixed, most):
        copy = _copied(place, copies / str(step))
        if killed_at(step, lambda copy=copy: act(copy / "current")):  # type: ignore[misc]
            yield copy


def _copied(place: Path, copy: Path) -> Path:
    return Path(shutil.copytree(place, copy, symlinks=True))


def _undo_all(target: Path) -> None:
    """Undo what holds the edit: the newest restore that has one in its stash."""
    for entry in sorted((target.parent / ".current.ulora" / "stash").glob("*.json"), reverse=True):
        if '"edited":true' in entry.read_text():
            undo(entry.stem, target)
            return
