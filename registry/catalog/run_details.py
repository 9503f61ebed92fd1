"""What was answered for each image, as a table of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from registry.catalog.summary import add_plots
from registry.catalog.tables import show_tables
from registry.errors import first_line
from registry.evidence.outcomes import ImageOutcome

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_ROWS = 5000
"""Rows of the table: a browser reads all of it."""
TABLE = "outcomes.json"
TABLE_TAG = "ulora.outcomes"
"""Of a run: how many answers its table shows, or why there is none."""

_COLUMNS = (
    *("image", "kind", "target", "label", "answered_target", "answered_label"),
    *("probability", "ood_score", "is_ood", "blocks"),
)


def add_table(client: MlflowClient, run_id: str, outcomes: Sequence[ImageOutcome]) -> None:
    """Show the outcomes as a table of a run. If that fails, the run says why: the store has the outcomes."""
    if not outcomes:
        return
    try:
        add_plots(client, run_id, {TABLE: table(outcomes)})
        show_tables(client, run_id, [TABLE])
        client.set_tag(run_id, TABLE_TAG, _shown(len(outcomes)))
    except Exception as error:
        _say(client, run_id, f"not shown: {first_line(error)[:300]}")


def table(outcomes: Sequence[ImageOutcome]) -> bytes:
    """The first `MAX_ROWS` outcomes by the images' digests, as `mlflow.load_table` reads them.

    The order is the same for every version, so that tables of two runs have the same images. Columns without a value
    are left out.
    """
    rows = sorted(outcomes, key=lambda one: (one.image, one.kind, one.target or ""))[:MAX_ROWS]
    columns = [name for name in _COLUMNS if any(getattr(row, name) is not None for row in rows)]
    data = [[getattr(row, name) for name in columns] for row in rows]
    return json.dumps({"columns": columns, "data": data}, allow_nan=False).encode()


def _shown(n: int) -> str:
    if n <= MAX_ROWS:
        return f"all {n:,} answers are in {TABLE}"
    return f"{MAX_ROWS:,} of {n:,} answers are in {TABLE}: those of the images with the lowest digests"


def _say(client: MlflowClient, run_id: str, text: str) -> None:
    try:
        client.set_tag(run_id, TABLE_TAG, text)
    except Exception:  # MLflow is not there: the run shows nothing, and what comes next says so
        return
