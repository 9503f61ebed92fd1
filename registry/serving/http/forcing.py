"""Requests that choose their version themselves: for people who look at one arm of a trial; no trial counts them."""

from __future__ import annotations

from typing import get_args

from starlette.requests import Request

from registry.errors import BadInput, NotFound
from registry.serving.http.responses import ARM_HEADER, Refused
from registry.serving.http.rights import ADMIN
from registry.serving.routing import Route, Serving
from registry.trials.observations import ArmName

PARAMETER = "arm"
ARMS: tuple[ArmName, ...] = get_args(ArmName)


def forced_route(request: Request, serving: Serving) -> Route | None:
    """The version of the arm that a request names, by the header or in the query; None if it names none.

    Raises:
        BadInput: there is no such arm.
        Refused: the caller may not choose, or no canary is in memory.
    """
    named = request.headers.get(ARM_HEADER, request.query_params.get(PARAMETER))
    if named is None:
        return None
    arm = next((each for each in ARMS if each == named), None)
    if arm is None:
        raise BadInput(f"there is no arm {named[:40]!r}", hint=f"the arms are {', '.join(ARMS)}")
    check_may_force(request)
    route = serving.forced(arm)
    if route is None:
        raise Refused(404, NotFound.__name__, "no canary is in memory here", "GET /health says which trial runs")
    return route


def check_may_force(request: Request) -> None:
    """Check that a caller may choose the version: where tokens are asked for, who has the scope `admin`.

    Raises:
        Refused: it may not.
    """
    scopes: frozenset[str] | None = getattr(request.state, "scopes", None)
    if scopes is not None and ADMIN not in scopes:
        raise Refused(
            403, "Forbidden", "this token is not good for choosing the version that answers",
            f"it needs the scope {ADMIN}; without {ARM_HEADER} the replica chooses",
            {"WWW-Authenticate": f'Bearer realm="ulora", error="insufficient_scope", scope="{ADMIN}"'},
        )  # fmt: skip
