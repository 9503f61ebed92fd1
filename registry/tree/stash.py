"""The stash: files that restores replaced or removed, kept next to the tree so that a restore can be undone offline.

The folder `stash/` holds `blobs/<sha256>` and one `<id>.json` for each restore that can be undone. An entry with local
edits, which are in no version, stays until a person removes it; of the other entries only the newest stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, BinaryIO, ClassVar, Literal

from pydantic import AfterValidator, Field

from registry.errors import BadManifest, NotFound, UnsafePath
from registry.formats.document import Document, DocumentPart, Sha256
from registry.machine.safe_folder import SafeFolder
from registry.tree.restore_plan import TreeFile
from registry.versions.manifest import MAX_FILE

_STASH = "stash"
_BLOBS = f"{_STASH}/blobs"
_ARRIVING = f"{_STASH}/arriving"
_MANY = 64 * 1024 * 1024


def _check_inside(path: str) -> str:
    """Return a path in a tree unchanged. Whoever may write next to the tree may write an entry too.

    Raises:
        ValueError: it leads out of the tree, or no file can have it.
    """
    if "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f"path {path[:120]!r} is not one of a file in the tree")
    return path


def _check_link(text: str) -> str:
    """Return the target of a symbolic link unchanged.

    Raises:
        ValueError: no link can have it.
    """
    if "\0" in text or not text:
        raise ValueError("a link leads to nothing")
    return text


TreePath = Annotated[str, AfterValidator(_check_inside)]
LinkText = Annotated[str, AfterValidator(_check_link)]


class RestoredFile(DocumentPart):
    """A file that a restore wrote."""

    sha256: Sha256
    mode: Literal["0644", "0755"]


class RestoredTree(Document):
    """What was restored into a tree; stored in its `.ulora/restored.json`.

    Attributes:
        id: of the newest restore, used to undo it.
        version: the version that the whole tree was restored from last, None for none.
        files: the files that restores wrote and did not remove since.
    """

    LIMIT: ClassVar[int] = _MANY

    format: Literal[1]
    id: str = Field(max_length=40)
    version: str | None = Field(default=None, max_length=120)
    when: str = Field(max_length=40)
    files: dict[str, RestoredFile]


class StashedFile(DocumentPart):
    """A file in the stash, and its path in the tree."""

    path: TreePath
    size: int = Field(ge=0)
    mode: Literal["0644", "0755"]
    sha256: Sha256
    edited: bool = False


class StashEntry(Document):
    """All that is needed to undo one restore.

    Attributes:
        doing: what the restore was, for people.
        kept: the files that it replaced or removed; `links` are the symbolic links that it removed, with their targets.
        added: the files that it added.
        before: what the tree recorded before, None for nothing.
    """

    LIMIT: ClassVar[int] = 2 * _MANY

    format: Literal[1]
    id: str = Field(pattern=r"^[0-9A-Za-z-]{1,40}$")
    when: str = Field(max_length=40)
    doing: str = Field(max_length=400)
    kept: tuple[StashedFile, ...] = ()
    links: dict[TreePath, LinkText] = Field(default_factory=dict)
    added: tuple[TreePath, ...] = ()
    before: RestoredTree | None = None

    @property
    def holds_edits(self) -> bool:
        """Whether it has local edits, which are in no version."""
        return any(kept.edited for kept in self.kept)


class Stash:
    """The stash of one tree; `work` is the folder of working files next to the tree."""

    def __init__(self, work: SafeFolder) -> None:
        self._work = work

    def keep(self, tree: SafeFolder, file: TreeFile) -> StashedFile:
        """Keep a file of a tree, under the sha256 of its bytes.

        Raises:
            UnsafePath: another process made it far longer meanwhile.
        """
        self._work.remove(_ARRIVING)
        tree.link(file.path, self._work, _ARRIVING)
        digest = self._work.digest(_ARRIVING, max(file.size, MAX_FILE))
        if digest is None:
            self._work.remove(_ARRIVING)
            raise UnsafePath(
                f"another process writes more than {MAX_FILE} bytes into {tree.path / file.path}",
                hint="run it again when no other process writes there",
            )
        with self._work.folder(_BLOBS, make=True):
            self._work.rename(_ARRIVING, self._work, f"{_BLOBS}/{digest}")
        self._work.remove(_ARRIVING)  # a rename between two hard links of one file does nothing
        mode: Literal["0644", "0755"] = "0755" if file.mode == "0755" else "0644"
        edited = file.edited or digest != file.sha256
        return StashedFile(path=file.path, size=file.size, mode=mode, sha256=digest, edited=edited)

    def open(self, file: TreeFile) -> BinaryIO:
        """Open a file of the stash. The caller verifies the bytes.

        Raises:
            NotFound: it was removed from the stash.
        """
        try:
            return self._work.open(f"{_BLOBS}/{file.sha256}")
        except FileNotFoundError as error:
            missing = self._work.path / _BLOBS / file.sha256
            raise NotFound(
                f"{file.path} can't be put back: {missing} was removed", hint="nothing was changed"
            ) from error

    def add(self, path: str) -> None:
        """Move the entry at `path` into the stash."""
        entry = self.pending(path)
        if entry is not None:
            with self._work.folder(_STASH, make=True):
                self._work.rename(path, self._work, f"{_STASH}/{entry.id}.json")

    def pending(self, path: str) -> StashEntry | None:
        """The entry at `path`; None if there is none or it was not written completely."""
        data = self._work.read(path, StashEntry.LIMIT)
        try:
            return StashEntry.parse(data, path) if data is not None else None
        except BadManifest:
            return None

    def entries(self) -> list[StashEntry]:
        """All entries that can be read, newest first."""
        found = (self.pending(f"{_STASH}/{name}") for name in self._entry_names())
        return sorted((entry for entry in found if entry), key=lambda entry: entry.when, reverse=True)

    def entry(self, entry_id: str) -> StashEntry:
        """The entry of this id.

        Raises:
            NotFound: there is none; the hint lists those that exist.
        """
        entries = self.entries()
        for entry in entries:
            if entry.id == entry_id:
                return entry
        known = ", ".join(entry.id for entry in entries[:10])
        raise NotFound(f"no restore {entry_id[:80]} to undo", hint=f"known restores: {known}" if known else "")

    def remove_unneeded(self) -> None:
        """Remove entries without local edits, except the newest entry, and blobs that no entry names.

        Nothing, if an entry can't be read: nobody knows which blobs it needs.
        """
        named, entries = set(), self.entries()
        if len(entries) < len(self._entry_names()):
            return
        for position, entry in enumerate(entries):
            if position and not entry.holds_edits:
                self._work.remove(f"{_STASH}/{entry.id}.json")
            else:
                named |= {kept.sha256 for kept in entry.kept}
        for name in self._names(_BLOBS):
            if name not in named:
                self._work.remove(f"{_BLOBS}/{name}")

    def _entry_names(self) -> list[str]:
        return [name for name in self._names(_STASH) if name.endswith(".json")]

    def _names(self, path: str) -> Iterator[str]:
        if self._work.stat(path) is not None:
            with self._work.folder(path) as folder:
                yield from folder.names()
