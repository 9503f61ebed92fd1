"""The demo, played once as a newcomer would, and broken off."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from registry.devstack.digits import write_digits

FIRST, SECOND, BAD = "v5.5.3-performance", "v5.5.4-dinov3", "v5.5.5-relabelled"
KEPT = {"train": 40, "val": 20, "test": 12}


@pytest.mark.acceptance
@pytest.mark.first
@pytest.mark.timeout(3600)
def test_the_demo_has_the_results_that_it_shows(tmp_path: Path) -> None:
    images = few_digits(tmp_path / "digits")

    done = play(tmp_path, "--data", str(images), "--json")

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["failures"] == 0
    assert result["requests"] == sum(result["versions"].values()) > 0
    assert set(result["versions"]) == {FIRST, SECOND, BAD}
    assert result["shadow"]["outcome"] in ("ship", "keep")
    assert result["shadow"]["labelled"] >= 150
    assert result["refusal"]["exit_code"] == 3
    assert any("accuracy (low)" in rule for rule in result["refusal"]["rules"])
    canary, everybody = result["canary"]["exposure"], result["incident"]["exposure"]
    assert (canary["percent"], canary["ended_by"], everybody["percent"]) == (10, "the guard", 100)
    assert 0 < canary["wrong"] <= canary["answers"]
    assert canary["wrong"] / canary["seconds"] < everybody["wrong"] / everybody["seconds"]
    assert canary["answers"] + everybody["answers"] == result["versions"][BAD]
    assert 0 < result["canary"]["wrong"] <= result["canary"]["labelled"]
    race = result["race"]
    assert race["exit_codes"] == {race["winner"]: 0, race["loser"]: 4}
    assert race["winner"] in race["message"]
    incident = result["incident"]
    assert incident["accuracy_bad"] < min(incident["accuracy_before"], incident["accuracy_after"])
    assert incident["largest_difference"] <= 1e-3
    assert any("alias staging" in change for change in incident["healed"])
    assert result["corruption"]["exit_code"] == 6
    assert result["corruption"]["file"] in result["corruption"]["found"]
    assert result["corruption"]["largest_difference"] <= 1e-3
    assert left_behind(tmp_path) == []


@pytest.mark.acceptance
@pytest.mark.parametrize(("number", "moment"), [(signal.SIGINT, "S3 and MLflow are up"), (signal.SIGTERM, "began")])
def test_an_interrupted_demo_ends_its_processes_and_files(tmp_path: Path, number: signal.Signals, moment: str) -> None:
    images = few_digits(tmp_path / "digits")
    with running_demo(tmp_path, images) as running:
        assert running.stdout is not None
        said = next(line for line in running.stdout if moment in line)

        running.send_signal(number)
        rest, errors = running.communicate(timeout=300)

    assert running.returncode == 130
    assert "interrupted: ending the demo's processes" in rest
    assert "interrupted" in errors.splitlines()
    assert left_behind(tmp_path) == []
    for url in (word for word in said.split() if word.startswith("http")):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=5)


@pytest.mark.acceptance
@pytest.mark.timeout(3600)
def test_a_replica_that_dies_ends_the_demo_with_the_reason(tmp_path: Path) -> None:
    images = few_digits(tmp_path / "digits")
    with running_demo(tmp_path, images) as running:
        assert running.stdout is not None
        said = next(line for line in running.stdout if "the traffic begins" in line)
        (url,) = (word.rstrip(";") for word in said.split() if word.startswith("http"))
        os.kill(process_on(str(urlsplit(url).port)), signal.SIGKILL)
        rest, errors = running.communicate(timeout=1800)

    assert running.returncode == 1, errors
    assert "the demo ended early" in errors
    assert "failed: no answer" in errors
    assert "the serve server ended with exit status -9" in errors
    assert "Act 3" not in rest
    assert left_behind(tmp_path) == []


def test_a_folder_that_is_not_empty_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")

    done = play(tmp_path, "--folder", str(tmp_path), "--json")

    assert done.returncode == 2
    assert "not an empty folder" in json.loads(done.stderr)["message"]
    assert (tmp_path / "mine").read_text() == "keep"


def test_a_folder_without_images_is_one_clear_line(tmp_path: Path) -> None:
    done = play(tmp_path, "--data", str(tmp_path / "none"))

    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith("error:")
    assert "Traceback" not in done.stderr


def play(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), env=env(tmp_path), capture_output=True, text=True, timeout=3500, check=False)


@contextmanager
def running_demo(tmp_path: Path, images: Path) -> Iterator[subprocess.Popen[str]]:
    """The demo in a process of its own, which is killed if the test does not wait for its end."""
    with subprocess.Popen(
        command("--data", str(images)),
        env=env(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0,
    ) as running:  # fmt: skip
        try:
            yield running
        finally:
            running.kill()


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "registry", "demo", *words]


def env(tmp_path: Path) -> dict[str, str]:
    """The environment of the demo, with a folder of its own for temporary files."""
    (tmp_path / "temporary").mkdir()
    return {**os.environ, "TMPDIR": str(tmp_path / "temporary"), "OMP_NUM_THREADS": "1"}


def few_digits(folder: Path) -> Path:
    """A part of the demo's own images, so that the fits take seconds."""
    write_digits(folder, KEPT)
    shutil.rmtree(folder / "_ood")
    return folder


def process_on(port: str) -> int:
    """The replica that was told to use a port."""
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "pid,args"], capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in listed.splitlines() if f" serve --host 127.0.0.1 --port {port} " in f"{line} ")
    return int(line.split()[0])


def left_behind(tmp_path: Path) -> list[str]:
    """Temporary files, and processes that name their folder."""
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    processes = [line for line in listed.splitlines() if str(tmp_path / "temporary") in line]
    return [*processes, *(str(path) for path in (tmp_path / "temporary").iterdir())]
