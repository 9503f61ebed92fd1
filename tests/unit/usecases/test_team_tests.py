"""Which of a team's test files run for a version, and what is made of how pytest ended."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import BadInput, CheckFailed
from registry.machine.programs import HookAnswer
from registry.usecases.team_tests import (
    MAX_FAILURES,
    MAX_TEXT,
    TeamReport,
    check_folder,
    failures_of,
    files_of,
    is_of_another_version,
    read_report,
)

V = "v5.5.4-dinov3"


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("test_v5.5.4-dinov3.py", False),
        ("test_v5_5_4_dinov3.py", False),
        ("test_5_5_4_dinov3.py", False),
        ("test_V5.5.4-DINOv3.py", False),
        ("v5_5_4_dinov3_test.py", False),
        ("test_v5.5.4.py", True),
        ("test_v5.5.40-dinov3.py", True),
        ("test_v5_5_3_performance.py", True),
        ("test_common.py", False),
        ("test_5.py", False),
        ("conftest.py", False),
    ],
)
def test_a_file_named_for_another_version_is_left_out(name: str, other: bool) -> None:
    assert is_of_another_version(PurePath("anywhere") / name, V) is other


@given(st.from_regex(r"v[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(-[a-z][a-z0-9]{0,8}){0,2}", fullmatch=True))
def test_a_file_named_for_a_version_runs_for_it(version: str) -> None:
    assert not is_of_another_version(PurePath(f"test_{version}.py"), version)
    assert not is_of_another_version(PurePath(f"test_{version.replace('.', '_').replace('-', '_')}.py"), version)
    assert is_of_another_version(PurePath(f"test_{version}.py"), f"{version}0-x")


def test_the_files_that_run_are_known_by_their_digests(tmp_path: Path) -> None:
    (tmp_path / "version_tests").mkdir()
    for name in ("test_a.py", "version_tests/test_v5.5.4-dinov3.py", "version_tests/test_v1.0.0.py", "helpers.py"):
        (tmp_path / name).write_text("")
    found = files_of(tmp_path, V)
    assert list(found) == ["test_a.py", "version_tests/test_v5.5.4-dinov3.py"]
    assert {len(digest) for digest in found.values()} == {64}


def test_a_folder_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        check_folder(tmp_path / "nosuch")


def report(folder: Path, **counts: int) -> Path:
    file = folder / "report.json"
    told = {"passed": 0, "failed": 0, "skipped": 0, **counts}
    file.write_text(TeamReport.model_validate(told).model_dump_json())
    return file


def test_a_report_is_read_after_pytest_ended_by_itself(tmp_path: Path) -> None:
    assert read_report(report(tmp_path, passed=2), HookAnswer(0, ""), 1).passed == 2
    assert read_report(report(tmp_path, failed=1), HookAnswer(2, ""), 1).failed == 1, "a file could not be imported"


@pytest.mark.parametrize(
    ("code", "text", "says"),
    [
        (None, None, "did not end within 1 s"),
        (3, None, "exit status 3, without a report"),
        (0, "{}", "without a report"),
        (0, '{"passed": "2", "failed": 0, "skipped": 0}', "without a report"),
        (0, '{"passed": -1, "failed": 0, "skipped": 0}', "without a report"),
        (4, '{"passed": 2, "failed": 0, "skipped": 0}', "exit status 4"),
    ],
)
def test_anything_else_is_a_failure(tmp_path: Path, code: int | None, text: str | None, says: str) -> None:
    file = tmp_path / "report.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(CheckFailed, match=says) as failed:
        read_report(file, HookAnswer(code, "first\nlast"), 1)
    assert failed.value.lines == ("first", "last")


def test_what_is_reported_of_failures_is_bounded() -> None:
    found = failures_of((f"test {number}" * 100, "why" * 1000) for number in range(MAX_FAILURES + 5))
    assert len(found) == MAX_FAILURES
    assert {len(one.test) for one in found} == {len(one.why) for one in found} == {MAX_TEXT}
