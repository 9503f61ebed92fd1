"""`ulora test` on a real store, with MLflow, with pytest in a process of its own, and against a real replica."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from registry import Registry, TestOptions
from registry.channels.channel import channel_names
from registry.devstack.replica_server import ReplicaServer
from registry.errors import GateRefused, MissingBlob
from registry.serving.follow import Live, LiveOptions
from registry.serving.http.options import HttpOptions
from registry.serving.loaders import Loaded
from registry.store import layout
from registry.usecases import deployed_checks, drill
from registry.usecases.check_results import VersionTest
from registry.usecases.rollback import rollback
from tests.support.bundles import add_goldens
from tests.support.echo_releases import wait_until
from tests.support.registries import bind, create, file_of, listing, open_registry, small_bundle
from tests.support.run_ulora import ulora
from tests.support.running_app import running

pytestmark = pytest.mark.acceptance

V1, V2 = "v1.0.0", "v1.1.0"
ASKS = """
format: 1
channels:
  staging: {}
  production:
    defaults:
      - {metric: version_tests, min: 1, min_n: 3}
      - {metric: version_tests_drill, min: 1}
"""


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    opened = open_registry(tmp_path, store_url, model)
    opened.store.initialise()
    return opened


@pytest.fixture
def two(registry: Registry) -> Registry:
    """Two versions without files, for drills and what asks nothing of a model."""
    bind(registry, V1, V2)
    return registry


def outcomes(found: VersionTest) -> dict[str, str]:
    return {one.name: one.outcome for one in found.checks}


def write_tests(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(text)
    return folder


def drills(registry: Registry) -> list[str]:
    return [name for name in channel_names(registry.store, registry.model) if name.startswith("drill-")]


@pytest.fixture
def asked(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Under a policy that asks for a test, which commands use too."""
    policy = tmp_path / "asks.yaml"
    policy.write_text(ASKS)
    found = Registry(settings=replace(registry.settings, policy=policy))
    for name, value in found.settings.environment().items():
        monkeypatch.setenv(name, value)
    return found


def test_a_policy_that_asks_for_a_test_is_met_by_it(asked: Registry, tmp_path: Path) -> None:
    bind(asked, V1)
    asked.create(V2, add_goldens(small_bundle(tmp_path / V2)), offline=True)
    with pytest.raises(GateRefused, match=f"run `ulora test {V2}"):
        asked.promote(V2, "production", dry_run=True)
    done = ulora("test", V2, "--drill", "--json")
    assert done.code == 0, done
    assert {one["check"]: one["outcome"] for one in done.document["checks"]} == dict.fromkeys(
        ("verify", "golden", "drill", "record", "gates"), "passed"
    )
    (kept,) = asked.evidence(V2)
    assert (kept.sha256, kept.runtime) == (done.document["evidence"], "torch-fp32")
    assert {metric.name: metric.value for metric in kept.metrics if metric.name != "drill_seconds"} == dict.fromkeys(
        ("version_tests", "version_tests_verify", "version_tests_golden", "version_tests_drill"), 1.0
    )
    assert asked.promote(V2, "production").changed


def test_a_team_has_the_version_and_mlflow_shows_it(registry: Registry, tracking_uri: str, tmp_path: Path) -> None:
    tests = write_tests(
        tmp_path / "checks",
        test_it="def test_it(version, manifest, loaded):\n    assert version == manifest.version == loaded.version\n",
        **{"version_tests/test_v1.0.0": "raise SystemExit", "version_tests/test_v1_1_0": "def test_it(): pass"},
    )
    registry = Registry(settings=replace(registry.settings, tracking_uri=tracking_uri))
    registry.create(V2, small_bundle(tmp_path / V2))
    found = registry.test(V2, TestOptions(tests=tests))
    team = next(one for one in found.checks if one.name == "team")
    assert (team.outcome, team.said) == ("passed", "2 tests")
    client = MlflowClient(tracking_uri)
    runs = client.search_runs(
        [each.experiment_id for each in client.search_experiments()], f"params.`ulora.version` = '{V2}'"
    )
    assert {run.data.metrics["version_tests_team"] for run in runs if "version_tests_team" in run.data.metrics} == {1}


