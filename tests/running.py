"""Says at once which test failed, and which one does not end: a run that is killed never comes to its summary."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

_LONG_SECONDS = 300.0
"""A test that runs for longer is named, again and again. The demo alone takes as long."""


class RunningTests:
    """The tests that have begun and not ended, in the process that reports: with pytest-xdist, of all workers.

    Args:
        say: prints a line.
        long: seconds after which a test that has not ended is named, and again after as many more.
    """

    def __init__(self, say: Callable[[str], None], long: float = _LONG_SECONDS) -> None:
        self._say, self._long = say, long
        self._begun: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="running-tests", daemon=True)

    def pytest_sessionstart(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def pytest_sessionfinish(self) -> None:
        """End to watch."""
        self._over.set()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        self._begun[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """A test ended."""
        self._begun.pop(nodeid, None)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test, its set-up or its end failed."""
        if report.failed:
            self._say(f"\nfailed: {report.nodeid}\n")

    def long_ones(self) -> list[str]:
        """A line for each test that runs for too long."""
        now = time.monotonic()
        running = [(nodeid, now - begun) for nodeid, begun in list(self._begun.items())]
        return [f"\nstill running after {took:.0f} s: {nodeid}\n" for nodeid, took in running if took >= self._long]

    def _watch(self) -> None:
        while not self._over.wait(self._long):
            for line in self.long_ones():
                self._say(line)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Watch in the process that prints, not in its workers. Last: the plugin that prints is there by then."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(RunningTests(lambda text: terminal.write(text, flush=True)), "running-tests")
