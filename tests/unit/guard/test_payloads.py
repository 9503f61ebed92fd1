"""What messages look like: every field for programs, plain text for people."""

from __future__ import annotations

import json
from typing import Any

from registry.guard.payloads import body, for_programs, for_slack, for_teams
from tests.unit.guard.samples import EVENT, event

HOSTILE = event(reason="<!channel> [open](http://evil.example) *now* &", summary="<!here> x" + "y" * 300)


def texts(found: Any) -> list[dict[str, Any]]:
    """Every object with a text, at any depth."""
    if isinstance(found, dict):
        own = [found] if isinstance(found.get("text"), str) else []
        return own + [each for value in found.values() for each in texts(value)]
    return [each for value in found for each in texts(value)] if isinstance(found, list) else []


def test_programs_get_every_field() -> None:
    sent = json.loads(body(for_programs, EVENT))
    assert (sent["type"], sent["timestamp"]) == ("ulora.decision", EVENT.when)
    assert sent["data"] == {
        "id": EVENT.id,
        "model": "aads-ulora",
        "channel": "production",
        "generation": 12,
        "kind": "decision",
        "version": "v5.5.4-dinov3",
        "summary": "rolled back to v5.5.3",
        "reason": "error_rate 0.031 > 0.005, E = 213",
        "decision": "d" * 64,
        "when": "2026-11-21T12:00:00.000+00:00",
    }


def test_people_read_where_what_and_why() -> None:
    for payload in (for_slack, for_teams):
        shown = " ".join(each["text"] for each in texts(payload(EVENT)))
        assert "aads-ulora production: rolled back to v5.5.3" in shown
        assert "error_rate 0.031 > 0.005" in shown
        assert "d" * 64 in shown


def test_slack_makes_nothing_of_what_is_in_a_text() -> None:
    sent = for_slack(HOSTILE)
    assert "<" not in sent["text"]
    assert not sent["mrkdwn"]
    assert {each["type"] for block in sent["blocks"] for each in texts(block)} == {"plain_text"}
    header, section = sent["blocks"]
    assert len(header["text"]["text"]) <= 150
    assert len(for_slack(event(reason="x" * 10_000))["blocks"][1]["text"]["text"]) <= 3000
    assert "[open](http://evil.example)" in section["text"]["text"]


def test_teams_makes_nothing_of_what_is_in_a_text() -> None:
    (attachment,) = for_teams(HOSTILE)["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert {each["type"] for each in texts(attachment)} == {"TextRun"}
    assert {each["type"] for each in attachment["content"]["body"]} == {"RichTextBlock"}


def test_an_event_is_known_by_what_happened() -> None:
    assert event(when="2027-01-01T00:00:00+00:00", reason="E = 214").id == EVENT.id
    others = [event(generation=13), event(kind="alert"), event(summary="x"), event(channel="staging"), event(model="m")]
    assert len({each.id for each in (EVENT, *others)}) == 6
