"""The page on the design says what the code and the contracts in pyproject.toml say."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry import errors
from tests.support.pages import ROOT, name_of, pages

DESIGN = (ROOT / "docs" / "design.md").read_text()
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
LAYERS, ROOMS = [contract for contract in CONTRACTS if contract["type"] == "layers"]
ALLOWED = {
    "errors",
    "names",
    "evidence.stats",
    "formats.bounded",
    "formats.canonical",
    "formats.counts",
    "formats.html",
    "formats.local_file",
    "machine.cores",
    "machine.programs",
    "versions.manifest",
    "versions.weights",
}
"""The modules of `registry` that `adapters` may import."""

Layers = list[set[str]]


def parsed(line: str) -> Layers:
    """Layers from `a > b, c`; siblings may also stand between ` : `."""
    return [set(re.split(r"\s*[,:]\s*", layer.strip())) for layer in line.split(">")]


def contract_layers() -> Layers:
    """The layers of the contract, in the same form."""
    return parsed(">".join(LAYERS["layers"]))


def lines_of_layers(page: Path) -> list[str]:
    """What a page shows as a line of layers."""
    return re.findall(r"`([^`\n]+(?: > [^`\n>]+){5,})`", page.read_text())


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_line_of_layers_is_that_of_the_contract(page: Path) -> None:
    for line in lines_of_layers(page):
        assert parsed(line) == contract_layers()


def test_the_pages_that_explain_the_layers_show_them() -> None:
    assert [name_of(page) for page in pages() if lines_of_layers(page)] == ["CONTRIBUTING.md", "docs/design.md"]


def test_every_module_of_the_registry_is_in_the_contract() -> None:
    found = {file.stem for file in (ROOT / "registry").glob("*.py")} - {"__init__"}
    found |= {file.parent.name for file in (ROOT / "registry").glob("*/__init__.py")}
    assert LAYERS["containers"] == ["registry"]
    assert LAYERS["exhaustive"] is True
    assert LAYERS["exhaustive_ignores"] == ["__main__"]
    assert set().union(*contract_layers()) == found - {"__main__"}


def test_the_layout_names_every_package_and_no_other() -> None:
    named = re.findall(r"^\| `([\w/]+)/` \|", section("Layout"), re.MULTILINE)
    assert len(named) == len(set(named))
    assert set(named) == {*packages("registry"), *packages("adapters"), "benchmarks"}


def test_the_layout_names_every_single_module_of_the_registry() -> None:
    (sentence,) = re.findall(r"The single modules in `registry/`: (.*?)\n\n", section("Layout"), re.DOTALL)
    modules = {file.stem for file in (ROOT / "registry").glob("*.py")} - {"__init__", "__main__"}
    assert set(re.findall(r"`(\w+)`", sentence)) - {"Registry"} == modules


def test_the_torch_side_imports_what_the_page_allows() -> None:
    files = sorted((ROOT / "adapters").rglob("*.py"))
    imported = {module for file in files for module in registry_modules(file)}
    assert imported <= ALLOWED
    (listed,) = re.findall(r"`adapters/` imports only these modules of `registry/`: (.*?)\.\n", DESIGN, re.DOTALL)
    assert set(re.findall(r"`([\w.]+)`", listed)) == ALLOWED


def test_the_entry_points_on_the_page_are_those_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert set(re.findall(r"`((?:ulora|mlflow)\.[a-z_]+)`", section("Layers"))) == set(declared)


def test_the_exit_codes_are_those_of_the_errors() -> None:
    rows = re.findall(r"^\| (\d+) \|[^|]*\|([^|]*)\|$", section("Exit codes"), re.MULTILINE)
    for code, names in rows:
        for name in re.findall(r"`(\w+)`", names):
            assert getattr(errors, name).exit_code == int(code), name
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.UloraError)]
    assert {each.exit_code for each in classes} <= {int(code) for code, _ in rows}


def section(title: str) -> str:
    """The text below a heading of the page."""
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", DESIGN, re.DOTALL | re.MULTILINE)
    return text


def packages(root: str) -> Iterator[str]:
    """The packages right below one."""
    return (name_of(file.parent) for file in (ROOT / root).glob("*/__init__.py"))


def registry_modules(file: Path) -> Iterator[str]:
    """The modules of `registry` that a file imports, anywhere in it, without `registry.`."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [module_of(node.module, alias.name) for alias in node.names]
        else:
            continue
        yield from (name.removeprefix("registry.") for name in names if name.split(".")[0] == "registry")


def module_of(module: str, name: str) -> str:
    """What `from module import name` imports: a module below it, or the module itself."""
    place = ROOT.joinpath(*module.split("."), name)
    return f"{module}.{name}" if place.is_dir() or place.with_suffix(".py").is_file() else module
