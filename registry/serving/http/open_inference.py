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
from registry.serving.http.forcing import check_may_force
from registry.serving.http.infer_inputs import INPUT, LENGTH_HEADER, InferInputs, read_inputs
from registry.serving.http.receipts import FIELD
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
    FIELD: "BYTES",
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
    return _json(document, request.app.state.live.serving.described)


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
    return _json(document, _described(request))


async def model_ready(request: Request) -> JSONResponse:
    """Whether the model, or one version of it, answers."""
    route = _described(request)
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
    answers = await asked.answers(request)
    answered = _all_or_error(answers, asked.receipts_of(answers))
    tensors = [_tensor(name, is_binary, answered) for name, is_binary in outputs.items()]
    return _answer(request.path_params["model"], request_id, route, tensors)


def _route(request: Request, key: str | None) -> Route:
    """The version that the path names, or that answers requests with this key.

    Raises:
        Refused: there is no such model here, or no such version in memory; or the caller may not choose that one.
    """
    named, serving = _named(request), request.app.state.live.serving
    if named is None or (named.version == serving.stable.version and not serving.stage.trial):
        return choose(request, key)
    if named.version != serving.stable.version:
        check_may_force(request)
    request.state.route = named
    return named


def _described(request: Request) -> Route:
    """The version that the path names, or stable.

    Raises:
        Refused: there is no such model here, or no such version in memory.
    """
    live: Live = request.app.state.live
    return _named(request) or live.serving.described


def _named(request: Request) -> Route | None:
    live: Live = request.app.state.live
    name, version = request.path_params["model"], request.path_params.get("version")
    if name != live.record.model:
        raise Refused(404, NotFound.__name__, f"there is no model {name[:100]!r} here", f"it is {live.record.model}")
    route = live.resident(version) if version is not None else None
    if version is not None and route is None:
        known = ", ".join(live.health().resident)
        raise Refused(404, NotFound.__name__, f"{version[:100]!r} is not in memory", f"there are {known}")
    return route


def _chosen_outputs(given: InferInputs) -> dict[str, bool]:
    if unknown := given.outputs.keys() - OUTPUTS.keys():
        raise BadInput(f"there is no output {min(unknown)[:100]!r}", hint=f"there are {', '.join(OUTPUTS)}")
    return given.outputs or dict.fromkeys(OUTPUTS, given.all_binary)


def _all_or_error(answered: list[Prediction | BaseException], receipts: list[dict[str, str]]) -> list[dict[str, Any]]:
    """All predictions: the protocol has no error of a single element. Bytes that are no image have an outcome."""
    predictions = []
    for each, receipt in zip(answered, receipts, strict=True):
        if isinstance(each, BaseException):
            raise told(each)
        predictions.append({**each.to_dict(), **receipt})
    return predictions


def _tensor(name: str, is_binary: bool, predictions: list[dict[str, Any]]) -> OutputTensor:
    return OutputTensor(name, OUTPUTS[name], [each.get(name) for each in predictions], is_binary)


def _answer(model_name: str, request_id: str, route: Route, tensors: list[OutputTensor]) -> Response:
    document = {
        "model_name": model_name,
        "model_version": route.version,
        **({"id": request_id} if request_id else {}),
        "parameters": {"manifest_sha256": route.manifest_sha256, "arm": route.arm, "sticky": route.sticky},
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
