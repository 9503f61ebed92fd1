"""`POST /feedback`: the true label of an answer, by its receipt, at any replica."""

from __future__ import annotations

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse

from registry.errors import BadReceipt, NotFound, Overloaded, Unreachable
from registry.serving.byte_budget import HeldBytes
from registry.serving.follow import Live
from registry.serving.http.receipts import Receipts
from registry.serving.http.request_body import JsonInput, content_type, parse_json, read_body, unknown_kind
from registry.serving.http.responses import Refused, Routes, answer
from registry.serving.pinned import is_pinned
from registry.trials.receipts import Receipt
from registry.trials.recorder import LabelResult

_MAX_BODY = 16 * 1024
_HINT = 'send JSON: {"request_id": "<that of an answer>", "label": "healthy"}'


class FeedbackInput(JsonInput):
    """A true label."""

    request_id: str = Field(min_length=1, max_length=1000, description="The field `request_id` of an answer.")
    label: str = Field(min_length=1, max_length=256, description="A class, or `_ood` for none of them.")


async def feedback(request: Request) -> JSONResponse:
    """Take a true label. The first one of a receipt counts; the same again changes nothing."""
    receipts: Receipts | None = request.app.state.receipts
    live: Live = request.app.state.live
    if is_pinned(live.record):
        said = "no channel counts the answers of a replica that is pinned to a version, so it takes no labels"
        raise Refused(409, "Pinned", said, "send labels to replicas that follow a channel")
    if receipts is None:
        raise Refused(503, "NoFleetKey", "this replica has no fleet key, so it takes no labels", "see --fleet-key-file")
    if content_type(request) != "application/json":
        raise unknown_kind(content_type(request), _HINT)
    with HeldBytes(live.scheduler.budget) as held:
        given = parse_json(FeedbackInput, await read_body(request, _MAX_BODY, held, has_images=False), held)
        try:
            receipt = receipts.read(given.request_id)
        except BadReceipt:
            live.tally.label_came("", "stable", "unknown")
            raise
        return await run_in_threadpool(_take, live, receipt, given.label)


def _take(live: Live, receipt: Receipt, label: str) -> JSONResponse:
    try:
        stage, result = live.labels.take(receipt, label)
    except NotFound as error:
        live.tally.label_came("", receipt.arm, "unknown")
        raise Refused(404, NotFound.__name__, str(error), "is it the receipt of another store's channel?") from error
    except Overloaded:
        raise
    except Unreachable as error:
        raise Refused(503, type(error).__name__, str(error), "send it again later", {"Retry-After": "5"}) from error
    version = stage.canary if receipt.arm == "canary" else stage.stable
    live.tally.label_came(version, receipt.arm, result)
    _refuse(result)
    return answer(200, {"result": result, "generation": stage.generation, "arm": receipt.arm}, version, receipt.arm)


def _refuse(result: LabelResult) -> None:
    if result == "contradictory":
        raise Refused(409, "Contradictory", "this answer has another label already", "the first label counts")
    if result == "late":
        raise Refused(410, "TooLate", "the answer is too old for its label to count", "send labels within 30 days")


ROUTES: Routes = {("POST", "/feedback"): feedback}
