"""What every request passes before the application: it gets a name; who asks, and how often.

A refusal costs a small part of what an answer of the application costs, and reads no body: clients that come again at
once must not take the time of those that are answered. Middleware that is added to the application later lies outside
of this one, and sees its refusals too.

The busiest endpoint is called from here. FastAPI's way to it, through a router, dependencies and four handlers of
errors, takes a third of what the event loop does for an image.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import Request

from registry.errors import ReplicaClosed
from registry.serving.http.rate_limit import RateLimit, caller_of_address
from registry.serving.http.request_ids import REQUEST_ID_HEADER, names_of
from registry.serving.http.responses import Refused, Routes, answer_error
from registry.serving.http.rights import path_of, right_of
from registry.serving.http.tokens import BearerTokens
from registry.serving.http.tracing import note_request

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Front:
    """ASGI middleware in front of the application of a replica."""

    def __init__(self, app: ASGIApp, tokens: BearerTokens | None, rate: RateLimit | None, busiest: Routes) -> None:
        """`busiest`: endpoints that are called without the router; the application has them too, for its page."""
        self._app = app
        self._tokens = tokens
        self._rate = rate
        self._busiest = busiest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        names = names_of(scope["headers"])
        scope.setdefault("state", {})["names"] = names
        note_request(names)
        named = (REQUEST_ID_HEADER, names.request_id.encode("ascii"))
        started = False

        async def send_named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), named]
            await send(message)

        try:
            self._check_caller(scope, right_of(scope))
            _check_path(scope)
            endpoint = self._busiest.get((scope["method"], path_of(scope)))
            if endpoint and scope.get("fastapi.telemetry") is None:  # the router names the spans of OpenTelemetry
                response = await endpoint(Request(scope, receive))
                await response(scope, receive, send_named)
            else:
                await self._app(scope, receive, send_named)
        except asyncio.CancelledError:  # the replica ends, and waits no longer
            error: Exception = ReplicaClosed("the replica ends", hint="send it again, to another one")
        except Exception as raised:  # a refusal of these checks, or a failure: the application answers what it refuses
            error = raised
        else:
            return
        response = await answer_error(Request(scope), error)
        if not started:
            await response(scope, receive, send_named)

    def _check_caller(self, scope: Scope, right: str) -> None:
        """Check who asks, and how often.

        Raises:
            Refused: the request has no valid token, or one without the right.
            Overloaded: the caller asks too often.
        """
        if not right:
            return
        caller = self._tokens.caller(scope["headers"]) if self._tokens else None
        if self._tokens:
            scope["state"]["scopes"] = caller.scopes if caller else frozenset()
        if self._rate:  # before a wrong token is refused: nobody can try many
            host = scope["client"][0] if scope.get("client") else ""
            self._rate.check(f"token {caller.name}" if caller else f"address {caller_of_address(host)}")
        if self._tokens and caller is None:
            raise Refused(
                401, "Unauthorized", "the request has no valid token", "send `Authorization: Bearer TOKEN`",
                {"WWW-Authenticate": 'Bearer realm="ulora"'},
            )  # fmt: skip
        if caller and right not in ("any", *caller.scopes):
            raise Refused(
                403, "Forbidden", f"the token of {caller.name} is not good for this", f"it needs the scope {right}",
                {"WWW-Authenticate": f'Bearer realm="ulora", error="insufficient_scope", scope="{right}"'},
            )  # fmt: skip


def _check_path(scope: Scope) -> None:
    """Check that a path means one thing: the router's patterns do not see a line break at its end, and rights do.

    Raises:
        HTTPException: it has one.
    """
    if scope["path"].endswith("\n"):
        raise HTTPException(404)
