"""The HTTP service of a replica. Every answer names its version, in JSON and as the header `X-Ulora-Version`.

| request | answer |
|---|---|
| `POST /predict` | the prediction; a multipart field `image`, or the image as the body; optional `target`, `key` |
| `GET`, `HEAD /health` | 200 if requests should be sent here, else 503 |
| `GET`, `HEAD /version` | the version that answers, and since when |
| `POST /-/refresh` | 202: the log is read now |

With `ULORA_INSTANCE` set, every answer repeats it as `X-Ulora-Instance`.
Errors are `{"error": …, "message": …, "hint": …, "version": …}`. This module needs the `serve` extra: without it the
import raises `MissingDependency`.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from registry.errors import (
    BadImage,
    BadInput,
    Expired,
    MissingDependency,
    Overloaded,
    ReplicaClosed,
    UloraError,
)
from registry.names import check_target
from registry.serving.byte_budget import HeldBytes
from registry.serving.clients import DEADLINE_HEADER, MAX_DEADLINE, answer_for, deadline_of
from registry.serving.follow import Live
from registry.serving.listening import listen

try:
    import python_multipart  # noqa: F401  Starlette looks for it only when the first form arrives
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
except ModuleNotFoundError as error:
    raise MissingDependency(
        f"serving over HTTP needs {error.name}, which is not installed", hint="pip install 'ulora-registry[serve]'"
    ) from error

MAX_IMAGE = 32 * 1024 * 1024
"""Bytes of the largest image."""
MAX_KEY = MAX_TARGET = 256
"""Characters."""
VERSION_HEADER = "X-Ulora-Version"
_MAX_FORM = 64 * 1024
DEFAULT_GRACE = 20.0
"""Seconds from SIGTERM to the end of the process. Kubernetes kills after 30 s by default."""
_HINT = "send the image as the multipart field `image`, or as the body with a Content-Type of image/…"
_STATUS: dict[type[UloraError], int] = {BadInput: 400, Overloaded: 429, ReplicaClosed: 503, Expired: 504}
_TEXT = {"type": "string", "maxLength": MAX_KEY}
_BODY = {
    "parameters": [
        *({"name": name, "in": "query", "schema": _TEXT} for name in ("target", "key")),
        {"name": DEADLINE_HEADER, "in": "header", "schema": {"type": "integer", "minimum": 1, "maximum": MAX_DEADLINE}},
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        "target": _TEXT,
                        "key": _TEXT,
                    },
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}


_Fields = list[tuple[str, Any]]
"""The fields of a query or form in order: texts, and in forms files."""


@dataclass(frozen=True)
class _Input:
    image: bytes
    target: str | None
    key: str | None


class _Refused(Exception):
    """A request that is answered with this HTTP status and error."""

    def __init__(self, status: int, error: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status, self.error, self.hint = status, error, hint


def create_app(live: Live) -> FastAPI:
    """The ASGI application of `live`, which the caller starts and closes."""
    app = FastAPI(title="ulora-registry", summary="Predictions by the version that a channel serves")
    app.state.live = live
    app.add_api_route("/predict", predict, methods=["POST"], openapi_extra=_BODY)
    for path, look in (("/health", health), ("/version", version)):
        app.add_api_route(path, look, methods=["GET"])
        app.add_api_route(path, look, methods=["HEAD"], include_in_schema=False)  # some load balancers send it
    app.add_api_route("/-/refresh", refresh, methods=["POST"], status_code=202)
    for kind in (UloraError, _Refused, HTTPException, Exception):
        app.add_exception_handler(kind, _answer_error)
    return app


def serve(
    live: Live,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    grace: float = DEFAULT_GRACE,
    started: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve on `host` and `port` until Ctrl-C or SIGTERM, then finish the running requests and return.

    Args:
        live: a started replica; the caller closes it.
        port: 0 for any free one.
        grace: seconds in which the process has to end. Half of them is for running requests, which are then cut off.
        started: called with the URL once requests are answered and signals are handled.

    Raises:
        BadSetting: the port is in use, or the host is not an address of this machine.
    """
    config = uvicorn.Config(
        create_app(live), log_config=None, timeout_graceful_shutdown=grace / 2, server_header=False,
        headers=_instance_header(), loop="asyncio",  # others take the wakeup file descriptor, on which a watchdog waits
    )  # fmt: skip
    with listen(host, port) as listener:
        server = _Server(config, lambda: started(f"http://{_in_url(host)}:{listener.getsockname()[1]}"))
        # uvicorn shuts down cleanly and then raises the signal again.
        with _sigterm_ends(server), suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


