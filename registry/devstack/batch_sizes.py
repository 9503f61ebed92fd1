"""How many images a replica computes together, by its metrics."""

from __future__ import annotations

import time
import urllib.request

_TIMEOUT = 1.0
_PAUSE = 1.0
"""Seconds between two looks at the metrics at least, however often the text is drawn."""
_METRIC = "ulora_batch_rows"


class BatchSizes:
    """Looks at the metrics of one replica. For one thread."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/metrics"
        self._text = ""
        self._due = 0.0

    def text(self) -> str:
        """The sizes of batches since the replica began, in words; empty as long as nothing is known."""
        if time.monotonic() >= self._due:
            try:
                with urllib.request.urlopen(self._url, timeout=_TIMEOUT) as answer:  # noqa: S310  the demo's own address
                    self._text = sizes_in(answer.read().decode())
            except (OSError, ValueError):
                pass  # the last ones stay: it is busy, or it ends
            self._due = time.monotonic() + _PAUSE
        return self._text


def sizes_in(metrics: str) -> str:
    """The mean of the sizes, and a bound of the largest, of metrics in Prometheus' text format; empty without batches.

    Raises:
        ValueError: the text is not in this format.
    """
    from prometheus_client.parser import text_string_to_metric_families

    found = {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in text_string_to_metric_families(metrics)
        if family.name == _METRIC
        for sample in family.samples
    }
    count, rows = found.get((f"{_METRIC}_count", ""), 0.0), found.get((f"{_METRIC}_sum", ""), 0.0)
    if not count:
        return ""
    most = min(float(bound) for (_, bound), below in found.items() if bound and below == count)
    return f"{rows / count:.1f} images a batch (at most {most:g})"
