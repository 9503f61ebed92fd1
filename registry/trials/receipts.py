"""Receipts: the request id of an answer, by which a true label finds its way back days later, at any replica.

A receipt says what was answered, so no replica has to remember it. It is signed under a key that all replicas share,
and not encrypted. The text is base64url of:

    format 1; arm and flags; generation, 5 bytes; issued at, 5 bytes of seconds since 1970; nonce, 8; unit, 2;
    target, label, and in a shadow trial the canary's label, each a length byte and UTF-8, 0 for none;
    HMAC-SHA256 of all before, its first 16 bytes
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from registry.errors import BadReceipt, BadSetting
from registry.formats.bounded import read_regular

FLEET_KEY = "ULORA_FLEET_KEY"
"""The environment variable of the fleet's key."""
OOD_LABEL = "_ood"
"""The label that says: none of the classes."""
_FORMAT = 1
_NONCE, _MAC = 8, 16
_HEAD = 1 + 1 + 5 + 5 + _NONCE + 2
_MAX_TEXT = 120
"""Bytes of a target or label; of a longer one a digest is kept."""
_MAX_RECEIPT = 800
"""Characters of the longest receipt that is read."""
_ARMS = ("stable", "canary", "named")
_FLAGGED, _SHADOW, _SHADOW_FLAGGED = 4, 8, 16
_MIN_KEY, _MAX_KEY, _MAX_KEYS = 16, 1024, 4

ReceiptArm = Literal["stable", "canary", "named"]


@dataclass(frozen=True)
class FleetKeys:
    """The keys that sign receipts: the first one signs, all of them verify, so that keys can be rotated."""

    keys: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def from_setting(cls, text: str | None = None, file: Path | None = None) -> FleetKeys | None:
        """The keys in a file, else in `text`, else in the variable `ULORA_FLEET_KEY`; None if there are none.

        Keys stand apart by spaces, commas or new lines; `openssl rand -hex 32` makes one.

        Raises:
            BadSetting: the file can't be read, a key has fewer than 16 or more than 1,024 characters, or there are more
                than 4.
        """
        found = _in_file(file) if file else text if text is not None else os.environ.get(FLEET_KEY, "")
        keys = tuple(key.encode("utf-8", "surrogateescape") for key in re.split(r"[\s,]+", found) if key)
        if file and not keys:
            raise BadSetting(f"{file} has no fleet key")
        if len(keys) > _MAX_KEYS or any(not _MIN_KEY <= len(key) <= _MAX_KEY for key in keys):
            raise BadSetting(
                f"a fleet key has {_MIN_KEY} to {_MAX_KEY:,} characters, and there are at most {_MAX_KEYS}",
                hint="`openssl rand -hex 32` makes one",
            )
        return cls(keys) if keys else None

    def for_channel(self, model: str, channel: str) -> FleetKeys:
        """Keys that only this channel's receipts are signed with: generations of another channel are others."""
        return FleetKeys(tuple(_hmac(key, f"{model}\0{channel}".encode()) for key in self.keys))


@dataclass(frozen=True)
class ArmAnswer:
    """What a version answered: its label, None for none, and whether it was flagged as OOD."""

    label: str | None
    flagged: bool = False

    def says(self, label: str) -> bool:
        """Whether it answered this label."""
        return self.label is not None and _short(self.label) == _short(label)


@dataclass(frozen=True)
class Receipt:
    """What a receipt says.

    Attributes:
        arm: which arm answered.
        shadow: what the canary answered to the same image, in a shadow trial.
        issued_at: seconds since 1970 by the replica's clock.
        nonce: 8 random bytes: two requests have two receipts.
    """

    generation: int
    arm: ReceiptArm
    unit: int
    answer: ArmAnswer
    issued_at: int
    target: str | None = None
    shadow: ArmAnswer | None = None
    nonce: bytes = field(default_factory=lambda: secrets.token_bytes(_NONCE))


def issue(keys: FleetKeys, receipt: Receipt) -> str:
    """The text of a receipt: letters, digits, `-` and `_`, typically about 100."""
    body = _packed(receipt)
    return base64.urlsafe_b64encode(body + _hmac(keys.keys[0], body)[:_MAC]).decode("ascii").rstrip("=")


def read(keys: FleetKeys, text: str) -> Receipt:
    """What a receipt says.

    Raises:
        BadReceipt: it is not one, or none that these keys have signed.
    """
    if len(text) > _MAX_RECEIPT:
        raise _bad("it is too long")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad("it is not base64url") from error
    if len(data) < _HEAD + _MAC:
        raise _bad("it is too short")
    if data[0] != _FORMAT:
        raise _bad(f"it has format {data[0]}; this release reads format {_FORMAT}")
    body, mac = data[:-_MAC], data[-_MAC:]
    # Every key is tried, so that the time it takes does not tell which one fits.
    if not any([hmac.compare_digest(_hmac(key, body)[:_MAC], mac) for key in keys.keys]):
        raise _bad("no key of this fleet has signed it for this channel")
    return _unpacked(body)


def _packed(receipt: Receipt) -> bytes:
    flags = _ARMS.index(receipt.arm) | _FLAGGED * receipt.answer.flagged
    if receipt.shadow:
        flags |= _SHADOW | _SHADOW_FLAGGED * receipt.shadow.flagged
    numbers = (receipt.generation.to_bytes(5, "big"), receipt.issued_at.to_bytes(5, "big"))
    texts = (receipt.target, receipt.answer.label, receipt.shadow.label if receipt.shadow else None)
    shorts = [_short(text) if text else b"" for text in texts]
    return b"".join(
        (
            bytes((_FORMAT, flags)),
            *numbers,
            receipt.nonce,
            receipt.unit.to_bytes(2, "big"),
            *(bytes((len(one),)) + one for one in shorts),
        )
    )


def _unpacked(body: bytes) -> Receipt:
    flags = body[1]
    try:
        target, label, shadow = (text.decode("utf-8", "surrogatepass") or None for text in _texts(body[_HEAD:]))
        arm = _ARMS[flags & 3]
    except (ValueError, IndexError) as error:  # a later release's, signed with the same key
        raise _bad("this release does not know what it says") from error
    return Receipt(
        generation=int.from_bytes(body[2:7], "big"),
        arm=arm,  # type: ignore[arg-type]
        unit=int.from_bytes(body[_HEAD - 2 : _HEAD], "big"),
        answer=ArmAnswer(label, bool(flags & _FLAGGED)),
        issued_at=int.from_bytes(body[7:12], "big"),
        target=target,
        shadow=ArmAnswer(shadow, bool(flags & _SHADOW_FLAGGED)) if flags & _SHADOW else None,
        nonce=body[12 : 12 + _NONCE],
    )


def _texts(data: bytes) -> Iterator[bytes]:
    while data:
        end = 1 + data[0]
        if len(data) < end:
            raise ValueError("a text is cut off")
        yield data[1:end]
        data = data[end:]


def _short(text: str) -> bytes:
    """A text as it stands in a receipt."""
    data = text.encode("utf-8", "surrogatepass")
    return data if len(data) <= _MAX_TEXT else b"sha256:" + hashlib.sha256(data).hexdigest().encode("ascii")


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, b"ulora receipt\0" + data, "sha256")


def _bad(why: str) -> BadReceipt:
    return BadReceipt(
        f"this is no receipt that can be used: {why}",
        hint="send the `request_id` in the body of an answer: its header X-Request-Id is none",
    )


def _in_file(file: Path) -> str:
    try:
        return read_regular(file, _MAX_KEYS * (_MAX_KEY + 2)).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting(f"the fleet keys in {file} can't be read: {error}") from error
