"""What people see in MLflow's own pages, in a headless Chromium: a model, its versions, two of them side by side."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.support.mlflow_browser import browser, chromium, compare_newest, open_model, open_version
from tests.support.mlflow_story import BETTER, FIRST, FORCED, WEAK, Story, ask, tell

pytestmark = pytest.mark.acceptance
needs_a_browser = pytest.mark.skipif(
    chromium() is None or importlib.util.find_spec("playwright") is None,
    reason="needs Chromium (Debian's package `chromium`) and the Python package playwright",
)


@pytest.fixture
def story(store_url: str, model: str, tmp_path: Path, tracking_uri: str) -> Story:
    return tell(tmp_path, store_url, model, tracking_uri)


def url(story: Story, version: str) -> str:
    (found,) = [each for each in story.registry.catalog.versions(story.registry.model) if each.version == version]
    return found.url


@needs_a_browser
def test_people_find_their_way_through_mlflows_pages(story: Story, tracking_uri: str) -> None:
    model = story.registry.model
    with browser() as page:
        shown = open_model(page, tracking_uri, model)
        assert "request-rollback" in shown
        assert "does not promote" in shown
        assert "channel : production" in shown
        assert f"@ v5_5_2 {FIRST} Previous" in shown, "the list of versions shows the first line of a description"
        assert "[//]" not in shown, "the marks of the mirror are not shown"

        refused = open_version(page, url(story, WEAK), WEAK)
        assert "Refused: request-production" in refused
        assert refused.index("Refused: request-production") < refused.index("Release v5.5.4-dinov3")
        assert refused.index("FAIL 0.855") < refused.index("gates of staging")
        link = page.get_by_role("link", name="accuracy", exact=True).get_attribute("href")
        page.goto(f"{tracking_uri}/{link.removeprefix(tracking_uri).lstrip('/')}")
        page.get_by_text(f"{WEAK} accuracy").first.wait_for()

        withdrawn = open_version(page, url(story, FORCED), FORCED)
        assert "errors doubled on tomato" in withdrawn
        assert "the field needs it today" in withdrawn

        compared = compare_newest(page, tracking_uri, model)
        for said in (WEAK, FORCED, "accuracy", "crop_routing_accuracy", "latency_ms_p95"):
            assert said in compared
        assert "Nothing to compare" not in compared


def test_the_pages_requests_find_what_they_show(story: Story) -> None:
    """Without a browser: what the page for comparing asks MLflow for."""
    versions = story.mlflow.search_model_versions(f"name = '{story.registry.model}'")
    runs = [story.mlflow.get_run(each.run_id) for each in versions]
    assert {run.info.run_name for run in runs} == {FIRST, BETTER, WEAK, FORCED}
    assert len({frozenset(run.data.params) for run in runs}) == 1
    assert {frozenset(run.data.metrics) for run in runs} == {
        frozenset({"accuracy", "crop_routing_accuracy", "latency_ms_p95"})
    }
    plots = {tuple(each.path for each in story.mlflow.list_artifacts(run.info.run_id)) for run in runs}
    assert plots == {("accuracy.png", "latency.png", "routing.png")}
    assert all(len(each.tags) <= 6 for each in versions)


def test_a_rollback_that_is_asked_for_is_shown(story: Story) -> None:
    ask(story, BETTER, "rollback")
    story.registry.reconcile()
    assert story.registry.status().channels[1].stable == FIRST
    found = story.registry.catalog.find(story.registry.bindings.get(story.registry.manifest(BETTER).name))
    assert found is not None
    assert found.tags["withdrawn"] == "production"
