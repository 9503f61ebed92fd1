"""`ulora config show` and docs/settings.md: every setting, where it comes from, and no secret."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

import registry
from registry.settings import SOURCES, Settings
from registry.usecases.config import VARIABLES
from tests.support.run_ulora import ulora

ROOT = Path(registry.__file__).parents[1]
PAGE = (ROOT / "docs" / "settings.md").read_text("utf-8")
FILE = """\
# releases
model = "plants"
tracking_uri = "https://ann:SECRET@mlflow.example.com"
[aliases]
production = "champion"
"""
TOLD_TO_HOOKS = {f"ULORA_{name}" for name in ("ACTION", "BEFORE", "CHANNEL", "FOLDER", "GENERATION")}
"""What `ulora follow` sets for its hook, and nobody here reads."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ulora.toml").write_text(FILE)


def shown(*words: str) -> dict[str, tuple[str, str]]:
    found = ulora("config", "show", *words, "--json").document
    return {each["name"]: (each["value"], each["source"]) for each in found}


def test_each_value_is_told_with_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULORA_STORE", "s3://bucket/x")
    monkeypatch.setenv("ULORA_MODEL", "")
    found = shown("--data", "images")
    assert found["model"] == ("plants", "ulora.toml:2")
    assert found["store"] == ("s3://bucket/x", "ULORA_STORE")
    assert found["data"] == ("images", "--data")
    assert found["aliases"] == ("production: champion", "ulora.toml:4")
    assert found["minimum_version"] == ("any", "default")
    assert shown("--model", "other")["model"] == ("other", "--model")


def test_a_setting_of_a_table_comes_from_its_line(tmp_path: Path) -> None:
    (tmp_path / "ulora.toml").write_text(FILE + '[notify]\njson = "https://hooks.example.com/x"\n')
    assert shown()["notify_json"] == ("(hidden)", "ulora.toml:6")
    assert shown()["notify_teams"] == ("none", "default")


def test_no_store_is_no_failure_and_no_server_is_asked() -> None:
    assert shown()["store"] == ("(not set)", "default")


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_secrets_are_hidden(monkeypatch: pytest.MonkeyPatch, as_json: list[str]) -> None:
    for name in (
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "MLFLOW_TRACKING_PASSWORD",
        "ULORA_KEY_PASSWORD",
        "ULORA_FLEET_KEY",
    ):
        monkeypatch.setenv(name, "SECRET")
    monkeypatch.setenv("ULORA_S3_ENDPOINT", "http://ann:SECRET@h:1")
    monkeypatch.setenv("ULORA_NOTIFY_SLACK", "https://hooks.example.com/SECRET")
    monkeypatch.setenv("ULORA_NOTIFY_SECRET", "SECRET")
    done = ulora("config", "show", *as_json)
    assert "SECRET" not in re.sub("AWS_SECRET_ACCESS_KEY|ULORA_NOTIFY_SECRET", "", done.out) + done.err
    assert "mlflow.example.com" in done.out
    assert "AWS_SECRET_ACCESS_KEY" in done.out


def test_the_settings_are_the_fields_of_the_class() -> None:
    assert set(SOURCES) == {each.name for each in dataclasses.fields(Settings)}


def test_every_setting_is_on_the_page() -> None:
    names = {word for each in SOURCES.values() for word in (each.option, each.variable, each.key)} - {"", "aliases"}
    assert [name for name in [*names, "[aliases]", *VARIABLES] if f"`{name}`" not in PAGE] == []


def test_every_variable_of_the_code_is_known() -> None:
    sources = [path.read_text("utf-8") for part in ("registry", "adapters") for path in (ROOT / part).rglob("*.py")]
    read = {name for text in sources for name in re.findall(r'"(ULORA_[A-Z0-9_]+)"', text)}
    assert len(read) > 10
    assert read - {source.variable for source in SOURCES.values()} - set(VARIABLES) == TOLD_TO_HOOKS
