"""Settings: arguments before the environment before `ulora.toml`, and one clear line about what is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from registry.errors import BadInput, BadSetting
from registry.settings import Settings, cache_folder


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_arguments_then_the_environment_then_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "ulora.toml").write_text('store = "s3://file/a"\nmodel = "file"\ntracking_uri = "http://file"\n')
    assert Settings.load().store == "s3://file/a"
    monkeypatch.setenv("ULORA_STORE", "s3://env/a")
    monkeypatch.setenv("ULORA_MODEL", "env")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://env")
    found = Settings.load()
    assert (found.store, found.model, found.tracking_uri) == ("s3://env/a", "env", "http://env")
    found = Settings.load(store="s3://arg/a", model="arg", tracking_uri="http://arg")
    assert (found.store, found.model, found.tracking_uri) == ("s3://arg/a", "arg", "http://arg")


def test_another_process_loads_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Settings(
        model="m", store="s3://b/p", endpoint_url="http://s3", cache=Path("/cache"), policy=Path("/policy.yaml"),
        who="ann", trusted_keys=(Path("/a.pem"), Path("/b.pem")), minimum_version="v1.0.0", sse="aws:kms",
        sse_kms_key_id="key",
    )  # fmt: skip
    for name, value in here.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == here


def test_what_is_left_out_has_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    found = Settings.load(store="s3://b")
    assert (found.model, found.tracking_uri, found.policy) == ("aads-ulora", None, None)
    assert found.cache == Path("/somewhere/ulora")
    assert dict(found.aliases) == {"staging": "staging", "production": "production"}
    assert "@" in found.who


def test_aliases_and_the_signature_can_be_chosen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "ulora.toml").write_text('store = "s3://b"\n[aliases]\nproduction = "champion"\n')
    monkeypatch.setenv("ULORA_WHO", "ci")
    found = Settings.load()
    assert (dict(found.aliases), found.who) == ({"staging": "staging", "production": "champion"}, "ci")


def test_what_mlflow_holds_can_be_chosen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load(store="s3://b").mlflow_artifacts == "copy"
    (folder / "ulora.toml").write_text('store = "s3://b"\nmlflow_artifacts = "reference"\n')
    assert Settings.load().mlflow_artifacts == "reference"
    monkeypatch.setenv("ULORA_MLFLOW_ARTIFACTS", "copy")
    assert Settings.load().mlflow_artifacts == "copy"


def test_the_cache_is_found_without_a_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "ulora.toml").write_text('cache = "here"\n')
    assert cache_folder() == Path("here")
    monkeypatch.setenv("ULORA_CACHE", "there")
    assert cache_folder() == Path("there")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("store = 's3://b'\nmlflow_artifacts = 'link'", "mlflow_artifacts is 'link'"),
        ("store = ", "not valid TOML"),
        ("stor = 's3://b'", "unknown keys: stor"),
        ("store = 5", "store must be a string"),
        ("store = 's3://b'\naliases = 5", "must map staging or production"),
        ("store = 's3://b'\n[aliases]\nprod = 'champion'", "must map staging or production"),
        ("store = 's3://b'\n[aliases]\nproduction = 'latest'", "must map staging or production"),
        ("store = 's3://b'\n[aliases]\nproduction = 'v5'", "must map staging or production"),
        ("store = 's3://b'\n[aliases]\nproduction = 5", "must map staging or production"),
        ("store = 's3://b'\nmodel = '../x'", "not a model's name"),
        ("store = 's3://b'\nnotify = 'x'", r"\[notify\] may have json, secret, slack, teams"),
        ("store = 's3://b'\n[notify]\nslak = 'x'", r"\[notify\] may have"),
        ("store = 's3://b'\n[notify]\nslack = 5", "slack must be addresses"),
        ("store = 's3://b'\n[notify]\nslack = ['']", "slack must be addresses"),
        ("store = 's3://b'\n[notify]\nsecret = ['x']", "secret must be a string"),
        ("model = 'm'", "no store is set"),
    ],
)
def test_a_file_that_is_wrong_is_refused(folder: Path, text: str, says: str) -> None:
    (folder / "ulora.toml").write_text(text)
    with pytest.raises(BadInput, match=says):
        Settings.load()


def test_a_file_that_can_not_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "ulora.toml").mkdir()
    with pytest.raises(BadSetting, match=r"ulora\.toml can't be read"):
        Settings.load(store="s3://b")
    (folder / "other.toml").write_bytes(b"\xff")
    monkeypatch.setenv("ULORA_CONFIG", "other.toml")
    with pytest.raises(BadSetting, match=r"other\.toml can't be read"):
        Settings.load(store="s3://b")
    monkeypatch.setenv("ULORA_CONFIG", "missing.toml")
    with pytest.raises(BadSetting, match=r"missing\.toml, which does not exist"):
        Settings.load(store="s3://b")


def test_trusted_keys_are_a_list_of_files_from_either_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load(store="s3://b").trusted_keys == ()
    (folder / "ulora.toml").write_text('trusted_keys = ["a.pem", "b.pem"]\nminimum_version = "v1.0.0"\n')
    found = Settings.load(store="s3://b")
    assert (found.trusted_keys, found.minimum_version) == ((Path("a.pem"), Path("b.pem")), "v1.0.0")
    monkeypatch.setenv("ULORA_TRUSTED_KEYS", f"c.pem{os.pathsep}d.pem")
    monkeypatch.setenv("ULORA_MINIMUM_VERSION", "v2.0.0-x")
    found = Settings.load(store="s3://b")
    assert (found.trusted_keys, found.minimum_version) == ((Path("c.pem"), Path("d.pem")), "v2.0.0-x")


@pytest.mark.parametrize(
    "text",
    ["trusted_keys = []", "trusted_keys = 'a.pem'", "trusted_keys = [5]", "trusted_keys = ['']",
     "minimum_version = '5'", "sse = 'DES'", "sse_kms_key_id = 'key'", "sse = 'AES256'\nsse_kms_key_id = 'key'"],
)  # fmt: skip
def test_an_invalid_security_setting_is_refused_not_ignored(folder: Path, text: str) -> None:
    (folder / "ulora.toml").write_text(text)
    with pytest.raises(BadInput):
        Settings.load(store="s3://b")


def test_trusted_keys_of_separators_only_are_a_mistake(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULORA_TRUSTED_KEYS", os.pathsep)
    with pytest.raises(BadSetting, match="names no file"):
        Settings.load(store="s3://b")


def test_encryption_is_chosen_by_the_environment_before_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "ulora.toml").write_text('sse = "aws:kms"\nsse_kms_key_id = "one"\n')
    assert Settings.load(store="s3://b").sse_kms_key_id == "one"
    monkeypatch.setenv("ULORA_SSE_KMS_KEY_ID", "two")
    found = Settings.load(store="s3://b")
    assert (found.sse, found.sse_kms_key_id) == ("aws:kms", "two")


def test_addresses_to_notify_are_one_or_several(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "ulora.toml").write_text('[notify]\njson = "http://a"\nslack = ["http://b", "http://c"]\nsecret = "s"\n')
    found = Settings.load(store="s3://b")
    assert (found.notify_json, found.notify_slack) == (("http://a",), ("http://b", "http://c"))
    assert (found.notify_teams, found.notify_secret) == ((), "s")
    monkeypatch.setenv("ULORA_NOTIFY_JSON", "http://d  http://e")
    assert Settings.load(store="s3://b").notify_json == ("http://d", "http://e")
    assert "http://" not in repr(found)
