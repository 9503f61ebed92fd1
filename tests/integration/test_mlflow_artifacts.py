"""`ulora://MODEL/VERSION` by plain MLflow: every file verified, nothing outside of its folder, nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import mlflow
import pytest
from mlflow.artifacts import download_artifacts, list_artifacts, load_dict
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from registry.api import Registry
from registry.catalog import tags as catalog_tags
from registry.deployments.artifact_repository import VersionArtifacts
from registry.deployments.run_context import VERSION_TAG
from registry.deployments.version_tree import VersionTree
from registry.formats.canonical import sha256
from registry.usecases.options import CreateOptions
from registry.versions.manifest import FileEntry
from tests.support.mlflow_cli import mlflow_command
from tests.support.registries import create, flip_a_byte, open_registry
from tests.support.signing_keys import key_pair
from tests.support.working_trees import link_to_the_same_bytes

V1, V2 = "v1.0.0", "v1.1.0"
ODD = {"meeting #1.md": "hello", "50%20 off.txt": "sale", "src/run.py": "print('plants')\n"}


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """One version on a store that the environment names. No MLflow server is set."""
    monkeypatch.setenv("ULORA_CACHE", str(tmp_path / "cache"))
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    create(registry, V1, tmp_path)
    return registry


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def files_below(folder: Path) -> dict[str, str]:
    """The sha256 of every file."""
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()) for path in folder.rglob("*") if path.is_file()
    }


def expected_of(registry: Registry, version: str) -> dict[str, str]:
    manifest = registry.manifest(version)
    return {file.path: file.sha256 for file in manifest.files} | {"version.json": manifest.sha256}


def test_a_version_is_listed_and_downloaded_whole(registry: Registry, out: Path) -> None:
    uri = f"ulora://{registry.model}/{V1}"
    assert mlflow_command("artifacts", "download", "-u", uri, "-d", out).code == 0
    assert files_below(out / V1) == expected_of(registry, V1)
    top = {each.path: (each.is_dir, each.file_size) for each in list_artifacts(uri)}
    assert top[f"{V1}/adapters"] == (True, None)
    assert top[f"{V1}/version.json"] == (False, len(registry.manifest(V1).to_bytes()))
    (lora,) = [each for each in list_artifacts(f"{uri}/adapters/low") if each.path.endswith("adapter_config.json")]
    assert (lora.path, lora.is_dir) == ("low/adapter_config.json", False)
    assert list_artifacts(f"{uri}/version.json") == []
    assert load_dict(f"{uri}/version.json")["version"] == V1
    one = download_artifacts(f"{uri}/adapters/low/", dst_path=str(out / "low"))
    assert set(files_below(Path(one))) == {
        path.removeprefix("adapters/low/") for path in expected_of(registry, V1) if path.startswith("adapters/low/")
    }


def test_odd_names_come_as_they_are(registry: Registry, tmp_path: Path, out: Path) -> None:
    for name, text in ODD.items():
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "project" / name).write_text(text)
    (tmp_path / "project" / "src" / "run.py").chmod(0o755)
    registry.create(V2, tmp_path / V1, CreateOptions(project=tmp_path / "project"), offline=True)
    uri = f"ulora://{registry.model}/{V2}"
    download_artifacts(uri, dst_path=str(out))
    assert files_below(out / V2) == expected_of(registry, V2)
    assert os.access(out / V2 / "project" / "src" / "run.py", os.X_OK)
    for name, text in ODD.items():
        quoted = name.replace("%", "%25").replace("#", "%23")
        found = Path(download_artifacts(f"{uri}/project/{quoted}", dst_path=str(out / "one")))
        assert found.read_text() == text
    with pytest.raises(MlflowException, match="%23"):
        list_artifacts(f"{uri}/project/meeting #1.md")


def test_hostile_paths_and_uris(registry: Registry, out: Path) -> None:
    for path in (
        "../../etc/passwd",
        "adapters/../version.json",
        "%2e%2e/x",
        "nothing",
        "/etc/passwd",
        "version.json/x",
    ):
        repository = get_artifact_repository(f"ulora://{registry.model}/{V1}")
        with pytest.raises(MlflowException, match="no file or folder"):
            repository.list_artifacts(path)
        with pytest.raises(MlflowException, match="no file or folder"):
            repository._download_file(path, str(out / "x"))
    for uri in (
        "ulora://", "ulora:///v1.0.0", "ulora://a b/v1.0.0", "ulora://user@host/v1.0.0", f"ulora://{'x' * 9000}/v1.0.0",
        f"ulora://{registry.model}", f"ulora://{registry.model}/", f"ulora://{registry.model}/latest",
        f"ulora://{registry.model}/v1.0.0?download=1", f"ulora://{registry.model}/{V1}#x/y",
    ):  # fmt: skip
        with pytest.raises(MlflowException) as error:
            list_artifacts(uri)
        assert error.value.error_code == "INVALID_PARAMETER_VALUE", uri
    with pytest.raises(MlflowException) as error:
        list_artifacts(f"ulora://{registry.model}/v9.9.9")
    assert error.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    assert files_below(out) == {}


def test_a_link_in_the_folder_leads_nowhere(registry: Registry, out: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (out / V1).mkdir()
    (out / V1 / "adapters").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MlflowException):
        download_artifacts(f"ulora://{registry.model}/{V1}", dst_path=str(out))
    assert files_below(tmp_path / "elsewhere") == {}
    secret = tmp_path / "secret"
    secret.write_text("kept")
    (out / "version.json").symlink_to(secret)
    get_artifact_repository(f"ulora://{registry.model}/{V1}")._download_file("version.json", str(out / "version.json"))
    assert secret.read_text() == "kept", "a link at the file's own place is replaced, and not followed"
    assert not (out / "version.json").is_symlink()


class ExchangedCache(VersionArtifacts):
    """Somebody exchanges each file in the cache for a link to the same bytes, just after it was verified."""

    def _fetched(self, tree: VersionTree, file: FileEntry) -> Path:
        verified = super()._fetched(tree, file)
        verified.rename(verified.with_suffix(".whole"))
        link_to_the_same_bytes(verified)
        return verified


def test_what_was_exchanged_in_the_cache_is_not_opened(registry: Registry, out: Path) -> None:
    repository = ExchangedCache(f"ulora://{registry.model}/{V1}")
    with pytest.raises(MlflowException, match="was exchanged"):
        repository._download_file("adapters/low/adapter_config.json", str(out / "x"))
    assert files_below(out) == {}


def test_damaged_bytes_do_not_arrive(registry: Registry, out: Path) -> None:
    path = "adapters/low/adapter_model.safetensors"
    flip_a_byte(registry, V1, path)
    (out / path).parent.mkdir(parents=True)
    (out / path).write_text("what was there before")
    repository = get_artifact_repository(f"ulora://{registry.model}/{V1}")
    with pytest.raises(MlflowException, match="SHA-256 mismatch") as error:
        repository._download_file(path, str(out / path))
    assert error.value.error_code == "DATA_LOSS"
    assert (out / path).read_text() == "what was there before"
    assert set(files_below(out)) == {path}, "no scratch file is left"


def test_nothing_is_written_to_a_version(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    repository = get_artifact_repository(f"ulora://{registry.model}/{V1}")
    for act in (
        lambda: repository.log_artifact(str(tmp_path / "x.txt")),
        lambda: repository.log_artifacts(str(tmp_path)),
        lambda: repository.delete_artifacts("version.json"),
    ):
        with pytest.raises(MlflowException, match="a version never changes"):
            act()
    assert registry.verify(V1).ok


def test_only_trusted_versions_are_read(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = key_pair(tmp_path, "team")
    monkeypatch.setenv("ULORA_TRUSTED_KEYS", str(key.trusted))
    with pytest.raises(MlflowException, match=V1) as error:
        list_artifacts(f"ulora://{registry.model}/{V1}")
    assert error.value.error_code == "DATA_LOSS"
    registry.sign(V1, key.private)
    assert list_artifacts(f"ulora://{registry.model}/{V1}") != []


def test_a_store_that_does_not_answer_is_named(
    registry: Registry, out: Path, dead_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULORA_S3_ENDPOINT", dead_address)
    done = mlflow_command("artifacts", "download", "-u", f"ulora://{registry.model}/{V1}", "-d", out)
    assert (done.code, dead_address in done.text) == (7, True), done
    monkeypatch.delenv("ULORA_STORE")
    done = mlflow_command("artifacts", "download", "-u", f"ulora://{registry.model}/{V1}", "-d", out)
    assert (done.code, "no store is set" in done.text) == (2, True), done


def test_a_tracking_server_reads_no_version_for_others(registry: Registry, tracking_uri: str, model: str) -> None:
    """Whoever may name a place for artifacts would read the store with the server's rights; a client uses its own."""
    theirs = mlflow.MlflowClient(tracking_uri)
    experiment = theirs.create_experiment(model, artifact_location=f"ulora://{model}/{V1}")
    run_id = theirs.create_run(experiment).info.run_id
    asked = f"{tracking_uri}/api/2.0/mlflow/artifacts/list?run_id={run_id}"
    with pytest.raises(HTTPError) as error:
        urlopen(asked)
    assert "a tracking server does not read" in error.value.read().decode()


