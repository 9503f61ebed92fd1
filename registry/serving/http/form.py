"""Read a multipart form that has arrived, with bounds on its parts and their headers, and without temporary files."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from registry.errors import BadInput

MAX_TEXT = 4096
"""Bytes of a text field."""
_HINT = "send multipart/form-data as `curl -F image=@leaf.jpg` does"
# It warns of each bad form. The client is told, and clients must not fill the log.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


@dataclass(frozen=True)
class FormPart:
    """One part of a form; a file if it has a file's name, or the content type of an image or of any bytes."""

    name: str
    is_file: bool
    data: bytes

    @property
    def text(self) -> str:
        """Its text.

        Raises:
            BadInput: it is not UTF-8.
        """
        try:
            return self.data.decode()
        except UnicodeDecodeError as error:
            raise BadInput(f"the field `{self.name}` is not text in UTF-8", hint=_HINT) from error


def read_form(body: bytes, content_type: str, max_parts: int) -> list[FormPart]:
    """The parts of a form, in order.

    A part may have 8 headers of 4 KiB, as python-multipart bounds them. What comes after too many of anything is not
    looked at.

    Raises:
        BadInput: it is not a complete form, or has more parts than `max_parts`, or a field is longer than `MAX_TEXT`.
    """
    _, options = parse_options_header(content_type)
    try:
        reader = _FormReader(options.get(b"boundary", b""), max_parts)
        return reader.read(body)
    except FormParserError as error:
        raise BadInput(f"the form can't be parsed: {str(error)[:200]}", hint=_HINT) from error


@dataclass
class _FormReader:
    """Takes what the parser finds."""

    boundary: bytes
    max_parts: int
    parts: list[FormPart] = field(default_factory=list)
    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)
    pieces: list[bytes] = field(default_factory=list)
    is_whole: bool = False

    def read(self, body: bytes) -> list[FormPart]:
        """Parse the whole body."""
        if not self.boundary:
            raise BadInput("the form has no boundary in its Content-Type", hint=_HINT)
        self._check_boundaries(body)
        parser = MultipartParser(self.boundary, {
            "on_part_begin": self._begin, "on_header_field": self._header_name, "on_header_value": self._header_value,
            "on_header_end": self._header_end, "on_part_data": self._data, "on_part_end": self._end,
            "on_end": self._whole,
        })  # fmt: skip
        parser.write(body)
        parser.finalize()
        if not self.is_whole:
            raise BadInput("the form is not complete", hint=_HINT)
        return self.parts

    def _check_boundaries(self, body: bytes) -> None:
        """Check what the parser would go through step by step: a large body of it would stop all requests for long.

        Raises:
            BadInput: the boundary stands there more often than parts need it, or has spaces behind it.
        """
        line = b"\r\n--" + self.boundary
        place, found = body.find(line), 0
        while place >= 0:
            found += 1
            if found > self.max_parts + 1:
                raise self._too_many()
            place += len(line)
            if body[place : place + 1] in (b" ", b"\t"):
                raise BadInput("a boundary of the form has spaces behind it", hint=_HINT)
            place = body.find(line, place)

    def _too_many(self) -> BadInput:
        return BadInput(f"the form has more than {self.max_parts} parts", hint="send fewer images in one request")

    def _begin(self) -> None:
        if len(self.parts) >= self.max_parts:
            raise self._too_many()
        self.headers, self.pieces = {}, []

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self.name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def _header_end(self) -> None:
        self.headers[bytes(self.name).lower()] = bytes(self.value)
        self.name, self.value = bytearray(), bytearray()

    def _data(self, data: bytes, start: int, end: int) -> None:
        self.pieces.append(data[start:end])

    def _end(self) -> None:
        _, options = parse_options_header(self.headers.get(b"content-disposition", b""))
        if b"name" not in options:
            raise BadInput("a part of the form has no name", hint=_HINT)
        name = options[b"name"].decode("utf-8", "replace")[:100]
        kind = self.headers.get(b"content-type", b"").strip().lower()
        is_file = b"filename" in options or kind.startswith((b"image/", b"application/octet-stream"))
        data = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        if not is_file and len(data) > MAX_TEXT:
            raise BadInput(f"the field `{name}` has more than {MAX_TEXT} bytes", hint="send files with a file's name")
        self.parts.append(FormPart(name, is_file, data))

    def _whole(self) -> None:
        self.is_whole = True
