"""`mlflow deployments -t ulora`, by MLflow's own client and command line: the channel's commands under other names."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException

from registry.api import Registry
from registry.serving.follow import Live
from registry.serving.options import LiveOptions
from tests.support.bundles import png
from tests.support.echo_releases import Shop, find_echo
from tests.support.mlflow_cli import mlflow_command
from tests.support.mlflow_versions import client, register, register_as, tags_of
from tests.support.registries import bind, create, rebind, write_policy
from tests.support.running_app import running_server

V1, V2, V3 = "v1.0.0", "v1.1.0", "v2.0.0-dinov3"
STRICT = "format: 1\nchannels: {staging: {}, production: {defaults: [{metric: accuracy, min: 0.9}]}}\n"

NO_VERSION = [
    ("models:/{model}/9", "RESOURCE_DOES_NOT_EXIST", "MLflow has no"),
    ("models:/{model}@nobody", "RESOURCE_DOES_NOT_EXIST", "MLflow has no"),
    ("models:/{model}/Production", "INVALID_PARAMETER_VALUE", "for example models:/"),
    ("models:/other/1", "INVALID_PARAMETER_VALUE", "of the model other"),
    ("models:/m-" + "0" * 32, "RESOURCE_DOES_NOT_EXIST", "was deleted"),
    ("ulora://other/v1.0.0", "INVALID_PARAMETER_VALUE", "of the model other"),
    ("ulora://{model}/v9.9.9", "RESOURCE_DOES_NOT_EXIST", "v9.9.9"),
    ("ulora://{model}/../x", "INVALID_PARAMETER_VALUE", "not a version name"),
    ("ulora://{model}/", "INVALID_PARAMETER_VALUE", "names no version"),
    ("ulora://{model}/v1.0.0/config", "INVALID_PARAMETER_VALUE", "names a file"),
    ("s3://bucket/model", "INVALID_PARAMETER_VALUE", "names no version"),
    ("/etc/passwd", "INVALID_PARAMETER_VALUE", "names no version"),
    ("", "INVALID_PARAMETER_VALUE", "names no version"),
]


@pytest.fixture
def registry(
    store_url: str, model: str, tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> Registry:
    """Three versions without files. No channel serves anything."""
    monkeypatch.setenv("ULORA_MODEL", model)
    monkeypatch.setenv("ULORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ULORA_POLICY", str(write_policy(tmp_path)))
    registry = Registry()
    registry.store.initialise()
    bind(registry, V1, V2, V3)
    return registry


@pytest.fixture
def registered(registry: Registry) -> Registry:
    """The same, registered in MLflow as 1, 2 and 3."""
    register(registry, V1, V2, V3)
    return registry


@pytest.fixture
def deployments(registry: Registry) -> Any:
    """MLflow's client for the target."""
    return get_deploy_client("ulora")


def refused(error: pytest.ExceptionInfo[MlflowException], code: str, *says: str) -> None:
    assert error.value.error_code == code
    assert [word for word in says if word not in str(error.value)] == [], str(error.value)


@pytest.mark.acceptance
def test_a_channel_is_created_changed_and_rolled_back(registered: Registry, deployments: Any) -> None:
    theirs = client(registered)
    made = deployments.create_deployment("production", f"models:/{registered.model}/1", config={"reason": "the first"})
    assert (made["name"], made["flavor"], made["version"], made["generation"]) == ("production", "empty", V1, 1)
    theirs.set_registered_model_alias(registered.model, "chosen", "2")
    done = deployments.update_deployment("production", f"models:/{registered.model}@chosen")
    assert (done["version"], done["previous"]) == (V2, V1)
    model_id = theirs.get_model_version(registered.model, "3").source.removeprefix("models:/")
    trial = {"action": "canary", "percent": "10", "reason": "try it"}
    done = deployments.update_deployment("production", f"models:/{model_id}", config=trial)
    assert (done["version"], done["canary"], done["share"]) == (V2, V3, "10%")
    done = deployments.update_deployment("production", config={"action": "advance", "to": 50})
    assert done["share"] == "50%"
    assert deployments.update_deployment("production", config={"action": "abort"})["canary"] == ""
    rolled_back = {"action": "rollback", "reason": "worse", "again": "true", "from": V2}
    assert deployments.update_deployment("production", config=rolled_back)["version"] == V1
    assert theirs.get_registered_model(registered.model).aliases["production"] == "1", "MLflow shows it at once"
    deployments.update_deployment("staging", f"ulora://{registered.model}/{V3}")
    found = deployments.get_deployment("production")
    assert (found["name"], found["version"], found["action"], found["reason"]) == (
        "production",
        V1,
        "rollback",
        "worse",
    )
    assert set(found["withdrawn"]) == {V2, V3}
    assert [(one["name"], one["version"]) for one in deployments.list_deployments()] == [
        ("staging", V3),
        ("production", V1),
    ]
    reasons = [record.reason for record in reversed(registered.history())]
    assert [reasons[0], reasons[2], reasons[-1]] == ["the first", "try it", "worse"]


