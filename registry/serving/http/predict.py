"""`POST /predict`: one image."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse

from registry.serving.byte_budget import HeldBytes
from registry.serving.http.asking import AskedImage, ask, check_admission, choose, refuse_corrupt
from registry.serving.http.request_body import read_input
from registry.serving.http.responses import Routes, answer_of


async def predict(request: Request) -> JSONResponse:
    """Predict for one image."""
    deadline = check_admission(request)
    with HeldBytes(request.app.state.live.scheduler.budget) as held:
        given = await read_input(request, held)
        route = choose(request, given.key)
        asked = ask(request, route, [AskedImage(given.image, given.target)], deadline)
    del given  # the body is not needed once the image was read
    (answered,) = await asked.answers(request)
    document = refuse_corrupt(answered).to_dict()
    return answer_of(route, {**document, **asked.receipts_of([answered])[0]})


ROUTES: Routes = {("POST", "/predict"): predict}
