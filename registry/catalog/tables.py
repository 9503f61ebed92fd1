"""Tables that MLflow's page of a run shows."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

ENDING = ".table.json"
MAX_ROWS = 20_000
"""More make a page of MLflow slow; the store keeps all of them."""


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    """The first `MAX_ROWS` rows as MLflow writes a table."""
    return json.dumps({"columns": list(columns), "data": [list(row) for row in rows[:MAX_ROWS]]}).encode()


def tables_tag(files: Collection[str]) -> dict[str, str]:
    """The tag by which MLflow finds the tables among a run's files; none if there are none."""
    found = [{"path": name, "type": "table"} for name in files if name.endswith(ENDING)]
    return {"mlflow.loggedArtifacts": json.dumps(found)} if found else {}
