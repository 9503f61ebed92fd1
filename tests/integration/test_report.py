"""`ulora report` on a real store: what it tells, what it says of damage, and that MLflow gets it."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.artifacts import download_artifacts

from registry.api import Registry
from registry.catalog.connection import PATIENT
from registry.channels.channel import PromoteOptions
from registry.store import layout
from registry.usecases.audit_options import ChecklistOptions
from registry.usecases.options import CanaryOptions
from registry.usecases.version_report_page import MARKDOWN, PAGE, markdown
from tests.support.measured_versions import accuracy_of
from tests.support.mlflow_versions import client, register
from tests.support.registries import bind, open_registry
from tests.support.run_ulora import complains, ulora

V1, V2, V3 = "v1.0.0", "v2.0.0", "v3.0.0"
ASKED = "format: 1\nchannels: {staging: {}, production: {defaults: [{metric: accuracy, min: 0.9}]}}\n"


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Three versions; the first was promoted, the second forced, and the third never came anywhere."""
    monkeypatch.setenv("ULORA_MODEL", model)
    opened = open_registry(tmp_path, store_url, model)
    (tmp_path / "policy.yaml").write_text(ASKED)
    opened.store.initialise()
    bind(opened, V1, V2, V3)
    for version, right in ((V1, 97), (V2, 80)):
        measured = [number < right for number in range(100)]
        opened.wiring.ledger.add(*accuracy_of(opened.manifest(version), measured))
    opened.promote(V1, "production", reason="the first")
    opened.promote(V2, "production", PromoteOptions(force=True), reason="growers wait")
    return opened


def test_a_report_tells_the_life_of_a_version(registry: Registry) -> None:
    registry.approve(V2, reason="looked at the leaves")
    registry.checklist(V2, ChecklistOptions(tick=("team-told",)), reason="on Monday")
    registry.rollback(reason="too many errors")
    found = registry.report(V2)
    assert [(each.channel, each.role) for each in found.standings] == [("production", "withdrawn")]
    assert [record.action for record in found.records] == ["promote", "rollback"]
    assert found.before is not None
    assert found.before.older == V1
    (difference,) = [each for each in found.before.metrics if (each.metric, each.target) == ("accuracy", None)]
    assert difference.difference == pytest.approx(-0.17)
    verdict, judged = found.verdicts
    assert (judged.channel, judged.forced) == ("staging", "")
    assert (verdict.channel, verdict.outcome, verdict.forced) == ("production", "fail", "growers wait")
    assert ([one.reason for one in found.approvals], [one.line for one in found.ticks]) == (
        ["looked at the leaves"], ["team-told"],
    )  # fmt: skip
    assert found.unread == ()
    written = markdown(found)
    for said in ("growers wait", "too many errors", "looked at the leaves", "on Monday", "Overruled by force"):
        assert said in written


def test_the_gates_of_a_report_are_those_of_its_version(registry: Registry) -> None:
    """Records of other versions end its time in a channel, and have verdicts of their own."""
    registry.rollback(reason="too many errors")
    for version, outcome in ((V1, "pass"), (V2, "fail")):
        verdict = registry.report(version).verdicts[0]
        assert (verdict.version, verdict.channel, verdict.outcome) == (version, "production", outcome)


def test_a_version_that_came_nowhere_is_compared_with_stable(registry: Registry) -> None:
    found = registry.report(V3)
    assert (found.standings, found.records, found.verdicts, found.evidence) == ((), (), (), ())
    assert found.before is not None
    assert found.before.older == V2
    assert "Nothing was measured of it." in markdown(found)


def test_a_trial_and_its_end_are_told(registry: Registry) -> None:
    registry.canary.start(V3, options=CanaryOptions(percent=10, force=True), reason="a try")
    running = registry.report(V3)
    assert [each.share for each in running.standings] == ["10%"]
    assert [each.trial.canary for each in running.trials] == [V3]
    assert "keep running" in markdown(running)
    registry.canary.abort(reason="seen enough")
    found = registry.report(V3)
    assert [record.action for record in found.records] == ["canary", "abort"]
    assert found.unread == (), "that nothing was counted is no damage"


