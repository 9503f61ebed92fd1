"""The pages of the documentation: every command on them is run or says why not, every link and every name is right."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.settings import Settings
from tests.support.pages import GENERATED, ROOT, RUN, SHOWN, Block, anchors, blocks, name_of, pages

ALL_BLOCKS = [block for page in pages() for block in blocks(page)]
COMMAND = re.compile(r"(?:\$ )?(?:ulora|curl|pip|make|git|python3?|mlflow|aws|openssl|export|docker) ")
SOURCES = ("registry", "adapters", "benchmarks", "tests")
OF_THE_READER = ("tests/data/dummy.pem",)
"""Paths in a reader's own project."""
MOST_LINES = 120


@pytest.mark.parametrize("block", ALL_BLOCKS, ids=str)
def test_every_block_is_run_or_says_why_not(block: Block) -> None:
    assert block.language in (*RUN, *SHOWN), f"{block} has no language, or one that no test runs"
    if block.language in SHOWN:
        assert not any(COMMAND.match(line) for line in block.text.splitlines()), f"{block} shows commands: call it sh"
    elif block.run_by:
        file, _, test = block.run_by.partition("::")
        assert f"\ndef {test}(" in (ROOT / file).read_text(), f"{block}: {block.run_by} does not exist"
    else:
        assert block.is_run_here or len(block.not_run.split()) > 1, f"{block} is not run and gives no reason"


@pytest.mark.parametrize("page", [*pages(), GENERATED], ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, _, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]*))?\)", page.read_text()):
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), f"it links to {target}"
        assert not anchor or anchor in anchors(linked), f"it links to {target}#{anchor}"


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_path_and_module_on_a_page_exists(page: Path) -> None:
    text = page.read_text()
    for path in re.findall(rf"(?<![\w/.-])(?:{'|'.join(SOURCES)})/[\w./-]*", text):
        is_component = re.fullmatch(r"adapters/\w+", path)
        assert is_component or path in OF_THE_READER or (ROOT / path.rstrip(".")).exists(), f"it names {path}"
    for name in re.findall(rf"`((?:{'|'.join(SOURCES)})(?:\.\w+)+)`", text):
        assert name.endswith(".md") or is_module_or_member(name), f"it names {name}"


@pytest.mark.parametrize("page", [*pages(), GENERATED], ids=name_of)
def test_every_row_of_a_table_has_its_columns(page: Path) -> None:
    columns = 0
    for number, line in enumerate(page.read_text().splitlines(), 1):
        found = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not columns or found in (0, columns), f"line {number} has {found - 1} cells, not {columns - 1}"
        columns = found


def is_module_or_member(name: str) -> bool:
    """Whether a dotted name is a package, a module, or a name at the top of one or in a class there."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:length])
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                rest = parts[length:]
                return not rest or rest[0] in set(top_names(file))
    return False


def top_names(file: Path) -> Iterator[str]:
    """The names that a module binds at its top, and the public names that a package offers."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))
            if isinstance(node.value, ast.List):
                yield from (item.value for item in node.value.elts if isinstance(item, ast.Constant))


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MOST_LINES


def test_the_index_has_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if f"({page.name})" not in index]
    assert missing == ["README.md"]


def test_the_page_of_settings_has_every_variable() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    sources = "".join(file.read_text() for name in SOURCES[:3] for file in (ROOT / name).rglob("*.py"))
    assert set(re.findall(r"\bULORA_[A-Z0-9_]*[A-Z0-9]\b", sources)) <= set(re.findall(r"\bULORA_[A-Z0-9_]+\b", page))


def test_the_settings_that_pages_show_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [block for block in ALL_BLOCKS if block.language == "toml" and block.page != "docs/serving.md"]
    assert shown
    for block in shown:
        (tmp_path / "ulora.toml").write_text(block.text)
        monkeypatch.chdir(tmp_path)
        settings = Settings.load()
        assert (settings.model, settings.store) == ("aads-ulora", "s3://my-bucket/ulora")
