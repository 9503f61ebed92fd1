"""The house rules that a person can see in the folder listing, held by a test."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("registry", "adapters", "benchmarks")
MAX_LINES = 450
MAX_TEST_NAME = 60
ALONE = [ROOT / "registry" / "breakglass" / name for name in ("rollback_script.py", "verify_audit.py")]
"""Each is one file on purpose: it runs where nothing else of this package is."""

STARTS_PROGRAMS = ROOT / "registry" / "machine" / "programs.py"
"""The only module that starts other programs."""
STARTERS = re.compile(
    r"(subprocess|_posixsubprocess|multiprocessing|pty|asyncio\.subprocess)(\..*)?"
    r"|os\.(system|popen|fork\w*|exec\w+|spawn\w+|posix_spawn\w*|startfile)"
    r"|.*(create_subprocess_\w+|ProcessPoolExecutor|subprocess_exec|subprocess_shell)"
)
"""Python's ways to start a program, as modules and as names in them."""


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_no_module_is_too_long_to_read() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in sources(*PACKAGES) if path not in ALONE}
    assert {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def test_every_package_says_what_it_holds() -> None:
    faces = [path for path in sources(*PACKAGES) if path.name == "__init__.py"]
    assert [str(path.relative_to(ROOT)) for path in faces if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_one_name_stands_for_one_class() -> None:
    """A protocol may bear the name of the class that fulfils it on the other side of an entry point."""
    names = Counter(
        node.name
        for path in sources(*PACKAGES)
        if path not in ALONE
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef) and "Protocol" not in {ast.unparse(base) for base in node.bases}
    )
    assert sorted(name for name, count in names.items() if count > 1) == []


def test_one_module_starts_other_programs() -> None:
    found = {
        path
        for path in sources(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if any(map(STARTERS.fullmatch, _names(node)))
    }
    assert found == {STARTS_PROGRAMS}


def _names(node: ast.AST) -> list[str]:
    """The modules and names that a statement or an expression uses, with their modules."""
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom():
            return [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        case ast.Attribute():
            return [ast.unparse(node)]
    return []


def test_names_of_tests_are_short_enough_to_read() -> None:
    names = [
        node.name
        for path in sources("tests")
        if "format1" not in path.parts
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert [name for name in names if len(name) > MAX_TEST_NAME] == []
