"""How much of the fault matrix is played, and what is said of it at the end. Loaded by `tests/conftest.py`.

pytest                                a sample: ULORA_FAULT_CASES of them, drawn by ULORA_FAULT_SEED (printed)
pytest -n 2 tests/faults --faults=all
ULORA_FAULT_CALL='s3 PUT verdicts #1' pytest tests/faults --faults=all -k promote-reset_after
"""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any

import pytest

from tests.faults.faults import FAULTS, Fault
from tests.faults.scenarios import SCENARIOS, Scenario

# The process that starts pytest-xdist's workers hands it on to them, so that all draw the same.
SEED = os.environ.setdefault("ULORA_FAULT_SEED", str(random.SystemRandom().randrange(10**6)))
CASES = int(os.environ.get("ULORA_FAULT_CASES", "140"))
ALL = "all"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--faults=all`."""
    parser.addoption("--faults", choices=("sample", ALL), default="sample", help="how much of the fault matrix")


def pytest_report_header() -> str:
    """The seed, before anything can fail."""
    return f"fault seed: {SEED} (ULORA_FAULT_SEED={SEED} draws the same again)"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each scenario and fault that is played, with how many of its calls."""
    if "at_most" not in metafunc.fixturenames:
        return
    pairs = [(scenario, fault) for scenario in SCENARIOS.values() for fault in FAULTS.values() if meet(scenario, fault)]
    if metafunc.config.getoption("--faults", "sample") == ALL:
        played = [(scenario, fault, None) for scenario, fault in pairs]
    else:
        played = [(scenario, fault, count) for (scenario, fault), count in sampled(pairs)]
    ids = [f"{scenario.name}-{fault.name}" for scenario, fault, _ in played]
    metafunc.parametrize(("scenario", "fault", "at_most"), played, ids=ids)


def meet(scenario: Scenario, fault: Fault) -> bool:
    """Whether a fault can happen at any call of a scenario."""
    servers = {"s3"} | ({"mlflow"} if scenario.uses_mlflow else set()) | ({"disk"} if scenario.tree else set())
    return bool(servers & fault.at)


def sampled(pairs: list[tuple[Scenario, Fault]]) -> list[tuple[tuple[Scenario, Fault], int]]:
    """Some of the pairs, each with a number of calls; those that take seconds are drawn more rarely."""
    weights = [1 / ((8 if scenario.uses_mlflow else 1) * (8 if fault.slow else 1)) for scenario, fault in pairs]
    drawn = Counter(random.Random(f"{SEED}/pairs").choices(range(len(pairs)), weights, k=CASES))
    return [(pairs[index], count) for index, count in sorted(drawn.items())]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many cases were played, by scenario and fault."""
    counts: Counter[tuple[str, str]] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "fault_cases" and report.when == "call":
                    counts[tuple(value[:2])] += value[2]
    has_failed = any("tests/faults" in report.nodeid for report in terminalreporter.stats.get("failed", ()))
    if counts or has_failed:
        terminalreporter.section(f"{counts.total()} cases of the fault matrix, ULORA_FAULT_SEED={SEED}")
    for scenario in dict.fromkeys(scenario for scenario, _ in counts):
        row = {fault: n for (each, fault), n in counts.items() if each == scenario}
        shown = ", ".join(f"{fault} {n}" for fault, n in row.items())
        terminalreporter.write_line(f"{scenario}: {sum(row.values())} ({shown})")
