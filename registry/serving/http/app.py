"""The HTTP service of a replica. Every answer names its version, in JSON and as the header `X-Ulora-Version`.

| request | answer |
|---|---|
| `POST /predict` | the prediction; a multipart field `image`, or the image as the body; optional `target`, `key` |
| `POST /predict/batch` | several: multipart fields `image`, or JSON with base64; each has its own outcome or error |
| `GET`, `HEAD /health/live`, `/health/ready`, `/health` | restart it? send requests here? the whole story |
| `GET`, `HEAD /version` | the version that answers, and since when |
| `POST /-/refresh` | 202: the log is read now |
| `/v2/…` | the Open Inference Protocol, see `open_inference` |
| `/v1/crops`, `/v1/adapters/{crop}/status`, `/v1/diagnose` | as the older system has them, see `older_endpoints` |

With `ULORA_INSTANCE` set, every answer repeats it as `X-Ulora-Instance`.
Errors are `{"error": …, "message": …, "hint": …, "version": …}`.
"""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from registry.errors import UloraError
from registry.serving.follow import Live
from registry.serving.http import batch, encoding, older_endpoints, open_inference, predict, status
from registry.serving.http.options import HttpOptions
from registry.serving.http.response_cache import ResponseCache
from registry.serving.http.responses import Refused, answer_error


def create_app(live: Live, options: HttpOptions | None = None) -> FastAPI:
    """The ASGI application of `live`, which the caller starts and closes."""
    app = FastAPI(title="ulora-registry", summary="Predictions by the version that a channel serves")
    app.state.live = live
    app.state.options = options = options or HttpOptions()
    app.state.cache = ResponseCache(options.cache_bytes)
    app.add_api_route("/predict", predict.predict, methods=["POST"])
    app.add_api_route("/predict/batch", batch.predict_batch, methods=["POST"])
    status.add_routes(app)
    open_inference.add_routes(app)
    older_endpoints.add_routes(app)
    encoding.add_middleware(app, options)
    for kind in (UloraError, Refused, HTTPException, Exception):
        app.add_exception_handler(kind, answer_error)
    return app
