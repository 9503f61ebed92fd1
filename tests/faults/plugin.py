"""Which cases of the fault matrix run, and the count of them at the end. Loaded by `tests/conftest.py`.

pytest                                a sample: ULORA_FAULT_CASES of them, drawn by ULORA_FAULT_SEED (printed)
pytest -m acceptance tests/faults     a larger sample, drawn by the same seed: ULORA_FAULT_ACCEPTANCE_CASES of them
pytest -n 2 tests/faults --faults=all
pytest -n 2 tests/faults --faults=all --shard=3/8
ULORA_FAULT_CALL='s3 PUT verdicts #1' pytest tests/faults --faults=all -k promote-reset_after

A shard is the cases whose name, `SCENARIO FAULT SERVER CALL #N`, has a CRC-32 that is K - 1 modulo N: the same cases in
every run, and each case in exactly one of the N shards.
"""

from __future__ import annotations

import os
import random
import zlib
from argparse import ArgumentTypeError
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from tests.faults.calls import Call
from tests.faults.faults import FAULTS, Fault
from tests.faults.scenarios import SCENARIOS, Scenario

# The process that starts pytest-xdist's workers hands it on to them, so that all draw the same.
SEED = os.environ.setdefault("ULORA_FAULT_SEED", str(random.SystemRandom().randrange(10**6)))
CASES = int(os.environ.get("ULORA_FAULT_CASES", "8"))
ACCEPTANCE_CASES = int(os.environ.get("ULORA_FAULT_ACCEPTANCE_CASES", "120"))
ALL = "all"


@dataclass(frozen=True)
class Shard:
    """The K-th of N parts of the matrix, `number` from 1."""

    number: int = 1
    total: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`3/8`.

        Raises:
            ArgumentTypeError: it is not two numbers K/N with 1 <= K <= N.
        """
        number, _, total = text.partition("/")
        if not (number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
            raise ArgumentTypeError(f"{text!r} is not K/N with 1 <= K <= N, such as 3/8")
        return cls(int(number), int(total))

    def has(self, scenario: Scenario, fault: Fault, call: Call) -> bool:
        """Whether a case belongs to it."""
        return zlib.crc32(f"{scenario.name} {fault.name} {call}".encode()) % self.total == self.number - 1


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--faults=all` and `--shard=K/N`."""
    parser.addoption("--faults", choices=("sample", ALL), default="sample", help="how much of the fault matrix")
    parser.addoption("--shard", type=Shard.parse, default=Shard(), help="which part of --faults=all, e.g. 3/8")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a shard of the sample.

    Raises:
        pytest.UsageError: `--shard` is given without `--faults=all`.
    """
    if config.getoption("--shard", Shard()) != Shard() and config.getoption("--faults", "sample") != ALL:
        raise pytest.UsageError("--shard needs --faults=all: it is a part of the whole matrix, not of the sample")


def pytest_report_header() -> str:
    """The seed, before anything can fail."""
    return f"fault seed: {SEED} (ULORA_FAULT_SEED={SEED} draws the same again)"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each scenario and fault that is played, with how many of its calls."""
    if "at_most" not in metafunc.fixturenames:
        return
    pairs = [(scenario, fault) for scenario in SCENARIOS.values() for fault in FAULTS.values() if meet(scenario, fault)]
    if metafunc.config.getoption("--faults", "sample") == ALL:
        cases = [pytest.param(*pair, None, id=name_of(*pair)) for pair in pairs]
    else:
        cases = [pytest.param(*pair, count, id=name_of(*pair)) for pair, count in sampled(pairs, "sample", CASES)]
        cases += [
            pytest.param(*pair, count, id=f"acceptance-{name_of(*pair)}", marks=pytest.mark.acceptance)
            for pair, count in sampled(pairs, "acceptance", ACCEPTANCE_CASES)
        ]
    metafunc.parametrize(("scenario", "fault", "at_most"), cases)


def name_of(scenario: Scenario, fault: Fault) -> str:
    """The name of a test of the matrix."""
    return f"{scenario.name}-{fault.name}"


def meet(scenario: Scenario, fault: Fault) -> bool:
    """Whether a fault can happen at any call of a scenario."""
    servers = {"s3"} | ({"mlflow"} if scenario.uses_mlflow else set()) | ({"disk"} if scenario.tree else set())
    return bool(servers & fault.at)


def sampled(pairs: list[tuple[Scenario, Fault]], name: str, cases: int) -> list[tuple[tuple[Scenario, Fault], int]]:
    """Some of the pairs, each with a number of calls; those that take seconds are drawn more rarely.

    `name` is that of the sample: two samples of the same seed differ.
    """
    weights = [1 / ((8 if scenario.uses_mlflow else 1) * (8 if fault.slow else 1)) for scenario, fault in pairs]
    drawn = Counter(random.Random(f"{SEED}/{name}").choices(range(len(pairs)), weights, k=cases))
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