@pytest.mark.acceptance
def test_importing_mlflow_loads_next_to_nothing_of_ours() -> None:
    """What MLflow imports of this package wherever it is imported, without any setting."""
    listed = "sorted(name for name in sys.modules if name.partition('.')[0] in ('registry', 'adapters'))"
    code = f"import sys, json, mlflow; print(json.dumps({listed}))"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ULORA_", "AWS_"))}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert "Failure attempting to register" not in done.stderr
    assert json.loads(done.stdout) == [
        "registry", "registry.deployments", "registry.deployments.addresses",
        "registry.deployments.artifact_repository", "registry.deployments.refusals", "registry.deployments.run_context",
        "registry.errors", "registry.names",
    ]  # fmt: skip


def test_runs_are_tagged_while_the_version_is_set(
    tracking_uri: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert VERSION_TAG == catalog_tags.VERSION, "the tag that versions and evidence have"
    mlflow.set_experiment(model)

    def tags(**own: str) -> dict[str, str]:
        with mlflow.start_run(tags=own) as run:
            pass
        found = mlflow.MlflowClient().get_run(run.info.run_id).data.tags
        return {name: value for name, value in found.items() if name.startswith("ulora.")}

    assert tags() == {}
    monkeypatch.setenv("ULORA_VERSION", "v5.5.4-dinov3")
    assert tags() == {"ulora.version": "v5.5.4-dinov3"}
    monkeypatch.setenv("ULORA_MODEL", "aads-ulora")
    assert tags() == {"ulora.version": "v5.5.4-dinov3", "ulora.model": "aads-ulora"}
    assert tags(**{"ulora.version": "mine"})["ulora.version"] == "mine", "what the program sets itself counts"
    for name, value in (("ULORA_VERSION", "latest"), ("ULORA_VERSION", "v1.0.0\n"), ("ULORA_MODEL", "x" * 5000)):
        with monkeypatch.context() as inner:
            inner.setenv(name, value)
            assert tags() == {}, value
    monkeypatch.setenv("ULORA_VERSION", "")
    assert tags() == {}
