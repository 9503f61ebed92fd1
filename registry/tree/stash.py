"""What restores took out of a tree, kept by digest beside it, so that each of them can be undone without any server.

The folder `stash/` holds `blobs/<sha256>` and one `<id>.json` for each restore that can be undone. An entry with local
edits, which are in no version, stays until somebody removes it; of the others, only the newest does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, ClassVar, Literal

from pydantic import Field

from registry.errors import BadManifest, NotFound
from registry.formats.document import Document, DocumentPart, Sha256
from registry.tree.folders import Folder
from registry.tree.plan import TreeFile

_STASH = "stash"
_BLOBS = f"{_STASH}/blobs"
_ARRIVING = f"{_STASH}/arriving"
_MANY = 64 * 1024 * 1024


class Mark(DocumentPart):
    """What a restore put at a path."""

    sha256: Sha256
    mode: Literal["0644", "0755"]


class State(Document):
    """What was restored into a tree, which remembers it in `.ulora/restored.json`.

    Attributes:
        id: of the restore, by which it is undone.
        version: the version that the whole tree was restored from last, None for none.
        files: what restores put there and have not taken away.
    """

    LIMIT: ClassVar[int] = _MANY

    format: Literal[1]
    id: str = Field(max_length=40)
    version: str | None = Field(default=None, max_length=120)
    when: str = Field(max_length=40)
    files: dict[str, Mark]


class Kept(DocumentPart):
    """A file in the stash, and where it was."""

    path: str
    size: int = Field(ge=0)
    mode: Literal["0644", "0755"]
    sha256: Sha256
    edited: bool = False


class Entry(Document):
    """What undoes one restore.

    Attributes:
        doing: what the restore was, for people.
        kept: the files that it replaced or removed; `links` the links that it removed, with what they said.
        added: the files that were not there before.
        before: what the tree remembered before, None for nothing.
    """

    LIMIT: ClassVar[int] = 2 * _MANY

    format: Literal[1]
    id: str = Field(pattern=r"^[0-9A-Za-z-]{1,40}$")
    when: str = Field(max_length=40)
    doing: str = Field(max_length=400)
    kept: tuple[Kept, ...] = ()
    links: dict[str, str] = Field(default_factory=dict)
    added: tuple[str, ...] = ()
    before: State | None = None

    @property
    def holds_edits(self) -> bool:
        """Whether it has what is in no version."""
        return any(kept.edited for kept in self.kept)


class Stash:
    """The stash of one tree; `work` is the folder beside the tree."""

    def __init__(self, work: Folder) -> None:
        self._work = work

    def keep(self, tree: Folder, file: TreeFile) -> Kept:
        """Keep a file of a tree, under the digest of the bytes that were kept."""
        self._work.remove(_ARRIVING)
        tree.link(file.path, self._work, _ARRIVING)
        digest = self._work.digest(_ARRIVING)
        with self._work.folder(_BLOBS, make=True):
            self._work.rename(_ARRIVING, self._work, f"{_BLOBS}/{digest}")
        self._work.remove(_ARRIVING)  # a rename between two names of one file leaves both
        mode: Literal["0644", "0755"] = "0755" if file.mode == "0755" else "0644"
        edited = file.edited or digest != file.sha256
        return Kept(path=file.path, size=file.size, mode=mode, sha256=digest, edited=edited)

    def open(self, file: TreeFile) -> BinaryIO:
        """A file's bytes. The caller checks what it reads.

        Raises:
            NotFound: they are not there any more.
        """
        try:
            return self._work.open(f"{_BLOBS}/{file.sha256}")
        except FileNotFoundError as error:
            place = self._work.path / _BLOBS / file.sha256
            raise NotFound(f"{file.path} can't be put back: {place} was removed", hint="nothing was changed") from error

    def add(self, path: str) -> None:
        """Make the entry that lies at `path` one of the stash."""
        entry = self.pending(path)
        if entry is not None:
            with self._work.folder(_STASH, make=True):
                self._work.rename(path, self._work, f"{_STASH}/{entry.id}.json")

    def pending(self, path: str) -> Entry | None:
        """The entry that lies at `path`, None for none, or one that was not written to its end."""
        data = self._work.read(path, Entry.LIMIT)
        try:
            return Entry.parse(data, path) if data is not None else None
        except BadManifest:
            return None

    def entries(self) -> list[Entry]:
        """All that can be undone, newest first."""
        names = [name for name in self._names(_STASH) if name.endswith(".json")]
        found = (self.pending(f"{_STASH}/{name}") for name in names)
        return sorted((entry for entry in found if entry), key=lambda entry: entry.when, reverse=True)

    def entry(self, entry_id: str) -> Entry:
        """What undoes the restore of this id.

        Raises:
            NotFound: there is none; the hint says which there are.
        """
        entries = self.entries()
        for entry in entries:
            if entry.id == entry_id:
                return entry
        there = ", ".join(entry.id for entry in entries[:10])
        raise NotFound(f"there is no restore {entry_id[:80]} to undo", hint=f"there is: {there}" if there else "")

    def sweep(self) -> None:
        """Drop what neither undoes the newest restore nor is an edit, and blobs that nothing names."""
        named = set()
        for position, entry in enumerate(self.entries()):
            if position and not entry.holds_edits:
                self._work.remove(f"{_STASH}/{entry.id}.json")
            else:
                named |= {kept.sha256 for kept in entry.kept}
        for name in self._names(_BLOBS):
            if name not in named:
                self._work.remove(f"{_BLOBS}/{name}")

    def _names(self, path: str) -> Iterator[str]:
        if self._work.look(path) is not None:
            with self._work.folder(path) as folder:
                yield from folder.names()
