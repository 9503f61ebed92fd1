"""Notifiers: each event is told once to everybody, again where it failed, and no receiver holds up another."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from registry.errors import BadSetting
from registry.guard.guard_event import GuardEvent
from registry.guard.notifiers import LogNotifier, Notifiers, Pauses, WebhookNotifier, notifiers
from registry.guard.payloads import for_programs
from registry.guard.webhook import Attempt, Webhook
from registry.settings import Settings
from tests.servers.hook_receiver import HookReceiver, RawReceiver
from tests.support.echo_releases import wait_until
from tests.unit.guard.samples import EVENT, event

SHORT = Pauses(first=0.01, longest=0.05, total=60, attempt=30)
SETTINGS = Settings(model="m", store="s3://b")


def to(server: HookReceiver | RawReceiver, secret: bytes = b"") -> WebhookNotifier:
    return WebhookNotifier(Webhook.parse(server.url), for_programs, secret)


def test_an_event_is_told_once_however_often_it_is_seen() -> None:
    with HookReceiver(200) as server, Notifiers([to(server)], SHORT) as told:
        assert told.tell(EVENT)
        assert not told.tell(event(when="2027-01-01T00:00:00+00:00", reason="again"))
        assert told.tell(event(generation=13))
        told.close()
        assert [json.loads(each.body)["data"]["generation"] for each in server.received] == [12, 13]


def test_a_server_that_fails_is_tried_again_until_it_takes_it(caplog: pytest.LogCaptureFixture) -> None:
    with HookReceiver(500, 500, 503, 200) as server, Notifiers([to(server)], SHORT) as told:
        told.tell(EVENT)
        told.close()
    assert len(server.received) == 4
    assert {each.headers["webhook-id"] for each in server.received} == {EVENT.id}
    assert caplog.text.count("was not told") == 2  # one line for each kind of problem


def test_after_a_refusal_the_next_event_is_told() -> None:
    with HookReceiver(410, 200) as server, Notifiers([to(server)], SHORT) as told:
        told.tell(EVENT)
        told.tell(event(generation=13))
        told.close()
    assert [json.loads(each.body)["data"]["generation"] for each in server.received] == [12, 13]


def test_after_the_deadline_the_log_says_that_it_was_not_told(caplog: pytest.LogCaptureFixture) -> None:
    pauses = replace(SHORT, total=0.1)
    with HookReceiver(500) as server, Notifiers([to(server)], pauses) as told:
        told.tell(EVENT)
        told.close()
    assert "it is not tried again" in caplog.text


def test_a_receiver_that_hangs_holds_up_no_other() -> None:
    def hang(connection: socket.socket) -> None:
        while connection.recv(4096):
            pass

    with HookReceiver(200) as server, RawReceiver(hang) as hanging:
        told = Notifiers([to(hanging), to(server)], replace(SHORT, attempt=60))
        told.tell(EVENT)
        told.tell(event(generation=13))
        wait_until(lambda: len(server.received) == 2)
        told.close(seconds=0)


def test_a_notifier_with_a_mistake_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        name = "broken"

        def __init__(self) -> None:
            self.seen: list[int] = []

        def deliver(self, event: GuardEvent, seconds: float) -> Attempt:
            self.seen.append(event.generation)
            raise KeyError("a mistake")

    broken = Broken()
    with Notifiers([broken], SHORT) as told:
        told.tell(EVENT)
        told.tell(event(generation=13))
        told.close()
    assert broken.seen == [12, 13]
    assert "a mistake" in caplog.text


def test_the_log_says_what_happened_with_fields_for_collectors(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Notifiers([LogNotifier()], SHORT) as told:
        told.tell(EVENT)
        told.tell(event(kind="alert", summary="no data"))
        told.close()
    first, second = caplog.records
    assert first.message == "aads-ulora production: rolled back to v5.5.3 (error_rate 0.031 > 0.005, E = 213)"
    assert (first.levelno, second.levelno) == (logging.INFO, logging.WARNING)
    assert first.__dict__["facts"]["decision"] == "d" * 64


@pytest.mark.parametrize("secret", ["a secret of enough bytes", "whsec_" + base64.b64encode(b"k" * 24).decode()])
def test_a_message_is_signed_as_the_standard_webhooks_are(secret: str) -> None:
    key = b"k" * 24 if secret.startswith("whsec_") else secret.encode()
    with HookReceiver(200) as server:
        settings = replace(SETTINGS, notify_json=(server.url,), notify_secret=secret)
        with Notifiers(notifiers(settings), SHORT) as told:
            told.tell(EVENT)
    (request,) = server.received
    stamp = request.headers["webhook-timestamp"]
    digest = hmac.new(key, f"{EVENT.id}.{stamp}.".encode() + request.body, hashlib.sha256).digest()
    assert request.headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()


def test_without_a_secret_nothing_is_signed() -> None:
    with HookReceiver(200) as server, Notifiers([to(server)], SHORT) as told:
        told.tell(EVENT)
        told.close()
    assert "webhook-signature" not in server.received[0].headers


def test_each_kind_of_receiver_gets_its_own_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with HookReceiver(200) as server:
        (tmp_path / "ulora.toml").write_text(
            f'store = "s3://b"\n[notify]\nslack = "{server.url}/slack"\nteams = ["{server.url}/teams"]\n'
        )
        monkeypatch.setenv("ULORA_NOTIFY_JSON", f"{server.url}/one {server.url}/two")
        with Notifiers(notifiers(Settings.load()), SHORT) as told:
            told.tell(EVENT)
    sent = {each.path: sorted(json.loads(each.body)) for each in server.received}
    assert sent == {
        "/one": ["data", "timestamp", "type"],
        "/two": ["data", "timestamp", "type"],
        "/slack": ["blocks", "mrkdwn", "text"],
        "/teams": ["attachments", "type"],
    }


@pytest.mark.parametrize(
    "settings",
    [
        replace(SETTINGS, notify_slack=("ftp://h",)),
        replace(SETTINGS, notify_secret="short"),
        replace(SETTINGS, notify_secret="whsec_***"),
    ],
)
def test_a_setting_that_is_wrong_is_refused(settings: Settings) -> None:
    with pytest.raises(BadSetting):
        notifiers(settings)
    assert "short" not in repr(settings)
