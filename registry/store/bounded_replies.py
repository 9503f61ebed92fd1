"""A bound on what a server may send around the documents: listings and error replies, which botocore reads as a whole.

botocore has no setting for this. So requests are sent here, from its event `before-send`: what such a handler returns
is taken as the reply.
"""

from __future__ import annotations

import io
from typing import Any

from botocore.awsrequest import AWSResponse
from urllib3 import HTTPResponse
from urllib3.exceptions import HTTPError

MAX_REPLY = 16 * 1024 * 1024
"""Bytes. A page of a listing has at most 1,000 keys of 1,024 bytes, in an encoding that may triple them."""
_PIECE = 64 * 1024


def bound_replies(client: Any) -> None:
    """Refuse replies of more than MAX_REPLY bytes to a client. Bodies of objects are left to their reader."""
    send = client._endpoint.http_session.send

    def send_bounded(request: Any, **_: object) -> Any:
        is_streamed, request.stream_output = request.stream_output, True
        reply = send(request)
        if is_streamed and reply.status_code < 300:
            return reply
        whole = HTTPResponse(io.BytesIO(_read(reply.raw)), preload_content=False)
        return AWSResponse(reply.url, reply.status_code, reply.headers, whole)

    client.meta.events.register_last("before-send.s3", send_bounded)


def _read(raw: Any) -> bytes:
    """All bytes of a body.

    Raises:
        HTTPError: there are more than MAX_REPLY.
    """
    pieces: list[bytes] = []
    size = 0
    for piece in raw.stream(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_REPLY:
            raw.close()
            raise HTTPError(f"a reply is longer than {MAX_REPLY} bytes")
    return b"".join(pieces)
