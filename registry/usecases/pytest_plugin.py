"""What a team's own tests of a version get: the fixtures `version`, `manifest` and `loaded`.

`ulora test V --tests DIR` loads this plugin. By hand it is `pytest -p registry.usecases.pytest_plugin
--import-mode=importlib --ulora-version V DIR`, with the settings that `ulora` has. Files that are named for another
version are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from registry.serving.loaders import Loaded
from registry.settings import Settings
from registry.usecases.serve import load
from registry.usecases.team_tests import TeamReport, failures_of, is_of_another_version
from registry.versions.manifest import Manifest
from registry.wiring import Wiring


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which version is tested, and how it is computed."""
    group = parser.getgroup("ulora")
    group.addoption("--ulora-version", metavar="V", help="The version that is tested.")
    group.addoption("--ulora-device", metavar="NAME", default="cpu", help="cpu, cuda, cuda:1 …")
    group.addoption("--ulora-runtime", metavar="NAME", help="What computes it; the version's default when left out.")
    group.addoption("--ulora-report", metavar="FILE", help="Where a report is written, as JSON.")


def pytest_configure(config: pytest.Config) -> None:
    """Report, if that is asked."""
    if file := config.getoption("--ulora-report"):
        config.pluginmanager.register(Reporter(Path(file)), "ulora-reporter")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files that are named for another version."""
    version = config.getoption("--ulora-version")
    return True if version and is_of_another_version(collection_path, version) else None


@pytest.fixture(scope="session")
def version(pytestconfig: pytest.Config) -> str:
    """The name of the version that is tested."""
    name = pytestconfig.getoption("--ulora-version")
    if not name:
        pytest.fail("say which version is tested: --ulora-version V")
    return str(name)


@pytest.fixture(scope="session")
def manifest(version: str) -> Manifest:
    """Its verified manifest: what it is, and which files it has."""
    return Wiring(Settings.load()).manifest(version)


@pytest.fixture(scope="session")
def loaded(version: str, pytestconfig: pytest.Config) -> Loaded:
    """It in memory, verified and self-tested: `loaded.predict(image)` answers. It is loaded once for all tests."""
    device, runtime = pytestconfig.getoption("--ulora-device"), pytestconfig.getoption("--ulora-runtime")
    return load(Wiring(Settings.load()), version, device=device, runtime=runtime)


class Reporter:
    """Counts what tests do, and writes it down at the end."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._passed: set[str] = set()
        self._skipped: set[str] = set()
        self._failed: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase of a test: one that fails in any phase failed."""
        if report.failed:
            self._failed.setdefault(report.nodeid, _why(report))
        elif report.skipped:
            self._skipped.add(report.nodeid)
        elif report.when == "call":
            self._passed.add(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that can't be imported counts as a test that failed."""
        if report.failed:
            self._failed[report.nodeid] = _why(report)

    def pytest_sessionfinish(self) -> None:
        """Write the report."""
        told = TeamReport(
            passed=len(self._passed - self._failed.keys()), failed=len(self._failed), skipped=len(self._skipped),
            failures=failures_of(iter(self._failed.items())),
        )  # fmt: skip
        self._file.write_text(told.model_dump_json())


def _why(report: Any) -> str:
    """The line that names the error of a test, or the last one."""
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = str(crash.message if crash else report.longreprtext).strip().splitlines() or ["it failed"]
    return str(lines[0] if crash else lines[-1])
