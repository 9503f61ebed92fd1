"""The endpoints of the system whose adapters these are, as its apps call them: `/v1/crops` and so on.

A target (crop, or crop and part) is a crop here. Everything comes from the version that is loaded; what it does not
know is null.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse

from registry.errors import NotFound
from registry.machine import clock
from registry.serving.byte_budget import HeldBytes
from registry.serving.http.asking import AskedImage, ask, check_admission, choose, refuse_corrupt
from registry.serving.http.request_body import (
    MAX_TARGET,
    content_type,
    decode_base64,
    parse_json,
    read_body,
    unknown_kind,
)
from registry.serving.http.responses import Refused, Routes, answer_of, description_of
from registry.serving.loaders import Loaded, TellsComponents
from registry.serving.routing import Route, Serving

ROUTER_ACCURACY_TARGET = 0.98
"""The share of images that the router should send to the right crop, as the older system's guide sets it. A version
does not say whether it reaches it; its evidence does."""
_HINT = 'send JSON: {"image": "<base64>", "crop_hint": "tomato"}'


class _AppPart(BaseModel):
    """A part of what an app sends; what is not named here is ignored, as the older system did."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class Location(_AppPart):
    """Where a photo was taken. It is checked, and not used."""

    latitude: float | None = Field(None, ge=-90, le=90)
    longitude: float | None = Field(None, ge=-180, le=180)
    accuracy_meters: float | None = Field(None, ge=0, le=1e9)


class PhotoMetadata(_AppPart):
    """What took a photo, and when. It is checked, and not used."""

    capture_timestamp: str | None = Field(None, max_length=64)
    device_model: str | None = Field(None, max_length=200)
    os_version: str | None = Field(None, max_length=200)


class DiagnoseInput(_AppPart):
    """One photo to diagnose."""

    image: str = Field(min_length=1, description="An image file in base64.", json_schema_extra={"format": "byte"})
    crop_hint: str | None = Field(None, max_length=MAX_TARGET)
    location: Location | None = None
    metadata: PhotoMetadata | None = None


async def crops(request: Request) -> JSONResponse:
    """The crops that can be diagnosed."""
    route = request.app.state.live.serving.described
    document = {"crops": list(route.loaded.targets), "router_accuracy_target": ROUTER_ACCURACY_TARGET}
    return description_of(route, document)


async def adapter_status(request: Request) -> JSONResponse:
    """What the adapter of a crop can tell apart."""
    route = request.app.state.live.serving.described
    crop = _target_of(route.loaded, request.path_params["crop"])
    if crop is None:
        name = request.path_params["crop"][:100]
        raise Refused(404, NotFound.__name__, f"{route.version} has no adapter for {name!r}", "see /v1/crops")
    classes = list(route.loaded.labels.get(crop, ()))
    document = {
        "crop": crop,
        "is_trained": bool(classes),
        "current_phase": None,
        "num_classes": len(classes),
        "classes": classes,
        "has_ood": crop in route.loaded.targets_with_ood if isinstance(route.loaded, TellsComponents) else None,
    }
    return description_of(route, document)


async def diagnose(request: Request) -> JSONResponse:
    """Diagnose one photo."""
    deadline = check_admission(request)
    if content_type(request) != "application/json":
        raise unknown_kind(content_type(request), _HINT)
    with HeldBytes(request.app.state.live.scheduler.budget) as held:
        body = await read_body(request, request.app.state.options.max_body, held)
        image, hint = await run_in_threadpool(_read, body, held)
        del body
        route = choose(request, None)
        target = _target_of(route.loaded, hint) if hint else None
        asked = ask(request, route, [AskedImage(image, target)], deadline)
    del image
    (answered,) = await asked.answers(request)
    diagnosis = _diagnosis(route, refuse_corrupt(answered).to_dict())
    return answer_of(route, {**diagnosis, **asked.receipts_of([answered])[0]})


def health_fields(ready: bool, serving: Serving | None) -> dict[str, Any]:
    """What `/health` says for the older system's callers."""
    loaded = serving.stable if serving else None
    return {
        "status": "healthy" if ready else "unhealthy",
        "router_loaded": loaded.has_router if isinstance(loaded, TellsComponents) else False,
        "adapters_loaded": list(loaded.targets) if loaded else [],
    }


def _read(body: bytes, held: HeldBytes) -> tuple[bytes, str | None]:
    given = parse_json(DiagnoseInput, body, held)
    return decode_base64(given.image, held), given.crop_hint


def _target_of(loaded: Loaded, crop: str) -> str | None:
    """The target that a crop's name means: itself, or its only part. None if there is none, or the router must choose
    the part; the older system ignores such a hint too."""
    name = crop.strip().lower()
    if name in loaded.targets:
        return name
    parts = [target for target in loaded.targets if target.startswith(f"{name}__")]
    return parts[0] if len(parts) == 1 else None


def _diagnosis(route: Route, found: dict[str, Any]) -> dict[str, Any]:
    """A prediction as the older system tells it, beside our own names for the rest."""
    target, label = found.get("target"), found.get("label")
    labels = route.loaded.labels.get(str(target), ())
    disease = {
        "class_index": labels.index(label) if label in labels else None,
        "name": label,
        "confidence": found.get("confidence"),
    }
    score = found.get("ood_score")
    return {
        "status": "success",
        "timestamp": clock.timestamp(),
        "crop": {"predicted": target, "confidence": found.get("target_confidence")},
        "disease": disease if label is not None else None,
        # Scores are in units of the label's threshold.
        "ood_analysis": {
            "is_ood": found.get("is_ood"), "ood_score": score, "threshold": None if score is None else 1.0
        },
        "outcome": found.get("outcome"),
        "detail": found.get("detail"),
    }  # fmt: skip


ROUTES: Routes = {
    ("GET", "/v1/crops"): crops,
    ("GET", "/v1/adapters/{crop}/status"): adapter_status,
    ("POST", "/v1/diagnose"): diagnose,
}
