"""What the demo tells of trials."""

from __future__ import annotations

from registry.devstack.demo_result import Exposure
from registry.devstack.demo_trials import compared


def test_the_costs_of_both_ways_stand_side_by_side() -> None:
    canary = Exposure(percent=10.0, ended_by="the guard", seconds=12.0, answers=30, wrong=12)
    everybody = Exposure(percent=100.0, ended_by="a person", seconds=5.0, answers=120, wrong=40)
    lines = compared(canary, everybody).splitlines()
    assert [line.split()[-1] for line in lines] == ["100%", "person", "5.0", "120", "40", "8.0"]
    assert "10% of the traffic" in lines[0]
    assert "12.0" in lines[2]
    assert "1.0" in lines[5]
