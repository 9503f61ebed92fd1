"""How evidence and channels are shown in MLflow: what the catalog needs to know of them."""

from __future__ import annotations

from collections.abc import Sequence

from registry.catalog.log import Result
from registry.catalog.mirror import ChannelView
from registry.evidence.results import Evidence
from registry.record import Record


def evidence_result(evidence: Evidence, plot: bytes | None) -> Result:
    """Some evidence as MLflow is to show it."""
    return Result(
        benchmark=evidence.benchmark,
        evidence_sha256=evidence.sha256,
        metrics={
            f"{metric.name}.{metric.target}" if metric.target else metric.name: metric.value
            for metric in evidence.metrics
            if metric.value is not None
        },
        params={  # with a prefix: inside `mlflow run` the run has parameters of its own already
            "ulora.version": evidence.version,
            "ulora.device": evidence.device,
            "ulora.runtime": evidence.runtime,
            "ulora.data": evidence.data.name,
            "ulora.data_sha256": evidence.data.sha256,
            "ulora.n": str(evidence.data.n),
        },
        plots={f"{evidence.benchmark}.png": plot} if plot else {},
    )


def channel_view(name: str, records: Sequence[Record]) -> ChannelView:
    """A channel as the mirror needs it, from some of its records, newest first."""
    head = records[0] if records else None
    return ChannelView(
        channel=name,
        generation=head.generation if head else 0,
        stable=head.stable.version if head and head.stable else None,
        canary=head.canary.version if head and head.canary else None,
        formerly=frozenset(version for record in records for version in record.live()),
        withdrawn=frozenset(head.withdrawn if head else ()),
    )
