"""The pages as a site: built strictly, complete, and searchable, without anything from another host."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import registry

ROOT = Path(__file__).parents[2]


def nav() -> set[str]:
    """The pages that the navigation names."""
    entries = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    found: set[str] = set()
    for entry in entries:
        for value in entry.values():
            found |= {value} if isinstance(value, str) else {page for one in value for page in one.values()}
    return found


def test_the_navigation_names_every_page() -> None:
    assert nav() == {page.name for page in (ROOT / "docs").glob("*.md")}


def test_the_page_of_the_api_has_every_public_name() -> None:
    named = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    homes = {name: getattr(registry, name).__module__ for name in registry.__all__}
    assert [name for name, home in homes.items() if not {home, f"{home}.{name}"} & set(named)] == []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The site, and what its builder said."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    for name in ("docs", "registry"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    builder = Path(sys.executable).with_name("zensical")
    done = subprocess.run([builder, "build", "--strict"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site", done.stdout + done.stderr


@pytest.mark.acceptance
def test_the_site_is_built_without_a_warning(built: tuple[Path, str]) -> None:
    site, said = built
    assert "No issues found" in said
    assert not re.search(r"(?i)griffe|warn|error", said), said
    for page in nav():
        assert (site / page.replace("README", "index").replace(".md", ".html")).is_file(), page
    assert 'id="registry.api.Registry.rollback"' in (site / "api.html").read_text()


@pytest.mark.acceptance
def test_what_is_searched_has_the_pages(built: tuple[Path, str]) -> None:
    found = json.dumps(json.loads((built[0] / "search.json").read_text()))
    for words in ("one conditional write", "ulora rollback", "registry.api.Registry.rollback"):
        assert words in found


@pytest.mark.acceptance
def test_no_page_loads_anything_from_another_host(built: tuple[Path, str]) -> None:
    loads = re.compile(r"<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)=\"?(https?:[^\s\">]+)")
    assert {found for page in built[0].glob("*.html") for found in loads.findall(page.read_text())} == set()
