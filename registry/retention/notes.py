"""Notes on versions: forgotten (garbage collection may delete the files), pinned (a rollback script needs them).

Both are create-only objects beside the version's name, which stays bound. A note is taken back by deleting it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Generic, Literal, TypeVar

from pydantic import Field

from registry.errors import (
    BadManifest,
    KeyExists,
    NotAsListed,
    ObjectNotFound,
    StoreDenied,
    StoreUnreachable,
    UloraError,
    VersionForgotten,
)
from registry.formats.document import Document, Sha256
from registry.parallel import in_parallel
from registry.store import layout
from registry.store.storage import Storage, list_folder
from registry.versions.pointer import Pointer


class Note(Document):
    """A note on a version, by name and by the digest of its manifest. `when` is UTC, ISO 8601."""

    LIMIT: ClassVar[int] = 64 * 1024

    format: Literal[1]
    model: str = Field(max_length=100)
    version: str = Field(max_length=120)
    manifest_sha256: Sha256
    who: str = Field(max_length=256)
    when: str = Field(max_length=40)
    reason: str = Field(default="", max_length=4096)

    @property
    def pointer(self) -> Pointer:
        """The version as a channel names it."""
        return Pointer(version=self.version, manifest_sha256=self.manifest_sha256)


class Forgotten(Note):
    """Garbage collection may delete the files of this version. Its name stays taken."""


class Pin(Note):
    """A rollback script that somebody keeps takes `channel` back to this version: its files stay."""

    channel: str = Field(max_length=64)


Kind = TypeVar("Kind", bound=Note)


class Notes(Generic[Kind]):
    """The notes of one kind of one model."""

    def __init__(self, store: Storage, model: str, kind: type[Kind], key: Callable[[str, str], str]) -> None:
        """Args:
        key: gives the key of a note by model and version; with an empty version the folder of them.
        """
        self._store = store
        self._model = model
        self._kind = kind
        self._key = key

    def find(self, version: str) -> Kind | None:
        """The note on a version, None if it has none.

        Raises:
            BadManifest: it does not follow the format, or is about another version.
        """
        key = self._key(self._model, version)
        try:
            note = self._kind.parse(self._store.get(key, self._kind.LIMIT).body, key)
        except ObjectNotFound:
            return None
        if (note.model, note.version) != (self._model, version):
            raise BadManifest(f"{key} is about {note.model} {note.version}")
        return note

    def versions(self) -> list[str]:
        """The names of the versions that have a note, as their keys spell them. One LIST."""
        folder = self._key(self._model, "")
        return [info.key.removeprefix(folder).removesuffix(".json") for info in list_folder(self._store, folder)]

    def all(self) -> list[Kind]:
        """All notes. One that was taken back since it was listed is none.

        Raises:
            BadManifest: one can't be read.
            NotAsListed: one is listed, again too, and is not there.
        """
        versions = self.versions()
        found = in_parallel(self.find, versions)
        gone = {version for version, note in zip(versions, found, strict=True) if note is None}
        if still := sorted(gone.intersection(self.versions() if gone else ())):
            raise NotAsListed(self._key(self._model, still[0]))
        return [note for note in found if note]

    def add(self, note: Kind) -> None:
        """Add a note; an existing one stays as it is."""
        try:
            self._store.create(self._key(self._model, note.version), note.to_bytes())
        except KeyExists:
            self.find(note.version)

    def take_back(self, version: str) -> None:
        """Remove the note on a version, if there is one.

        Raises:
            StoreDenied: only the identity that collects garbage may delete.
            StoreUnreachable: the note is still there, or the store does not say.
        """
        key = self._key(self._model, version)
        try:
            self._store.delete(key)
        except UloraError as error:
            if self._is_gone(key):  # something in front of the store may refuse what it has passed on
                return
            if isinstance(error, StoreDenied):
                error.hint = "only who may run `ulora store gc` may delete such a note; ask them to run this command"
            raise
        if not self._is_gone(key):
            raise StoreUnreachable(f"the store said that {key} is deleted, but it is still there", hint="try again")

    def _is_gone(self, key: str) -> bool:
        try:
            self._store.get(key, self._kind.LIMIT)
        except ObjectNotFound:
            return True
        except UloraError:
            return False
        return False


def forgotten_notes(store: Storage, model: str) -> Notes[Forgotten]:
    """Which versions of a model are forgotten."""
    return Notes(store, model, Forgotten, layout.forgotten)


def pins(store: Storage, model: str) -> Notes[Pin]:
    """Which versions of a model are pinned."""
    return Notes(store, model, Pin, layout.pin)


def check_remembered(forgotten: Notes[Forgotten], version: str) -> None:
    """Check that a version is not forgotten. One round trip.

    Raises:
        VersionForgotten: it is.
    """
    note = forgotten.find(version)
    if note is not None:
        raise VersionForgotten(
            f"{version} was forgotten by {note.who} at {note.when}: its files are gone, or will be; nothing changed",
            hint=f"`ulora store remember {version}` brings it back, or `ulora create` from the same files",
        )
