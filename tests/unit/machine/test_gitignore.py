"""Patterns of `.gitignore`: they exclude what git excludes, and none of them takes long."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import BadBundle
from registry.machine import gitignore
from registry.machine.gitignore import IgnoreRules
from registry.tree.snapshot import Project
from tests.support.working_trees import write_tree

PATHS = (
    "a", "b", "ab", "ba", "aab", "-", "]", "é", "*", "a b", "a/b", "a/ab", "b/a", "ab/a/b", "a/b/a/b", "b/b/ba",
    "-/]/a", "a/é/b", "b/*/a", "a/a/a/a/ab", "a ", "#a", "!a", "a/ /b", "aabab/abaab/b", "B", "7/z", "a/-b/]a",
)  # fmt: skip
_PIECES = (
    "a", "b", "ab", "*", "?", "-", "]", "é", "B", " ", "[ab]", "[!a]", "[^-b]", "[a-b]", "[]a]", "[b-a]", "[--c]",
    "[a\\]b]", "[[:alpha:]]", "[[:digit:][:space:]]", "[[:no:]]", "[a", "[[:a", "\\*", "\\a", "\\", "/", "[a/b]",
)  # fmt: skip
_SEGMENTS = st.one_of(st.lists(st.sampled_from(_PIECES), max_size=4).map("".join), st.sampled_from(["**", "*"]))
_PATTERNS = st.builds(
    lambda sign, start, segments, end: sign + start + "/".join(segments) + end,
    st.sampled_from(["", "", "", "!", "#", "\\!", "\\#"]), st.sampled_from(["", "", "/", "**/"]),
    st.lists(_SEGMENTS, min_size=1, max_size=4), st.sampled_from(["", "", "/", "/**", " ", "\\ ", "\r"]),
).filter(lambda pattern: not any(odd in pattern for odd in _ODD))  # fmt: skip
_ODD = ("a**", "b**", "B**", "é**", "-**", "]**", " **", "**\\", "***")
"""Where git 2.39 does something else than its page says: stars beside other letters stand for folders."""

LONG = "/".join(["a" * 200] * 4)
HOSTILE = (
    "**/*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", "?*" * 200 + "b", "**/a*/" * 60 + "b", "/**/" + "**/*a*a*/" * 40 + "b",
    "*" + "[a-za-z]" * 500 + "*b", "(a+)+$", "*" * 4000 + "b",
)  # fmt: skip


@pytest.mark.skipif(shutil.which("git") is None, reason="it compares with git")
@settings(max_examples=5, deadline=None)
@given(st.lists(st.lists(_PATTERNS, min_size=1, max_size=3), min_size=10, max_size=30))
def test_patterns_exclude_what_git_excludes(tmp_path_factory: pytest.TempPathFactory, cases: list[list[str]]) -> None:
    folder = tmp_path_factory.mktemp("ignored")
    files = {f"{number}/.gitignore": "\n".join(lines) for number, lines in enumerate(cases)}
    for path, text in files.items():
        (folder / path).parent.mkdir()
        (folder / path).write_bytes(text.encode())
    subprocess.run(["git", "init", "-q", folder], check=True)
    ours = {
        f"{number}/{path}": _is_excluded(IgnoreRules().with_file("", "\n".join(lines).encode()), path)
        for number, lines in enumerate(cases)
        for path in PATHS
    }
    differing = {path: (ours[path], files[f"{path.split('/')[0]}/.gitignore"]) for path in _differing(folder, ours)}
    assert differing == {}


def _differing(folder: Path, ours: Mapping[str, bool]) -> list[str]:
    done = subprocess.run(
        ["git", "-C", folder, "check-ignore", "--no-index", "-z", "-v", "-n", "--stdin"],
        input="\0".join(ours).encode(), capture_output=True, check=False,
    )  # fmt: skip
    words = done.stdout.decode().split("\0")
    excluded = {
        path: bool(line) and not pattern.startswith("!")
        for line, pattern, path in zip(words[1::4], words[2::4], words[3::4], strict=False)
    }
    assert excluded.keys() == ours.keys()
    return [path for path, is_excluded in excluded.items() if is_excluded != ours[path]]


def _is_excluded(rules: IgnoreRules, path: str) -> bool:
    """Whether a path or a folder above it is excluded, as a walk through the folders finds it."""
    parts = path.split("/")
    steps = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return any(rules.exclude(step, is_folder=step != path) for step in steps)


def test_lines_are_those_of_git() -> None:
    rules = IgnoreRules().with_file("", b"\xef\xbb\xbffirst\r\nse\x0bcond\nspaced \\ \n# a comment\n\\#name\nlast\t\n")
    excluded = {name for name in ("first", "se\x0bcond", "cond", "spaced  ", "#name", "last", "last\t")}
    assert {name for name in excluded if rules.exclude(name, is_folder=False)} == excluded - {"cond", "last"}
    assert IgnoreRules().with_file("", b"\xff*").exclude(os.fsdecode(b"\xffa"), is_folder=False)


def test_no_pattern_takes_long(tmp_path: Path) -> None:
    for number, pattern in enumerate(HOSTILE):
        names = {LONG: "", "/".join("a" * 60): "", ".gitignore": pattern}
        write_tree(tmp_path / "project" / str(number), names)
    code = "import sys, pathlib, registry.tree.snapshot as s; print(*s.Project.at(pathlib.Path(sys.argv[1])).files)"
    command = [sys.executable, "-c", code, str(tmp_path / "project")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert {f"{number}/{LONG}" for number in range(len(HOSTILE))} <= set(done.stdout.split())


def test_files_of_patterns_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, {"a.py": "a", ".gitignore": "# " + "x" * gitignore.MAX_BYTES})
    with pytest.raises(BadBundle, match=r"\.gitignore has more than 65536 bytes"):
        Project.at(tmp_path)
    monkeypatch.setattr(gitignore, "MAX_PATTERNS", 3)
    write_tree(tmp_path, {".gitignore": "x\ny\n\n# z\n", "sub/.gitignore": "z\n", "sub/b.py": "b"})
    assert list(Project.at(tmp_path).files) == [".gitignore", "a.py", "sub/.gitignore", "sub/b.py"]
    write_tree(tmp_path, {"sub/.gitignore": "z\n!z\n"})
    with pytest.raises(BadBundle, match="those above it have more than 3 patterns"):
        Project.at(tmp_path)


BRACKETS = (
    "[\x01-\xff]",
    "[!a]",
    "[a-cx-z]",
    "[[:alnum:]]",
    "[![:punct:]-~]",
    "[" + "".join(map(chr, range(48, 91, 2))) + "]",
)


@pytest.mark.parametrize("bracket", BRACKETS, ids=ascii)
def test_what_is_compiled_is_not_much_longer(bracket: str) -> None:
    """Every letter of each bracket by itself would be 200 times as long."""
    line = os.fsencode(bracket) * 20
    ((_, (pattern,)),) = IgnoreRules().with_file("", line).groups
    assert len(pattern.regex.pattern) <= 9 * len(line)


def test_a_long_pattern_is_refused_and_compiled_never(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a": "a", ".gitignore": f"#{'c' * gitignore.MAX_PATTERN}\n{'[a]' * 1365}\n"})
    assert Project.at(tmp_path).files.keys() == {"a", ".gitignore"}
    (tmp_path / ".gitignore").write_text("?" * (gitignore.MAX_PATTERN + 1))
    with pytest.raises(BadBundle, match=r"\.gitignore has a pattern of more than 4096 bytes"):
        Project.at(tmp_path)


def test_all_files_of_one_walk_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gitignore, "MAX_WALK_BYTES", 100)
    write_tree(tmp_path, {f"{number}/.gitignore": "x" * 25 for number in range(4)})
    for _ in range(2):
        assert len(Project.at(tmp_path).files) == 4
    write_tree(tmp_path, {"4/.gitignore": "x"})
    with pytest.raises(BadBundle, match=r"4/\.gitignore and the other .* more than 100 bytes together"):
        Project.at(tmp_path)


def test_no_more_is_compiled_when_the_time_is_over() -> None:
    calls: list[int] = []

    def check_time() -> None:
        calls.append(0)
        if len(calls) > 2:
            raise TimeoutError

    rules = IgnoreRules(check_time=check_time).with_file("", b"a\n")
    with pytest.raises(TimeoutError):
        rules.with_file("b/", b"b\nc\nd\ne\n")
    assert len(calls) == 3


def test_a_pipe_called_gitignore_keeps_nobody_waiting(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.py": "a"})
    os.mkfifo(tmp_path / ".gitignore")
    assert Project.at(tmp_path).special == (".gitignore",)
