"""How evidence and channels are shown in MLflow: what the catalog needs to know of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from registry.catalog.log import Result
from registry.catalog.mirror import ChannelView
from registry.channels.channel import Channel
from registry.channels.record import Record
from registry.errors import BadManifest, BrokenChain, IntegrityError
from registry.evidence.results import Evidence
from registry.names import CHANNELS


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


@dataclass(frozen=True)
class Views:
    """What the mirror needs to know of the channels. One that can't be read is noted in `damaged`, by its name."""

    channel: Callable[[str], Channel]

    def whole(self, damaged: dict[str, str]) -> list[ChannelView]:
        """From their whole logs; from its end where a log is broken."""

        def view(name: str) -> ChannelView:
            try:
                return channel_view(name, self.channel(name).history())
            except (BrokenChain, BadManifest) as error:
                damaged[name] = str(error)
                return self._end(name, damaged)

        return [view(name) for name in CHANNELS]

    def ends(self, damaged: dict[str, str]) -> list[ChannelView]:
        """From their newest records only, whose cost does not grow with the logs."""
        return [self._end(name, damaged) for name in CHANNELS]

    def _end(self, name: str, damaged: dict[str, str]) -> ChannelView:
        try:
            head = self.channel(name).head()
        except IntegrityError as error:
            damaged[name] = str(error)
            return ChannelView(name, generation=0, problem=f"{name} can't be read: {error}")
        return replace(channel_view(name, [head] if head else []), formerly=None)
