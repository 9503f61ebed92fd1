"""The client of a request over HTTP: until when it wants an answer, and whether it is still there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from registry.errors import BadInput, Expired
from registry.serving.admitted_row import LATE_SECONDS
from registry.serving.http.handover import handover_to
from registry.serving.loaders import Prediction

if TYPE_CHECKING:
    from starlette.requests import Request

DEADLINE_HEADER = "X-Request-Timeout-Ms"
_DEADLINE = DEADLINE_HEADER.lower().encode()
MAX_DEADLINE = 600_000
"""Milliseconds that a client may ask for."""


def deadline_in(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """The deadline that the headers of a request ask for, in seconds; None if they do not.

    Args:
        headers: their names in lower case; of several of that name the first counts.

    Raises:
        BadInput: it is not a whole number of milliseconds, or out of bounds.
    """
    asked = next((value for name, value in headers if name == _DEADLINE), None)
    if asked is None:
        return None
    text = asked.decode("latin-1").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= MAX_DEADLINE):
        raise BadInput(f"{DEADLINE_HEADER} is {text[:20]!r}", hint=f"give whole milliseconds from 1 to {MAX_DEADLINE}")
    return int(text) / 1000


async def answers_for(
    request: Request, futures: Sequence[Future[Prediction]], deadline: float
) -> list[Prediction | BaseException]:
    """Wait for answers, and drop the rows that have none yet if the client goes away or the deadline passes.

    Args:
        request: its body was read.
        deadline: seconds from now.

    Returns:
        For each future its answer or its error; `Expired` if the deadline passed in the queue, or while the image was
        being computed and `LATE_SECONDS` more.

    Raises:
        BadInput: the client went away.
    """
    way = handover_to(asyncio.get_running_loop())
    answers = [way.wrap(future) for future in futures]
    whole = asyncio.gather(*answers, return_exceptions=True)
    gone: asyncio.Future[None] = asyncio.ensure_future(_disconnected(request))
    either: set[asyncio.Future[Any]] = {whole, gone}
    try:
        await asyncio.wait(either, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
        if not whole.done() and not gone.done():
            for future in futures:
                future.cancel()  # it stays if it is being computed
            await asyncio.wait(either, timeout=LATE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if gone.done() and not whole.done():
            raise BadInput("the client closed the connection before it was answered")
        return [_outcome(answer, deadline) for answer in answers]
    finally:
        waits: list[asyncio.Future[Any]] = [gone, whole, *answers]
        for waited in waits:
            if not waited.cancel() and not waited.cancelled():
                waited.exception()  # or asyncio logs that nobody looked at it
        for future in futures:
            future.cancel()


def _outcome(answer: asyncio.Future[Prediction], deadline: float) -> Prediction | BaseException:
    if answer.done() and not answer.cancelled():
        return answer.exception() or answer.result()
    return Expired(
        f"the image was not answered within {deadline:g} s", hint=f"send it again later, or raise {DEADLINE_HEADER}"
    )


async def _disconnected(request: Request) -> None:
    """Return when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