def test_a_drill_goes_back_to_what_production_has(two: Registry) -> None:
    bind(two, "v1.0.5")
    two.promote(V1, "production")
    before = listing(two)
    found = two.test(V2, TestOptions(drill=True, record=False))
    (name,) = drills(two)
    log = [(one.action, one.stable and one.stable.version) for one in reversed(two.history(name))]
    assert log == [("promote", V1), ("promote", V2), ("rollback", V1)]
    assert outcomes(found) == {"verify": "passed", "golden": "failed", "drill": "passed", "gates": "passed"}
    new = listing(two).keys() - before.keys()
    assert {key.split("/")[2] for key in new} <= {"channels", "verdicts", "policies"}
    assert two.history("production")[0].generation == 1


def test_a_scratch_channel_leaves_mlflow_alone(two: Registry, dead_address: str) -> None:
    without = Registry(settings=replace(two.settings, tracking_uri=dead_address))
    assert without.promote(V1, "drill-1").notes == ()
    assert "MLflow does not show it" in without.promote(V1, "staging").notes[0]


def test_without_another_version_there_is_no_drill(registry: Registry) -> None:
    bind(registry, V1)
    found = registry.test(V1, TestOptions(drill=True, record=False))
    assert outcomes(found)["drill"] == "skipped"
    assert drills(registry) == []


def test_a_dry_run_writes_nothing_and_says_what_it_would_do(two: Registry, tmp_path: Path) -> None:
    before = listing(two)
    tests = write_tests(tmp_path / "checks", test_it="raise SystemExit")
    found = two.test(V2, TestOptions(drill=True, tests=tests), dry_run=True)
    said = {one.name: one.said for one in found.checks}
    assert said["team"].startswith("would run 1 file")
    assert said["drill"].startswith(f"would promote {V1}, then {V2}, in the scratch channel drill-test-")
    assert (listing(two), found.evidence) == (before, None)


