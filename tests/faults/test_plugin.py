"""Which cases of the fault matrix a run has."""

from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentTypeError

import pytest

from tests.faults.calls import Call
from tests.faults.faults import FAULTS
from tests.faults.plugin import Shard, meet, sampled
from tests.faults.scenarios import SCENARIOS

PAIRS = [(scenario, fault) for scenario in SCENARIOS.values() for fault in FAULTS.values() if meet(scenario, fault)]
CALLS = [Call("s3", f"PUT {kind}", number) for kind in ("blobs", "channels", "verdicts") for number in range(1, 5)]
CASES = [(*pair, call) for pair in PAIRS for call in CALLS]


def test_each_case_is_in_exactly_one_shard() -> None:
    shards = [Shard.parse(f"{number}/8") for number in range(1, 9)]
    sizes = [0] * 8
    for case in CASES:
        (index,) = (index for index, shard in enumerate(shards) if shard.has(*case))
        sizes[index] += 1
    assert min(sizes) > len(CASES) / 8 * 0.8
    assert all(Shard().has(*case) for case in CASES)


@pytest.mark.parametrize("text", ["", "3", "0/8", "9/8", "3/0", "-1/8", "a/b", "3/8/1"])
def test_a_shard_that_is_not_k_of_n_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="not K/N"):
        Shard.parse(text)


def test_a_sample_has_as_many_cases_as_asked_for() -> None:
    drawn = sampled(PAIRS, "sample", 140)
    assert sum(count for _, count in drawn) == 140
    assert drawn == sampled(PAIRS, "sample", 140)
    assert drawn != sampled(PAIRS, "acceptance", 140)


@pytest.mark.acceptance
def test_a_shard_of_the_sample_is_refused() -> None:
    pytest_here = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    command = [*pytest_here, __file__, "--shard=2/8"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--shard needs --faults=all" in refused.stderr
    done = subprocess.run([*command, "--faults=all"], capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.OK
