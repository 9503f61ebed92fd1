"""What a replica says about itself over HTTP.

Three probes, for three questions. `/health/live`: does a restart help? It looks at the process and the thread that
computes, never at the store or a version: an outage of the store would restart all replicas. `/health/ready`: should
requests be sent here? `/health`: the whole story.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse

from registry.errors import ReplicaClosed
from registry.serving.follow import Live
from registry.serving.http.older_endpoints import health_fields
from registry.serving.http.responses import Routes, answer
from registry.serving.liveness import problem_of_process
from registry.serving.pinned import is_pinned


async def health(request: Request) -> JSONResponse:
    """The health of this replica."""
    live: Live = request.app.state.live
    state = live.health()
    problem = _problem_of_process(request)
    ready = state.ready and not problem
    error = "; ".join(each for each in (problem, state.error) if each)
    serving = None
    with suppress(ReplicaClosed):
        serving = live.serving
    document = {**asdict(state), "error": error, "ready": ready, **health_fields(ready, serving)}
    document["pinned"] = serving is not None and is_pinned(serving.record)
    return answer(200 if ready else 503, document, state.version)


async def alive(request: Request) -> JSONResponse:
    """Whether the process and the thread that computes work."""
    problem = _problem_of_process(request)
    document = {"live": not problem, "error": problem}
    return answer(503 if problem else 200, document, request.app.state.live.health().version)


async def ready(request: Request) -> JSONResponse:
    """Whether requests should be sent here."""
    state = request.app.state.live.health()
    is_ready = state.ready and not _problem_of_process(request)
    return answer(200 if is_ready else 503, {"ready": is_ready, "state": state.state}, state.version)


async def version(request: Request) -> JSONResponse:
    """The version that answers, and since when."""
    serving = request.app.state.live.serving
    route = serving.described
    document = {
        "model": serving.record.model,
        "channel": serving.record.channel,
        "generation": serving.record.generation,
        "content_sha256": serving.stable.content_sha256,
        "manifest_sha256": route.manifest_sha256,
        "since": serving.since,
        "canary": serving.canary.version if serving.canary else None,
        "pinned": is_pinned(serving.record),
    }
    return answer(200, document, route.version, route.arm)


async def refresh(request: Request) -> JSONResponse:
    """Read the log now; many requests in a row are one read."""
    live: Live = request.app.state.live
    live.refresh()
    serving = live.serving
    return answer(202, {"generation": serving.record.generation}, serving.stable.version)


def _problem_of_process(request: Request) -> str:
    """What only a restart helps against; empty if there is nothing."""
    return problem_of_process(request.app.state.live, request.app.state.options.compute_limit)


ROUTES: Routes = {
    ("GET", "/health"): health,
    ("GET", "/health/live"): alive,
    ("GET", "/health/ready"): ready,
    ("GET", "/version"): version,
    ("POST", "/-/refresh"): refresh,
}
HEADS = ("/health", "/health/live", "/health/ready", "/version")
"""The paths that answer HEAD too."""
