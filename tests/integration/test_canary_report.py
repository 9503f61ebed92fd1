"""Reports of trials: from what replicas have written into a real store, into a real MLflow."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient

from registry.api import Registry
from registry.channels.record import Record
from registry.devstack.s3_server import S3Server
from registry.errors import BadInput, NotFound
from registry.names import VersionName
from registry.store import layout
from registry.usecases.options import CanaryOptions, ReportOptions
from tests.servers.proxy import Proxy, answering, drip
from tests.support.mlflow_versions import register
from tests.support.registries import bind, open_registry
from tests.support.run_ulora import complains, ulora
from tests.support.watched_trials import Fleet, Rates

HORIZON = "format: 1\nchannels: {staging: {}, production: {}}\ntrials: {horizon: {units: 500}}\n"
WEAK, STRONG = Rates(wrong=0.1), Rates(wrong=0.02)
OFFLINE = ReportOptions(log=False)


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    """v2 is on trial beside v1 in production: both see everything."""
    registry = open_registry(tmp_path, store_url, model)
    (tmp_path / "policy.yaml").write_text(HORIZON)
    registry.store.initialise()
    bind(registry, "v1.0.0", "v2.0.0", "v3.0.0")
    registry.promote("v1.0.0", "production")
    registry.canary.start("v2.0.0", options=CanaryOptions(shadow=True))
    return registry


def head_of(registry: Registry) -> Record:
    head = registry.channel("production").head()
    assert head
    return head


def served(registry: Registry, keys: int = 1200, canary: Rates = STRONG) -> Fleet:
    """Replicas have written what they counted."""
    fleet = Fleet(now=datetime.now(UTC) - timedelta(seconds=400)).asked([head_of(registry)], keys, canary, WEAK)
    fleet.write(registry)
    return fleet


def test_a_report_says_what_replicas_have_counted(registry: Registry) -> None:
    assert registry.canary.report(options=OFFLINE).report.verdict.outcome == "keep running"
    fleet = served(registry)
    found = registry.canary.report(options=OFFLINE)
    assert (found.report.verdict.outcome, found.report.replicas, found.run) == ("ship", 3, "")
    fleet.write(registry)
    assert registry.canary.report(options=OFFLINE).report.sha256 == found.report.sha256


def test_an_ended_trial_is_reported_while_its_counts_are_kept(registry: Registry) -> None:
    served(registry, 400)
    registry.canary.abort(reason="a better idea")
    ended = registry.canary.report(options=OFFLINE).report
    assert (ended.verdict.outcome, ended.trial.end and ended.trial.end.reason) == ("keep", "a better idea")
    registry.canary.start("v3.0.0", options=CanaryOptions(percent=10))
    assert registry.canary.report(options=OFFLINE).report.trial.canary == "v3.0.0"
    for named in (ReportOptions(trial=ended.trial.id[:8], log=False), ReportOptions(generation=2, log=False)):
        assert registry.canary.report(options=named).report == ended
    for info in registry.store.list(layout.observations(registry.model, "production")):
        registry.store.delete(info.key)
    with pytest.raises(NotFound, match="is kept any more"):
        registry.canary.report(options=ReportOptions(generation=2, log=False))


def test_a_version_that_became_stable_has_a_report(registry: Registry) -> None:
    served(registry)
    registry.canary.advance(to=100)
    report = registry.canary.report(options=OFFLINE).report
    assert (report.verdict.outcome, report.trial.end and report.trial.end.action) == ("ship", "advance")


def test_a_trial_that_is_not_there_is_not_found(registry: Registry) -> None:
    with pytest.raises(NotFound, match="no trial at generation 1"):
        registry.canary.report(options=ReportOptions(generation=1))
    with pytest.raises(NotFound, match="no trial 0123 in"):
        registry.canary.report(options=ReportOptions(trial="0123"))
    with pytest.raises(NotFound, match="staging has no trial"):
        registry.canary.report("staging")
    with pytest.raises(BadInput, match="by its id or by a generation"):
        ReportOptions(trial="0123", generation=2)


def test_observations_that_cannot_be_read_are_noted(registry: Registry) -> None:
    served(registry)
    registry.store.overwrite(layout.observation(registry.model, "production", "e"), b"{}")
    (note,) = [each for each in registry.canary.report(options=OFFLINE).report.notes if "can't be read" in each]
    assert note.startswith("what e has counted")


def test_observations_that_are_listed_and_not_given_are_noted(registry: Registry, s3: S3Server) -> None:
    served(registry)
    with Proxy(s3.port) as proxy:
        proxy.next(answering(404, "NoSuchKey"), method="GET", containing="/observations/production/a.json", times=100)
        seen = Registry(settings=replace(registry.settings, endpoint_url=proxy.url))
        report = seen.canary.report(options=OFFLINE).report
    assert [each for each in report.notes if each.startswith("what a has counted can't be read")], report.notes


def test_a_report_is_a_run_of_both_versions(registry: Registry, tracking_uri: str, tmp_path: Path) -> None:
    logged = open_registry(tmp_path, registry.settings.store, registry.model, tracking_uri=tracking_uri)
    (tmp_path / "policy.yaml").write_text(HORIZON)
    lacking = logged.canary.report()
    assert "not logged in MLflow" in lacking.notes[0]
    register(logged, "v1.0.0", "v2.0.0")
    fleet = served(registry)
    found = logged.canary.report()
    assert logged.canary.report().run == found.run
    client = MlflowClient(tracking_uri)
    run = client.get_run(found.run)
    versions = [logged.bindings.get(VersionName.parse(name)) for name in ("v1.0.0", "v2.0.0")]
    known = {entry.model_id for each in versions if (entry := logged.catalog.find(each))}
    assert {each.model_id for each in run.inputs.model_inputs} == known
    assert len(known) == 2
    assert (run.info.status, run.info.run_name) == ("FINISHED", "v2.0.0 beside v1.0.0: ship")
    assert run.data.tags["ulora.trial_id"] == found.report.trial.id
    assert run.data.metrics["difference/wrong_rate"] == pytest.approx(-0.08, abs=0.01)
    assert {"report.html", "rates.svg", "compute.svg"} < {each.path for each in client.list_artifacts(found.run)}
    fleet.asked([head_of(registry)], 40, STRONG, WEAK)
    fleet.write(registry)
    assert logged.canary.report().run != found.run


@pytest.mark.acceptance
def test_a_report_sends_nothing_to_an_mlflow_that_hangs(
    registry: Registry, mlflow_proxy: Proxy, tmp_path: Path
) -> None:
    logged = open_registry(tmp_path, registry.settings.store, registry.model, tracking_uri=mlflow_proxy.url)
    (tmp_path / "policy.yaml").write_text(HORIZON)
    mlflow_proxy.next(drip, times=10**6)
    assert "not logged in MLflow" in logged.canary.report().notes[0]
    assert [path.partition("?")[0] for _, path in mlflow_proxy.requests] == ["/api/2.0/mlflow/experiments/search"]


def test_the_command_prints_a_report_and_writes_a_page(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served(registry, canary=WEAK)
    monkeypatch.setenv("ULORA_POLICY", str(registry.settings.policy))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    page, named = tmp_path / "report.html", ("--store", registry.settings.store, "--model", registry.model)
    done = ulora("canary", "report", "--html", page, *named)
    assert (done.code, done.out.splitlines()[0]) == (0, "verdict: keep")
    assert "no MLflow server is set" in done.err
    assert "<svg" in page.read_text()
    asked = ulora("canary", "report", "--no-log", "--exit-code", "--json", *named)
    assert (asked.code, asked.document["report"]["verdict"]["outcome"]) == (3, "keep")
    complains(ulora("canary", "report", "--generation", 1, *named), 5, "no trial at generation 1")
