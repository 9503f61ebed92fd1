"""The commands that the page on the store shows run as written, one after the other."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.support.commands import ulora
from tests.support.registries import create, open_registry, small_bundle

PAGE = Path(__file__).parents[2] / "docs" / "store.md"


def test_the_page_on_the_store_runs_as_written(
    store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULORA_MODEL", model)
    monkeypatch.chdir(tmp_path)
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    registry.create("v5.5.3-performance", small_bundle(tmp_path / "bundle"), offline=True)
    create(registry, "v5.5.4-dinov3", tmp_path)
    blocks = re.findall(r"<!-- run by tests/retention/test_docs\.py -->\n```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("$OTHER_STORE", f"{store_url}-other").splitlines()]
    commands = [words for line in lines if (words := shlex.split(line, comments=True))]
    assert len(commands) == 9
    for program, *words in commands:
        assert program == "ulora"
        done = ulora(*words)
        assert done.code == 0, (words, done)
    assert open_registry(tmp_path, f"{store_url}-other", model).verify("v5.5.4-dinov3", read_data=True).ok
