"""A store's documents, noted while they are read, so that the same code can read them again without the store."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import ClassVar, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from registry.errors import BadManifest, ObjectNotFound, StoreUnreachable
from registry.formats import canonical
from registry.formats.document import Document
from registry.store import layout
from registry.store.object_info import ObjectInfo, StoredObject
from registry.store.objects import ObjectStore

Documents: TypeAlias = Mapping[str, bytes | None]
"""Documents by key; None where no object had the key."""
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def packed(documents: Documents) -> dict[str, str | None]:
    """Documents as JSON has them: in base64."""
    return {key: None if body is None else base64.b64encode(body).decode() for key, body in documents.items()}


def unpacked(texts: Mapping[str, str | None]) -> Documents:
    """What was packed.

    Raises:
        ValueError: it is not base64.
    """
    return {key: None if text is None else base64.b64decode(text, validate=True) for key, text in texts.items()}


class KeptDocuments(Document):
    """Documents as they are kept in a file.

    Attributes:
        documents: their bytes in base64, by key of the store; null where no object had the key.
    """

    LIMIT: ClassVar[int] = 32 * 1024 * 1024

    format: Literal[1]
    documents: dict[str, str | None] = Field(max_length=10_000)

    @classmethod
    def of(cls, documents: Documents) -> Self:
        """Documents, to be kept."""
        return cls(format=1, documents=packed(documents))

    @model_validator(mode="after")
    def _check_documents(self) -> Self:
        self.contents()
        return self

    def contents(self) -> Documents:
        """The documents' bytes, by key."""
        return unpacked(self.documents)


class NotingStore(ObjectStore):
    """A store, which notes every document that is read through it, or was not there; not the streamed bytes of blobs.

    Attributes:
        documents: the noted documents.
    """

    def __init__(self, store: ObjectStore) -> None:
        vars(self).update(vars(store))  # the same parts: no second connection
        self.documents: dict[str, bytes | None] = {}

    def get(self, key: str, limit: int = canonical.MAX_DOCUMENT) -> StoredObject:
        try:
            found = super().get(key, limit)
        except ObjectNotFound:
            self.documents[key] = None
            raise
        self.documents[key] = found.body
        return found


class KeptStore(ObjectStore):
    """What was noted of a store, read as the store is. All that loads a version can be read; no server is asked."""

    def __init__(self, url: str, documents: Documents) -> None:
        super().__init__(url)
        self._documents = documents

    def get(self, key: str, limit: int = canonical.MAX_DOCUMENT) -> StoredObject:
        if key not in self._documents:
            raise StoreUnreachable(f"{key} is not kept on this machine, and the store does not answer")
        body = self._documents[key]
        if body is None:
            raise ObjectNotFound(key)
        if len(body) > limit:
            raise BadManifest(f"{key} is {len(body)} bytes, more than the {limit} bytes that are allowed")
        return StoredObject(body, _LONG_AGO, 0.0)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for key, body in sorted(self._documents.items()):
            if key.startswith(prefix) and body is not None:
                yield ObjectInfo(key, len(body), modified=_LONG_AGO)

    def stream(self, key: str, size: int) -> Iterator[bytes]:
        raise StoreUnreachable(
            f"this machine's cache has no whole copy of blob {layout.stem(key)}, and the store does not answer",
            hint="start it again when the store answers",
        )

    def check_holds(self, model: str) -> None:
        """Nothing can be said without the store."""