def test_the_gates_decide_and_force_needs_a_reason(
    registry: Registry, deployments: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strict.yaml").write_text(STRICT)
    monkeypatch.setenv("ULORA_POLICY", str(tmp_path / "strict.yaml"))
    uri = f"ulora://{registry.model}/{V1}"
    with pytest.raises(MlflowException, match="accuracy") as error:
        deployments.create_deployment("production", uri)
    refused(error, "INVALID_STATE", "refuses v1.0.0")
    with pytest.raises(MlflowException, match="needs a reason"):
        deployments.create_deployment("production", uri, config={"force": "true"})
    assert registry.channel("production").head() is None
    forced = deployments.create_deployment("production", uri, config={"force": "true", "reason": "incident 42"})
    assert any("overruled by force" in note for note in forced["notes"])


def test_what_names_no_version_of_the_store_is_refused(registered: Registry, deployments: Any) -> None:
    for uri, code, says in NO_VERSION:
        with pytest.raises(MlflowException) as error:
            deployments.update_deployment("production", uri.format(model=registered.model))
        refused(error, code, says)
    assert registered.channel("production").head() is None


def test_a_false_version_in_mlflow_is_not_promoted(registered: Registry, deployments: Any) -> None:
    """What others registered, what is of another store, and what says another manifest than the store has."""
    ours, theirs = tags_of(registered, V1), client(registered)
    elsewhere = register_as(theirs, registered.model, {**ours, "ulora.store": "s3://other/place"})
    other_bytes = register_as(theirs, registered.model, {**ours, "ulora.manifest_sha256": "0" * 64})
    plain = register_as(theirs, registered.model, {})
    for number, says in ((elsewhere, "s3://other/place"), (other_bytes, "000000"), (plain, "others registered it")):
        with pytest.raises(MlflowException) as error:
            deployments.update_deployment("production", f"models:/{registered.model}/{number}")
        refused(error, "RESOURCE_DOES_NOT_EXIST", says)
    assert registered.channel("production").head() is None


def test_nothing_is_created_twice_or_deleted(registry: Registry, deployments: Any) -> None:
    deployments.create_deployment("production", f"ulora://{registry.model}/{V1}")
    with pytest.raises(MlflowException) as error:
        deployments.create_deployment("production", f"ulora://{registry.model}/{V2}")
    refused(error, "RESOURCE_CONFLICT", "exists: generation 1, v1.0.0", "update")
    with pytest.raises(MlflowException) as error:
        deployments.delete_deployment("production")
    refused(error, "RESOURCE_CONFLICT", "records are kept for ever", "action=rollback")
    with pytest.raises(MlflowException) as error:
        deployments.get_deployment("staging")
    refused(error, "RESOURCE_DOES_NOT_EXIST", "serves nothing yet")
    with pytest.raises(MlflowException) as error:
        deployments.get_deployment("prodution")
    refused(error, "INVALID_PARAMETER_VALUE", "did you mean production?")
    with pytest.raises(MlflowException) as error:
        deployments.update_deployment("production", config={"action": "advance", "to": "50"}, flavor="empty")
    refused(error, "INVALID_PARAMETER_VALUE", "flavor")
    with pytest.raises(MlflowException) as error:
        deployments.update_deployment("production", f"ulora://{registry.model}/{V2}", flavor="sklearn")
    refused(error, "INVALID_PARAMETER_VALUE", "has the flavor empty")
    assert [record.live() for record in registry.history()] == [(V1,)]


def test_of_several_at_once_one_creates_and_one_updates(registry: Registry) -> None:
    uris = [f"ulora://{registry.model}/{name}" for name in (V1, V2, V3)]

    def attempt(act: str, uri: str, config: dict[str, Any]) -> str:
        try:
            made = getattr(get_deploy_client("ulora"), act)("production", uri, config=config)
        except MlflowException as error:
            return str(error.error_code)
        return "won" if made["changed"] else "none"

    with ThreadPoolExecutor(3) as pool:
        created = list(pool.map(lambda uri: attempt("create_deployment", uri, {}), uris))
        assert sorted(created) == ["RESOURCE_CONFLICT", "RESOURCE_CONFLICT", "won"]
        (first,) = registry.history()
        others = [uri for uri in uris if not uri.endswith(f"/{first.live()[0]}")]
        updated = list(pool.map(lambda uri: attempt("update_deployment", uri, {"expected": "1"}), others))
    assert sorted(updated) == ["RESOURCE_CONFLICT", "won"]
    assert len(registry.history()) == 2


@pytest.mark.acceptance
def test_servers_that_do_not_answer_are_named(
    registry: Registry, deployments: Any, dead_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead_address)
    without_mlflow = get_deploy_client("ulora")
    made = without_mlflow.create_deployment("production", f"ulora://{registry.model}/{V1}")
    assert made["changed"], "a promotion needs S3 only"
    assert any("MLflow" in note for note in made["notes"])
    with pytest.raises(MlflowException) as error:
        get_deploy_client("ulora").update_deployment("production", f"models:/{registry.model}/1")
    refused(error, "TEMPORARILY_UNAVAILABLE", "does not answer")
    trial = {"action": "canary", "percent": "nan"}
    with pytest.raises(MlflowException) as error:
        deployments.update_deployment("production", f"ulora://{registry.model}/{V2}", config=trial)
    refused(error, "INVALID_PARAMETER_VALUE", "nan%")
    with pytest.raises(MlflowException) as error:
        deployments.update_deployment("production", f"ulora://{registry.model}/{V2}", config={"reason": "x" * 100_000})
    refused(error, "INVALID_PARAMETER_VALUE", "reason")
    monkeypatch.setenv("ULORA_S3_ENDPOINT", dead_address)
    with pytest.raises(MlflowException) as error:
        get_deploy_client("ulora").list_deployments()
    refused(error, "TEMPORARILY_UNAVAILABLE", dead_address)


def test_without_settings_only_the_target_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MlflowException) as error:
        get_deploy_client("ulora").list_deployments()
    refused(error, "INVALID_PARAMETER_VALUE", "no store is set", "ULORA_STORE")
    for target in ("ulora://", "ulora:/a/b", "ulora:/bad name", "ulora:/a#b"):
        with pytest.raises(MlflowException) as error:
            get_deploy_client(target)
        refused(error, "INVALID_PARAMETER_VALUE")


