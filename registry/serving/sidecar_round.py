"""One round of keeping a folder at what a channel serves; `registry.serving.sidecar` repeats it.

`registry.tree.kept_folder` says what the folder looks like. A round may be interrupted and repeated at any point:

1. Put the version that the channel serves beside the others, if it is not there, and move `current`.
2. Run the hook, if it has not succeeded since `current` was moved.
3. Put the next rollback targets beside it, so that a rollback moves a link and downloads nothing.
4. Delete what nobody needs any more.

A hook that fails leaves `current` where it is: the channel alone decides which version is served, and to go back is a
rollback. Steps 3 and 4 do not wait for it.

What asks the store runs in a thread of its own, which can be left behind, and never touches the folder. All that does,
does so in one thread: so there is one change at a time. Both are given up when a newer record wants something else. A
version that the folder holds whole, and what admitted it, is used without the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from registry.channels.record import Record
from registry.errors import BadInput, BrokenChain, LoadFailed, ReplicaClosed, first_line
from registry.formats.html import HtmlTable
from registry.machine import programs
from registry.serving import events
from registry.serving.admissions import Admissions
from registry.serving.loaders import CheckManifest, allow_all
from registry.serving.loads import WaitingLoads
from registry.serving.steps import Steps
from registry.store.blobs import Blobs
from registry.store.cache import FetchWatch
from registry.store.kept_documents import KeptDocuments
from registry.tree.kept_folder import KeptFolder, Layout, version_at
from registry.tree.layout import FetchFiles
from registry.tree.version_folder import FolderContent, peft_folders, whole_version
from registry.versions.manifest import FileEntry
from registry.versions.pointer import Pointer

_CONTENT = {"bundle": whole_version, "peft": peft_folders}

Hook = Literal["none", "due", "succeeded", "failed"]
IsLeft = Callable[[Record, Pointer], bool]
"""Whether what a round on a record does for a version is to be given up."""


@dataclass(frozen=True)
class SidecarOptions:
    """How a folder is kept at what a channel serves.

    Attributes:
        layout: `bundle`: all files of a version, with its manifest. `peft`: a PEFT folder for each target, and no more.
        command: the hook, run by `sh` after `current` was moved; None for none.
        hook_seconds: after which the hook is ended, and counts as failed.
        keep: how many rollback targets are kept beside `current`.
        poll: seconds between two reads of the log, varied at random by 10%.
        read_seconds: seconds after which a read of the log is given up. The next one is made all the same.
        retry: seconds before what failed is tried again; doubles with each failure, up to a minute.
        check: is called with a version's verified manifest before any file is fetched; raises an error for a version
            that must not be used.
    """

    layout: Layout = "bundle"
    command: str | None = None
    hook_seconds: float = 60.0
    keep: int = 1
    poll: float = 1.0
    read_seconds: float = 5.0
    retry: float = 1.0
    check: CheckManifest = allow_all

    def __post_init__(self) -> None:
        """Raises: BadInput: an option has a value that it can't have."""
        if self.layout not in _CONTENT:
            raise BadInput(f"{self.layout!r} is not a layout", hint=f"one of {', '.join(_CONTENT)}")
        if self.keep < 0 or not min(self.hook_seconds, self.poll, self.read_seconds, self.retry) > 0:
            raise BadInput("`keep` must be 0 or more, and all seconds above 0")

    def targets(self, record: Record) -> tuple[Pointer, ...]:
        """The rollback targets that are kept beside what a record makes stable."""
        return record.rollback_targets()[: self.keep]


@dataclass(frozen=True)
class KeptVersion(HtmlTable):
    """What a round did, or in a dry run would do.

    Attributes:
        folder: the folder of the version; None in a dry run that would write it.
        before: the version that `current` led to; empty if there was none.
        moved: whether `current` was moved.
        written: whether the version's files were written, and not there already.
        files, size: the files in the folder, and their bytes.
        left_out: files of the version that the layout has no place for.
        hook: whether the hook succeeded or failed; `due` in a dry run that would run it, `none` if it was not to run.
        ready: the rollback targets whose folders are there.
        unready: why those of others are not; empty if all are.
        removed: the folders that were deleted.
    """

    model: str
    channel: str
    generation: int
    action: str
    version: str
    folder: Path | None
    before: str
    moved: bool
    written: bool
    files: int
    size: int
    left_out: tuple[str, ...] = ()
    hook: Hook = "none"
    ready: tuple[str, ...] = ()
    unready: str = ""
    removed: tuple[str, ...] = ()

    @property
    def did_something(self) -> bool:
        """Whether the round changed anything."""
        return self.moved or self.written or bool(self.removed) or self.hook == "succeeded"


