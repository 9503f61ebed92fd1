"""Let the answers of a replica behind Ray's proxy have the headers that those of `ulora serve` have."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from registry.serving.http.request_ids import REQUEST_ID_HEADER

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BehindRay:
    """ASGI middleware, the outermost: what the server of `ulora serve` adds, and nothing that Ray's proxy adds too.

    The proxy gives each request without an `X-Request-Id` one, which the application takes, and sends it back itself.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        instance = os.environ.get("ULORA_INSTANCE")
        self._added = [(b"x-ulora-instance", instance.encode("latin-1"))] if instance else []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by the application."""

        async def send_once(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name, value) for name, value in message.get("headers", ()) if name != REQUEST_ID_HEADER]
                message = {**message, "headers": [*headers, *self._added]}
            await send(message)

        await self._app(scope, receive, send_once)
