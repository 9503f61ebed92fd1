"""Run a benchmark of this software in a process of its own, and show its result in MLflow.

The process prints one JSON object. Its numbers become metrics of a run in the experiment `EXPERIMENT`, with curves,
plots and the whole result. Without a tracking server the result is only printed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks import charts
from benchmarks.command_output import output_of
from benchmarks.software import DRILL_EVENTS, SoftwareParameters, SoftwareResult, mlflow_key
from registry.catalog.connection import PING, Connection
from registry.catalog.run_writer import ResultRun, RunContent, record_result
from registry.catalog.runs import experiment_id
from registry.errors import LoadFailed, NotInMlflow, UloraError, first_line
from registry.progress import Say
from registry.settings import find, read_file

EXPERIMENT = "ulora-benchmarks"
RESULT = "result.json"
_EVENTS = dict(zip(DRILL_EVENTS, ("the log has moved", "the replica answers by it", "the command ends"), strict=True))


def run_software(parameters: SoftwareParameters, *, say: Say) -> SoftwareResult:
    """Run a benchmark, and show its result in MLflow if there is a server.

    Raises:
        BadInput: a parameter is invalid.
        CatalogUnreachable: the tracking server that is set does not answer; then nothing is measured.
        LoadFailed: the benchmark failed; it has said why.
        NotInMlflow: it was measured, but MLflow did not take it.
    """
    words = parameters.command()
    runs = SoftwareRuns.of_settings()
    if runs is None:
        say("MLFLOW_TRACKING_URI is not set: the result is only printed")
    else:
        runs.ping()
    began = int(time.time() * 1000)
    found = SoftwareResult(_measured(words))
    if runs is not None:
        try:
            runs.record(parameters, found, began)
        except UloraError as error:
            said = f"the result is printed, but not in MLflow: {first_line(error)}"
            raise NotInMlflow(said, hint="log result.json yourself, or run it again", answer=found) from error
    return found


def _measured(words: list[str]) -> Mapping[str, Any]:
    """The JSON object that a module prints; its progress goes to this process's standard error.

    It runs the code that runs here: that of a checkout, where another one is installed.

    Raises:
        LoadFailed: it failed, or printed something else.
        KeyboardInterrupt: it was interrupted.
    """
    places = [str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    printed = output_of(["-m", *words], {**os.environ, "PYTHONPATH": os.pathsep.join(places)})
    with suppress(ValueError, RecursionError):
        document = json.loads(printed)
        if isinstance(document, dict):
            return document
    raise LoadFailed(f"python -m {' '.join(words)} did not print one JSON object")


@dataclass(frozen=True)
class SoftwareRuns:
    """Where measurements of this software are shown."""

    connection: Connection

    @classmethod
    def of_settings(cls) -> Self | None:
        """The tracking server of the settings; None if none is set."""
        uri, _ = find("tracking_uri", None, read_file())
        return cls(Connection(str(uri))) if uri else None

    def ping(self) -> None:
        """Check that the server answers. Raises: CatalogUnreachable, CatalogRefused."""
        with self.connection.open(PING) as client:
            client.search_experiments(max_results=1)

    def record(self, parameters: SoftwareParameters, found: SoftwareResult, began: int) -> str:
        """Record a result; returns the run's id.

        Args:
            began: milliseconds.

        Raises:
            CatalogUnreachable, CatalogRefused: the server does not take it.
        """
        title = f"{parameters.name} {parameters.size}"
        run = ResultRun(parameters.name, title, content_of(parameters, found), began=began)
        with self.connection.open() as client:
            return record_result(client, experiment_id(client, EXPERIMENT), run)


def content_of(parameters: SoftwareParameters, found: SoftwareResult) -> RunContent:
    """What the run of a result shows."""
    document = found.document
    params = _texts("ulora.", document.get("setting", {})) | _texts("machine.", document.get("machine", {}))
    return RunContent(
        params={"ulora.size": parameters.size, **params},
        metrics=found.metrics(),
        curves=found.curves(),
        files={RESULT: json.dumps(document, indent=2).encode(), **_plots(parameters.name, found)},
    )


def _plots(name: str, found: SoftwareResult) -> dict[str, bytes]:
    """A growth curve of what was measured at several sizes, and the timeline of a drill."""
    drawn: dict[str, bytes] = {}
    drill = found.drill()
    grown = {key: list(points.items()) for key, points in found.curves().items() if not key.startswith("drill_")}
    if grown:
        labels = ("versions", "ms")
        drawn[f"{name}_growth.png"] = charts.lines(grown, labels, f"{name}: median times", logarithmic=True)
    if drill:
        events = {_EVENTS[event]: [value / 1e3 for value in values] for event, values in drill.items()}
        drawn[f"{name}_timeline.png"] = charts.timeline(events, "seconds after the start of the command")
    return drawn


def _texts(prefix: str, values: Mapping[str, Any]) -> dict[str, str]:
    return {mlflow_key(f"{prefix}{name}"): str(value) for name, value in values.items()}
