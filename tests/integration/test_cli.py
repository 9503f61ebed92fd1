"""The commands on a real store: their answers as text and as JSON, and every exit code by a cause of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from registry.api import Registry
from registry.store import layout
from tests.support.registries import bind, create, file_of, flip_a_byte, listing, open_registry, small_bundle
from tests.support.run_ulora import Finished, complains, ulora

WEIGHTS = "adapters/low/adapter_model.safetensors"


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A store, and an environment in which `ulora` finds it; no MLflow, and a policy that asks nothing."""
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ULORA_MODEL", model)
    monkeypatch.setenv("ULORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ULORA_POLICY", str(registry.settings.policy))
    monkeypatch.setenv("ULORA_WHO", "ann")
    return registry


@pytest.fixture
def released(registry: Registry, tmp_path: Path) -> Registry:
    """v1.0.0 and then v2.0.0 in production, v2.0.0 in staging."""
    create(registry, "v1.0.0", tmp_path)
    create(registry, "v2.0.0", tmp_path)
    for name, channel in [("v1.0.0", "production"), ("v2.0.0", "production"), ("v2.0.0", "staging")]:
        registry.promote(name, channel)
    return registry


def as_json(*words: object) -> Finished:
    """Run a command with --json; it must succeed and print one document, beside it at most notes as JSON too."""
    done = ulora(*words, "--json")
    assert done.code == 0, done
    assert all("note" in json.loads(line) for line in done.err.splitlines())
    assert done.document is not None
    return done


@pytest.mark.acceptance
def test_the_answer_of_every_command_is_one_json_document(
    released: Registry, tmp_path: Path, tracking_uri: str
) -> None:
    bundle = small_bundle(tmp_path / "bundle", seed=5)
    assert as_json("store", "init").document["created"] is True
    created = as_json("create", "v3.0.0-dinov3", "--from", bundle, "--description", "new").document
    assert (created["version"], created["is_new"], created["catalog_number"]) == ("v3.0.0-dinov3", True, 1)
    assert [one["version"] for one in as_json("list").document] == ["v1.0.0", "v2.0.0", "v3.0.0-dinov3"]
    shown = as_json("show", "v3.0.0-dinov3").document
    assert (shown["description"], shown["tested"], shown["ready_for_production"]) == ("new", True, True)
    assert shown["content_sha256"] == created["content_sha256"]
    checked = as_json("verify", "--all", "--read-data").document
    assert [one["version"] for one in checked["versions"]] == ["v1.0.0", "v2.0.0", "v3.0.0-dinov3"]
    assert (checked["versions"][0]["bad"], checked["chains"]) == (
        [],
        {
            "staging": {"records": 1, "problem": "", "refused": []},
            "production": {"records": 2, "problem": "", "refused": []},
        },
    )
    promoted = as_json("promote", "v3.0.0-dinov3", "-c", "production", "--reason", "ship").document
    assert (promoted["changed"], promoted["previous"], promoted["who"]) == (True, "v2.0.0", "ann")
    assert promoted["verdict"]["outcome"] == "pass"
    status = {one["channel"]: one for one in as_json("status").document["channels"]}
    assert (status["production"]["stable"], status["production"]["rollback_target"]) == ("v3.0.0-dinov3", "v2.0.0")
    rolled = as_json("rollback", "--reason", "errors").document
    assert (rolled["version"], rolled["previous"], rolled["changed"]) == ("v2.0.0", "v3.0.0-dinov3", True)
    history = as_json("history").document
    assert [record["action"] for record in history] == ["rollback", "promote", "promote", "promote"]
    assert history[0]["reason"] == "errors"
    assert set(as_json("reconcile").document) == {
        "logged", "changes", "skipped", "damaged", "requests", "failed", "refused",
    }  # fmt: skip
    findings = as_json("doctor").document
    assert {finding["level"] for finding in findings} <= {"ok", "warning"}
    assert as_json("reconcile", "--dry-run").document["changes"] == []


def interrupted_after_its_answer(*words: str) -> Any:
    """Run a command that goes on until Ctrl-C; the one JSON document that it prints before that."""
    command = [sys.executable, "-m", "registry", *words, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "}\n":
                break
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=300)
    assert process.returncode in (0, 130), err
    assert (rest, "Traceback" in err) == ("", False)
    return json.loads("".join(lines))


@pytest.mark.acceptance
def test_serve_says_where_in_one_json_document(released: Registry) -> None:
    said = interrupted_after_its_answer("serve", "--port", "0")
    assert said["version"] == "v2.0.0"
    assert said["url"].startswith("http://127.0.0.1:")


