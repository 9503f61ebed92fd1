"""The budget runs with real servers, and bytes are counted where they arrive. No test judges the figures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from benchmarks.counting import CountingProxy
from benchmarks.release import CORRECTED, correct_release, digests_below, files_below, write_release
from benchmarks.shipping import FIRST, NEXT, OurShipper, Place
from benchmarks.transfer import StepBytes
from registry.devstack.s3_server import S3Server
from registry.errors import LoadFailed


def ask(*words: str) -> Any:
    command = [sys.executable, "-m", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_bytes_of_files_are_counted_where_they_arrive(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a proxy in front of the store: what `create` says of itself is not asked."""
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    first, following = write_release(tmp_path / "first", 0.0001), write_release(tmp_path / "next", 0.0001)
    changed = correct_release(following)
    distinct = sum(map(len, {path.read_bytes() for path in files_below(first).values()}))
    with CountingProxy(s3.url) as proxy:
        place = Place(proxy.url, "http://127.0.0.1:9", s3.bucket, uuid4().hex, tmp_path)
        shipper = OurShipper(place)
        steps = []
        for source, version in ((first, FIRST), (following, NEXT), (following, "v1.1.3")):
            proxy.take()
            shipper.publish(source, version)
            steps.append(StepBytes.of([proxy.take()]))
    files = digests_below(first), digests_below(following)
    assert (steps[0].of_files(files[0]), steps[1].of_files(files[1])) == (distinct, changed)
    assert [len(one.blobs) for one in steps[1:]] == [len(CORRECTED) + 1, 1], "the manifest too"
    with pytest.raises(LoadFailed, match="no file of the version was sent"):
        steps[2].of_files(files[1])


@pytest.mark.acceptance
def test_the_budget_runs_rows_and_keeps_them(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    found = ask("benchmarks.budget", "--quick", "--only", "loading", "--only", "mixed", "--keep", str(kept))
    assert [row["state"] for row in found["rows"]] == ["measured", "measured"]
    assert {line["row"] for line in found["lines"]} == {"loading", "mixed"}
    assert all(line["n"] > 0 and line["ours"] and line["rivals"] for line in found["lines"])
    assert json.loads(kept.read_text())["rows"] == found["rows"]


@pytest.mark.acceptance
def test_an_interrupted_run_stops_its_servers_and_tells_the_rest(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    words = ["-m", "benchmarks.budget", "--quick", "--only", "scale", "--only", "mixed", "--json"]
    env = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as run:
        assert run.stderr is not None
        assert any("versions in the store" in line for line in run.stderr), "its servers are up"
        run.send_signal(signal.SIGINT)
        out, _ = run.communicate(timeout=300)
    assert run.returncode == 130
    assert [row["state"] for row in json.loads(out)["rows"]] == ["interrupted", "not run"]
    assert list(temporary.glob("ulora-bench-*")) == []