class _Server(uvicorn.Server):  # type: ignore[misc]
    """uvicorn's server, which calls `started` when it has started."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()


# --- routes ----------------------------------------------------------------------------------------------------------


async def predict(request: Request) -> JSONResponse:
    """Predict for one image."""
    live: Live = request.app.state.live
    deadline = deadline_of(request) or live.deadline
    live.scheduler.check_admission(deadline)  # before the body is read
    with HeldBytes(live.scheduler.budget) as held:
        given = await _read_input(request, held)
        future = live.submit(given.image, target=given.target, key=given.key, deadline=deadline)
    del given  # the body is not needed once the image was read
    prediction = await answer_for(request, future, deadline)
    if prediction.outcome == "corrupt_image":
        detail = str(prediction.to_dict().get("detail") or "these bytes are not an image")
        refused = {
            "error": BadImage.__name__,
            "message": detail,
            "hint": "send a complete image file, of a format that this version reads",
        }
        return _answer(400, refused, prediction.version)
    return _answer(200, prediction.to_dict(), prediction.version)


async def health(request: Request) -> JSONResponse:
    """The health of this replica."""
    state = request.app.state.live.health()
    return _answer(200 if state.ready else 503, {**asdict(state), "ready": state.ready}, state.version)


async def version(request: Request) -> JSONResponse:
    """The version that answers, and since when."""
    serving = request.app.state.live.serving
    document = {
        "model": serving.record.model,
        "channel": serving.record.channel,
        "generation": serving.record.generation,
        "content_sha256": serving.stable.content_sha256,
        "since": serving.since,
    }
    return _answer(200, document, serving.stable.version)


async def refresh(request: Request) -> JSONResponse:
    """Read the log now; many requests in a row are one read."""
    live: Live = request.app.state.live
    live.refresh()
    return _answer(202, {"generation": live.record.generation}, live.version)


def _answer(status: int, document: Mapping[str, Any], version: str | None) -> JSONResponse:
    headers = {VERSION_HEADER: version} if version else {}
    return JSONResponse({**document, "version": version}, status, headers)


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    refused = _as_refused(error)
    document = {"error": refused.error, "message": str(refused), "hint": refused.hint}
    answer = _answer(refused.status, document, request.app.state.live.health().version)
    if isinstance(error, Overloaded):
        answer.headers["Retry-After"] = str(error.retry_after)
    return answer


def _as_refused(error: Exception) -> _Refused:
    if isinstance(error, _Refused):
        return error
    if isinstance(error, HTTPException):
        return _Refused(error.status_code, "HTTPError", str(error.detail), "see /docs")
    if isinstance(error, UloraError):
        status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
        return _Refused(status, type(error).__name__, str(error), error.hint)
    return _Refused(500, "InternalError", f"{type(error).__name__} while answering", "see the server's log")


# --- requests --------------------------------------------------------------------------------------------------------


async def _read_input(request: Request, held: HeldBytes) -> _Input:
    """Read the image and its fields, from either kind of body, of which `held` counts the bytes.

    Raises:
        _Refused: the body is too large, or of an unknown content type.
        Overloaded: there is no memory for it.
        BadInput: the body has no image, or a field is invalid.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    query = request.query_params.multi_items()
    if kind.startswith("image/"):
        return _checked_input(await _read_body(request, MAX_IMAGE, held), query, [])
    if kind == "multipart/form-data":
        body = await _read_body(request, MAX_IMAGE + _MAX_FORM, held)
        held.add(len(body))  # of the copy that a form's fields are
        form = await _read_form(request, body)
        image = _only("image", form.multi_items())
        if not hasattr(image, "read"):
            raise BadInput("the form has no file field `image`", hint=_HINT)
        return _checked_input(await image.read(), query, form.multi_items())
    raise _Refused(415, "BadInput", f"the content type {kind[:80] or '(none)'} is not supported", _HINT)


def _checked_input(image: bytes, query: _Fields, form: _Fields) -> _Input:
    if len(image) > MAX_IMAGE:
        raise _too_large()
    if not image:
        raise BadImage("the image is empty", hint=_HINT)
    target, key = (_text(name, limit, query, form) for name, limit in (("target", MAX_TARGET), ("key", MAX_KEY)))
    return _Input(image, check_target(target) if target else None, key)


def _text(name: str, limit: int, query: _Fields, form: _Fields) -> str | None:
    """A field of a request as text, None if it is not given or empty. That of the form counts before the query's."""
    in_query, in_form = _only(name, query), _only(name, form)
    value = in_query if in_form is None else in_form
    if value is not None and not isinstance(value, str):
        raise _Refused(422, BadInput.__name__, f"the field `{name}` is a file", "send it as text")
    if value is not None and len(value) > limit:
        raise BadInput(f"the {name} has {len(value)} characters, more than {limit}", hint=f"send a shorter {name}")
    return value or None


def _only(name: str, fields: _Fields) -> Any:
    """The one value of a field, None if it is not given."""
    values = [value for each, value in fields if each == name]
    if len(values) > 1:
        raise _Refused(422, BadInput.__name__, f"the field `{name}` is given {len(values)} times", "send it once")
    return values[0] if values else None


async def _read_body(request: Request, limit: int, held: HeldBytes) -> bytes:
    """Read the whole body; refuse it as soon as it is known to be larger than `limit` bytes, or than the memory."""
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and (len(announced) > 18 or int(announced) > limit):
        raise _too_large()
    body = bytearray()
    try:
        async for chunk in request.stream():
            held.add(len(chunk))
            body += chunk
            if len(body) > limit:
                raise _too_large()
    except ClientDisconnect as error:
        raise BadInput("the client closed the connection before the whole image was received") from error
    return bytes(body)


async def _read_form(request: Request, body: bytes) -> Any:
    """Parse a multipart body that was read completely, up to the limit."""

    async def replay() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        return await Request(request.scope, replay).form(max_files=1, max_fields=8, max_part_size=_MAX_FORM)
    except HTTPException as error:
        raise BadInput(f"the form can't be parsed: {error.detail}", hint=_HINT) from error


def _too_large() -> _Refused:
    return _Refused(413, BadImage.__name__, f"the image has more than {MAX_IMAGE >> 20} MiB", "send a smaller image")


def _instance_header() -> list[tuple[str, str]]:
    """Lets whoever started this process know its answers from those of another process on the same port."""
    instance = os.environ.get("ULORA_INSTANCE")
    return [("X-Ulora-Instance", instance)] if instance else []


# --- signals -------------------------------------------------------------------------------------------------------


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextmanager
def _sigterm_ends(server: uvicorn.Server) -> Iterator[None]:
    """Let SIGTERM, which orchestrators send, end the server as Ctrl-C does, so that the caller can clean up.

    This also covers the time before uvicorn handles signals, and the signal that it raises again at its end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        server.should_exit = True

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
