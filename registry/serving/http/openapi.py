"""The OpenAPI page of a replica: for each operation what it takes and every answer that it gives."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from registry.serving.http.batch import BatchInput
from registry.serving.http.clients import DEADLINE_HEADER, MAX_DEADLINE
from registry.serving.http.feedback import FeedbackInput
from registry.serving.http.forcing import ARMS
from registry.serving.http.infer_inputs import LENGTH_HEADER, InferDocument
from registry.serving.http.older_endpoints import DiagnoseInput
from registry.serving.http.request_body import MAX_FIELDS, MAX_KEY, MAX_TARGET, TARGET_PATTERN
from registry.serving.http.responses import ARM_HEADER, VERSION_HEADER
from registry.serving.http.rights import OPEN_PATHS

Schema = dict[str, Any]
_BEARER = "bearer"
IMAGE_TYPES = ("image/jpeg", "image/png", "image/bmp", "image/webp")
_TEXT, _NUMBER, _BOOL = {"type": "string"}, {"type": "number"}, {"type": "boolean"}
_MAYBE_TEXT, _MAYBE_NUMBER = {"type": ["string", "null"]}, {"type": ["number", "null"]}
_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_TARGET = {"type": "string", "maxLength": MAX_TARGET, "pattern": TARGET_PATTERN}
_KEY = {"type": "string", "maxLength": MAX_KEY}
_FILE = {"type": "string", "format": "binary"}


def objects(**properties: Schema) -> Schema:
    """An object that has these fields, and perhaps others."""
    return {"type": "object", "properties": properties, "required": sorted(properties)}


_ERROR = objects(error=_TEXT, message=_TEXT, hint=_TEXT, version=_MAYBE_TEXT)
_PROTOCOL_ERROR = objects(error=_TEXT)
_IMAGE_ERROR = objects(error=_TEXT, message=_TEXT, hint=_TEXT, status={"type": "integer"})
_FIELDS = {
    "version": _TEXT,
    "outcome": _TEXT,
    "target": _MAYBE_TEXT,
    "label": _MAYBE_TEXT,
    "confidence": _NUMBER,
    "ood_score": _MAYBE_NUMBER,
    "is_ood": _BOOL,
    "target_confidence": _NUMBER,
    "probabilities": {"type": "object", "additionalProperties": _NUMBER},
    "detail": _TEXT,
    "blocks_used": {"type": "integer"},
    "request_id": _TEXT,
}
_ALWAYS = sorted(_FIELDS.keys() - {"request_id"})
"""What a prediction has in any case; `request_id` it has where receipts are issued."""
_PREDICTION = {"type": "object", "properties": _FIELDS, "required": ["version", "outcome"]}
_TENSOR = objects(name=_TEXT, datatype=_TEXT, shape={"type": "array", "items": {"type": "integer"}})
_MANIFEST = {"version": _TEXT, "manifest_sha256": _SHA256}
_CHOSEN = {**_MANIFEST, "arm": _TEXT, "sticky": _BOOL}
_DEADLINE = {
    "name": DEADLINE_HEADER,
    "in": "header",
    "description": "Milliseconds in which the answer is wanted.",
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_DEADLINE},
}
_ARM = {
    "name": ARM_HEADER,
    "in": "header",
    "description": "The arm of a trial that has to answer; needs the scope `admin`, and no trial counts the request.",
    "schema": {"type": "string", "enum": list(ARMS)},
}
_LENGTH = {
    "name": LENGTH_HEADER,
    "in": "header",
    "description": "The length of the JSON document, if binary tensors follow it.",
    "schema": {"type": "integer", "minimum": 0},
}
_MEANINGS = {
    200: "The answer.",
    202: "The log is read now.",
    400: "Not an image, or an invalid field.",
    401: "Where tokens are asked for: the request has none that is valid.",
    403: "Where tokens are asked for: this one is not good for that.",
    404: "Not here.",
    413: "Too large.",
    415: "Another content type, or a compressed body.",
    409: "The answer has another label already, or the replica is pinned to a version.",
    410: "The answer is too old.",
    422: "A field is given twice, or as a file.",
    429: "Too much to do, or no memory; Retry-After says when to come again.",
    500: "It could not be answered.",
    503: "Closed, or not to be asked.",
    504: "The deadline passed.",
}
_OF_PREDICTIONS = (400, 413, 415, 422, 429, 500, 503, 504)
_CHOOSING = (*_OF_PREDICTIONS, 403, 404)
"""Those of a request that may choose its version."""


def inlined(kind: type[BaseModel]) -> Schema:
    """The JSON schema of a document, without references."""
    schema = kind.model_json_schema()
    parts = schema.pop("$defs", {})

    def resolve(value: Any) -> Any:
        if isinstance(value, dict):
            reference = value.get("$ref", "").rpartition("/")[2] if isinstance(value.get("$ref"), str) else ""
            return resolve(parts[reference]) if reference else {name: resolve(each) for name, each in value.items()}
        return [resolve(each) for each in value] if isinstance(value, list) else value

    return resolve(schema)  # type: ignore[no-any-return]


def _answers(ok: Schema, errors: tuple[int, ...], *, status: int = 200, error: Schema = _ERROR) -> dict[int, Any]:
    headers = {name: {"schema": _TEXT} for name in (VERSION_HEADER, ARM_HEADER)}
    found = {status: ok} | {each: ok if each == 503 and ok in _STATES else error for each in errors}
    return {
        each: {
            "description": _MEANINGS[each],
            "headers": headers | ({"Retry-After": {"schema": {"type": "integer"}}} if each == 429 else {}),
            "content": {"application/json": {"schema": schema}},
        }
        for each, schema in found.items()
    }


def _body(**kinds: Schema) -> Schema:
    content: dict[str, Schema] = {name: {"schema": schema} for name, schema in kinds.items()}
    if form := content.get("multipart/form-data"):
        form["encoding"] = {"image": {"contentType": ", ".join(IMAGE_TYPES)}}
    return {"required": True, "content": content}


def _query(*names: str) -> list[Schema]:
    return [{"name": name, "in": "query", "schema": _TARGET if name == "target" else _KEY} for name in names]


def _path(*names: str) -> list[Schema]:
    return [{"name": name, "in": "path", "required": True, "schema": _TEXT} for name in names]


def _form(images: Schema, target: Schema) -> Schema:
    """A form: other fields than these are left unread, but counted."""
    fields = {"image": images, "target": target, "key": _KEY}
    return {
        "type": "object", "properties": fields, "required": ["image"],
        "additionalProperties": _TEXT, "maxProperties": MAX_FIELDS,
    }  # fmt: skip


_HEALTH = objects(
    state=_TEXT, ready=_BOOL, error=_TEXT, version=_MAYBE_TEXT, status=_TEXT, device=_TEXT, pinned=_BOOL
)  # fmt: skip
_LIVE = objects(live=_BOOL, error=_TEXT, version=_MAYBE_TEXT)
_READY = objects(ready=_BOOL, state=_TEXT, version=_MAYBE_TEXT)
_STATES = (_HEALTH, _LIVE, _READY)
_INFERRED = objects(
    model_name=_TEXT, model_version=_TEXT, parameters={"type": "object"}, outputs={"type": "array", "items": _TENSOR}
)
_DIAGNOSIS = objects(
    status=_TEXT, timestamp=_TEXT, crop={"type": "object"}, disease={"type": ["object", "null"]},
    ood_analysis={"type": "object"}, outcome=_TEXT, **_CHOSEN,
)  # fmt: skip


def _protocol(ok: Schema, *path: str) -> Schema:
    errors = (404, 500, 503) if path else (500, 503)
    return {"responses": _answers(ok, errors, error=_PROTOCOL_ERROR), "openapi_extra": {"parameters": _path(*path)}}


def _infer(*path: str) -> Schema:
    responses = _answers(_INFERRED, _CHOOSING, error=_PROTOCOL_ERROR)
    responses[200]["content"]["application/octet-stream"] = {"schema": _FILE}
    extra = {
        "parameters": [*_path(*path), _DEADLINE, _LENGTH, _ARM],
        "requestBody": _body(**{"application/json": inlined(InferDocument), "application/octet-stream": _FILE}),
    }
    return {"responses": responses, "openapi_extra": extra}


_MODEL = objects(
    name=_TEXT, versions={"type": "array", "items": _TEXT}, platform=_TEXT,
    inputs={"type": "array", "items": _TENSOR}, outputs={"type": "array", "items": _TENSOR},
)  # fmt: skip
_MODEL_READY = objects(name=_TEXT, version=_TEXT, ready=_BOOL)
_OPERATIONS: dict[str, Schema] = {
    "/predict": {
        "responses": _answers({**_PREDICTION, "required": [*_ALWAYS, "manifest_sha256", "arm", "sticky"]}, _CHOOSING),
        "openapi_extra": {
            "parameters": [*_query("target", "key"), _DEADLINE, _ARM],
            "requestBody": _body(**{"multipart/form-data": _form(_FILE, _TARGET)}, **dict.fromkeys(IMAGE_TYPES, _FILE)),
        },
    },
    "/predict/batch": {
        "responses": _answers(
            objects(predictions={"type": "array", "items": {"anyOf": [_PREDICTION, _IMAGE_ERROR]}}, **_CHOSEN),
            _CHOOSING,
        ),
        "openapi_extra": {
            "parameters": [_DEADLINE, _ARM],
            "requestBody": _body(
                **{
                    "application/json": inlined(BatchInput),
                    "multipart/form-data": _form(
                        {"type": "array", "items": _FILE, "minItems": 1}, {"type": "array", "items": _TARGET}
                    ),
                }
            ),
        },
    },
    "/health": {"responses": _answers(_HEALTH, (500, 503))},
    "/health/live": {"responses": _answers(_LIVE, (500, 503))},
    "/health/ready": {"responses": _answers(_READY, (500, 503))},
    "/version": {
        "responses": _answers(
            objects(model=_TEXT, channel=_TEXT, generation={"type": "integer"}, content_sha256=_TEXT, since=_TEXT,
                    canary=_MAYBE_TEXT, pinned=_BOOL, **_MANIFEST),
            (500, 503),
        )
    },
    "/feedback": {
        "responses": _answers(
            objects(result=_TEXT, generation={"type": "integer"}, arm=_TEXT, version=_TEXT),
            (400, 404, 409, 410, 413, 415, 429, 500, 503),
        ),
        "openapi_extra": {"requestBody": _body(**{"application/json": inlined(FeedbackInput)})},
    },
    "/-/refresh": {
        "status_code": 202,
        "responses": _answers(objects(generation={"type": "integer"}), (500, 503), status=202),
    },
    "/v2": _protocol(objects(name=_TEXT, version=_TEXT, extensions={"type": "array", "items": _TEXT})),
    "/v2/health/live": {"responses": _answers(_LIVE, (500, 503))},
    "/v2/health/ready": {"responses": _answers(_READY, (500, 503))},
    "/v2/models/{model}": _protocol(_MODEL, "model"),
    "/v2/models/{model}/versions/{version}": _protocol(_MODEL, "model", "version"),
    "/v2/models/{model}/ready": _protocol(_MODEL_READY, "model"),
    "/v2/models/{model}/versions/{version}/ready": _protocol(_MODEL_READY, "model", "version"),
    "/v2/models/{model}/infer": _infer("model"),
    "/v2/models/{model}/versions/{version}/infer": _infer("model", "version"),
    "/v1/crops": {
        "responses": _answers(
            objects(crops={"type": "array", "items": _TEXT}, router_accuracy_target=_NUMBER, **_MANIFEST), (500, 503)
        )
    },
    "/v1/adapters/{crop}/status": {
        "responses": _answers(
            objects(crop=_TEXT, is_trained=_BOOL, num_classes={"type": "integer"},
                    classes={"type": "array", "items": _TEXT}, has_ood={"type": ["boolean", "null"]}, **_MANIFEST),
            (404, 500, 503),
        ),
        "openapi_extra": {"parameters": _path("crop")},
    },
    "/v1/diagnose": {
        "responses": _answers(_DIAGNOSIS, _CHOOSING),
        "openapi_extra": {
            "parameters": [_DEADLINE, _ARM],
            "requestBody": _body(**{"application/json": inlined(DiagnoseInput)}),
        },
    },
}  # fmt: skip


def _with_tokens(path: str, operation: Schema) -> Schema:
    """An operation with the answers that only a replica with tokens gives."""
    if path in OPEN_PATHS:
        return operation
    error = _PROTOCOL_ERROR if path.startswith("/v2") else _ERROR
    refused = {
        status: {"description": _MEANINGS[status], "content": {"application/json": {"schema": error}}}
        for status in (401, 403)
    }
    extra = {**operation.get("openapi_extra", {}), "security": [{}, {_BEARER: []}]}
    return {**operation, "responses": {**operation["responses"], **refused}, "openapi_extra": extra}


OPERATIONS = {path: _with_tokens(path, operation) for path, operation in _OPERATIONS.items()}
"""Path -> what FastAPI is told of its operation."""


def page_of(app: FastAPI) -> Schema:
    """The page of an application, with what its tokens are."""
    schema: Schema = FastAPI.openapi(app)
    schema.setdefault("components", {})["securitySchemes"] = {_BEARER: {"type": "http", "scheme": "bearer"}}
    return schema
