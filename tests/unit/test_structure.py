"""The house rules that a person can see in the folder listing, held by a test."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("registry", "adapters", "benchmarks")
MAX_LINES = 450
MAX_TEST_NAME = 60
ALONE = ROOT / "registry" / "breakglass" / "rollback_script.py"
"""One file on purpose: it runs where nothing else of this package is."""


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_no_module_is_too_long_to_read() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in sources(*PACKAGES) if path != ALONE}
    assert {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def test_every_package_says_what_it_holds() -> None:
    faces = [path for path in sources(*PACKAGES) if path.name == "__init__.py"]
    assert [str(path.relative_to(ROOT)) for path in faces if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_one_name_stands_for_one_class() -> None:
    """A protocol may bear the name of the class that fulfils it on the other side of an entry point."""
    names = Counter(
        node.name
        for path in sources(*PACKAGES)
        if path != ALONE
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef) and "Protocol" not in {ast.unparse(base) for base in node.bases}
    )
    assert sorted(name for name, count in names.items() if count > 1) == []


def test_names_of_tests_are_short_enough_to_read() -> None:
    names = [
        node.name
        for path in sources("tests")
        if "format1" not in path.parts
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert [name for name in names if len(name) > MAX_TEST_NAME] == []
