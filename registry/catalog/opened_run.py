"""The run that `mlflow run` opens for the process that it starts, and how it says where the results are.

A run can't be moved, and holds one result: a second one would overwrite its metrics, and MLflow refuses other values of
its parameters. So a result is in the opened run only if that is in the right experiment, was opened for this kind of
result, and holds none yet; otherwise it gets a run of its own, and the opened one gets a note with a link to it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from registry.catalog import tags

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_ENTRY_POINT, _NOTE, _PARENT = "mlflow.project.entryPoint", "mlflow.note.content", "mlflow.parentRunId"
_MAX_NOTE = 8000
"""Characters; MLflow cuts longer tags."""


@dataclass(frozen=True)
class OpenedRun:
    """A run that MLflow has opened, and will end.

    Attributes:
        entry_point: whose it is; empty if it was not opened by `mlflow run`, but by somebody's own program.
        holds: the result that it holds already: the digest of the evidence, or the name of a benchmark; empty if none.
    """

    run_id: str
    experiment: str
    entry_point: str
    holds: str = ""

    @classmethod
    def find(cls, client: MlflowClient) -> Self | None:
        """The one of this process on this server, if any."""
        found = _run(client, os.environ.get("MLFLOW_RUN_ID"))
        if found is None:
            return None
        its = found.data.tags
        holds = its.get(tags.EVIDENCE) or its.get(tags.BENCHMARK, "")
        return cls(str(found.info.run_id), str(found.info.experiment_id), its.get(_ENTRY_POINT, ""), holds)

    def is_for(self, experiment: str, entry_point: str, evidence: str = "") -> bool:
        """Whether a result of an entry point in an experiment belongs into this run.

        Args:
            evidence: the digest of the evidence, of a result that is some: it may be recorded again.
        """
        return self.experiment == experiment and self.entry_point == entry_point and self.holds in ("", evidence)

    def parent_tags(self, experiment: str) -> dict[str, str]:
        """The tags of a run that MLflow shows below this one; none in another experiment, where it does not."""
        return {_PARENT: self.run_id} if self.experiment == experiment else {}

    def refer(self, client: MlflowClient, title: str, experiment: str, run_id: str) -> None:
        """Add to the run's note that another run has results."""
        said = f"[{title}](#/experiments/{experiment}/runs/{run_id}?workflowType=machine_learning) has the results"
        before = client.get_run(self.run_id).data.tags.get(_NOTE, "")
        note = f"{before}\n\n{said}" if before else said
        if len(note) <= _MAX_NOTE:
            client.set_tag(self.run_id, _NOTE, note)


def _run(client: MlflowClient, run_id: str | None) -> Run | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id) if run_id else None
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
