"""The base class of stored documents: immutable, parsed strictly, limited in size, written only if it can be read.

Unknown fields are kept, and fields that were not given are not written: reading and writing a document gives the same
bytes, in a later release with more fields too. So its digest never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from registry.errors import BadInput, BadManifest, first_line
from registry.formats import canonical
from registry.formats.html import HtmlTable

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A sha256 in hex."""


class DocumentPart(HtmlTable, BaseModel):
    """A part of a stored document."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)


class Document(DocumentPart):
    """A whole stored document. Subclasses have a field `format`."""

    FORMAT: ClassVar[int] = 1
    LIMIT: ClassVar[int] = canonical.MAX_DOCUMENT
    """Bytes of the largest document of this class that is read."""

    _stored: bytes | None = PrivateAttr(default=None)

    @classmethod
    def parse(cls, data: bytes, what: str) -> Self:
        """Read a document's bytes; `what` names it in errors.

        Raises:
            BadManifest: it is too large, not JSON, of another format, or does not follow the format.
        """
        found = canonical.decode(data, what, cls.LIMIT).get("format")
        if type(found) is not int or found != cls.FORMAT:
            raise BadManifest(
                f"{what} has format {str(found)[:40]}; this release reads format {cls.FORMAT}",
                hint="upgrade ulora-registry",
            )
        try:
            document = cls.model_validate_json(data)
        except ValidationError as error:
            raise BadManifest(f"{what} does not follow the format: {first_problem(error)}") from error
        except BadInput as error:  # an invalid name is damage in a stored document
            raise BadManifest(f"{what} does not follow the format: {error}") from error
        document._stored = data
        return document

    def to_bytes(self) -> bytes:
        """The bytes that were read, or the canonical bytes of a new document, which were read once for a trial.

        Raises:
            BadInput: no reader would take them, because they are too large, for example. So they are never written.
        """
        if self._stored is not None:
            return self._stored
        kind = type(self)
        try:
            data = canonical.encode(self.model_dump(mode="json", exclude_unset=True))
            kind.parse(data, f"the new {kind.__name__.lower()}")
        except (BadManifest, ValueError) as error:
            raise BadInput(f"{first_line(error)}: it could not be read again, so it is not written") from error
        return data

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A changed copy; its bytes are computed anew."""
        copied = super().model_copy(update=update, deep=deep)
        copied._stored = None
        return copied

    @property
    def sha256(self) -> str:
        """The digest of `to_bytes()`."""
        return canonical.sha256(self.to_bytes())


def first_problem(error: ValidationError) -> str:
    """One line about the first thing that pydantic found wrong."""
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else str(problem["msg"])
