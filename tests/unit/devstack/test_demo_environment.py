"""What the demo's acts share: when it ends early, and what it says then."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event

import pytest

from registry.devstack import demo as acts
from registry.devstack.demo_environment import DemoEnvironment
from registry.devstack.traffic import Question, SteadyLoad
from registry.errors import UloraError
from registry.evidence.policy import load_policy
from registry.names import VersionName
from tests.servers.loopback import Loopback
from tests.servers.yes_server import YesServer


class Lines:
    """What the demo printed."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def live(self, text: str) -> None:
        """Not kept."""


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[DemoEnvironment]:
    with ExitStack() as ending:
        yield DemoEnvironment.create(Lines(), None, tmp_path / "demo", ending)


def test_a_step_after_a_failed_request_is_not_begun(demo: DemoEnvironment) -> None:
    demo.report("nothing is wrong yet")
    with YesServer() as service:  # it answers 200, and not as a version does
        demo._load = demo.ending.enter_context(SteadyLoad(service.url, [Question(b"image", "low", "one")]))
        with pytest.raises(UloraError, match=r"request 1 failed: status 200, body 'OK'"):
            demo.load.wait_for("v1.0.0", since=0)
        with pytest.raises(UloraError, match="request 1 failed"):
            demo.report("another step is done")
        demo.load.stop()


def test_a_server_that_ended_is_named_with_its_log(demo: DemoEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    assert demo.ended_servers() == []
    program = "import sys; print('out of memory', flush=True); sys.exit(9)"
    monkeypatch.setattr(demo.stack.s3, "_command", lambda: [sys.executable, "-c", program])
    demo.stack.s3.launch()
    demo.stack.s3.why_ended(seconds=300)
    (told,) = demo.ended_servers()
    assert "the s3 server ended with exit status 9" in told
    assert "out of memory" in told


def test_there_is_no_registry_before_the_servers_are_up(demo: DemoEnvironment) -> None:
    with pytest.raises(UloraError, match="not started yet"):
        _ = demo.registry


@pytest.mark.parametrize("has_own_images", [True, False])
def test_only_the_horizon_of_the_policy_is_the_demos(tmp_path: Path, has_own_images: bool) -> None:
    data = tmp_path / "images" if has_own_images else None
    (tmp_path / "images").mkdir()
    with ExitStack() as ending:
        made = DemoEnvironment.create(Lines(), data, tmp_path / "demo", ending)
        policy, shipped = load_policy(Path(made.env["ULORA_POLICY"])), load_policy()
    trials, default = policy.trial_policy(), shipped.trial_policy()
    assert trials.horizon.units < default.horizon.units
    assert trials.model_copy(update={"horizon": default.horizon}) == default
    version = VersionName(1, 0, 0)
    is_default = policy.rules_for("production", version) == shipped.rules_for("production", version)
    assert is_default is not has_own_images
    assert (policy.guard_rules() == shipped.guard_rules()) is not has_own_images


_ACTS = (
    "_first_release", "_second_release", "_old_adapter", "_another_runtime", "_bad_release", "bad_canary",
    "_two_promoters", "_incident", "_flipped_byte",
)  # fmt: skip


def test_a_last_request_that_fails_ends_the_demo(demo: DemoEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _ACTS:  # they happen elsewhere: this is about what comes after them
        monkeypatch.setattr(acts, name, lambda *_: None)
    monkeypatch.setattr(demo.stack.s3, "_command", lambda: [sys.executable, "-c", "raise SystemExit(9)"])
    demo.stack.s3.launch()
    arrived = Event()

    class FailsAfterTheActs(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            arrived.set()
            demo.load._stop.wait(300)
            self.send_error(500)

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    with Loopback(FailsAfterTheActs) as service:
        demo._load = SteadyLoad(service.url, [Question(b"image", "low", "one")])
        demo.ending.enter_context(demo._load)
        assert arrived.wait(300)
        with pytest.raises(UloraError, match=r"(?s)ended early: request 1 failed: status 500.*s3 server ended with"):
            acts._play(demo)


def test_a_failed_request_ends_the_wait_for_mlflow(demo: DemoEnvironment) -> None:
    with YesServer() as service:
        demo._load = demo.ending.enter_context(SteadyLoad(service.url, [Question(b"image", "low", "one")]))
        with pytest.raises(UloraError, match="request 1 failed"):
            demo.healed()
        demo.load.stop()
