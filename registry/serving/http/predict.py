"""`POST /predict`: one image."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse

from registry.errors import BadImage
from registry.serving.byte_budget import HeldBytes
from registry.serving.follow import Live
from registry.serving.http.clients import DEADLINE_HEADER, MAX_DEADLINE, answer_for, deadline_of
from registry.serving.http.request_body import MAX_KEY, read_input
from registry.serving.http.responses import answer

_TEXT = {"type": "string", "maxLength": MAX_KEY}
BODY = {
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


async def predict(request: Request) -> JSONResponse:
    """Predict for one image."""
    live: Live = request.app.state.live
    deadline = deadline_of(request) or live.deadline
    live.scheduler.check_admission(deadline)  # before the body is read
    with HeldBytes(live.scheduler.budget) as held:
        given = await read_input(request, held)
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
        return answer(400, refused, prediction.version)
    return answer(200, prediction.to_dict(), prediction.version)
