"""Receipts of answers: what an app keeps, to send the true label when it is known."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from registry.channels.record import Record
from registry.serving.observer import RowOutcome
from registry.serving.pinned import is_pinned
from registry.serving.routing import Route
from registry.trials.receipts import ArmAnswer, FleetKeys, Receipt, issue, read

FIELD = "request_id"
"""Where an answer has its receipt."""


class Receipts:
    """Issues and reads the receipts of one channel."""

    def __init__(self, keys: FleetKeys, model: str, channel: str) -> None:
        self._keys = keys.for_channel(model, channel)

    def of(self, route: Route, answer: Any, shadow: RowOutcome | None) -> str:
        """The receipt of an answer; empty for one that is in no stage.

        Args:
            shadow: what the canary of a shadow trial made of the image.
        """
        if route.stage is None:
            return ""
        beside = _answered(shadow.answer) if shadow and shadow.answer is not None else None
        left_out = route.left_out or (route.shadow is not None and beside is None)
        receipt = Receipt(
            generation=route.stage.generation,
            arm="named" if left_out else route.arm,  # its label is left out too
            unit=route.unit,
            answer=_answered(answer),
            issued_at=int(time.time()),
            target=getattr(answer, "target", None),
            shadow=None if left_out else beside,
        )
        return issue(self._keys, receipt)

    def read(self, text: str) -> Receipt:
        """What a receipt says.

        Raises:
            BadReceipt: it is not one, or none of this channel.
        """
        return read(self._keys, text)


def open_receipts(file: Path | None, record: Record) -> Receipts | None:
    """The receipts of a record's channel under the keys of a file, else of the environment; None without keys, and for
    a replica that is pinned to a version: nobody counts its answers.

    Raises:
        BadSetting: the keys can't be used.
    """
    keys = FleetKeys.from_setting(file=file)
    return Receipts(keys, record.model, record.channel) if keys and not is_pinned(record) else None


def _answered(answer: Any) -> ArmAnswer:
    return ArmAnswer(getattr(answer, "label", None), bool(getattr(answer, "is_ood", False)))