class FolderKeeper:
    """Does rounds on one folder, in one thread."""

    def __init__(
        self, admissions: Admissions, blobs: Blobs, path: Path, options: SidecarOptions, is_left: IsLeft
    ) -> None:
        """`is_left` is asked while something goes on, and ends it if it is true."""
        self._admissions = admissions
        self._blobs = blobs
        self._path = path
        self._options = options
        self._is_left = is_left
        self._loads = WaitingLoads()
        self._placed: KeptVersion | None = None
        self._is_ready = False
        self._noted: set[str] = set()

    def keep(self, folder: KeptFolder, record: Record) -> tuple[KeptVersion, Exception | None]:
        """Do a round. Returns what it did, and why it ended early, the hook failed or a folder could not be deleted.

        Raises:
            BrokenChain: a newer record was followed here before.
            ReplicaClosed: it was given up before `current` was moved. After that the same error is returned.
            LoadFailed: too many downloads that were given up hang.
            NotFound: the version has nothing for this layout.
            NotTrusted, MissingBlob, CorruptBlob, UnsafePath, DiskFull, BadInput, …: `current` was not moved.
        """
        if self._placed and self._placed.generation == record.generation:
            answer = replace(self._placed, moved=False, written=False)
        else:
            answer, self._is_ready = self._place(folder, record), False
            self._placed = answer
        failed: Exception | None = None
        try:
            hook, failed = self._run_hook(folder, record)
            answer = replace(answer, hook=hook)
            if not self._is_ready:
                ready, unready = self._prepare(folder, record)
                self._is_ready = not unready
                self._placed = replace(self._placed, ready=ready)
                answer = replace(answer, ready=ready, unready=unready)
            answer = replace(answer, removed=self._remove(folder, record))
        except ReplicaClosed as left:
            return answer, left
        except Exception as error:
            return answer, failed or error
        return answer, failed

    def plan(self, folder: KeptFolder | None, record: Record) -> KeptVersion:
        """What `keep` would do; `folder` is None where there is none yet. The errors are those of `keep`."""
        pointer = stable_of(record)
        content, _ = self._content(folder, pointer, lambda: None)
        if folder is None:
            return replace(self._answer(record, content, "", ""), hook="due" if self._options.command else "none")
        _check_not_older(folder, record)
        place, here = folder.find(pointer, content), folder.current
        answer = self._answer(record, content, place, here)
        is_due = self._options.command is not None and (answer.moved or folder.state.hook_is_due)
        then = folder.state.model_copy(
            update={
                "before": here if answer.moved else folder.state.before,
                "told": place if is_due else folder.state.told,
            }
        )
        targets = {target.version: folder.places(target) for target in self._options.targets(record)}
        needed = [place, *(each for places in targets.values() for each in places)]
        return replace(
            answer, hook="due" if is_due else "none", ready=tuple(name for name, places in targets.items() if places),
            removed=tuple(folder.superfluous(needed, then)),
        )  # fmt: skip

    # --- the steps ---------------------------------------------------------------------------------------------------

    def _place(self, folder: KeptFolder, record: Record) -> KeptVersion:
        """Step 1."""
        _check_not_older(folder, record)
        before = folder.current
        content, place, written = self._hold(folder, record, stable_of(record))
        folder.move_to(place, record.generation)
        answer = replace(self._answer(record, content, place, before), written=written)
        if answer.moved:
            events.folder_moved(record, answer.version, answer.before, folder.path_of(place), answer.left_out)
        else:
            events.folder_stays(record, answer.version)
        return answer

    def _run_hook(self, folder: KeptFolder, record: Record) -> tuple[Hook, Exception | None]:
        """Step 2, and why it failed."""
        if self._options.command is None or not folder.state.hook_is_due:
            return "none", None
        began, place = time.monotonic(), folder.current
        is_left = partial(self._is_left, record, stable_of(record))
        try:
            _run(self._options.command, self._options.hook_seconds, self._environment(folder, record), is_left)
        except ReplicaClosed:
            raise
        except Exception as error:
            return "failed", error
        folder.hook_succeeded(place)
        events.hook_succeeded(version_at(place), time.monotonic() - began)
        return "succeeded", None

    def _prepare(self, folder: KeptFolder, record: Record) -> tuple[tuple[str, ...], str]:
        """Step 3: the rollback targets that are there, and why others are not."""
        ready, problems = [], []
        for pointer in self._options.targets(record):
            try:
                self._hold(folder, record, pointer)
            except ReplicaClosed:
                raise
            except Exception as error:
                problems.append(f"a rollback to {pointer.version} is not ready: {first_line(error)}")
            else:
                ready.append(pointer.version)
        return tuple(ready), "; ".join(problems)

    def _remove(self, folder: KeptFolder, record: Record) -> tuple[str, ...]:
        """Step 4. All places of a rollback target are left, even if nobody could look whether they are whole."""
        targets = self._options.targets(record)
        removed = folder.superfluous([place for target in targets for place in folder.places(target)])
        for place in removed:
            folder.remove(place)
        if removed:
            events.folder_removed(removed)
        return tuple(removed)

    # --- parts -------------------------------------------------------------------------------------------------------

    def _answer(self, record: Record, content: FolderContent, place: str, before: str) -> KeptVersion:
        files = content.files
        return KeptVersion(
            model=record.model, channel=record.channel, generation=record.generation, action=record.action,
            version=stable_of(record).version, folder=self._path / "versions" / place if place else None,
            before=version_at(before), moved=not place or place != before, written=not place, files=len(files),
            size=sum(file.size for file in files), left_out=content.left_out,
        )  # fmt: skip

    def _hold(self, folder: KeptFolder, record: Record, pointer: Pointer) -> tuple[FolderContent, str, bool]:
        """See to it that a whole version is in the folder: its content, its place, and whether it was written now."""

        def go_on(_: int = 0) -> None:
            if self._is_left(record, pointer):
                raise ReplicaClosed(f"{pointer.version} is not wanted any more")

        content, documents = self._content(folder, pointer, go_on)
        found = folder.find(pointer, content, go_on)
        place = found or folder.put(pointer, content, self._fetch(pointer, go_on), go_on)
        if documents:
            folder.keep_admission(pointer, documents)
        return content, place, not found

    def _content(
        self, folder: KeptFolder | None, pointer: Pointer, go_on: Callable[[], None]
    ) -> tuple[FolderContent, KeptDocuments | None]:
        """What a version's folder holds, and what is to be kept of what admitted it."""
        admitted = self._admissions.kept(pointer, folder.admission(pointer) if folder else None)
        admitted = admitted or self._loads.wait_for(pointer, self._admissions.asked, go_on)
        self._options.check(admitted.manifest)
        return _CONTENT[self._options.layout](admitted.manifest), admitted.documents

    def _fetch(self, pointer: Pointer, go_on: Callable[[], None]) -> FetchFiles:
        def fetch(files: Sequence[FileEntry]) -> Mapping[str, Path]:
            def load(_: Pointer, steps: Steps) -> Mapping[str, Path]:
                watch = FetchWatch(steps.arrived, steps.waits, self._note)
                return self._blobs.fetch(files, watch=watch, of=pointer.version)

            return self._loads.wait_for(pointer, load, go_on)

        return fetch

    def _note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            events.fetch_note(text)

    def _environment(self, folder: KeptFolder, record: Record) -> dict[str, str]:
        """What the hook gets to know. Every value was checked to have the form of its kind."""
        return {
            "ULORA_MODEL": record.model,
            "ULORA_CHANNEL": record.channel,
            "ULORA_VERSION": version_at(folder.current),
            "ULORA_BEFORE": version_at(folder.state.before),
            "ULORA_GENERATION": str(record.generation),
            "ULORA_ACTION": record.action,
            "ULORA_FOLDER": str(folder.path_of(folder.current)),
        }


