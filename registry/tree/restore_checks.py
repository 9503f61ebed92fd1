"""Open the target of a restore, and refuse folders that must not be replaced."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from registry.errors import BadInput, UnsafePath
from registry.machine.safe_folder import SafeFolder
from registry.tree.restore_target import LOCK, RestoreTarget, work_folder


@contextmanager
def open_target(folder: Path, *, dry_run: bool) -> Iterator[RestoreTarget]:
    """A target, locked, after completing what a killed restore left. A dry run only opens what exists.

    Raises:
        UnsafePath: the folder must not be replaced.
        BadInput: it is not a folder, or this process is inside it.
        NotNow: another restore is running there.
    """
    _check_name(folder)
    with ExitStack() as stack:
        try:
            parent = stack.enter_context(SafeFolder.at(folder.parent, make=not dry_run))
        except FileNotFoundError:
            yield RestoreTarget(folder, None, None, None)
            return
        _check_folder(parent, folder)
        work = _open_work(parent, folder, make=not dry_run)
        if work:
            stack.enter_context(work)
        if work and not dry_run:
            stack.enter_context(work.locked(LOCK))
            RestoreTarget(folder, parent, work, None).recover()
        tree = stack.enter_context(parent.folder(folder.name)) if _check_folder(parent, folder) else None
        yield RestoreTarget(folder, parent, work, tree)


def _open_work(parent: SafeFolder, folder: Path, *, make: bool) -> SafeFolder | None:
    """The folder of working files next to the target; None if it does not exist and is not to be created."""
    name = work_folder(folder).name
    if parent.stat(name) is None and not make:
        return None
    work = parent.folder(name, make=make)
    owners = {os.geteuid(), 0, os.fstat(parent.fd).st_uid}
    if os.fstat(work.fd).st_uid not in owners:
        os.close(work.fd)
        raise UnsafePath(f"{work.path} belongs to another user", hint="remove it, or choose another target")
    return work


def _check_name(folder: Path) -> None:
    """Refuse a folder that can't be replaced as a whole, judging by its name."""
    if folder.name in ("", "..") or folder == Path():
        raise UnsafePath(
            f"{folder} can't be a target: a restore replaces the whole folder",
            hint="choose a separate folder: --target current",
        )
    if any(part.casefold() == ".git" for part in folder.parts):
        raise UnsafePath(f"{folder} is inside git's own folder", hint="choose another target")


def _check_folder(parent: SafeFolder, folder: Path) -> bool:
    """Whether the target exists.

    Raises:
        UnsafePath: it is a link, or a folder that must not be replaced.
        BadInput: it is a file, or this process is inside it.
    """
    info = parent.stat(folder.name)
    if info is None:
        return False
    if stat.S_ISLNK(info.st_mode):
        raise UnsafePath(
            f"{folder} is a symbolic link; nothing was changed",
            hint=f"`ulora switch VERSION --root {shlex.quote(str(folder.parent))}` changes a link `current`; "
            "or give the real folder",
        )
    if not stat.S_ISDIR(info.st_mode):
        raise BadInput(f"{folder} is not a folder", hint="choose another --target, or move it away")
    if _contains(info, _home()):
        raise UnsafePath(
            f"{folder} is your home folder or contains it", hint="choose a separate folder: --target current"
        )
    if _contains(info, Path.cwd()):
        raise BadInput(
            f"the working directory is inside {folder}, which a restore replaces as a whole",
            hint="leave it first, for example: cd ..",
        )
    return True


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:
        return None


def _contains(info: os.stat_result, inner: Path | None) -> bool:
    """Whether a folder is `inner` or contains it."""
    for each in (inner, *inner.parents) if inner else ():
        with suppress(OSError):
            if os.path.samestat(info, each.stat()):
                return True
    return False
