"""What a request needs a right for, by its path."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope

PREDICT, FEEDBACK, ADMIN = SCOPES = ("predict", "feedback", "admin")
"""What a token may have the right for."""
_PREDICTIONS = re.compile(r"/predict(/batch)?|/v1/diagnose|/v2/models/[^/]+(/versions/[^/]+)?/infer")
OPEN_PATHS = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
"""The probes of orchestrators, which have no credentials."""


def right_of(scope: Scope) -> str:
    """The right that a request needs: one of `SCOPES`, `any` of them, or `` for none.

    Probes of orchestrators have no credentials, and what they read says only whether the replica is ready. A path that
    nobody thought of needs a token.
    """
    path = path_of(scope)
    if path in OPEN_PATHS or scope["method"] == "OPTIONS":
        return ""
    if path.startswith("/predict") or path == "/v1/diagnose" or (path.startswith("/v2/") and path.endswith("/infer")):
        return PREDICT
    if path.startswith("/feedback"):
        return FEEDBACK
    return ADMIN if path.startswith("/-/") else "any"


def asks_for_predictions(path: str) -> bool:
    """Whether a request with this path, if it is a POST, asks for predictions."""
    return _PREDICTIONS.fullmatch(path) is not None


def path_of(scope: Scope) -> str:
    """The path of a request as the application's routes have it: without what it is mounted at in another one."""
    path, root = str(scope["path"]), scope.get("root_path", "")
    return path.removeprefix(root) if path.startswith(f"{root}/") else path
