"""A folder that is kept at what a channel serves: a folder for each version, and the link `current` to one of them.

    DIR/current                              -> versions/v5.5.4-dinov3-3f9c1a2b4d5e
    DIR/versions/<version>-<digest>/         the digest is the manifest's, its first 12 digits
    DIR/.ulora/                              `follow.json` marks the folder as ours; `lock`, and what is being written
    DIR/.ulora/admitted/                     for each version, what its manifest and its signatures were when it came

A version is written in `.ulora/next`, read back and flushed to the disk before it is renamed to its place; then the
link is replaced by a rename. So whatever interrupts it, `current` leads to the old whole version or to the new one.
What is at a place is never written to: where its files are damaged, the version gets a place beside it, `….2`.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field

from registry.errors import BadInput, UnsafePath
from registry.formats.document import Document
from registry.machine.safe_folder import SafeFolder
from registry.names import is_version_name
from registry.progress import Progress, no_progress
from registry.store.kept_documents import KeptDocuments
from registry.tree.file_system_errors import tree_errors
from registry.tree.layout import STATE_FOLDER, FetchFiles
from registry.tree.version_folder import VERSIONS, FolderContent, damaged_files, linked, move_link, write_folder
from registry.versions.pointer import Pointer

Layout = Literal["bundle", "peft"]

_MARKER, _LOCK, _NEXT, _OLD, _ADMITTED = "follow.json", "lock", "next", "old", "admitted"
_BEGUN = {_LOCK, f"{_MARKER}.new"}
"""What a process that was killed at its very first steps has left in `.ulora`."""
_NOT_OURS_BUT_EMPTY = {"lost+found"}
"""What a new file system has."""
_DIGITS = 12
_PLACE = re.compile(rf"(?P<version>v.+)-(?P<digest>[0-9a-f]{{{_DIGITS}}})(\.[1-9][0-9]{{0,3}})?")


class FolderState(Document):
    """What marks a folder as kept by `ulora follow`, and what must outlive a restart.

    Attributes:
        generation: of the newest record that was followed here; 0 before the first.
        before: the place that `current` led to before, empty if there was none.
        told: the place for which the hook succeeded last.
        hook_is_due: whether `current` was moved, and no hook has succeeded since.
    """

    LIMIT: ClassVar[int] = 64 * 1024

    format: Literal[1]
    model: str = Field(max_length=100)
    channel: str = Field(max_length=64)
    layout: Layout
    generation: int = Field(default=0, ge=0)
    before: str = Field(default="", max_length=255)
    told: str = Field(default="", max_length=255)
    hook_is_due: bool = False


class KeptFolder:
    """An opened folder. Only one process at a time has it open for writing."""

    def __init__(self, root: SafeFolder, path: Path, state: FolderState) -> None:
        """Use `opened`."""
        self._root = root
        self._path = path
        self.state = state

    @classmethod
    @contextmanager
    def opened(cls, path: Path, purpose: FolderState) -> Iterator[Self]:
        """Make a folder or open ours, lock it, and remove what a killed process left.

        Args:
            purpose: the state of a new folder; model, channel and layout must be those of one that is there.

        Raises:
            BadInput: it holds what others put there, or is kept for another channel, model or layout.
            BadManifest: its marker is damaged.
            UnsafePath: a part of the path is a link.
            NotNow: another process keeps it.
        """
        with ExitStack() as stack:
            with tree_errors(path):
                root = stack.enter_context(SafeFolder.at(path, make=True))
                state = _state_of(root, path, purpose)
                linked(root, path)
                _take(stack, root, state or purpose)
            yield cls(root, path, state or purpose)

    @classmethod
    @contextmanager
    def looked_at(cls, path: Path, purpose: FolderState) -> Iterator[Self | None]:
        """The folder for a dry run, which calls nothing that writes; None if there is none. Errors as of `opened`."""
        with ExitStack() as stack:
            with tree_errors(path):
                try:
                    root = stack.enter_context(SafeFolder.at(path))
                except FileNotFoundError:
                    root = None
                state = _state_of(root, path, purpose) if root else None
            yield cls(root, path, state or purpose) if root else None

    @property
    def current(self) -> str:
        """The place that `current` leads to; empty if there is none, or the link leads elsewhere.

        Raises:
            BadInput: `current` is not a link.
        """
        with tree_errors(self._path):
            place = (linked(self._root, self._path) or "").removeprefix(f"{VERSIONS}/")
        return place if version_at(place) else ""

    def path_of(self, place: str) -> Path:
        """The folder at a place."""
        return self._path / VERSIONS / place

    def find(self, pointer: Pointer, content: FolderContent, progress: Progress = no_progress) -> str:
        """The place of a version whose files are all there and have the right digests; empty if there is none."""
        with tree_errors(self._path):
            return next((place for place in self.places(pointer) if self._is_whole(place, content, progress)), "")

    def places(self, pointer: Pointer) -> list[str]:
        """All places of a version, whole or not."""
        wanted = _place_of(pointer)
        return [place for place in self._all_places() if place == wanted or place.startswith(f"{wanted}.")]

    def put(self, pointer: Pointer, content: FolderContent, fetch: FetchFiles, progress: Progress = no_progress) -> str:
        """Write a version to a new place, and return that.

        Raises:
            MissingBlob, CorruptBlob, UnsafePath, DiskFull, BadInput: it was not written, and nothing changed.
        """
        work = f"{STATE_FOLDER}/{_NEXT}"
        with tree_errors(self._path):
            self._root.remove(work)
            try:
                write_folder(self._root, work, content, fetch, progress)
                with self._root.folder(VERSIONS, make=True) as versions:
                    place = _free(versions, pointer)
                    self._root.rename(work, versions, place)
            finally:
                self._root.remove(work)
        return place

    def move_to(self, place: str, generation: int) -> None:
        """Make `current` lead to a place. From then on the hook is due, also for a process that follows this one.

        Raises:
            BadInput: `current` is not a link, or the file system refuses.
        """
        now = self.current
        if now == place:
            self._note(generation=generation)
            return
        self._note(generation=generation, before=now, hook_is_due=True)
        with tree_errors(self._path):
            move_link(self._root, STATE_FOLDER, f"{VERSIONS}/{place}")

    def admission(self, pointer: Pointer) -> bytes | None:
        """What `keep_admission` kept for a version, at most its limit and a byte; None if there is nothing to read."""
        with suppress(OSError, UnsafePath):
            return self._root.read(_admission_of(_place_of(pointer)), KeptDocuments.LIMIT)
        return None

    def keep_admission(self, pointer: Pointer, admission: KeptDocuments) -> None:
        """Keep what admitted a version, for as long as the version is here.

        Raises:
            BadInput, DiskFull: it can't be written.
        """
        with tree_errors(self._path), self._root.folder(f"{STATE_FOLDER}/{_ADMITTED}", make=True):
            self._root.write(_admission_of(_place_of(pointer)), admission.to_bytes())

    def hook_succeeded(self, place: str) -> None:
        """Note that whoever reads the folder knows of a place."""
        self._note(told=place, hook_is_due=False)

    def superfluous(self, needed: Collection[str], state: FolderState | None = None) -> list[str]:
        """The places that nobody needs: not those given, not what `current` leads to now or led to before, and not what
        the hook told of last. `state` is another one than the present, for a dry run."""
        state = state or self.state
        kept = {*needed, self.current, state.before, state.told}
        return [place for place in self._all_places() if place not in kept]

    def remove(self, place: str) -> None:
        """Remove a place, all at once for those who read it by its name."""
        with tree_errors(self._path):
            self._root.remove(f"{STATE_FOLDER}/{_OLD}")
            self._root.rename(f"{VERSIONS}/{place}", self._root, f"{STATE_FOLDER}/{_OLD}")
            self._root.remove(f"{STATE_FOLDER}/{_OLD}")
            if _first(place) not in map(_first, self._all_places()):
                self._root.remove(_admission_of(_first(place)))

    # --- parts -------------------------------------------------------------------------------------------------------

    def _note(self, **changes: object) -> None:
        self.state = self.state.model_copy(update=changes)
        with tree_errors(self._path):
            self._root.write(f"{STATE_FOLDER}/{_MARKER}", self.state.to_bytes())

    def _all_places(self) -> list[str]:
        with tree_errors(self._path):
            if self._root.stat(VERSIONS) is None:
                return []
            with self._root.folder(VERSIONS) as versions:
                return [name for name in versions.names() if version_at(name)]

    def _is_whole(self, place: str, content: FolderContent, progress: Progress) -> bool:
        info = self._root.stat(f"{VERSIONS}/{place}")
        if info is None or not stat.S_ISDIR(info.st_mode):
            return False
        try:
            return damaged_files(self._root, f"{VERSIONS}/{place}", content.files, progress) == []
        except UnsafePath:  # somebody put a link into it
            return False


def version_at(place: str) -> str:
    """The version at a place; empty for a name that is not one of ours."""
    match = _PLACE.fullmatch(place)
    return match["version"] if match and is_version_name(match["version"]) else ""


def _first(place: str) -> str:
    """The first place of the version at a place: that without a number."""
    match = _PLACE.fullmatch(place)
    return f"{match['version']}-{match['digest']}" if match else place


def _admission_of(place: str) -> str:
    return f"{STATE_FOLDER}/{_ADMITTED}/{place}.json"


def _place_of(pointer: Pointer) -> str:
    return f"{pointer.version}-{pointer.manifest_sha256[:_DIGITS]}"


def _free(versions: SafeFolder, pointer: Pointer) -> str:
    name = _place_of(pointer)
    taken, number = set(versions.names()), 1
    while (place := name if number == 1 else f"{name}.{number}") in taken:
        number += 1
    return place


def _take(stack: ExitStack, root: SafeFolder, state: FolderState) -> None:
    """Lock the folder, mark it as ours, and remove what a killed process was writing or removing."""
    work = stack.enter_context(root.folder(STATE_FOLDER, make=True))
    stack.enter_context(work.locked(_LOCK))
    for name in (_NEXT, _OLD):
        work.remove(name)
    if work.stat(_MARKER) is None:
        work.write(_MARKER, state.to_bytes())


def _state_of(root: SafeFolder, path: Path, purpose: FolderState) -> FolderState | None:
    """The state of a folder that is ours, None for an empty one.

    Raises:
        BadInput: it is neither, or is kept for something else.
        BadManifest: its marker is damaged.
    """
    data = root.read(f"{STATE_FOLDER}/{_MARKER}", FolderState.LIMIT)
    if data is None:
        _check_empty(root, path)
        return None
    state = FolderState.parse(data, str(path / STATE_FOLDER / _MARKER))
    is_for, wanted = _purpose(state), _purpose(purpose)
    if is_for != wanted:
        raise BadInput(f"{path} is kept at {is_for}, not at {wanted}; nothing was changed", hint="give another folder")
    return state


def _purpose(state: FolderState) -> str:
    return f"{state.model} {state.channel} in the layout {state.layout}"


def _check_empty(root: SafeFolder, path: Path) -> None:
    foreign = {*root.names()} - _NOT_OURS_BUT_EMPTY - {STATE_FOLDER}
    work = root.stat(STATE_FOLDER)
    if not foreign and work is not None:
        with root.folder(STATE_FOLDER) as inner:
            foreign = {f"{STATE_FOLDER}/{name}" for name in {*inner.names()} - _BEGUN}
    if foreign:
        raise BadInput(
            f"{path} holds what `ulora follow` did not put there, for example {min(foreign)}; nothing was changed",
            hint="give a folder that is empty or does not exist",
        )
