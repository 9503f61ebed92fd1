"""Tables that MLflow's page of a run shows.

It shows those that a tag names, and those of several runs side by side. `mlflow.log_table` writes the same, but needs
pandas, and appends when it is called again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

_TAG = "mlflow.loggedArtifacts"
ENDING = ".table.json"
MAX_ROWS = 20_000
"""More make a page of MLflow slow; the store keeps all of them."""


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    """The first `MAX_ROWS` rows as MLflow writes a table."""
    return json.dumps({"columns": list(columns), "data": [list(row) for row in rows[:MAX_ROWS]]}).encode()


def show_tables(client: MlflowClient, run_id: str, names: Collection[str]) -> None:
    """Let the page of a run show files of it as tables, beside those that it shows already."""
    if names:
        known = _shown(client.get_run(run_id).data.tags.get(_TAG, ""))
        paths = dict.fromkeys([*known, *names])
        client.set_tag(run_id, _TAG, json.dumps([{"path": path, "type": "table"} for path in paths]))


def _shown(tag: str) -> list[str]:
    """The tables that a tag names; none where it is not as MLflow writes it."""
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        return [str(one["path"]) for one in json.loads(tag) if one["type"] == "table"]
    return []
