"""The HTTP service of a replica. Every answer names its version, in JSON and as the header `X-Ulora-Version`.

| request | answer |
|---|---|
| `POST /predict` | the prediction; a multipart field `image`, or the image as the body; optional `target`, `key` |
| `POST /predict/batch` | several: multipart fields `image`, or JSON with base64; each has its own outcome or error |
| `GET`, `HEAD /health/live`, `/health/ready`, `/health` | restart it? send requests here? the whole story |
| `GET`, `HEAD /version` | the version that answers, and since when |
| `GET /metrics` | what the replica counts, for Prometheus |
| `POST /feedback` | a true label, by the receipt of an answer |
| `POST /-/refresh` | 202: the log is read now |
| `/v2/…` | the Open Inference Protocol, see `open_inference` |
| `/v1/crops`, `/v1/adapters/{crop}/status`, `/v1/diagnose` | as the older system has them, see `older_endpoints` |

With `ULORA_INSTANCE` set, every answer repeats it as `X-Ulora-Instance`.
Errors are `{"error": …, "message": …, "hint": …, "version": …}`.
"""

from __future__ import annotations

from functools import partial

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from registry.errors import UloraError
from registry.serving.follow import Live
from registry.serving.http import (
    batch,
    encoding,
    feedback,
    measured,
    older_endpoints,
    open_inference,
    openapi,
    predict,
    status,
)
from registry.serving.http.front import Front
from registry.serving.http.options import HttpOptions
from registry.serving.http.rate_limit import RateLimit
from registry.serving.http.receipts import open_receipts
from registry.serving.http.response_cache import ResponseCache
from registry.serving.http.responses import Refused, answer_error
from registry.serving.http.tokens import read_tokens


def create_app(live: Live, options: HttpOptions | None = None) -> FastAPI:
    """The ASGI application of `live`, which the caller starts and closes.

    Raises:
        BadSetting: the tokens, the rate or the fleet's keys can't be used.
    """
    app = FastAPI(title="ulora-registry", summary="Predictions by the version that a channel serves")
    app.state.live = live
    app.state.options = options = options or HttpOptions()
    app.state.tokens = read_tokens(options.tokens)
    app.state.cache = ResponseCache(options.cache_bytes)
    app.state.receipts = open_receipts(options.fleet_key_file, live.record)
    for endpoints in (predict, batch, feedback, status, open_inference, older_endpoints):
        for (method, path), endpoint in endpoints.ROUTES.items():
            app.add_api_route(path, endpoint, methods=[method], **openapi.OPERATIONS[path])
    for path in status.HEADS:  # some load balancers send it
        app.add_api_route(path, status.ROUTES["GET", path], methods=["HEAD"], include_in_schema=False)
    limit = RateLimit(options.rate_limit) if options.rate_limit else None
    app.add_middleware(Front, tokens=app.state.tokens, rate=limit, busiest=predict.ROUTES)
    encoding.add_middleware(app, options)
    measured.add_metrics(app, live)
    app.openapi = partial(openapi.page_of, app)
    for kind in (UloraError, Refused, HTTPException, Exception):
        app.add_exception_handler(kind, answer_error)
    return app