@pytest.mark.acceptance
def test_the_command_line_ends_with_a_line_and_the_exit_code(registered: Registry) -> None:
    """MLflow prints what its own exceptions say as a traceback; these are click's too."""
    uri = f"models:/{registered.model}/1"
    done = mlflow_command("deployments", "create", "-t", "ulora", "--name", "production", "-m", uri)
    assert (done.code, "empty deployment production is created" in done.text) == (0, True), done
    other = f"ulora:/{registered.model}"
    again = mlflow_command("deployments", "create", "-t", other, "--name", "production", "-m", uri)
    assert again.code == 4
    assert "Error: the deployment production exists" in again.text
    update = ("deployments", "update", "-t", "ulora", "--name", "production")
    done = mlflow_command(*update, "-m", f"models:/{registered.model}/2", "-C", "reason=better")
    assert "Deployment production is updated (with flavor empty)" in done.text
    assert mlflow_command(*update, "-C", "action=rollback", "-C", "reason=worse").code == 0
    assert mlflow_command("deployments", "delete", "-t", "ulora", "--name", "production").code == 4
    assert f"version: {V1}" in mlflow_command("deployments", "get", "-t", "ulora", "--name", "production").text
    assert V1 in mlflow_command("deployments", "list", "-t", "ulora").text
    said = mlflow_command("deployments", "help", "-t", "ulora").text
    assert all(word in said for word in ("action=rollback", "action=canary", "expected", "ulora://MODEL/VERSION"))
    assert [record.action for record in registered.history()] == ["rollback", "promote", "promote"]


