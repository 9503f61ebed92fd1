"""What a request needs a right for, by its path."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope

PREDICT = "predict"
SCOPES = (PREDICT, "feedback", "admin")
"""What a token may have the right for."""
OPEN_PATHS = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
"""The probes of orchestrators, which have no credentials."""


def right_of(scope: Scope) -> str:
    """The right that a request needs: one of `SCOPES`, `any` of them, or `` for none.

    Probes of orchestrators have no credentials, and what they read says only whether the replica is ready. A path that
    nobody thought of needs a token.
    """
    return "" if scope["method"] == "OPTIONS" else right_to(path_of(scope))


def right_to(path: str) -> str:
    """The same by the path alone."""
    if path in OPEN_PATHS:
        return ""
    if path.startswith("/predict") or path == "/v1/diagnose" or (path.startswith("/v2/") and path.endswith("/infer")):
        return PREDICT
    if path.startswith("/feedback"):
        return "feedback"
    return "admin" if path.startswith("/-/") else "any"


def path_of(scope: Scope) -> str:
    """The path of a request as the application's routes have it: without what it is mounted at in another one."""
    path, root = str(scope["path"]), scope.get("root_path", "")
    return path.removeprefix(root) if path.startswith(f"{root}/") else path
