"""Predictions of a table of images: by a version in this process, or by a replica at its URL.

A table has the column `image`, a file's bytes or their base64, and may have the column `target`, as a version's model
in MLflow takes it.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from registry.errors import BadInput, ReplicaUnreachable
from registry.usecases.replica_client import ReplicaClient
from registry.usecases.version_test_options import TOKEN

if TYPE_CHECKING:
    from registry.serving.loaders import Loaded

MAX_ROWS = 10_000
"""Of one call: images are held in memory."""
_OK = 200


class ImageTable:
    """The rows of a table.

    Attributes:
        images: the bytes of each.
        targets: the target of each; None where the version chooses.
    """

    def __init__(self, inputs: Any) -> None:
        """Args:
        inputs: a pandas DataFrame, or what pandas makes one of: a dict of columns, a list of rows.

        Raises:
            BadInput: there is no column `image`, there are other columns, or too many rows.
        """
        import pandas as pd

        try:
            table = inputs if isinstance(inputs, pd.DataFrame) else pd.DataFrame(inputs)
        except (ValueError, TypeError) as error:
            raise BadInput(f"the input is no table: {error}", hint=_HINT) from error
        columns = {str(name) for name in table.columns}
        if "image" not in columns or not columns <= {"image", "target"}:
            raise BadInput(
                f"the input has the columns {', '.join(sorted(columns)[:10]) or '(none)'}, and not image, and where "
                "that is known target",
                hint=_HINT,
            )
        if len(table) > MAX_ROWS:
            raise BadInput(f"the input has {len(table)} rows, more than {MAX_ROWS}", hint="send it in parts")
        self.images = [_image_bytes(value) for value in table["image"]]
        named: Iterable[Any] = table["target"] if "target" in columns else [None] * len(table)
        self.targets = [value if isinstance(value, str) and value else None for value in named]


_HINT = 'for example {"image": ["<base64 of an image file>"], "target": ["tomato"]}'


def predict_here(loaded: Loaded, table: ImageTable) -> list[dict[str, Any]]:
    """What a version answers, a dict for each row."""
    if not table.images:
        return []
    return [answer.to_dict() for answer in loaded.predict(table.images, target=table.targets)]


def predict_there(url: str, table: ImageTable) -> list[dict[str, Any]]:
    """What a replica answers, a dict for each row. `ULORA_TOKEN` has the token for it, if it asks for one.

    Raises:
        BadInput: the URL is invalid, or a row was refused.
        ReplicaUnreachable, ReplicaDenied: it does not answer, or asks for a token.
    """
    with closing(ReplicaClient(url, os.environ.get(TOKEN, ""))) as client:
        return [_ask(client, number, *row) for number, row in enumerate(_rows(table), 1)]


def _rows(table: ImageTable) -> Sequence[tuple[bytes, str | None]]:
    return list(zip(table.images, table.targets, strict=True))


def _ask(client: ReplicaClient, number: int, image: bytes, target: str | None) -> dict[str, Any]:
    query = f"?{urlencode({'target': target})}" if target else ""
    answer = client.ask("POST", f"/predict{query}", image)
    if answer.status == _OK and answer.document:
        return answer.document
    kind = BadInput if 400 <= answer.status < 429 else ReplicaUnreachable
    raise kind(f"{client.url} did not answer row {number}: {answer.problem}", hint="rows before it were answered")


def _image_bytes(value: Any) -> bytes:
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    try:
        return base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError):
        return b""  # not an image: the answer says so, as that of the model in MLflow does
