"""Which ticks of a checklist count: those for this content and channel that nobody took back."""

from __future__ import annotations

from registry.evidence.ticks import Tick, standing_ticks

CONTENT = "c" * 64


def tick(line: str = "team-told", who: str = "ann", minute: int = 0, **more: object) -> Tick:
    fields = {
        "format": 1, "model": "m", "version": "v1.0.0", "content_sha256": CONTENT, "channel": "production",
        "line": line, "who": who, "when": f"2026-11-21T12:{minute:02}:00+00:00",
    }  # fmt: skip
    return Tick.model_validate(fields | more)


def test_ticks_stand_by_line_and_in_order() -> None:
    first, second, other = tick(), tick(who="bob", minute=1), tick("lessons")
    found = standing_ticks([second, other, first], "production", CONTENT)
    assert found == {"team-told": (first, second), "lessons": (other,)}


def test_other_content_and_other_channels_do_not_count() -> None:
    ticks = [tick(content_sha256="d" * 64), tick(channel="staging")]
    assert standing_ticks(ticks, "production", CONTENT) == {}


def test_what_is_taken_back_is_gone_whatever_clocks_say() -> None:
    first = tick(minute=30)
    back = tick(who="bob", minute=0, takes_back=(first.sha256,))
    again = tick(minute=10)
    assert standing_ticks([first, back], "production", CONTENT) == {}
    assert standing_ticks([back, again, first], "production", CONTENT) == {"team-told": (again,)}


def test_nobody_takes_back_for_another_content() -> None:
    first = tick()
    elsewhere = tick(content_sha256="d" * 64, takes_back=(first.sha256,))
    assert standing_ticks([first, elsewhere], "production", CONTENT) == {"team-told": (first,)}
