"""The dashboard's pages on a real store with a trial in progress: by Streamlit's own test runner, then in a browser."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from registry.api import Registry
from registry.dashboard import changes, session
from registry.dashboard.changes import WantedChange
from registry.dashboard.options import DashboardOptions
from registry.dashboard.session import Dashboard
from registry.errors import BadInput, ChannelMoved
from registry.store import layout
from registry.usecases.incidents import incident_note
from registry.usecases.options import AbortOptions
from tests.servers.proxy import Proxy, unavailable
from tests.support.dashboard_browser import PAGES, dashboard, drawn, open_page
from tests.support.dashboard_story import BAD, CANARY, EVIL, OLD, STABLE, DashboardStory, tell
from tests.support.drawn_pages import page
from tests.support.mlflow_browser import browser, chromium
from tests.support.run_ulora import complains, ulora

needs_a_browser = pytest.mark.skipif(
    chromium() is None or importlib.util.find_spec("playwright") is None,
    reason="needs Chromium (Debian's package `chromium`) and the Python package playwright",
)
_SECONDS = 300
"""How long a page may take on a busy machine: a guard against a hang."""


@pytest.fixture
def story(store_url: str, model: str, tmp_path: Path, dead_address: str) -> Iterator[DashboardStory]:
    """MLflow is down all the time."""
    yield tell(tmp_path, store_url, model, keys=800, tracking_uri=dead_address)
    session._CURRENT.clear()


def texts(app: AppTest) -> str:
    """Everything that a page says, without the marks that keep texts from being marks."""
    assert not app.exception, app.exception
    said = [
        each.value for kind in ("title", "header", "subheader", "markdown", "caption") for each in getattr(app, kind)
    ]
    said += [each.value for kind in ("error", "warning", "info", "success") for each in getattr(app, kind)]
    said += [f"{each.label} {each.value}" for each in app.metric]
    said += [each.value.to_csv() for each in app.dataframe]
    return "\n".join(map(str, said)).replace("\\", "")


@pytest.mark.acceptance
def test_every_page_shows_what_the_store_says(story: DashboardStory) -> None:
    shown = Dashboard(story.registry, DashboardOptions(data=story.images))
    now = page("now", shown)
    said = texts(now)
    for part in (f"production {STABLE}", f"on trial: **{CANARY}**", "50% follows after 24h", "3 replicas", "horizon"):
        assert part in said
    head = story.registry.channel("production").head()
    assert head is not None
    assert head.stable is not None
    assert head.stable.manifest_sha256[:12] in said
    assert len(now.get("plotly_chart")) == 3
    assert not now.button, "a dashboard that only shows has no button"
    assert "Change a channel" not in said

    versions = page("versions", shown)
    said = texts(versions)
    assert "4 of 4 versions" in said
    assert "2 of 400 images" in said
    assert len(versions.get("image")) == 2
    versions.text_input(key="versions-words").input("dinov3").run()
    assert "1 of 4 versions" in texts(versions)

    assert EVIL in texts(page("history", shown)).replace('""', '"')
    health = texts(page("health", shown))
    for part in ("GateRefused 1", "DiskFull 1", "flagged"):
        assert part in health
    policy = texts(page("policy", shown))
    assert "was rolled back in production" in policy
    assert "one weak target must not hide behind strong ones" in policy


@pytest.mark.acceptance
def test_a_day_in_the_past_has_its_version(story: DashboardStory) -> None:
    history = page("history", Dashboard(story.registry))
    for days, version in ((10, OLD), (7, STABLE), (4, BAD)):
        history.date_input(key="history-day").set_value((datetime.now(UTC) - timedelta(days=days)).date()).run()
        assert version in [each.value for each in history.metric], days
    history.date_input(key="history-day").set_value((datetime.now(UTC) - timedelta(days=60)).date()).run()
    assert [each.value for each in history.metric] == ["nothing", "nothing"]


@pytest.mark.acceptance
def test_a_change_needs_the_flag_a_plan_and_a_reason(story: DashboardStory) -> None:
    generation = story.registry.status().channels[1].generation
    wanted = WantedChange("abort", "production", generation)
    reading = Dashboard(story.registry)
    for refused in (lambda: changes.plan(reading, wanted), lambda: changes.make(reading, wanted, "because")):
        with pytest.raises(BadInput, match="only shows"):
            refused()

    shown = Dashboard(story.registry, DashboardOptions(allow_changes=True))
    app = page("now", shown)
    app.selectbox(key="change-kind").set_value("abort").run()
    app.button(key="change-plan").click().run()
    assert f"serves {STABLE} and would serve {STABLE}: abort, generation {generation + 1}" in texts(app)
    app.button(key="change-make").click().run()
    assert "no reason is given; nothing changed" in texts(app)
    app.text_input(key="change-reason").input("the farm says no").run()
    app.button(key="change-make").click().run()
    assert f"production serves {STABLE}, generation {generation + 1}" in texts(app)
    (newest,) = story.registry.history("production", 1)
    assert (newest.action, newest.reason, newest.who) == ("abort", "the farm says no", "ana@lab")
    with pytest.raises(ChannelMoved):
        changes.make(shown, WantedChange("promote", "production", generation - 3, version=OLD), "too late")


@pytest.mark.acceptance
def test_the_note_on_a_rollback_by_the_guard_is_only_text(story: DashboardStory) -> None:
    decision = "ab" * 32
    story.registry.canary.abort("production", AbortOptions(decision=decision), reason="it is worse")
    history = page("history", Dashboard(story.registry))
    assert [each.value for each in history.code] == ["There is no note."]
    key = layout.incident(story.registry.model, "production", decision)
    story.registry.store.create(key, f"# v5.5.5 was rolled back {EVIL}\n".encode())
    assert incident_note(story.registry.wiring, "production", decision).startswith("# v5.5.5")
    history = page("history", Dashboard(story.registry))
    assert [each.value for each in history.code] == [f"# v5.5.5 was rolled back {EVIL}"]
    assert "the guard went back" in texts(page("now", Dashboard(story.registry)))
    with pytest.raises(BadInput, match="not the digest of a decision"):
        incident_note(story.registry.wiring, "production", "../../secret")


@pytest.mark.acceptance
def test_a_refused_promotion_shows_the_rule_and_the_hint(story: DashboardStory) -> None:
    story.registry.canary.abort("production", reason="make room")
    app = page("now", Dashboard(story.registry, DashboardOptions(allow_changes=True)))
    app.selectbox(key="change-kind").set_value("promote").run()
    app.selectbox(key="change-version").set_value(BAD).run()
    app.button(key="change-plan").click().run()
    assert "was rolled back in production" in texts(app)
    assert len(story.registry.history("production")) == 6


@pytest.mark.acceptance
def test_a_store_that_is_down_is_one_message_until_it_is_back(
    story: DashboardStory, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(settings=replace(story.registry.settings, endpoint_url=proxy.url))
    for name in ("versions", "history", "health", "policy"):
        shown = Dashboard(registry, DashboardOptions(allow_changes=True))
        shown.kept.get("status", registry.status)
        asked = reads(monkeypatch, shown)
        proxy.next(unavailable, times=1_000_000)
        app = page(name, shown)
        assert len(asked) == 1, "what is kept of the status says nothing about the store now"
        assert len(app.error) == 1, name
        assert not app.dataframe
        assert texts(app).count("It is tried again every few seconds.") == 1
        proxy.clear()
        shown.kept.forget()
        app.run()
        assert not app.error, name
        assert app.dataframe


def reads(monkeypatch: pytest.MonkeyPatch, shown: Dashboard) -> list[object]:
    """The keys of what the pages read, as they come."""
    asked: list[object] = []
    get = shown.kept.get

    def counted(key: Any, *rest: Any) -> Any:
        asked.append(key)
        return get(key, *rest)

    monkeypatch.setattr(shown.kept, "get", counted)
    return asked


@pytest.mark.acceptance
def test_the_form_of_changes_comes_back_with_the_store(story: DashboardStory, proxy: Proxy) -> None:
    registry = Registry(settings=replace(story.registry.settings, endpoint_url=proxy.url))
    shown = Dashboard(registry, DashboardOptions(allow_changes=True))
    proxy.next(unavailable, times=1_000_000)
    app = page("now", shown)
    assert len(app.error) == 2, "what is drawn every ten seconds, and the form"
    assert texts(app).count("It is tried again every few seconds.") == 1
    proxy.clear()
    shown.kept.forget()
    app.run()
    assert not app.error
    assert app.button(key="change-plan")


def test_a_taken_port_and_a_missing_folder_are_clear_errors() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = ulora("dashboard", "--port", taken.getsockname()[1], "--store", "s3://bucket/x")
    complains(done, 2, "can't listen on 127.0.0.1", "--port")
    complains(ulora("dashboard", "--data", "nosuch", "--store", "s3://bucket/x"), 2, "no such folder: nosuch")


@needs_a_browser
@pytest.mark.acceptance
def test_people_click_through_every_page_with_mlflow_down(story: DashboardStory) -> None:
    asked: list[str] = []
    with dashboard(story.registry, "--data", str(story.images), "--allow-changes") as url, browser() as view:
        view.on("request", lambda request: asked.append(request.url))
        said = {name: open_page(view, url, name) for name in PAGES}
        assert f"{CANARY} beside {STABLE}" in said["Now"]
        assert "Images that they answer differently" in said["Versions"]
        assert f"on trial: {CANARY} (10%)" in said["History"]
        assert "Operations of the last 30 days" in said["Health"]
        assert "Every check of a version" in said["Policy"]
        open_page(view, url, "Now")
        view.locator(".js-plotly-plot .bars").first.wait_for(state="attached")
        _end_the_trial(view)
        assert EVIL not in view.content()
    ours = (url, url.replace("http", "ws"), "data:", "blob:")
    assert [each for each in asked if not each.startswith(ours)] == []
    (newest,) = story.registry.history("production", 1)
    assert (newest.action, newest.reason) == ("abort", "asked in the browser")


def _end_the_trial(view: Any) -> None:
    choice = view.get_by_role("combobox", name="Change", exact=True)
    choice.focus()
    choice.press("ArrowDown")
    view.get_by_role("option", name="End the trial").click()
    drawn(view)
    view.get_by_role("button", name="Show the plan").click()
    view.get_by_label("Reason (required", exact=False).fill("asked in the browser")
    view.get_by_label("Reason (required", exact=False).press("Enter")
    drawn(view)
    view.get_by_role("button", name="End the trial").click()
    view.get_by_text(f"production serves {STABLE}, generation 6").wait_for()