def test_a_drill_that_is_interrupted_says_what_it_left(two: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **options: Any) -> Any:
        rollback(*args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(drill, "rollback", interrupted)
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        two.test(V2, TestOptions(drill=True), say=said.append)
    (name,) = drills(two)
    assert f"the drill ended half-way: the scratch channel {name} stays" in said[-1]
    assert two.evidence(V2) == []


def test_a_lost_file_fails_before_it_is_served(registry: Registry, tmp_path: Path) -> None:
    create(registry, V1, tmp_path)
    registry.store.delete(layout.blob(file_of(registry, V1, "adapters/low/adapter_model.safetensors").sha256))
    found = registry.test(V1, TestOptions(record=False))
    assert outcomes(found)["verify"] == outcomes(found)["gates"] == "failed"
    assert found.failure
    assert found.failure.exit_code == MissingBlob.exit_code
    assert "adapters/low/adapter_model.safetensors: missing" in found.checks[0].said


def test_a_refusal_of_the_gates_is_exit_3(asked: Registry, tmp_path: Path) -> None:
    create(asked, V1, tmp_path)
    done = ulora("test", V1, "--no-record")
    assert done.code == 3
    assert "gates   refused" in done.out
    assert "ulora test v1.0.0 --drill" in done.out
    assert "golden  skipped" in done.out
    assert "1 of 2 checks passed" in done.out


def test_a_team_test_that_fails_is_named_with_its_error(two: Registry, tmp_path: Path) -> None:
    tests = write_tests(
        tmp_path / "checks",
        helpers="WANTED = 'v9.9.9'",
        test_it="import helpers\ndef test_it(version):\n    assert version == helpers.WANTED, 'too old'\n",
        test_broken="import no_such_module\n",
    )
    found = two.test(V1, TestOptions(tests=tests))
    team = next(one for one in found.checks if one.name == "team")
    assert team.outcome == "failed"
    assert "2 of 2 tests failed" in team.said
    assert any("test_it.py::test_it: " in line and "too old" in line for line in team.lines)
    assert any("no_such_module" in line for line in team.lines)
    (kept,) = two.evidence(V1)
    metric = kept.metric("version_tests_team")
    assert metric
    assert metric.value == 0
    assert not list(tests.rglob("__pycache__")) + list(tests.rglob(".pytest_cache"))


def test_at_ctrl_c_a_teams_tests_end_too(two: Registry, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    tests = write_tests(
        tmp_path / "checks",
        test_it=f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(999)\n",
    )
    words = [sys.executable, "-m", "registry", "test", V1, "--tests", str(tests)]
    with subprocess.Popen(
        words, env=os.environ | two.settings.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: pid.exists() and pid.read_text())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    child = Path(f"/proc/{pid.read_text()}")
    wait_until(lambda: not child.exists())
    assert two.evidence(V1) == []


# --- what is deployed ------------------------------------------------------------------------------------------------


@pytest.fixture
def deployed(registry: Registry, tmp_path: Path) -> Iterator[str]:
    """A replica in a process of its own that serves the first of two versions."""
    for seed, name in enumerate((V1, V2)):
        registry.create(name, add_goldens(small_bundle(tmp_path / name, seed=seed)), offline=True)
    registry.promote(V1, "production")
    server = ReplicaServer(tmp_path / "serve", os.environ | registry.settings.environment())
    server.start()
    yield f"http://127.0.0.1:{server.port}"
    server.kill()


def test_what_is_deployed_is_what_was_tested(
    registry: Registry, deployed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = TestOptions(deployed=deployed, requests=5)
    found = registry.test(V1, options)
    assert outcomes(found) == dict.fromkeys(
        ("live", "ready", "version", "digest", "answers", "errors", "latency", "record"), "passed"
    )
    (kept,) = registry.evidence(V1)
    p95 = kept.metric("deployed_latency_ms_p95")
    assert p95
    assert p95.n == 5
    assert kept.notes["url"] == deployed

    other = registry.test(V2, options)
    assert other.failure
    assert other.failure.exit_code == 1
    assert outcomes(other) == {
        "live": "passed", "ready": "passed", "version": "failed", "digest": "skipped", "answers": "failed",
        "errors": "passed", "latency": "failed", "record": "passed",
    }  # fmt: skip
    slow = registry.test(V1, replace(options, max_latency=1e-6, record=False))
    assert slow.failure
    assert "p95 is above 1e-06 ms" in str(slow.failure)

    def load_another(wiring: Any, version: str, **how: Any) -> Loaded:
        return registry.load(V2)

    monkeypatch.setattr(deployed_checks, "load", load_another)
    strange = registry.test(V1, replace(options, record=False))
    assert outcomes(strange)["answers"] == "failed"
    assert "of 4 answers differ from those computed here" in str(strange.failure)


@pytest.mark.parametrize(("token", "said"), [("", "asks for a token"), ("b" * 32, "refuses the token")])
def test_without_a_good_token_nothing_is_recorded(registry: Registry, tmp_path: Path, token: str, said: str) -> None:
    create(registry, V1, tmp_path)
    registry.promote(V1, "production")
    tokens = tmp_path / "tokens"
    tokens.write_text(f"app predict {'a' * 32}\n")
    wiring = registry.wiring
    live = Live(wiring.channel("production"), wiring.bindings, wiring.blobs, LiveOptions())
    with live, running(live, HttpOptions(tokens=tokens)) as http:
        found = registry.test(V1, TestOptions(deployed=str(http.base_url), token=token))
    assert outcomes(found) == {
        "live": "passed", "ready": "passed", "version": "failed",
        **dict.fromkeys(("digest", "answers", "errors", "latency"), "skipped"),
    }  # fmt: skip
    assert said in str(found.failure)
    assert {one.said for one in found.checks[3:]} == {f"the replica {said}"}
    assert registry.evidence(V1) == []


def test_where_nothing_answers_nothing_is_recorded(two: Registry, dead_address: str) -> None:
    found = two.test(V1, TestOptions(deployed=dead_address))
    assert found.failure
    assert found.failure.exit_code == 7
    assert set(outcomes(found).values()) == {"failed", "skipped"}
    assert two.evidence(V1) == []
