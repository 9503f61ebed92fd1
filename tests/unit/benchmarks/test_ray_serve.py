"""The benchmark of replicas on Ray Serve beside plain ones, on a real cluster and a real store."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.acceptance
def test_both_ways_answer_and_follow() -> None:
    command = [sys.executable, "-m", "benchmarks.ray_serve", "--size", "tiny", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["figures"]
    for name in ("ulora serve", "Ray Serve"):
        assert figures[f"1: {name}, images a second"] > 0
        assert figures[f"1: {name}, record -> last replica, seconds"] > 0
