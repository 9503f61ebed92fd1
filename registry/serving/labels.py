"""True labels that come back: which stage their answer was in, and whether anybody knows such a label."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from registry.errors import BadInput, NotFound, ObjectNotFound, Overloaded
from registry.serving.loaders import Loaded
from registry.serving.pinned import FollowedLog
from registry.trials.observations import TrialStage
from registry.trials.receipts import OOD_LABEL, Receipt
from registry.trials.recorder import LabelResult, Recorder
from registry.trials.stages import stage_of_record

_MAX_STAGES = 256
_MAX_LOOKS = 2
"""Looks at the log at a time: each takes a thread, for as long as the store does not answer."""


class StageLookup:
    """Finds the stages of a channel's generations, by its log, and remembers the last ones. Any thread may call it."""

    def __init__(self, channel: FollowedLog) -> None:
        self._channel = channel
        self._known: OrderedDict[int, TrialStage] = OrderedDict()
        self._looks = threading.BoundedSemaphore(_MAX_LOOKS)

    def find(self, generation: int) -> TrialStage:
        """The stage that a generation began.

        Raises:
            NotFound: there is no such generation, or it serves nothing.
            Overloaded: others look already, and the store takes its time.
            UloraError: the log can't be read.
        """
        if (known := self._known.get(generation)) is not None:
            return known
        if not self._looks.acquire(blocking=False):
            raise Overloaded("the log is being read for other labels", retry_after=1)
        try:
            stage = stage_of_record(self._channel.read(generation))
        except ObjectNotFound as error:
            raise _unknown(generation) from error
        finally:
            self._looks.release()
        if stage is None:
            raise _unknown(generation)
        self._known[generation] = stage
        while len(self._known) > _MAX_STAGES:
            self._known.popitem(last=False)
        return stage


class Labels:
    """Takes labels at one replica. Any thread may call it; one of an old generation takes a read of the log."""

    def __init__(self, recorder: Recorder, channel: FollowedLog, find: Callable[[str], Loaded | None]) -> None:
        """`find` returns a version in memory by its name."""
        self._recorder = recorder
        self._lookup = StageLookup(channel)
        self._find = find

    def take(self, receipt: Receipt, label: str) -> tuple[TrialStage, LabelResult]:
        """Count a true label, or say why not.

        Raises:
            NotFound, Overloaded, UloraError: see `StageLookup.find`.
            BadInput: neither version of the stage knows this label.
        """
        stage = self._recorder.stage_of(receipt.generation) or self._lookup.find(receipt.generation)
        self._check_known(stage, label)
        return stage, self._recorder.label(stage, receipt, label)

    def _check_known(self, stage: TrialStage, label: str) -> None:
        """Refuse what is spelled wrongly, where that can be told: it would count as a mistake of the version."""
        versions = [self._find(name) for name in (stage.stable, stage.canary) if name]
        known = {
            OOD_LABEL,
            *(one for loaded in versions if loaded for labels in loaded.labels.values() for one in labels),
        }
        if all(versions) and label not in known:
            raise BadInput(
                f"no version of generation {stage.generation} has a label {label[:80]!r}",
                hint=f"{OOD_LABEL} says that the image shows none of their classes",
            )


def _unknown(generation: int) -> NotFound:
    return NotFound(f"there is no generation {generation} in the log of this channel")
