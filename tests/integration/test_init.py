"""`ulora init`: two files, a look at both servers, and what to run next."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from registry.devstack.s3_server import S3Server
from registry.evidence.policy import load_policy
from registry.settings import Settings
from tests.support.registries import bind, open_registry
from tests.support.run_ulora import complains, ulora

TOML, POLICY = Path("ulora.toml"), Path("policy.yaml")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ULORA_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def place(store_url: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix that is no store yet, said by options only."""
    monkeypatch.delenv("ULORA_STORE")
    return store_url


def test_it_writes_what_the_other_commands_read(place: str, tracking_uri: str, model: str) -> None:
    done = ulora("init", "--store", place, "--model", model, "--policy", "aads", "--yes")
    assert done.code == 0, done.err
    assert done.out.startswith("wrote policy.yaml and ulora.toml\n")
    assert f"{place}  answers; this prefix is not a store yet" in " ".join(done.out.split("\n")).replace("   ", "  ")
    assert f"{tracking_uri} " in done.out
    settings = Settings.load()
    assert (settings.store, settings.model, settings.policy) == (place, model, POLICY)
    assert settings.tracking_uri == tracking_uri
    assert load_policy(POLICY).rules_for
    commands = [line.strip() for line in done.out.partition("next:\n")[2].splitlines()]
    assert len(commands) == 3
    assert commands[0] == "ulora store init"
    assert ulora(*commands[0].split()[1:]).code == 0
    again = ulora("init", "--store", place, "--model", model, "--policy", "aads", "--json").document
    assert again["store"] == "a store, without versions of this model"


def test_it_knows_a_store_with_versions(place: str, model: str, tmp_path: Path) -> None:
    registry = open_registry(tmp_path / "other", place, model)
    registry.store.initialise()
    bind(registry, "v1.0.0", "v1.1.0")
    found = ulora("init", "--store", place, "--model", model, "--policy", "none", "--json").document
    assert found["store"] == "a store with 2 of this model's versions"
    assert found["next"][0] == "ulora status"
    assert found["mlflow"].startswith("none is set")
    assert (found["files"], POLICY.exists()) == (["ulora.toml"], False)


def test_a_bucket_that_is_missing_is_no_failure(place: str) -> None:
    found = ulora("init", "--store", "s3://no-such-bucket/x", "--json")
    assert (found.code, found.document["store"]) == (0, "its bucket does not exist")
    assert found.document["next"][0] == "ulora store init --create-bucket"


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_a_store_that_does_not_answer(place: str, dead_address: str, dry_run: list[str]) -> None:
    done = ulora("init", "--store", place, "--endpoint-url", dead_address, *dry_run)
    assert done.code == 7
    assert done.out.startswith("would write" if dry_run else "wrote policy.yaml and ulora.toml\n")
    assert "does not answer" in done.err
    assert TOML.exists() is not bool(dry_run)
    assert POLICY.exists() is not bool(dry_run)


def test_an_mlflow_that_does_not_answer(place: str, dead_address: str) -> None:
    done = ulora("init", "--store", place, "--tracking-uri", dead_address)
    assert (done.code, TOML.exists()) == (7, True)


def test_nothing_is_overwritten_without_force(place: str) -> None:
    TOML.write_text("# mine\n")
    complains(ulora("init", "--store", place), 2, "ulora.toml exists", "--force")
    assert (TOML.read_text(), POLICY.exists()) == ("# mine\n", False)
    assert ulora("init", "--store", place, "--force").code == 0
    assert Path("ulora.toml~").read_text() == "# mine\n"
    assert place in TOML.read_text()
    assert sorted(path.name for path in Path().iterdir() if path.name.endswith(".part")) == []


def test_a_link_in_the_place_of_a_file_is_not_followed(place: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("mine")
    TOML.symlink_to(tmp_path / "elsewhere")
    complains(ulora("init", "--store", place, "--force"), 2, "is not a file of its own")
    assert (tmp_path / "elsewhere").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no store was given"),
        (["--store", "ftp://x"], "is not a store"),
        (["--store", "s3://bucket/\udcff"], "is not a store"),
        (["--store", "s3://bucket/a\x01"], "is not a store"),
        (["--store", "s3://bucket/x", "--model", "../x"], "not a model's name"),
        (["--store", "s3://bucket/x", "--tracking-uri", "127.0.0.1:5000"], "does not begin with http"),
        (["--store", "s3://bucket/x", "--tracking-uri", "https://ann:SECRET@h"], "was given with a password"),
        (["--store", "s3://bucket/x", "--policy", "strict"], "strict"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_write_nothing(words: list[str], says: str) -> None:
    done = ulora("init", *words)
    complains(done, 2, says)
    assert "SECRET" not in done.err
    assert not TOML.exists()
    assert not POLICY.exists()


def test_a_variable_that_hides_the_file_is_told(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULORA_MODEL", "other")
    done = ulora("init", "--store", place, "--model", "mine")
    assert "note: ULORA_MODEL is set to something else" in done.err


RIGHT = {"Store": "PLACE", "S3 server": "", "MLflow server": "", "Policy": "none"}
WRONG_FIRST = {
    "Store": "s3://",
    "is not a store": "PLACE",
    "S3 server": "ann",
    "is not an address": "http://ann:SECRET@h",
    "was given with a password": "",
    "MLflow server": "127.0.0.1:5000",
    "does not begin with http": "",
    "Policy": "strict",
    "is not one of": "none",
}


@pytest.mark.parametrize("answers", [RIGHT, WRONG_FIRST], ids=["right", "wrong first"])
def test_on_a_terminal_it_asks_for_what_is_left_out(place: str, model: str, answers: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "registry", "init", "--model", model],
        stdin=theirs, stderr=theirs, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, text=True,
    )  # fmt: skip
    os.close(theirs)
    guard = threading.Timer(300, process.kill)
    guard.start()
    try:
        asked = b""
        for words, answer in answers.items():
            while not asked.rstrip().endswith(b":") or words.encode() not in asked:
                asked += os.read(ours, 4096)
            asked = b""
            os.write(ours, f"{answer.replace('PLACE', place)}\n".encode())
        out, _ = process.communicate()
    finally:
        guard.cancel()
        os.close(ours)
    assert (process.returncode, out.splitlines()[0]) == (0, "wrote ulora.toml")
    assert (Settings.load().store, Settings.load().model) == (place, model)
