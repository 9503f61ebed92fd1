"""A team's own pytest files, run on one version in a process of its own; see `registry.usecases.pytest_plugin`.

All test files below the folder run, but those that are named for another version: `test_v5.5.4-dinov3.py`, or with
underscores, `test_5_5_4_dinov3.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.errors import BadInput, CheckFailed, MissingDependency, no_folder
from registry.formats.bounded import file_digest
from registry.formats.counts import counted
from registry.machine.programs import HookAnswer, run_module
from registry.machine.scratch import scratch
from registry.usecases.check_results import CheckPassed
from registry.usecases.version_test_options import TestOptions
from registry.versions.manifest import Manifest
from registry.wiring import Wiring

PLUGIN = "registry.usecases.pytest_plugin"
MAX_FAILURES = 50
"""Tests that failed, of which the report tells more than their number."""
MAX_TEXT = 300
_MAX_REPORT = 1024 * 1024
_MAX_FILES, _MAX_FILE = 10_000, 16 * 1024 * 1024
_DONE = (0, 1, 5)
"""The exit statuses of pytest after which its report is whole: all passed, some failed, there were none."""
_VERSION = re.compile(r"v?(\d+_\d+_\d+(?:_.*)?)", re.ASCII)
_TAIL = 20

Text = Annotated[str, Field(max_length=MAX_TEXT)]


class FailedTest(BaseModel):
    """One test that failed, and the last line of why."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    test: Text
    why: Text


class TeamReport(BaseModel):
    """What the plugin reports: how many tests passed, failed and were skipped, and the first of those that failed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1] = 1
    passed: int = Field(ge=0)
    failed: int = Field(ge=0)
    skipped: int = Field(ge=0)
    failures: tuple[FailedTest, ...] = Field(default=(), max_length=MAX_FAILURES)


def is_of_another_version(file: PurePath, version: str) -> bool:
    """Whether a test file is named for a version, and that is not this one."""
    found = _VERSION.fullmatch(_plain(file.stem.removeprefix("test_").removesuffix("_test")))
    return found is not None and found[1] != _plain(version).removeprefix("v")


def check_folder(folder: Path) -> None:
    """Check that the tests of a folder can be run at all.

    Raises:
        BadInput: there is no such folder.
        MissingDependency: pytest is not installed.
    """
    if not folder.is_dir():
        raise BadInput(no_folder(folder), hint="--tests names a folder of pytest files")
    if find_spec("pytest") is None:
        raise MissingDependency("pytest is not installed", hint="pip install pytest")


def files_of(folder: Path, version: str) -> dict[str, str]:
    """The sha256 of each test file that runs for a version, by its path in the folder; a long one's is empty."""
    found = sorted({*folder.rglob("test_*.py"), *folder.rglob("*_test.py")})[:_MAX_FILES]
    paths = {file: file.relative_to(folder).as_posix().encode("utf-8", "replace").decode() for file in found}
    return {path: _digest(file) for file, path in paths.items() if _runs(file, version)}


def run_team_tests(wiring: Wiring, manifest: Manifest, options: TestOptions, folder: Path) -> CheckPassed:
    """Run the tests of a folder.

    Raises:
        CheckFailed: one failed, none ran, or they did not end in time.
    """
    with scratch("ulora-test-") as place:
        report = place / "report.json"
        words = [
            *(
                "-p",
                PLUGIN,
                "-p",
                "no:cacheprovider",
                "--import-mode=importlib",
                "--continue-on-collection-errors",
                "-q",
                "--color=no",
            ),
            *("--ulora-version", manifest.version, "--ulora-device", options.device, "--ulora-report", str(report)),
            *(("--ulora-runtime", options.runtime) if options.runtime else ()),
            str(folder.absolute()),
        ]
        answer = run_module("pytest", words, seconds=options.timeout, env=_environment(wiring, folder))
        told = read_report(report, answer, options.timeout)
    ran = told.passed + told.failed
    if told.failed:
        lines = tuple(f"{one.test}: {one.why}" for one in told.failures)
        raise CheckFailed(f"{told.failed} of {counted(ran, 'test')} failed in {folder}", lines=lines)
    if not ran:
        raise CheckFailed(
            f"no test in {folder} ran for {manifest.version}",
            hint="files named test_*.py run, but those named for another version",
        )
    return CheckPassed(counted(ran, "test") + (f", {told.skipped} skipped" if told.skipped else ""), n=ran)


def read_report(file: Path, answer: HookAnswer, seconds: float) -> TeamReport:
    """The report of a pytest that ended.

    Raises:
        CheckFailed: it was ended after its `seconds`, or it left no report that is whole.
    """
    lines = tuple(answer.said.splitlines()[-_TAIL:])
    if answer.code is None:
        raise CheckFailed(f"the tests did not end within {seconds:g} s", hint="raise --timeout", lines=lines)
    try:
        with file.open("rb") as opened:
            text = opened.read(_MAX_REPORT)
        told = TeamReport.model_validate_json(text)
    except (OSError, ValidationError) as error:
        raise CheckFailed(f"pytest ended with exit status {answer.code}, without a report", lines=lines) from error
    if answer.code not in _DONE and not told.failed:
        raise CheckFailed(f"pytest ended with exit status {answer.code}", lines=lines)
    return told


def _environment(wiring: Wiring, folder: Path) -> dict[str, str]:
    """This process's variables and settings; modules beside the tests can be imported."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    paths = os.pathsep.join([str(folder.absolute()), *filter(None, [ours.get("PYTHONPATH")])])
    return {**ours, **wiring.settings.environment(), "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}


def _runs(file: Path, version: str) -> bool:
    return file.is_file() and not is_of_another_version(file, version)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return file_digest(opened.fileno(), _MAX_FILE) or ""


def _plain(name: str) -> str:
    return re.sub(r"[._-]+", "_", name.lower())


def failures_of(found: Iterator[tuple[str, str]]) -> tuple[FailedTest, ...]:
    """The first tests that failed, cut to what a report holds."""
    return tuple(
        FailedTest(test=test[-MAX_TEXT:], why=why[:MAX_TEXT])
        for (test, why), _ in zip(found, range(MAX_FAILURES), strict=False)
    )