def stable_of(record: Record) -> Pointer:
    """The version that a record makes stable; every record but one before the first version has it."""
    assert record.stable is not None  # noqa: S101  who calls this has looked
    return record.stable


def _check_not_older(folder: KeptFolder, record: Record) -> None:
    if record.generation < folder.state.generation:
        raise BrokenChain(
            f"regressed: the log of {record.channel} ends at generation {record.generation}, but generation "
            f"{folder.state.generation} was followed here before; `current` stays",
            hint="if the store was replaced on purpose, keep another folder",
        )


def _run(command: str, seconds: float, env: Mapping[str, str], is_left: Callable[[], bool]) -> None:
    """Run the hook.

    Raises:
        LoadFailed: it failed, or took too long.
        ReplicaClosed: it was ended because it was left.
    """
    try:
        answer = programs.run_hook(command, seconds=seconds, env=env, stopped=is_left)
    except OSError as error:
        raise LoadFailed(f"the hook can't be run: {error.strerror}") from error
    if answer.code is None and is_left():
        raise ReplicaClosed("the hook was ended: its version is not wanted any more")
    if answer.code != 0:
        how = f"did not end within {seconds:g} s" if answer.code is None else f"ended with {answer.code}"
        said = f": {answer.said.splitlines()[-1][:300]}" if answer.said else ""
        raise LoadFailed(
            f"the hook {how}{said}", hint="`current` was moved and stays; the hook is run again until it succeeds"
        )
