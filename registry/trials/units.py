"""Sets of units, as bitmaps: a unit counts once, whoever saw it and how often. Their union is idempotent."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Self

from pydantic import PlainSerializer, PlainValidator

from registry.trials.split import UNITS

_BYTES = UNITS // 8
_MAX_TEXT = 12_000
"""Characters of the longest text: units in any number and order take fewer than 11,000."""


class Units:
    """A set of units. Immutable. One that was read stays packed, as a guard holds those of all replicas."""

    __slots__ = ("_bits", "_packed")

    def __init__(self, bits: int = 0) -> None:
        """Bit n is set if unit n is in the set."""
        self._bits: int | None = bits
        self._packed = ""

    @property
    def bits(self) -> int:
        """Bit n is set if unit n is in the set."""
        return _unpacked(self._packed) if self._bits is None else self._bits

    @classmethod
    def of(cls, units: Iterable[int]) -> Self:
        """A set of these units, each 0 to 65,535."""
        growing = GrowingUnits()
        for unit in units:
            growing.add(unit)
        return cls(growing.frozen().bits)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """What `to_text` wrote.

        Raises:
            ValueError: it is not such a text, or too long.
        """
        _unpacked(text)
        found = cls()
        found._bits, found._packed = None, text
        return found

    def to_text(self) -> str:
        """The bitmap, unit 0 in the lowest bit of the first byte, compressed by zlib, in base64."""
        if self._packed:
            return self._packed
        return base64.b64encode(zlib.compress(self.bits.to_bytes(_BYTES, "little"))).decode("ascii")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Units) and self.bits == other.bits

    def __hash__(self) -> int:
        return hash(self.bits)

    def __repr__(self) -> str:
        return f"Units({self.bits})"

    def __or__(self, other: Units) -> Units:
        return Units(self.bits | other.bits)

    def __and__(self, other: Units) -> Units:
        return Units(self.bits & other.bits)

    def __xor__(self, other: Units) -> Units:
        return Units(self.bits ^ other.bits)

    def __sub__(self, other: Units) -> Units:
        return Units(self.bits & ~other.bits)

    def __len__(self) -> int:
        return self.bits.bit_count()

    def __contains__(self, unit: int) -> bool:
        return bool(self.bits >> unit & 1)

    def __iter__(self) -> Iterator[int]:
        bits = f"{self.bits:b}"[::-1]
        unit = bits.find("1")
        while unit >= 0:
            yield unit
            unit = bits.find("1", unit + 1)


class GrowingUnits:
    """A set that grows: to add a unit changes one byte in place."""

    def __init__(self) -> None:
        self._bitmap = bytearray(_BYTES)

    def add(self, unit: int) -> bool:
        """Add a unit, 0 to 65,535; returns whether it is new."""
        place, bit = unit >> 3, 1 << (unit & 7)
        is_new = not self._bitmap[place] & bit
        self._bitmap[place] |= bit
        return is_new

    def frozen(self) -> Units:
        """The set as it is now."""
        return Units(int.from_bytes(self._bitmap, "little"))


def _unpacked(text: str) -> int:
    """The bits of a text.

    Raises:
        ValueError: it is not such a text, or too long.
    """
    if len(text) > _MAX_TEXT:
        raise ValueError("a text of units is too long")
    try:
        packed = base64.b64decode(text.encode("ascii"), validate=True)
        reader = zlib.decompressobj()
        bitmap = reader.decompress(packed, _BYTES + 1)  # never more of it, however much there is
    except (binascii.Error, UnicodeEncodeError, zlib.error) as error:
        raise ValueError(f"not a text of units: {error}") from error
    if len(bitmap) != _BYTES or not reader.eof or reader.unused_data:
        raise ValueError(f"a text of units does not hold exactly {_BYTES} bytes")
    return int.from_bytes(bitmap, "little")


def _read(value: Any) -> Units:
    if isinstance(value, Units):
        return value
    if not isinstance(value, str):
        raise ValueError("units are a text")
    return Units.from_text(value)


StoredUnits = Annotated[Units, PlainValidator(_read), PlainSerializer(Units.to_text, return_type=str)]
"""Units as a field of a document."""
