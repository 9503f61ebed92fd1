"""What a replica says about itself over HTTP."""

from __future__ import annotations

from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse

from registry.serving.follow import Live
from registry.serving.http.responses import answer


async def health(request: Request) -> JSONResponse:
    """The health of this replica."""
    state = request.app.state.live.health()
    return answer(200 if state.ready else 503, {**asdict(state), "ready": state.ready}, state.version)


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
    return answer(200, document, serving.stable.version)


async def refresh(request: Request) -> JSONResponse:
    """Read the log now; many requests in a row are one read."""
    live: Live = request.app.state.live
    live.refresh()
    return answer(202, {"generation": live.record.generation}, live.version)
