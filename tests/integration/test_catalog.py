"""Versions in a real MLflow: logged once, found by name and digest, evidence shown on them, and errors in seconds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from registry.catalog.client import Catalog
from registry.catalog.connection import HASTY
from registry.catalog.runs import EvidenceRun
from registry.errors import CatalogRefused, CatalogUnreachable, MissingDependency, UloraError, VersionNotFound
from registry.evidence.results import MeasuredOn
from registry.formats.canonical import sha256
from registry.versions.bindings import Binding
from registry.versions.manifest import Manifest
from tests.servers import proxy as faults
from tests.servers.proxy import Proxy
from tests.support import flavor_package

ANY = "0" * 64
STORE = "s3://bucket/prefix"
_LOG_IN_ANOTHER_PROCESS = """
import sys, pathlib
from registry.catalog.client import Catalog
from registry.evidence.results import MeasuredOn
from registry.formats.canonical import sha256
from tests.support import flavor_package
folder, url, model = pathlib.Path(sys.argv[1]), *sys.argv[2:]
manifest, files = flavor_package.make_version(folder, model, "v1.0.0-dinov3", "a", description="a first one")
print(Catalog(url, "s3://bucket/prefix").log(manifest, sha256(manifest.to_bytes()), files).number)
"""


@pytest.fixture
def catalog(tracking_uri: str) -> Catalog:
    return Catalog(tracking_uri, STORE)


@pytest.fixture(autouse=True)
def plain_flavor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flavor_package.install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


def log(catalog: Catalog, folder: Path, model: str, version: str = "v1.0.0-dinov3", text: str = "a"):
    manifest, files = flavor_package.make_version(folder, model, version, text, description="a first one")
    return manifest, catalog.log(manifest, sha256(manifest.to_bytes()), files)


def binding_of(manifest: Manifest) -> Binding:
    return Binding.of(manifest, sha256(manifest.to_bytes()))


def client(catalog: Catalog):
    import mlflow

    return mlflow.MlflowClient(catalog.connection.uri)


def register_unmanaged(catalog: Catalog, model: str) -> None:
    """Register a version as a team without this package does."""
    theirs = client(catalog)
    theirs.create_registered_model(model)
    experiment = theirs.create_experiment(f"{model}-theirs")
    logged = theirs.create_logged_model(experiment)
    theirs.create_model_version(model, f"models:/{logged.model_id}", model_id=logged.model_id, await_creation_for=0)


def test_a_logged_version_has_tags_description_alias_and_page(catalog: Catalog, tmp_path: Path, model: str) -> None:
    manifest, logged = log(catalog, tmp_path, model)
    found = client(catalog).get_model_version_by_alias(model, "v1_0_0-dinov3")
    assert int(found.version) == logged.number == 1
    assert found.tags == {"version": "v1.0.0-dinov3", "family": "none"}
    said = [line for line in found.description.splitlines() if line and not line.startswith("[//]")]
    assert said[:3] == ["v1.0.0-dinov3", "---", "a first one"]
    assert found.status == "READY"
    assert "request-rollback" in client(catalog).get_registered_model(model).description
    its_source = client(catalog).get_logged_model(logged.model_id)
    assert its_source.status == "READY"
    assert {name: value for name, value in its_source.tags.items() if not name.startswith("mlflow.")} == {
        "ulora.store": STORE,
        "ulora.version": "v1.0.0-dinov3",
        "ulora.content_sha256": manifest.content_sha256,
        "ulora.manifest_sha256": sha256(manifest.to_bytes()),
    }
    assert logged.url == f"{catalog.connection.uri}/#/models/{model}/versions/1?workflowType=machine_learning"


def test_a_version_is_registered_with_a_run_to_compare_by(catalog: Catalog, tmp_path: Path, model: str) -> None:
    _, one = log(catalog, tmp_path, model, "v1.0.0")
    _, two = log(catalog, tmp_path, model, "v1.1.0", "b")
    shown = [client(catalog).get_run(each.run_id) for each in (one, two)]
    assert [run.info.run_name for run in shown] == ["v1.0.0", "v1.1.0"]
    assert [run.info.status for run in shown] == ["FINISHED", "FINISHED"]
    assert set(shown[0].data.params) == set(shown[1].data.params) >= {"version", "family", "backbone", "parent"}


def test_a_logged_version_loads_by_plain_pyfunc(catalog: Catalog, tmp_path: Path, model: str) -> None:
    import mlflow
    import pandas

    manifest, _ = log(catalog, tmp_path, model, text="hello")
    loaded = mlflow.pyfunc.load_model(f"models:/{model}@{manifest.name.alias}")
    answer = loaded.predict(pandas.DataFrame({"path": ["config/a.txt", "version.json"]}))
    assert list(answer["text"]) == ["hello", manifest.to_bytes().decode()]
    assert loaded.metadata.signature.inputs.input_names() == ["path"]
    assert loaded.input_example is not None
    needed = Path(mlflow.pyfunc.get_model_dependencies(f"models:/{model}/1")).read_text()
    assert "ulora-registry[dino,mlflow]==" in needed
    assert "plainflavor==1.2" in needed
    assert "mlflow==" in needed


def test_logging_the_same_version_again_changes_nothing(catalog: Catalog, tmp_path: Path, model: str) -> None:
    first, second = (log(catalog, tmp_path, model)[1] for _ in range(2))
    assert first == second
    assert len(catalog.versions(model)) == 1


def test_versions_with_equal_content_share_nothing_in_mlflow(catalog: Catalog, tmp_path: Path, model: str) -> None:
    import mlflow
    import pandas

    first, one = log(catalog, tmp_path, model, "v1.0.0")
    second, two = log(catalog, tmp_path, model, "v1.0.1")
    assert first.content_sha256 == second.content_sha256
    assert (one.number, two.number) == (1, 2)
    assert one.model_id != two.model_id
    assert client(catalog).get_registered_model(model).aliases == {"v1_0_0": "1", "v1_0_1": "2"}
    loaded = mlflow.pyfunc.load_model(f"models:/{model}@v1_0_1")
    assert list(loaded.predict(pandas.DataFrame({"path": ["version.json"]}))["text"]) == [second.to_bytes().decode()]

    catalog.record_evidence(binding_of(second), EvidenceRun("ood", ANY, {"ood_auroc": 0.5}))
    catalog.set_tags(binding_of(second), {"verdict": "pass"})
    assert catalog.find(binding_of(first)) == one
    assert dict(catalog.find(binding_of(second)).tags) == {**two.tags, "verdict": "pass"}
    assert not client(catalog).get_logged_model(one.model_id).metrics


@pytest.mark.acceptance
def test_a_model_left_by_a_crash_is_not_used_for_another_version(
    mlflow_proxy: Proxy, catalog: Catalog, tmp_path: Path, model: str
) -> None:
    mlflow_proxy.next(faults.refuse, containing="/model-versions/create", times=99)
    with pytest.raises(CatalogUnreachable):
        log(Catalog(mlflow_proxy.url, STORE), tmp_path, model, "v1.0.0")
    _, logged = log(catalog, tmp_path, model, "v1.0.1")
    assert client(catalog).get_logged_model(logged.model_id).name == "v1_0_1"


@pytest.mark.acceptance
def test_a_crash_before_registering_logs_the_model_once(
    mlflow_proxy: Proxy, catalog: Catalog, tmp_path: Path, model: str
) -> None:
    mlflow_proxy.next(faults.refuse, containing="/model-versions/create", times=99)
    with pytest.raises(CatalogUnreachable):
        log(Catalog(mlflow_proxy.url, STORE), tmp_path, model)
    assert catalog.versions(model) == ()
    _, logged = log(catalog, tmp_path, model)
    experiment = client(catalog).get_experiment_by_name(model).experiment_id
    assert [each.model_id for each in client(catalog).search_logged_models([experiment])] == [logged.model_id]


@pytest.mark.acceptance
def test_a_crash_between_registering_and_naming_is_finished(
    mlflow_proxy: Proxy, catalog: Catalog, tmp_path: Path, model: str
) -> None:
    mlflow_proxy.next(faults.refuse, containing="/alias", times=99)
    with pytest.raises(CatalogUnreachable):
        log(Catalog(mlflow_proxy.url, STORE), tmp_path, model)
    log(catalog, tmp_path, model)
    assert client(catalog).get_registered_model(model).aliases == {"v1_0_0-dinov3": "1"}


def test_a_registration_whose_reply_is_lost_leaves_one_version(
    mlflow_proxy: Proxy, catalog: Catalog, tmp_path: Path, model: str
) -> None:
    mlflow_proxy.next(faults.swallow_reply, containing="/model-versions/create")
    _, logged = log(Catalog(mlflow_proxy.url, STORE), tmp_path, model)
    assert logged.number == 1
    assert [version.number for version in catalog.versions(model)] == [1]


@pytest.mark.acceptance
def test_files_that_could_not_be_sent_leave_one_model(
    mlflow_proxy: Proxy, catalog: Catalog, tmp_path: Path, model: str
) -> None:
    mlflow_proxy.next(
        lambda exchange: exchange.send(faults.Reply(413, [], b"large")), containing="/artifacts/", times=99
    )
    for _ in range(3):
        with pytest.raises((CatalogUnreachable, CatalogRefused), match="413"):
            log(Catalog(mlflow_proxy.url, STORE), tmp_path, model)
    experiment = client(catalog).get_experiment_by_name(model).experiment_id
    (left,) = client(catalog).search_logged_models([experiment])
    client(catalog).create_logged_model(experiment, tags=left.tags)  # as earlier releases did at each try
    mlflow_proxy.clear()
    _, logged = log(catalog, tmp_path, model)
    (kept,) = client(catalog).search_logged_models([experiment])
    assert (kept.model_id, kept.status) == (logged.model_id, "READY")
    assert len(client(catalog).search_runs([experiment])) == 1


@pytest.mark.acceptance
def test_of_two_who_log_at_once_the_first_to_register_wins(
    mlflow_proxy: Proxy, catalog: Catalog, tmp_path: Path, model: str
) -> None:
    # Another process is stopped before it registers until this one has registered: the race happens in every run.
    stall = faults.Stall()
    mlflow_proxy.next(stall, containing="/model-versions/create")
    other = subprocess.Popen(
        [sys.executable, "-c", _LOG_IN_ANOTHER_PROCESS, str(tmp_path), mlflow_proxy.url, model],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(Path.cwd())])},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert stall.arrived.wait(120)
        _, ours = log(catalog, tmp_path, model)
        stall.release()
        assert other.communicate(timeout=600)[0].split() == [str(ours.number)]
    finally:
        other.kill()
        other.wait()
    assert [version.number for version in catalog.versions(model)] == [ours.number]


def test_an_alias_that_another_version_holds_is_not_taken(catalog: Catalog, tmp_path: Path, model: str) -> None:
    register_unmanaged(catalog, model)
    theirs = client(catalog)
    theirs.set_registered_model_alias(model, "v1_0_0-dinov3", "1")
    _, logged = log(catalog, tmp_path, model)
    assert logged.number == 2
    assert theirs.get_registered_model(model).aliases == {"v1_0_0-dinov3": "1"}


def test_evidence_becomes_a_run_with_its_user_data_and_duration(catalog: Catalog, tmp_path: Path, model: str) -> None:
    manifest, logged = log(catalog, tmp_path, model)
    metrics = {"ood_auroc": 0.9612345678, "ood_fpr95": float("nan")}
    measured = MeasuredOn(name="images", sha256="a" * 64, n=300)
    result = EvidenceRun(
        "ood", ANY, metrics, {"device": "cpu"}, {"ood.png": b"png"},
        data=measured, who="bob@host", ended="2026-11-21T12:00:00+00:00", seconds=12.5,
    )  # fmt: skip
    run_id = catalog.record_evidence(binding_of(manifest), result)
    run = client(catalog).get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "v1.0.0-dinov3 ood")
    assert run.data.metrics == {"ood_auroc": 0.9612345678}
    assert run.data.params == {"device": "cpu"}
    assert [each.model_id for each in run.inputs.model_inputs] == [logged.model_id]
    assert [each.path for each in client(catalog).list_artifacts(run_id)] == ["ood.png"]
    shown = client(catalog).get_logged_model(logged.model_id).metrics
    assert [(each.key, each.value) for each in shown] == [("ood_auroc", 0.9612345678)]
    assert dict(catalog.find(binding_of(manifest)).tags) == dict(logged.tags), "metrics are no tags"
    assert run.info.end_time - run.info.start_time == 12_500
    assert run.info.user_id == "bob@host"
    assert run.data.tags["mlflow.source.name"] == "ulora measure"
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("images", "a" * 36)
    assert [each.path for each in client(catalog).list_artifacts(logged.run_id)] == ["ood.png"], "to compare by"


def test_a_run_that_a_process_left_unfinished_is_finished(catalog: Catalog, tmp_path: Path, model: str) -> None:
    manifest, _ = log(catalog, tmp_path, model)
    experiment = client(catalog).get_experiment_by_name(model).experiment_id
    left = client(catalog).create_run(experiment, tags={"ulora.evidence_sha256": ANY}).info.run_id
    assert catalog.record_evidence(binding_of(manifest), EvidenceRun("ood", ANY, {"ood_auroc": 0.5})) == left
    assert client(catalog).get_run(left).info.status == "FINISHED"


def test_the_same_evidence_is_recorded_once(catalog: Catalog, tmp_path: Path, model: str) -> None:
    manifest, _ = log(catalog, tmp_path, model)
    result = EvidenceRun("accuracy", ANY, {"accuracy": 0.9})
    assert catalog.record_evidence(binding_of(manifest), result) == catalog.record_evidence(
        binding_of(manifest), result
    )


def test_evidence_and_tags_need_a_registered_version(catalog: Catalog, tmp_path: Path, model: str) -> None:
    manifest, _ = flavor_package.make_version(tmp_path, model, "v1.0.0", "a")
    with pytest.raises(VersionNotFound, match=model):
        catalog.record_evidence(binding_of(manifest), EvidenceRun("ood", ANY, {}))
    with pytest.raises(VersionNotFound) as missing:
        catalog.set_tags(binding_of(manifest), {"verdict": "pass"})
    assert "reconcile" in missing.value.hint


def test_only_tags_that_differ_are_written(mlflow_proxy: Proxy, catalog: Catalog, tmp_path: Path, model: str) -> None:
    manifest, _ = log(catalog, tmp_path, model)
    tags = {"verdict": "production pass", "version": manifest.version}
    for _ in range(2):
        Catalog(mlflow_proxy.url, STORE).set_tags(binding_of(manifest), tags)
    written = [path for _, path in mlflow_proxy.requests if path.endswith("/set-tag")]
    assert len(written) == 1
    assert catalog.find(binding_of(manifest)).tags["verdict"] == "production pass"


def test_a_deleted_experiment_is_refused_with_what_to_do(catalog: Catalog, tmp_path: Path, model: str) -> None:
    theirs = client(catalog)
    theirs.delete_experiment(theirs.create_experiment(model))
    with pytest.raises(CatalogRefused, match="is deleted") as refused:
        log(catalog, tmp_path, model)
    assert "restore" in refused.value.hint


def test_a_flavor_that_nobody_installed_says_what_to_install(catalog: Catalog, tmp_path: Path, model: str) -> None:
    manifest, files = flavor_package.make_version(tmp_path, model, "v1.0.0", "a")
    unknown = manifest.model_copy(update={"flavor": "nobody-has-this"})
    with pytest.raises(MissingDependency, match="nobody-has-this"):
        catalog.log(unknown, ANY, files)


def test_ping_passes_on_a_server_that_answers(catalog: Catalog) -> None:
    catalog.ping()


@pytest.mark.acceptance
def test_nothing_listening_is_unreachable(tmp_path: Path, model: str, dead_address: str) -> None:
    dead = Catalog(dead_address.replace("http://", "http://user:secret@"), STORE)
    calls = [dead.ping, lambda: dead.versions(model), lambda: log(dead, tmp_path, model)]
    for call in calls:
        with pytest.raises(CatalogUnreachable) as down:
            call()
        assert "--offline" in down.value.hint
        assert "secret" not in str(down.value)


def test_a_server_that_never_replies_is_given_up(model: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(CatalogUnreachable, match="does not answer"):
            Catalog(f"http://127.0.0.1:{silent.getsockname()[1]}", STORE).ping(timeout=1)


def test_no_server_at_all_is_unreachable(model: str) -> None:
    with pytest.raises(CatalogUnreachable, match="no MLflow tracking server is set"):
        Catalog(None, STORE).versions(model)


def test_a_server_that_denies_us_says_what_to_check(mlflow_proxy: Proxy, model: str) -> None:
    mlflow_proxy.next(lambda exchange: exchange.send(faults.Reply(401, [], b"You are not authenticated")))
    with pytest.raises(CatalogRefused) as denied:
        Catalog(mlflow_proxy.url, STORE).ping()
    assert "MLFLOW_TRACKING_TOKEN" in denied.value.hint


def test_a_failing_server_is_unreachable(mlflow_proxy: Proxy) -> None:
    mlflow_proxy.next(faults.unavailable)
    with pytest.raises(CatalogUnreachable):
        Catalog(mlflow_proxy.url, STORE).ping()


def test_a_conversation_is_silent_and_restores_the_environment(
    catalog: Catalog, tmp_path: Path, model: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = dict(os.environ)
    manifest, _ = log(catalog, tmp_path, model)
    catalog.record_evidence(binding_of(manifest), EvidenceRun("ood", ANY, {"ood_auroc": 1.0}, plots={"a.txt": b"x"}))
    assert dict(os.environ) == before
    assert capfd.readouterr() == ("", "")


def test_a_catalog_ignores_the_servers_of_the_environment(
    mlflow_server, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, dead_address: str
) -> None:
    other = dead_address
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    monkeypatch.chdir(tmp_path)
    catalog = Catalog(mlflow_server.url, STORE)
    with catalog.connection.open():
        assert os.environ["MLFLOW_TRACKING_URI"] == other
    manifest, _ = log(catalog, tmp_path, model)
    catalog.record_evidence(binding_of(manifest), EvidenceRun("ood", ANY, {"ood_auroc": 1.0}, plots={"a.txt": b"x"}))
    assert len(catalog.versions(model)) == 1
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("ml")]


def test_a_thread_that_never_ends_does_not_block_the_others(catalog: Catalog) -> None:
    inside, done = threading.Event(), threading.Event()

    def talk() -> None:
        with catalog.connection.open():
            inside.set()
            done.wait(300)

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        assert inside.wait(300)
        with pytest.raises(CatalogUnreachable, match="another thread"):
            Catalog(catalog.connection.uri, STORE, limits=replace(HASTY, turn=0.01)).versions("m")
    finally:
        done.set()
        talker.join()
    catalog.ping()


def test_threads_share_a_catalog(catalog: Catalog, tmp_path: Path, model: str) -> None:
    barrier = threading.Barrier(3)

    def one(number: int) -> int | UloraError:
        barrier.wait()
        return log(catalog, tmp_path, model, f"v1.0.{number}", f"text {number}")[1].number

    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(one, range(3))) == [1, 2, 3]
