"""What a refusal of MLflow's logins means: who asked, which right is missing, and what to do.

MLflow answers `Permission denied`, and not what was needed for what. Its own auth app has the rights READ, EDIT and
MANAGE, on an experiment and on a registered model; the address that was asked tells which. docs/security.md has the
table of what each role needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

from registry.errors import CatalogDenied

CREDENTIALS = "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
_CODES = {"UNAUTHENTICATED": 401, "CUSTOMER_UNAUTHORIZED": 401, "PERMISSION_DENIED": 403}
_STATUS = re.compile(r"error code (40[13])\b|\b(40[13]) Client Error")
MAX_DENIED = 20
"""Whoever was refused the same so often is not going to get the rest."""
_SHOWN = 300
"""Characters of another server's words that are shown."""
_NEEDS = (
    (r"/registered-models/create\b", "the right to create registered models"),
    (r"/experiments/create\b", "the right to create experiments"),
    (r"/registered-models/(get|search)\b|/model-versions/(get|search)\b", "READ on the registered model"),
    (r"/registered-models/alias\b", "EDIT on the registered model, and MANAGE to delete an alias,"),
    (r"/model-versions/delete", "MANAGE on the registered model"),
    (r"/(registered-models|model-versions)/", "EDIT on the registered model"),
    (r"/(experiments|runs)/(get|search)|/logged-models/search\b|/artifacts/list\b", "READ on the experiment"),
    (r"/logged-models/m-\w+/artifacts\b", "READ on the experiment"),
    (r"/(experiments|runs)/|/logged-models/m-\w+/|/logged-models\b(?!/)", "EDIT on the experiment"),
    (r"/logged-models/m-\w+", "READ on the experiment, and EDIT to change what is there,"),
    (r"/mlflow-artifacts\b", "EDIT on the experiment, or READ where it only reads,"),
)
"""What is asked for, by the address; the first one that matches counts."""
_ASK = (
    "an administrator of MLflow grants it (docs/security.md has what each role needs); "
    "channels, serving and rollbacks need no right there"
)


def denial(name: str, uri: str, code: str, text: str) -> CatalogDenied | None:
    """The error for an answer of 401 or 403; None for any other.

    Args:
        name: the server's address, without a password.
        uri: the same as it is set.
        code: MLflow's error code.
        text: what MLflow's client said.
    """
    found = _STATUS.search(text)
    status = int(found[1] or found[2]) if found else _CODES.get(code)
    if status is None:
        return None
    user = _user(uri)
    if status == 401:
        wrong = f"does not take the password of the user {user}" if user else "asks for a login, and none is set here"
        return CatalogDenied(f"the MLflow server {name} {wrong} (401)", hint=CREDENTIALS)
    who = f"the user {user}" if user else "whoever has these credentials"
    if "Permission denied" not in text and "Client Error" not in text:  # it is not MLflow's own app, and has its words
        return CatalogDenied(f"the MLflow server {name} refuses {who}: {text[:_SHOWN]}", hint=CREDENTIALS)
    needs = next((needs for pattern, needs in _NEEDS if re.search(pattern, text)), "the right to do that")
    return CatalogDenied(f"the MLflow server {name} refuses: {needs} is missing for {who} (403)", hint=_ASK)


def _user(uri: str) -> str:
    """Who is logged in, as MLflow's client does it; empty for a token, and for nobody."""
    from mlflow.utils.credentials import read_mlflow_creds

    try:
        named = unquote(urlsplit(uri).username or "")
    except ValueError:
        named = ""
    user = named or str(read_mlflow_creds().username or "")
    return "".join(letter for letter in user if letter.isprintable())[:100]


class Denials:
    """The changes that were not made for want of a right, said once for each right."""

    def __init__(self) -> None:
        self._changes: dict[str, list[str]] = {}

    @contextmanager
    def noted(self, change: object) -> Iterator[None]:
        """Make a change, or note why it is denied.

        Raises:
            CatalogDenied: so many were denied that the rest will be too.
        """
        try:
            yield
        except CatalogDenied as error:
            changes = self._changes.setdefault(str(error), [])
            changes.append(str(change))
            if len(changes) >= MAX_DENIED:
                raise

    @property
    def told(self) -> tuple[str, ...]:
        """In words."""
        return tuple(f"{_counted(changes)}: {why}" for why, changes in self._changes.items())


def _counted(changes: list[str]) -> str:
    return ", ".join(changes[:3]) + (f" and {len(changes) - 3} more" if len(changes) > 3 else "")