@pytest.mark.acceptance
def test_a_deployment_predicts_what_the_channel_serves(registry: Registry, tmp_path: Path) -> None:
    create(registry, "v3.0.0", tmp_path)
    registry.promote("v3.0.0", "production")
    table = {"image": [base64.b64encode(png(0)).decode(), png(1), "no image"], "target": ["low", None, ""]}
    found = get_deploy_client("ulora").predict("production", table)
    loaded = registry.load("v3.0.0")
    expected = [one.to_dict() for one in loaded.predict([png(0), png(1), b""], target=["low", None, None])]
    assert found["predictions"] == expected
    assert list(found.get_predictions()["label"][:1]) == [expected[0]["label"]]
    path = tmp_path / "input.json"
    path.write_text(json.dumps({"image": [base64.b64encode(png(0)).decode()], "target": ["low"]}))
    done = mlflow_command("deployments", "predict", "-t", "ulora", "--name", "production", "-I", path)
    (answer,) = json.loads(done.text[done.text.index("{") :])["predictions"]
    assert (answer["version"], answer["label"]) == ("v3.0.0", expected[0]["label"])
    mlflow_command(
        "deployments", "run-local", "-t", "ulora", "--name", "staging", "-m", f"ulora://{registry.model}/v3.0.0"
    )
    assert registry.channel("staging").head() is None, "run-local changes nothing"


def test_a_replica_predicts_at_its_endpoint(registry: Registry, tmp_path: Path, dead_address: str) -> None:
    shop = Shop(registry.store, registry.model, tmp_path)
    shop.release("v3.0.0")
    shop.promote("v3.0.0")
    target = get_deploy_client("ulora")
    table = {"image": [png(0), base64.b64encode(png(1)).decode()], "target": ["low", None]}
    with (
        Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(find=find_echo, deadline=600)) as live,
        running_server(live) as (_, url),
    ):
        answers = target.predict(inputs=table, endpoint=url)["predictions"]
        assert [answer["version"] for answer in answers] == ["v3.0.0", "v3.0.0"]
        assert answers[0]["answer"] != answers[1]["answer"], "each is of its own image"
        with pytest.raises(MlflowException, match="row 2") as error:
            target.predict(inputs={"image": [png(0), b""]}, endpoint=url)
        refused(error, "INVALID_PARAMETER_VALUE")
        with pytest.raises(MlflowException, match="either a deployment or an endpoint"):
            target.predict("production", table, endpoint=url)
    for address, code in ((dead_address, "TEMPORARILY_UNAVAILABLE"), ("file:///etc", "INVALID_PARAMETER_VALUE")):
        with pytest.raises(MlflowException) as error:
            target.predict(inputs=table, endpoint=address)
        refused(error, code)


@pytest.mark.parametrize("inputs", [{"picture": ["x"]}, {"image": ["x"], "crop": ["tomato"]}, [1, 2], None, "image"])
def test_an_input_that_is_no_table_of_images_is_refused(registry: Registry, deployments: Any, inputs: Any) -> None:
    with pytest.raises(MlflowException) as error:
        deployments.predict("production", inputs)
    refused(error, "INVALID_PARAMETER_VALUE", "image")


def test_a_version_that_may_not_be_served_does_not_predict(
    registry: Registry, deployments: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.promote(V1, "production")
    monkeypatch.setenv("ULORA_MINIMUM_VERSION", V2)
    with pytest.raises(MlflowException) as error:
        get_deploy_client("ulora").predict("production", {"image": []})
    refused(error, "DATA_LOSS", "older than")
    monkeypatch.delenv("ULORA_MINIMUM_VERSION")
    rebind(registry, V1)
    with pytest.raises(MlflowException) as error:
        get_deploy_client("ulora").predict("production", {"image": []})
    refused(error, "DATA_LOSS", V1)