@pytest.mark.acceptance
def test_serve_logs_each_change_of_version(released: Registry) -> None:
    command = [sys.executable, "-m", "registry", "serve", "--port", "0", "--log-format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        lines = (json.loads(line) for line in process.stderr)
        first = next(line for line in lines if line.get("event") == "version")
        released.rollback()
        second = next(line for line in lines if line.get("event") == "version")
        process.terminate()
        process.communicate(timeout=300)
    assert [(line["version"], line["generation"], line["action"]) for line in (first, second)] == [
        ("v2.0.0", 2, "promote"), ("v1.0.0", 3, "rollback"),
    ]  # fmt: skip
    assert second["message"].startswith(f"{released.model} production serves v1.0.0, before v2.0.0")


@pytest.mark.acceptance
def test_dev_is_the_same_when_it_is_started_again(tmp_path: Path) -> None:
    first, again = (interrupted_after_its_answer("dev", "--folder", str(tmp_path / "stack")) for _ in range(2))
    assert first == again


@pytest.mark.acceptance
def test_dev_prints_its_exports_as_one_json_document(tmp_path: Path) -> None:
    said = interrupted_after_its_answer("dev", "--folder", str(tmp_path / "stack"))
    assert {"ULORA_STORE", "MLFLOW_TRACKING_URI", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= set(said)


@pytest.mark.acceptance
def test_dev_says_where_its_servers_are_and_no_secret_key(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "registry", "dev", "--folder", str(tmp_path / "stack")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        said = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=300)
    exports = (tmp_path / "stack" / "env.sh").read_text()
    secret = exports.split("AWS_SECRET_ACCESS_KEY=")[1].splitlines()[0]
    assert [line.split()[0] for line in said] == ["S3", "MLflow", "in"]
    assert f"source {tmp_path}/stack/env.sh" in said[2]
    assert secret not in "".join([*said, rest])


def test_answers_for_people_say_what_happened(released: Registry, tmp_path: Path) -> None:
    assert "v2.0.0" in ulora("list").out
    assert "staging, production" in ulora("list").out
    shown = ulora("show", "v2.0.0").out
    assert WEIGHTS in shown
    assert "rollback goes to" in ulora("status").out
    verified = ulora("verify", "v1.0.0")
    assert (verified.code, verified.out[:11]) == (0, "ok  v1.0.0:")
    rolled = ulora("rollback", "--reason", "errors")
    assert "production went from v2.0.0 to v1.0.0 by rollback, generation 3" in rolled.out
    again = ulora("rollback", "--from", "v2.0.0")
    assert again.code == 0
    assert "nothing to do" in again.out
    assert "already done by ann: rollback" in again.err
    assert "errors" in ulora("history").out
    created = ulora("create", "v1.0.0", "--from", tmp_path / "v1.0.0", "--offline")
    assert "exists already with this content" in created.out


def test_dry_runs_change_nothing(released: Registry, tmp_path: Path) -> None:
    bind(released, "v4.0.0")
    bundle = small_bundle(tmp_path / "bundle", seed=5)
    before = listing(released)
    for words in (
        ["create", "v3.0.0", "--from", bundle, "--offline"],
        ["promote", "v4.0.0"],
        ["rollback"],
        ["rollback", "--to", "v1.0.0"],
        ["store", "init"],
    ):
        done = ulora(*words, "--dry-run")
        assert done.code == 0, done
        assert "would" in done.out or "is a store already" in done.out, done
        as_json(*words, "--dry-run")
    assert listing(released) == before


# --- exit codes ------------------------------------------------------------------------------------------------------


@pytest.mark.acceptance
def test_1_the_doctor_found_something(released: Registry) -> None:
    assert ulora("doctor").code == 0
    flip_a_byte(released, "v1.0.0", WEIGHTS)
    done = ulora("doctor")
    complains(done, 1, "production rollback target")
    assert WEIGHTS in done.out


def test_3_the_gates_refused(released: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ULORA_POLICY")
    done = ulora("promote", "v1.0.0", "-c", "staging")
    complains(done, 3, "staging refuses v1.0.0: 9 of 9 checks do not pass", "--force")
    assert "accuracy" in done.out
    assert "accuracy" not in done.err, "errors do not repeat the table"
    first = done.out.splitlines()[2]
    assert first.startswith("  accuracy (low) ")
    assert "NOT MEASURED  run `ulora measure v1.0.0 --only accuracy`" in first
    error = ulora("promote", "v1.0.0", "--json").error
    assert error["error"] == "GateRefused"
    assert "accuracy" in error["message"], "without the table the error has the reasons"
    shown = ulora("show", "v1.0.0").out
    assert "ready for staging     no\n" in shown
    assert "staging: 9 of 9 checks do not pass" in shown


def test_4_the_channel_moved_the_name_is_taken_or_it_is_too_soon(released: Registry, tmp_path: Path) -> None:
    bind(released, "v3.0.0")
    complains(ulora("promote", "v3.0.0", "-c", "production", "--expected", "1"), 4, "generation 2, not 1", "a test")
    bundle = small_bundle(tmp_path / "bundle", seed=5)
    complains(ulora("create", "v1.0.0", "--from", bundle, "--offline"), 4, "other content", "next name")
    assert ulora("create", "v1.0.0", "--from", bundle, "--offline", "--json").error["error"] == "VersionExists"
    assert ulora("rollback").code == 0
    complains(ulora("rollback"), 4, "ann rolled production back", "--again")


def test_5_there_is_no_such_thing(released: Registry) -> None:
    complains(ulora("show", "v9.0.0"), 5, "has no version v9.0.0", "ulora list")
    complains(ulora("rollback", "-c", "staging"), 5, "no earlier version", "nothing changed")
    complains(ulora("rollback", "--from", "v9.0.0"), 5, "v9.0.0", "v2.0.0")
    complains(ulora("rollback", "--to", "v9.0.0"), 5, "not on the stack", "v1.0.0")
    complains(ulora("promote", "v9.0.0"), 5, "v9.0.0")
    assert ulora("show", "v9.0.0", "--json").error["error"] == "VersionNotFound"


@pytest.mark.acceptance
@pytest.mark.parametrize("options", [[], ["--read-data"]], ids=["asked", "read"])
def test_6_a_file_is_not_what_it_should_be(released: Registry, options: list[str]) -> None:
    flip_a_byte(released, "v1.0.0", WEIGHTS)
    released.store.delete(layout.blob(file_of(released, "v1.0.0", "config/preprocessing.json").sha256))
    done = ulora("verify", "v1.0.0", *options)
    complains(done, 6, f"v1.0.0 {WEIGHTS} (corrupt)", "config/preprocessing.json (missing)")
    assert f"corrupt: {WEIGHTS}" in done.out
    parsed = ulora("verify", "v1.0.0", *options, "--json")
    assert parsed.error["error"] == "CorruptBlob"
    bad = {one["path"]: one["problem"] for one in parsed.document["versions"][0]["bad"]}
    assert bad[WEIGHTS] == "corrupt"


@pytest.mark.acceptance
def test_6_the_chain_of_a_channel_is_broken(released: Registry) -> None:
    key = layout.record(released.model, "production", 1)
    body = released.store.get(key).body
    released.store.overwrite(key, body.replace(b"a test", b"nobody"))
    complains(ulora("history"), 6, "generation 1 of production does not hash")
    assert ulora("history", "-n", "1").code == 0
    complains(ulora("verify", "--all"), 6, "generation 1 of production")


def test_7_the_store_or_mlflow_is_down(
    released: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead_address: str
) -> None:
    bundle = small_bundle(tmp_path / "bundle", seed=5)
    before = listing(released)
    complains(ulora("create", "v3.0.0", "--from", bundle, "--tracking-uri", dead_address), 7, dead_address, "--offline")
    complains(ulora("reconcile", "--tracking-uri", dead_address), 7, dead_address)
    assert listing(released) == before
    monkeypatch.setenv("ULORA_S3_ENDPOINT", dead_address)
    for words in (["status"], ["rollback"], ["promote", "v1.0.0"], ["list"], ["verify", "v1.0.0"], ["store", "init"]):
        complains(ulora(*words), 7, dead_address, "ULORA_S3_ENDPOINT")
    assert ulora("rollback", "--json").error["error"] == "StoreUnreachable"


def test_0_a_rollback_and_a_promotion_need_no_mlflow(released: Registry, dead_address: str) -> None:
    done = ulora("rollback", "--tracking-uri", dead_address, "--wait", "0")
    assert done.code == 0, done
    assert "production went from v2.0.0 to v1.0.0" in done.out
    assert "MLflow does not show it yet" in done.err
    forced = ulora("promote", "v2.0.0", "-c", "production", "--force", "--reason", "x", "--tracking-uri", dead_address)
    assert forced.code == 0, forced
    assert "MLflow does not show it yet" in forced.err
    assert "forced: x" in forced.out
    assert json.loads(ulora("list", "--json", "--tracking-uri", dead_address).out)[0]["catalog_number"] is None


@pytest.mark.acceptance
def test_a_reader_of_a_list_that_went_away_is_no_failure(released: Registry) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "registry", "list"], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