def test_what_is_damaged_is_named_and_the_rest_is_told(registry: Registry) -> None:
    (key,) = [info.key for info in registry.store.list(layout.evidence(registry.model, V2))]
    registry.store.overwrite(key, b"{}")
    verdict = registry.history()[0].verdict
    assert verdict
    registry.store.overwrite(layout.verdict(registry.model, verdict), b"no JSON")
    found = registry.report(V2)
    assert len(found.unread) == 2
    assert any(key in said for said in found.unread)
    assert any(verdict in said for said in found.unread)
    assert [record.action for record in found.records] == ["promote"]
    assert "What could not be read" in markdown(found)


def test_the_command_writes_what_is_asked_for(registry: Registry, tmp_path: Path) -> None:
    assert ulora("report", V2).out.startswith(f"# {registry.model} v2.0.0")
    page = tmp_path / "page.html"
    assert str(page) in ulora("report", V2, "--out", page).out
    assert page.read_text().startswith("<!doctype html>")
    ulora("report", V2, "--out", tmp_path)
    assert {path.name for path in tmp_path.glob("report-*")} == {"report-v2.0.0.html", "report-v2.0.0.md"}
    document = ulora("report", V2, "--json").document
    assert (document["manifest"]["version"], document["verdicts"][0]["forced"]) == (V2, "growers wait")
    complains(ulora("report", V2, "--out", tmp_path / "page.pdf"), 2, "neither a folder nor")
    complains(ulora("report", V2, "--out", tmp_path / "no/such.md"), 2, "can't be written")
    complains(ulora("report", "v9.0.0"), 5, "v9.0.0")


@pytest.mark.acceptance
def test_a_promotion_leaves_the_report_in_mlflow(
    registry: Registry, tracking_uri: str, tmp_path: Path, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.catalog.client.HASTY", PATIENT)  # the machine may be busy
    monkeypatch.setattr("registry.usecases.promote.MIRROR_SECONDS", 600.0)
    monkeypatch.setattr("registry.usecases.mirror._REPORT_SECONDS", 600.0)
    online = open_registry(tmp_path / "online", store_url, registry.model, tracking_uri=tracking_uri)
    register(online, V1, V2, V3)

    def kept(number: int) -> dict[str, str]:
        theirs = client(online)
        model = theirs.get_model_version(registry.model, str(number)).source.removeprefix("models:/")
        names = {file.path for file in theirs.list_logged_model_artifacts(model)} & {PAGE, MARKDOWN}
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        place = theirs.get_logged_model(model).artifact_location
        found = {name: download_artifacts(f"{place}/{name}", dst_path=str(folder)) for name in names}
        return {name: Path(path).read_text() for name, path in found.items()}

    assert online.promote(V3, "production", reason="<b>the third</b>").notes == ()
    files = kept(3)
    assert sorted(files) == [PAGE, MARKDOWN]
    assert "&lt;b&gt;the third&lt;/b&gt;" in files[PAGE]
    assert kept(2) == {}
    registry.rollback(reason="offline")
    assert f"report of {V2}: none -> {PAGE}" in online.reconcile(dry_run=True).changes
    assert f"report of {V2}: none -> {PAGE}" in online.reconcile().changes
    assert sorted(kept(2)) == [PAGE, MARKDOWN]
    assert online.reconcile().changes == ()


def test_mlflow_that_is_down_fails_no_promotion(registry: Registry, dead_address: str) -> None:
    offline = Registry(settings=replace(registry.settings, tracking_uri=dead_address))
    done = offline.promote(V1, "staging", reason="again")
    assert done.changed
    assert any("MLflow does not show it yet" in note for note in done.notes)
