"""Policies that have judged versions, as the store keeps them: canonical JSON, under its own sha256."""

from __future__ import annotations

from pydantic import ValidationError

from registry.errors import BadManifest
from registry.evidence.policy import Policy
from registry.evidence.rule import KEPT
from registry.formats import canonical
from registry.formats.document import first_problem

LIMIT = 4 * 1024 * 1024
"""Bytes of the largest kept policy: it is longer than the file, as it has every field."""


def read(data: bytes, what: str) -> Policy:
    """A kept policy; `what` names it in errors.

    Raises:
        BadManifest: it does not follow the format that this release knows.
    """
    document = canonical.decode(data, what, LIMIT)
    try:
        for channel in document["channels"].values():
            for window in channel.get("freeze", ()):
                window["from"] = window.pop("begin")  # as files have it: their digests were always of `begin`
        return Policy.model_validate_json(canonical.encode(document), context=KEPT)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadManifest(f"{what} is not a policy") from error
    except ValidationError as error:
        problem = f"{what} does not follow the format: {first_problem(error)}"
        raise BadManifest(problem, hint="a later release may know it: upgrade ulora-registry") from error
