"""What can hold versions under the keys of a store: the store itself, or a folder on a disk with the same layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from registry.formats import canonical
from registry.formats.local_file import LocalFile
from registry.progress import Progress
from registry.store.object_info import ObjectInfo, StoredObject


class ReadableStorage(Protocol):
    """What reading a version needs. `ObjectStore` says what each method promises."""

    @property
    def url(self) -> str:
        """Its address as people write it."""
        ...

    @property
    def address(self) -> str:
        """Equal for any two that hold the same objects."""
        ...

    def get(self, key: str, limit: int = canonical.MAX_DOCUMENT) -> StoredObject: ...
    def list(self, prefix: str) -> Iterator[ObjectInfo]: ...


class StreamedStorage(ReadableStorage, Protocol):
    """The same for one whose blobs come in pieces."""

    def stream(self, key: str, size: int) -> Iterator[bytes]: ...


class Storage(ReadableStorage, Protocol):
    """What reading and publishing a version needs. `ObjectStore` says what each method promises."""

    def head(self, key: str) -> ObjectInfo | None: ...
    def holds(self, key: str, digest: str, size: int) -> bool: ...
    def create(self, key: str, body: bytes) -> None: ...
    def confirm(self, key: str, body: bytes) -> str: ...
    def upload(self, key: str, file: LocalFile, digest: str, size: int, progress: Progress = ...) -> bool: ...
    def replace(self, key: str, file: LocalFile, digest: str, size: int, etag: str) -> None: ...
    def delete(self, key: str) -> None: ...
    def check_target(self) -> None: ...
    def check_writable(self) -> None: ...


def list_folder(store: ReadableStorage, folder: str) -> Iterator[ObjectInfo]:
    """The objects that are directly in a folder, such as `models/m/approvals/v1.0.0/`.

    What is in folders inside of it, nobody puts there but somebody whose right is a pattern that goes past slashes,
    such as `models/*/operations/*`: it is no approval.
    """
    return (info for info in store.list(folder) if "/" not in info.key.removeprefix(folder))
