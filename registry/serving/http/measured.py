"""Counts the answers to requests for predictions, and shows a replica's metrics."""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.serving.follow import Live
from registry.serving.http.responses import ARM_HEADER, VERSION_HEADER
from registry.serving.http.rights import asks_for_predictions, path_of
from registry.serving.metrics import replica_metrics
from registry.serving.tally import STABLE, Tally

_VERSION, _ARM = VERSION_HEADER.lower().encode(), ARM_HEADER.lower().encode()


def add_metrics(app: FastAPI, live: Live) -> None:
    """Count the requests of an application, and let it answer `GET /metrics`."""
    app.add_middleware(CountRequests, tally=live.tally)
    app.add_route("/metrics", metrics, include_in_schema=False)


class CountRequests:
    """ASGI middleware: counts requests for predictions with version, status code and duration.

    Others, such as those of `/health`, would hide how long these take.
    """

    def __init__(self, app: ASGIApp, tally: Tally) -> None:
        self._app = app
        self._tally = tally

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by the application, and count that."""
        if scope["type"] != "http" or scope["method"] != "POST" or not asks_for_predictions(path_of(scope)):
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        started: dict[str, Any] = {"status": 500, "headers": ()}  # what the server sends if the application raises

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                started.update(message)
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            headers = {name.lower(): value.decode("latin-1") for name, value in started["headers"]}
            arm, seconds = headers.get(_ARM, STABLE), time.perf_counter() - began
            self._tally.request_answered(headers.get(_VERSION, ""), started["status"], seconds, arm)


async def metrics(request: Request) -> Response:
    """What this replica counts, for Prometheus."""
    state = request.app.state
    if not hasattr(state, "metrics"):
        state.metrics = replica_metrics(state.live)
    try:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
    except TypeError:  # it asks for a version of the format that is not a number
        encode, content_type = choose_encoder("")
    return Response(encode(state.metrics), media_type=None, headers={"Content-Type": content_type})
