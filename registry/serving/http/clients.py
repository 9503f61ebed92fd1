"""The client of a request over HTTP: until when it wants an answer, and whether it is still there."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from registry.errors import BadInput, Expired
from registry.serving.loaders import Prediction
from registry.serving.scheduler import LATE_SECONDS

if TYPE_CHECKING:
    from starlette.requests import Request

DEADLINE_HEADER = "X-Request-Timeout-Ms"
MAX_DEADLINE = 600_000
"""Milliseconds that a client may ask for."""


def deadline_of(request: Request) -> float | None:
    """The deadline that a request asks for, in seconds; None if it does not.

    Raises:
        BadInput: it is not a whole number of milliseconds, or out of bounds.
    """
    asked = request.headers.get(DEADLINE_HEADER)
    if asked is None:
        return None
    text = asked.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= MAX_DEADLINE):
        raise BadInput(f"{DEADLINE_HEADER} is {asked[:20]!r}", hint=f"give whole milliseconds from 1 to {MAX_DEADLINE}")
    return int(text) / 1000


async def answer_for(request: Request, future: Future[Prediction], deadline: float) -> Prediction:
    """Wait for an answer, and drop the row if the client goes away or the deadline passes.

    Args:
        request: its body was read.
        deadline: seconds from now.

    Raises:
        BadInput: the client went away.
        Expired: the deadline passed in the queue, or while the image was being computed and `LATE_SECONDS` more.
        UloraError, TypeError, …: what the future raises.
    """
    answer: asyncio.Future[Prediction] = asyncio.wrap_future(future)
    gone: asyncio.Future[None] = asyncio.ensure_future(_disconnected(request))
    either: set[asyncio.Future[Any]] = {answer, gone}
    try:
        await asyncio.wait(either, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done() and not gone.done() and not future.cancel():  # it is being computed
            await asyncio.wait(either, timeout=LATE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if answer.done() and not answer.cancelled():
            return answer.result()
        if gone.done():
            raise BadInput("the client closed the connection before it was answered")
        raise Expired(
            f"the image was not answered within {deadline:g} s", hint=f"send it again later, or raise {DEADLINE_HEADER}"
        )
    finally:
        gone.cancel()
        answer.cancel()
        future.cancel()


async def _disconnected(request: Request) -> None:
    """Return when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
