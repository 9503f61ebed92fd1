"""Starting other programs: only those of a list, and Python never imports from the folder that it runs in."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from registry.errors import UloraError
from registry.machine import programs
from registry.machine.programs import PIPE


def test_only_what_is_listed_is_started() -> None:
    with pytest.raises(ValueError, match="not on the list"):
        programs.start(["/bin/echo"])
    with pytest.raises(ValueError, match="not on the list"):
        programs.ask_git(["status"], cwd=Path(), seconds=1, env={})
    with pytest.raises(UloraError, match="failed"):
        programs.ask_module("registry.no_such_module", b"", seconds=60)


def test_the_answer_of_a_module_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    question = b'{"patterns": {}, "names": []}'
    whole = programs.ask_module("json.tool", question, seconds=60)
    assert json.loads(whole) == json.loads(question)
    monkeypatch.setattr(programs, "MAX_ANSWER", len(whole) - 1)
    with pytest.raises(UloraError, match=f"json.tool answered with more than {len(whole) - 1} bytes"):
        programs.ask_module("json.tool", question, seconds=60)
    for long in (b"[" + b"1," * 1_000_000 + b"1]", b"?" * 1_000_000):
        with pytest.raises(UloraError, match=r"answered with more|failed"):
            programs.ask_module("json.tool", long, seconds=60)
    with pytest.raises(TimeoutError, match="did not finish within 0 s"):
        programs.ask_module("json.tool", question, seconds=0)


def test_python_imports_nothing_from_where_it_runs(tmp_path: Path) -> None:
    (tmp_path / "colorsys.py").write_text("raise SystemExit('imported from the folder')")
    command = [sys.executable, "-c", "import colorsys; print(colorsys.__file__)"]
    with programs.start(command, cwd=tmp_path, stdout=PIPE, text=True) as process:
        out, _ = process.communicate()
    assert process.returncode == 0
    assert str(tmp_path) not in out


def test_nothing_is_searched_for_where_a_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, bin_folder = tmp_path / "source", tmp_path / "bin"
    folder.mkdir()
    bin_folder.mkdir()
    (bin_folder / "git").write_text('#!/bin/sh\necho "$PATH $LD_LIBRARY_PATH $PYTHONPATH"; pwd\n')
    (bin_folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f".::{bin_folder}:x:{os.defpath}")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/local/lib::lib:")
    monkeypatch.setenv("PYTHONPATH", ":here")
    said = programs.ask_git(["var", "GIT_COMMITTER_IDENT"], cwd=folder, seconds=60, env={}).out.decode()
    assert said == f"{bin_folder}:{os.defpath} /usr/local/lib \n/\n"
    programs.drop_relative_search_paths()
    assert os.environ["PATH"] == f"{bin_folder}:{os.defpath}"
    monkeypatch.setenv("PATH", ".")
    programs.drop_relative_search_paths()
    assert os.environ["PATH"] == os.defpath, "an empty one would stand for the current folder"
