"""The bodies of messages: for programs, for Slack's incoming webhooks, and for Teams' workflows.

Reasons are texts of people and of servers. Slack and Teams would make links and mentions of what is in them, so they go
into the fields that are shown as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from registry.guard.guard_event import GuardEvent

Payload = Callable[[GuardEvent], dict[str, Any]]
_SHORT, _LONG = 150, 2000
"""Characters that Slack takes in a header, and in a text."""
_CARD = "http://adaptivecards.io/schemas/adaptive-card.json"


def body(payload: Payload, event: GuardEvent) -> bytes:
    """The bytes that are sent."""
    return json.dumps(payload(event), ensure_ascii=False, separators=(",", ":")).encode()


def for_programs(event: GuardEvent) -> dict[str, Any]:
    """All fields, in the frame of the Standard Webhooks: `type`, `timestamp`, `data`."""
    return {"type": f"ulora.{event.kind}", "timestamp": event.when, "data": {"id": event.id, **asdict(event)}}


def for_slack(event: GuardEvent) -> dict[str, Any]:
    """A message of Block Kit, all of it plain text."""
    facts = "\n".join(f"{name}: {value}" for name, value in event.facts().items())
    return {
        "text": _cut(event.title, _SHORT).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"),
        "mrkdwn": False,
        "blocks": [
            {"type": "header", "text": _plain(_cut(event.title, _SHORT))},
            {"type": "section", "text": _plain(_cut(facts, _LONG))},
        ],
    }


def for_teams(event: GuardEvent) -> dict[str, Any]:
    """An Adaptive Card, as a workflow takes it that begins with "When a Teams webhook request is received"."""
    lines = [f"{name}: {_cut(value, _LONG)}" for name, value in event.facts().items()]
    card = {
        "$schema": _CARD,
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [_runs(_cut(event.title, _SHORT), weight="Bolder", size="Medium"), *map(_runs, lines)],
    }
    content = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [content]}


def _plain(text: str) -> dict[str, Any]:
    return {"type": "plain_text", "text": text, "emoji": False}


def _runs(text: str, **style: str) -> dict[str, Any]:
    # A TextBlock would read it as Markdown.
    return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": text, **style}]}


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
