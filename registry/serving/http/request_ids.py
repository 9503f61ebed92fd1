"""What a request is called: its `X-Request-Id`, and the trace that it belongs to by `traceparent`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

REQUEST_ID_HEADER = b"x-request-id"
MAX_REQUEST_ID = 128
"""Characters."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~+/=:@-]{1,%d}" % MAX_REQUEST_ID)
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MAX_TRACEPARENT = 256
"""Bytes; those of version 00 are 55."""


@dataclass(frozen=True)
class RequestNames:
    """What a request is called.

    Attributes:
        request_id: that of the client, or a new one.
        trace_id: of `traceparent`; empty without a valid one.
    """

    request_id: str
    trace_id: str = ""


def new_request_id() -> str:
    """An id that no other request has."""
    return os.urandom(16).hex()


def names_of(headers: Iterable[tuple[bytes, bytes]]) -> RequestNames:
    """What a request is called, by its headers. An id that is invalid or given twice is replaced."""
    ids, traces = [], []
    for name, value in headers:
        if name == REQUEST_ID_HEADER:
            ids.append(value)
        elif name == b"traceparent":
            traces.append(value)
    valid = len(ids) == 1 and _REQUEST_ID.fullmatch(ids[0])
    return RequestNames(ids[0].decode("ascii") if valid else new_request_id(), _trace_id(traces))


def _trace_id(values: list[bytes]) -> str:
    """The trace of a `traceparent` (W3C Trace Context, level 1), empty if it is invalid."""
    if len(values) != 1 or len(values[0]) > _MAX_TRACEPARENT:
        return ""
    match = _TRACEPARENT.fullmatch(values[0].strip())
    if match is None:
        return ""
    version, trace, parent, _, rest = match.groups()
    zeros = not trace.strip(b"0") or not parent.strip(b"0")
    if version == b"ff" or zeros or (version == b"00" and rest is not None):
        return ""
    return trace.decode("ascii")
