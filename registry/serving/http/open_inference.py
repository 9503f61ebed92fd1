"""The Open Inference Protocol, version 2, below `/v2`: what clients of KServe, MLServer and Triton speak.

https://github.com/kserve/open-inference-protocol. Images are the input `image`, BYTES of shape [n] or [n, 1]: in JSON
as base64 (MLServer's convention `content_type: base64`), or as they are by Triton's binary extension. `target` and
`key` are parameters of the request or the input. A version that is not in memory is not there: 404.
"""

from __future__ import annotations

import json
from importlib.metadata import version as installed_version
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from registry.errors import BadInput, NotFound
from registry.serving.byte_budget import HeldBytes
from registry.serving.follow import Live
from registry.serving.http import status
from registry.serving.http.asking import AskedImage, ask, check_admission, choose, told
from registry.serving.http.infer_inputs import INPUT, LENGTH_HEADER, InferInputs, read_inputs
from registry.serving.http.request_body import read_body
from registry.serving.http.responses import Refused, Routes, headers_of
from registry.serving.http.tensors import Datatype, OutputTensor
from registry.serving.loaders import Prediction
from registry.serving.routing import Route

OUTPUTS: dict[str, Datatype] = {
    "outcome": "BYTES",
    "target": "BYTES",
    "label": "BYTES",
    "confidence": "FP64",
    "target_confidence": "FP64",
    "ood_score": "FP64",
    "is_ood": "BOOL",
    "detail": "BYTES",
}
"""Output -> datatype. Each is the field of a prediction of that name; a text that is not there is empty, a number that
is not there NaN, in JSON null."""


async def server(request: Request) -> JSONResponse:
    """What this server is."""
    document = {
        "name": "ulora-registry",
        "version": installed_version("ulora-registry"),
        "extensions": ["binary_tensor_data"],
    }
    return _json(document, request.app.state.live.serving.choose(None))


async def model(request: Request) -> JSONResponse:
    """The inputs and outputs of the model, and its versions in memory."""
    live: Live = request.app.state.live
    document = {
        "name": request.path_params["model"],
        "versions": sorted(live.health().resident),
        "platform": "ulora",
        "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1], "parameters": {"content_type": "base64"}}],
        "outputs": [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in OUTPUTS.items()],
    }
    return _json(document, _route(request, None))


async def model_ready(request: Request) -> JSONResponse:
    """Whether the model, or one version of it, answers."""
    route = _route(request, None)
    return _json({"name": request.path_params["model"], "version": route.version, "ready": True}, route)


async def infer(request: Request) -> Response:
    """Predict for images."""
    _route(request, None)  # before the body is read
    deadline = check_admission(request)
    options = request.app.state.options
    with HeldBytes(request.app.state.live.scheduler.budget) as held:
        body = await read_body(request, options.max_body, held)
        header = request.headers.get(LENGTH_HEADER)
        given = await run_in_threadpool(read_inputs, body, header, options.max_images, held)
        del body
        outputs = _chosen_outputs(given)
        route = _route(request, given.key)
        asked = ask(request, route, [AskedImage(image, given.target) for image in given.images], deadline)
        request_id = given.id
        del given  # the images are not needed once they were read
    answered = _all_or_error(await asked.answers(request))
    tensors = [_tensor(name, is_binary, answered) for name, is_binary in outputs.items()]
    return _answer(request.path_params["model"], request_id, route, tensors)


def _route(request: Request, key: str | None) -> Route:
    """The version that the path names, or that answers requests with this key.

    Raises:
        Refused: there is no such model here, or no such version in memory.
    """
    live: Live = request.app.state.live
    name, version = request.path_params["model"], request.path_params.get("version")
    if name != live.record.model:
        raise Refused(404, NotFound.__name__, f"there is no model {name[:100]!r} here", f"it is {live.record.model}")
    if version is None:
        return choose(request, key)
    route = live.resident(version)
    if route is None:
        known = ", ".join(live.health().resident)
        raise Refused(404, NotFound.__name__, f"{version[:100]!r} is not in memory", f"there are {known}")
    request.state.route = route
    return route


def _chosen_outputs(given: InferInputs) -> dict[str, bool]:
    if unknown := given.outputs.keys() - OUTPUTS.keys():
        raise BadInput(f"there is no output {min(unknown)[:100]!r}", hint=f"there are {', '.join(OUTPUTS)}")
    return given.outputs or dict.fromkeys(OUTPUTS, given.all_binary)


def _all_or_error(answered: list[Prediction | BaseException]) -> list[dict[str, Any]]:
    """All predictions: the protocol has no error of a single element. Bytes that are no image have an outcome."""
    predictions = []
    for each in answered:
        if isinstance(each, BaseException):
            raise told(each)
        predictions.append(each.to_dict())
    return predictions


def _tensor(name: str, is_binary: bool, predictions: list[dict[str, Any]]) -> OutputTensor:
    return OutputTensor(name, OUTPUTS[name], [each.get(name) for each in predictions], is_binary)


def _answer(model_name: str, request_id: str, route: Route, tensors: list[OutputTensor]) -> Response:
    document = {
        "model_name": model_name,
        "model_version": route.version,
        **({"id": request_id} if request_id else {}),
        "parameters": {"manifest_sha256": route.manifest_sha256, "arm": route.arm},
        "outputs": [tensor.document() for tensor in tensors],
    }
    if not any(tensor.is_binary for tensor in tensors):
        return _json(document, route)
    head = json.dumps(document, allow_nan=False).encode()
    body = head + b"".join(tensor.to_bytes() for tensor in tensors if tensor.is_binary)
    headers = headers_of(route.version, route.arm) | {LENGTH_HEADER: str(len(head))}
    return Response(body, headers=headers, media_type="application/octet-stream")


def _json(document: dict[str, Any], route: Route) -> JSONResponse:
    return JSONResponse(document, headers=headers_of(route.version, route.arm))


_MODEL = "/v2/models/{model}"
_VERSION = f"{_MODEL}/versions/{{version}}"
ROUTES: Routes = {
    ("GET", "/v2"): server,
    ("GET", "/v2/health/live"): status.alive,
    ("GET", "/v2/health/ready"): status.ready,
    ("GET", _MODEL): model,
    ("GET", _VERSION): model,
    ("GET", f"{_MODEL}/ready"): model_ready,
    ("GET", f"{_VERSION}/ready"): model_ready,
    ("POST", f"{_MODEL}/infer"): infer,
    ("POST", f"{_VERSION}/infer"): infer,
}
