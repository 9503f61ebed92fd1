"""The options of `ulora test`."""

from __future__ import annotations

import math

import pytest

from registry.errors import BadInput
from registry.usecases import version_test_options


@pytest.mark.parametrize("latency", [math.nan, math.inf, 0.0, -1.0])
def test_a_latency_is_a_time(latency: float) -> None:
    with pytest.raises(BadInput) as raised:
        version_test_options.TestOptions(deployed="http://localhost:1", max_latency=latency)
    assert "--max-latency" in raised.value.hint
