"""`create` on a real store and a real MLflow, from sources that are not bundles."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import pytest
import requests
from mlflow import MlflowClient

from adapters.backbone.locate import TINY
from registry.api import Registry
from registry.catalog.connection import Connection
from registry.catalog.download import check_remote
from registry.errors import (
    BadBundle,
    BadInput,
    BadWeights,
    CatalogRefused,
    CatalogUnreachable,
    CorruptBlob,
    MissingBlob,
    VersionNotFound,
)
from registry.usecases.options import CreateOptions
from registry.versions.bundle import ReleaseNotes
from tests.support.bundles import write_bundle
from tests.support.other_adapter_layouts import IMAGES, LABELS, edit_json, write_peft, write_phase, write_release
from tests.support.registries import create, listing, open_registry
from tests.support.run_ulora import complains, ulora

PHASE = "models/tomato/phase3_conec_lora_adapter"
OLD = {
    "version": "5.5.1",
    "description": "Dynamic OOD thresholds",
    "timestamp": "2026-02-20T10:45:23",
    "changes": ["thresholds per class"],
    "breaking_changes": ["labels moved"],
    "backward_compatibility": True,
    "implementation_complete": True,
}


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("ULORA_MODEL", model)
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    return registry


@pytest.fixture
def catalogued(store_url: str, model: str, tmp_path: Path, tracking_uri: str) -> Registry:
    registry = open_registry(tmp_path, store_url, model, tracking_uri=tracking_uri)
    registry.store.initialise()
    return registry


def old_version(folder: Path) -> Path:
    write_phase(folder / PHASE)
    (folder / "requirements.txt").write_text("torch\n")
    listed = {PHASE + "/classifier.pth": hashlib.sha256((folder / PHASE / "classifier.pth").read_bytes()).hexdigest()}
    listed |= {"requirements.txt": hashlib.md5(b"torch\n").hexdigest(), "lost.py": "0" * 64}
    files = {path: {"hash": digest, "size": 1} for path, digest in listed.items()}
    (folder / "version.json").write_text(json.dumps(OLD | {"files": files}))
    return folder


def test_an_imported_version_loads_and_answers(registry: Registry, tmp_path: Path) -> None:
    write_release(tmp_path / "release" / "tomato" / "leaf" / "continual_sd_lora_adapter")
    said: list[str] = []
    created = registry.create("v6.0.0", tmp_path / "release", offline=True, say=said.append)
    loaded = registry.load("v6.0.0")
    assert (created.is_new, loaded.targets) == (True, ("tomato__leaf",))
    assert {prediction.outcome for prediction in loaded.predict(IMAGES, target="tomato__leaf")} <= {
        "answer",
        "review",
    }
    text = "\n".join(said)
    for word in ("1 × release", "converting tomato__leaf (1 of 1)", "a fusion head of 3 labels", "kind ensemble"):
        assert word in text
    assert registry.manifest("v6.0.0").source == str(tmp_path / "release")


def test_the_same_source_again_is_no_change(registry: Registry, tmp_path: Path) -> None:
    write_phase(tmp_path / "crops" / PHASE)
    registry.create("v5.5.1", tmp_path / "crops", offline=True)
    before = listing(registry)
    shutil.copytree(tmp_path / "crops", tmp_path / "elsewhere")
    again = registry.create("v5.5.1", tmp_path / "elsewhere", offline=True)
    assert (again.is_new, again.uploaded) == (False, 0)
    assert listing(registry) == before


@pytest.mark.acceptance
def test_release_notes_of_an_old_version_can_be_overridden(registry: Registry, tmp_path: Path) -> None:
    folder, said = old_version(tmp_path / "backups" / "v5.5.1"), list[str]()
    registry.create("v5.5.1", folder, offline=True, say=said.append)
    manifest = registry.manifest("v5.5.1")
    assert manifest.description == "Dynamic OOD thresholds"
    assert manifest.breaking_changes == ("labels moved",)
    assert manifest.backward_compatibility == "true"
    assert manifest.changes["changes"] == ["thresholds per class"]
    assert manifest.changes["imported"]["implementation_complete"] is True
    assert "project/requirements.txt" in [file.path for file in manifest.files]
    assert "1 file listed in version.json missing" in said
    registry.create("v5.5.2", folder, CreateOptions(release_notes=ReleaseNotes("Ours")), offline=True)
    assert registry.manifest("v5.5.2").description == "Ours"
    assert registry.manifest("v5.5.2").breaking_changes == ("labels moved",)


@pytest.mark.acceptance
@pytest.mark.parametrize("damaged", [PHASE + "/classifier.pth", "requirements.txt"])
def test_an_old_version_with_wrong_digests_is_refused(registry: Registry, tmp_path: Path, damaged: str) -> None:
    folder = old_version(tmp_path / "v5.5.1")
    data = bytearray((folder / damaged).read_bytes())
    data[-1] ^= 1
    (folder / damaged).write_bytes(data)
    with pytest.raises(BadBundle, match=f"{damaged} is damaged"):
        registry.create("v5.5.1", folder, offline=True)
    assert registry.bindings.names() == []


@pytest.mark.acceptance
def test_a_backbone_of_the_store_is_found_by_its_name(registry: Registry, tmp_path: Path) -> None:
    shutil.copytree(TINY / "dinov2-tiny", tmp_path / "vit")
    registry.add_backbone(tmp_path / "vit", name="plant-vit")
    write_peft(tmp_path / "maize", labels=LABELS)
    registry.create("v1.0.0", tmp_path / "maize", CreateOptions(backbone="plant-vit"), offline=True)
    backbone = registry.manifest("v1.0.0").backbone
    assert backbone is not None
    assert backbone.name == "plant-vit"


@pytest.mark.acceptance
def test_a_dry_run_shows_what_would_become_of_it(registry: Registry, tmp_path: Path) -> None:
    write_phase(tmp_path / "crops" / PHASE)
    before = listing(registry)
    done = ulora("create", "v5.5.1", "--from", tmp_path / "crops", "--dry-run")
    assert (done.code, listing(registry)) == (0, before)
    assert "would create" in done.out
    for word in ("1 × phases", "backbone dinov2-tiny", "tomato: a linear head of 3 labels", "prototype", "ood.json"):
        assert word in done.err
    assert "assumed: resize 28, crop 28, interpolation bicubic, mean 0.485 0.456 0.406" in done.out
    planned = ulora("create", "v5.5.1", "--from", tmp_path / "crops", "--dry-run", "--json").document
    created = ulora("create", "v5.5.1", "--from", tmp_path / "crops", "--offline", "--json").document
    assert created["content_sha256"] == planned["content_sha256"]
    assert created["assumed"] == planned["assumed"]
    assert created["assumed"][0].startswith("resize 28")


def test_an_import_records_outputs_that_each_load_reproduces(registry: Registry, tmp_path: Path) -> None:
    write_phase(tmp_path / "crops" / PHASE)
    registry.create("v5.5.1", tmp_path / "crops", CreateOptions(target="tomato"), offline=True)
    assert "adapters/tomato/golden.safetensors" in [file.path for file in registry.manifest("v5.5.1").files]
    registry.load("v5.5.1").self_test()


def test_refusals_on_the_command_line_leave_nothing_behind(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_peft(tmp_path / "a b")
    write_phase(tmp_path / "crops" / PHASE)
    (tmp_path / "crops" / PHASE / "classifier.pth").write_bytes(b"\x80\x02.")
    before = listing(registry)
    create = ("create", "v1.0.0", "--offline", "--from")
    complains(ulora(*create, tmp_path / "empty"), 2, "no adapter in a known layout", "continual_sd_lora_adapter")
    complains(ulora(*create, tmp_path / "a b"), 2, "--target")
    for code, words, says in ((6, [], "classifier.pth is not a valid file"), (5, ["--backbone", "nowhere"], "nowhere")):
        done = ulora(*create, tmp_path / "crops", *words)
        assert (done.code, "error: " in done.err, says in done.err, "Traceback" in done.err) == (
            code,
            True,
            True,
            False,
        )
        assert says in ulora(*create, tmp_path / "crops", *words, "--json").error["message"]
    complains(ulora(*create, tmp_path / "missing"), 2, "no such folder")
    done = ulora(*create, "models:/plants/1", "--json")
    assert (done.code, done.error["error"]) == (7, "CatalogUnreachable")
    assert listing(registry) == before


@pytest.mark.parametrize("place", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_bundle_that_nothing_could_load_gets_no_name(registry: Registry, tmp_path: Path, place: str) -> None:
    file = write_bundle(tmp_path / "bundle", targets=("low",)) / "adapters/low" / place
    if place.endswith(".json"):
        edit_json(file, lambda config: config.update(target_modules=7))
    else:
        length = int.from_bytes(file.read_bytes()[:8], "little")
        header = json.loads(file.read_bytes()[8 : 8 + length]) | {"__metadata__": []}
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + file.read_bytes()[8 + length :])
    before = listing(registry)
    with pytest.raises(BadWeights, match=place):
        registry.create("v1.0.0", tmp_path / "bundle", offline=True)
    assert list(registry.bindings.names()) == []
    assert listing(registry) == before


def test_fields_of_an_old_version_are_kept_with_given_changes(registry: Registry, tmp_path: Path) -> None:
    folder = old_version(tmp_path / "v5.5.1")
    notes = ReleaseNotes(changes={"router": "new", "imported": {"by": "ann"}})
    registry.create("v5.5.1", folder, CreateOptions(release_notes=notes), offline=True)
    changes = registry.manifest("v5.5.1").changes
    assert changes["router"] == "new"
    assert changes["changes"] == ["thresholds per class"]
    assert changes["imported"]["implementation_complete"] is True
    assert changes["imported"]["by"] == "ann"


@pytest.mark.acceptance
def test_paths_that_were_written_on_windows_are_understood(registry: Registry, tmp_path: Path) -> None:
    folder = old_version(tmp_path / "v5.5.1")
    windows = {PHASE.replace("/", "\\") + "\\classifier.pth": "0" * 64, "C:\\old\\lost.py": "0" * 64}
    edit_json(folder / "version.json", lambda it: it.update(files={path: {"hash": it} for path, it in windows.items()}))
    with pytest.raises(BadBundle, match=r"classifier\.pth is damaged"):
        registry.create("v5.5.1", folder, offline=True)
    edit_json(folder / "version.json", lambda it: it["files"].pop(next(iter(windows))))
    assert registry.create("v5.5.1", folder, offline=True).is_new


@pytest.mark.parametrize("option", ["--target", "--backbone"])
def test_options_that_a_bundle_decides_are_refused(registry: Registry, tmp_path: Path, option: str) -> None:
    write_bundle(tmp_path / "bundle", targets=("low",))
    complains(ulora("create", "v1.0.0", "--from", tmp_path / "bundle", "--offline", option, "x"), 2, f"omit {option}")
    assert registry.bindings.names() == []


def test_warnings_are_notes_and_an_error_stays_one_object(registry: Registry, tmp_path: Path) -> None:
    write_peft(tmp_path / "maize")
    edit_json(
        tmp_path / "maize" / "adapter_config.json", lambda it: it.update(base_model_name_or_path="facebook/dinov3-base")
    )
    create = ("create", "v1.0.0", "--offline", "--from", tmp_path / "maize")
    assert ulora(*create, "--json").error["error"] == "BackboneNotFound"
    shown = ulora(*create).err.splitlines()
    assert {line.partition(":")[0] for line in shown} == {"note", "error", "hint"}
    assert any(line.startswith("note: facebook/dinov3-base does not exist") for line in shown)


@pytest.mark.acceptance
@pytest.mark.usefixtures("registry")
def test_sigterm_leaves_no_temporary_folder(store_url: str, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    write_phase(tmp_path / "crops" / "tomato00" / PHASE.rpartition("/")[2])
    for number in range(1, 20):
        shutil.copytree(tmp_path / "crops" / "tomato00", tmp_path / "crops" / f"tomato{number:02}")
    words = ["create", "v1.0.0", "--offline", "--from", str(tmp_path / "crops"), "--store", store_url]
    with subprocess.Popen(
        [sys.executable, "-m", "registry", *words],
        env={**os.environ, "TMPDIR": str(temporary), "ULORA_CACHE": str(tmp_path / "cache")},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("note: found 20")
        assert list(temporary.glob("ulora-import-*"))
        process.terminate()
        assert "interrupted" in process.stderr.read()
    assert process.returncode == 130
    assert list(temporary.glob("ulora-import-*")) == []


# --- models:/ --------------------------------------------------------------------------------------------------------


@pytest.mark.acceptance
def test_a_version_of_mlflow_becomes_one_of_another_store(
    catalogued: Registry, store_url: str, model: str, tmp_path: Path
) -> None:
    create(catalogued, "v1.0.0", tmp_path)
    catalogued.reconcile()
    elsewhere = open_registry(tmp_path / "b", f"{store_url}-b", model, tracking_uri=catalogued.settings.tracking_uri)
    elsewhere.store.initialise()
    elsewhere.create("v1.0.0", f"models:/{model}/1", offline=True)
    assert elsewhere.manifest("v1.0.0").content_sha256 == catalogued.manifest("v1.0.0").content_sha256
    assert elsewhere.manifest("v1.0.0").source == f"models:/{model}/1"
    again = elsewhere.create("v1.0.0", f"models:/{model}@v1_0_0", offline=True)
    assert not again.is_new


def test_a_model_that_others_logged_is_taken_in(catalogued: Registry, model: str, tmp_path: Path) -> None:
    client = MlflowClient(catalogued.settings.tracking_uri)
    run = client.create_run("0").info.run_id
    write_peft(tmp_path / "maize", labels=LABELS)
    client.log_artifacts(run, str(tmp_path / "maize"), "peft")
    client.create_registered_model(model)
    client.create_model_version(model, f"runs:/{run}/peft", run_id=run)
    catalogued.create("v1.0.0", f"models:/{model}/1", CreateOptions(target="maize"), offline=True)
    assert "adapters/maize" in catalogued.manifest("v1.0.0").components


@pytest.mark.acceptance
def test_a_model_that_is_not_what_its_manifest_says_is_refused(
    catalogued: Registry, model: str, tmp_path: Path
) -> None:
    create(catalogued, "v1.0.0", tmp_path)
    catalogued.reconcile()
    client = MlflowClient(catalogued.settings.tracking_uri)
    model_id = str(client.get_model_version(model, "1").source).removeprefix("models:/")
    changed = tmp_path / "changed" / "artifacts" / "bundle" / "config" / "inference.json"
    changed.parent.mkdir(parents=True)
    changed.write_text("{}\n")
    client.log_model_artifacts(model_id, str(tmp_path / "changed"))
    before = listing(catalogued)
    with pytest.raises(CorruptBlob, match=r"config/inference\.json"):
        catalogued.create("v2.0.0", f"models:/{model}/1", offline=True)
    assert listing(catalogued) == before


@pytest.mark.acceptance
def test_a_model_that_lost_its_manifest_is_refused(catalogued: Registry, model: str, tmp_path: Path) -> None:
    create(catalogued, "v1.0.0", tmp_path)
    catalogued.reconcile()
    client = MlflowClient(catalogued.settings.tracking_uri)
    model_id = str(client.get_model_version(model, "1").source).removeprefix("models:/")
    place = urlsplit(client.get_logged_model(model_id).artifact_location).path.strip("/")
    url = f"{catalogued.settings.tracking_uri}/api/2.0/mlflow-artifacts/artifacts/{place}/artifacts/bundle/version.json"
    requests.delete(url, timeout=300).raise_for_status()
    with pytest.raises(CorruptBlob, match=rf"models:/{model}/1 has no version\.json any more") as refused:
        catalogued.create("v2.0.0", f"models:/{model}/1", offline=True)
    assert "ulora restore" in refused.value.hint
    with pytest.raises(MissingBlob, match=r"version\.json is missing"):
        mlflow.pyfunc.load_model(f"models:/{model}/1")
    assert catalogued.reconcile().damaged == ()


def test_a_source_on_this_disk_is_not_read_on_a_server_s_word(catalogued: Registry, model: str, tmp_path: Path) -> None:
    server = Connection(catalogued.settings.tracking_uri)
    for location in ("/etc", "file:///etc", "FILE:/etc", str(tmp_path)):
        with pytest.raises(CatalogRefused, match="a path on a disk"):
            check_remote(location, server, "models:/plants/1")


@pytest.mark.parametrize(
    "location", ["http://elsewhere/x", "mlflow-artifacts://elsewhere/x", "sftp://h/x", "hdfs://h/x"]
)
def test_servers_that_a_source_names_are_not_asked(catalogued: Registry, location: str) -> None:
    with pytest.raises(CatalogRefused, match="neither behind the MLflow server nor in a bucket"):
        check_remote(location, Connection(catalogued.settings.tracking_uri), "models:/plants/1")


def test_a_catalog_on_this_disk_may_name_it(tmp_path: Path) -> None:
    for tracking in (str(tmp_path), f"file://{tmp_path}", f"sqlite:///{tmp_path}/mlflow.db"):
        check_remote(str(tmp_path / "files"), Connection(tracking), "models:/plants/1")
    for tracking in ("postgresql://h/db", "http://h"):
        with pytest.raises(CatalogRefused):
            check_remote(str(tmp_path / "files"), Connection(tracking), "models:/plants/1")


def test_a_disk_behind_other_names_is_not_read_either(catalogued: Registry, model: str, tmp_path: Path) -> None:
    client = MlflowClient(catalogued.settings.tracking_uri)
    write_peft(tmp_path / "secret")
    experiment = client.create_experiment(model, artifact_location=f"file://{tmp_path}")
    run = client.create_run(experiment).info.run_id
    logged = client.create_logged_model(experiment, name="secret")
    inside = {"runs": (f"runs:/{run}/secret", None), "logged": (f"models:/{logged.model_id}", logged.model_id)}
    for name, (source, model_id) in inside.items():
        client.create_registered_model(f"{model}-{name}")
        client.create_model_version(f"{model}-{name}", source, run_id=None if model_id else run, model_id=model_id)
    client.create_registered_model(model)
    client.create_model_version(model, f"models:/{model}-runs/1")
    for name in (f"{model}-runs", f"{model}-logged", model):
        with pytest.raises(CatalogRefused, match="a path on a disk"):
            catalogued.create("v1.0.0", f"models:/{name}/1", CreateOptions(target="maize"), offline=True)


def test_models_that_can_t_be_downloaded_are_refused(catalogued: Registry, registry: Registry, model: str) -> None:
    with pytest.raises(VersionNotFound, match=f"no models:/{model}/9"):
        catalogued.create("v1.0.0", f"models:/{model}/9", offline=True)
    with pytest.raises(VersionNotFound, match="@champion"):
        catalogued.create("v1.0.0", f"models:/{model}@champion", offline=True)
    for uri in (f"models:/{model}", "models:/a/../b", "models:/a/Production"):
        with pytest.raises(BadInput, match="is not the URI of a version"):
            catalogued.create("v1.0.0", uri, offline=True)
    with pytest.raises(CatalogUnreachable):
        registry.create("v1.0.0", "models:/plants/1", offline=True)
