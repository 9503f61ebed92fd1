"""What the demo's live line says about batches."""

from __future__ import annotations

import pytest

from registry.devstack.batch_sizes import BatchSizes, sizes_in
from tests.servers.yes_server import YesServer

METRICS = """\
# TYPE ulora_batch_rows histogram
ulora_batch_rows_bucket{le="1.0"} 6.0
ulora_batch_rows_bucket{le="2.0"} 7.0
ulora_batch_rows_bucket{le="4.0"} 8.0
ulora_batch_rows_bucket{le="8.0"} 8.0
ulora_batch_rows_bucket{le="+Inf"} 8.0
ulora_batch_rows_count 8.0
ulora_batch_rows_sum 12.0
"""


def test_batches_are_told_by_mean_and_bound() -> None:
    assert sizes_in(METRICS) == "1.5 images a batch (at most 4)"


@pytest.mark.parametrize("metrics", ["", "up 1\n", "ulora_batch_rows_count 0.0\n"])
def test_nothing_is_said_before_the_first_batch(metrics: str) -> None:
    assert sizes_in(metrics) == ""


def test_a_service_without_metrics_is_no_error() -> None:
    with YesServer() as service:  # it answers `OK` to everything
        assert BatchSizes(service.url).text() == ""
    assert BatchSizes(service.url).text() == ""
