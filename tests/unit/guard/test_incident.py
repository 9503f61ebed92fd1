"""The note about an automatic rollback: all that is known, as text that Markdown makes nothing of."""

from __future__ import annotations

from registry.answers import ReplicaStatus
from registry.channels.record import Canary, Pointer, Record
from registry.guard.incident import JudgedHarm, incident_note

OLD = Pointer(version="v1.0.0", content_sha256="a" * 64, manifest_sha256="1" * 64)
NEW = Pointer(version="v2.0.0", content_sha256="b" * 64, manifest_sha256="2" * 64)
HARM = JudgedHarm(
    decision="d" * 64,
    version="v2.0.0",
    serves="v1.0.0",
    rule="error_rate <= 0.005, else roll back: 0.031, E = 213",
    evidence=(("units asked (canary)", "1,204"), ("units with an error (canary)", "37")),
    when="2026-11-21T12:02:00+00:00",
)


def record(generation: int, action: str, canary: Canary | None = None, reason: str = "") -> Record:
    return Record(
        format=1,
        model="aads-ulora",
        channel="production",
        generation=generation,
        action=action,
        stable=OLD,
        canary=canary,
        reason=reason,
        who="ann",
        when=f"2026-11-21T12:{generation % 60:02}:00+00:00",
        nonce="0" * 16,
    )


def replica(name: str, generation: int, state: str = "serving", error: str = "") -> ReplicaStatus:
    return ReplicaStatus(name, "v1.0.0", generation, state, True, 3.0, error)


RECORDS = [
    record(1, "promote"),
    record(2, "canary", Canary(**NEW.model_dump(), weight=10.0), reason="try | it <b>now</b> [x](http://evil)"),
    record(3, "abort", reason="guard: error_rate"),
]


def test_the_note_has_what_why_who_and_what_next() -> None:
    note = incident_note(RECORDS, HARM, [replica("one", 3), replica("two", 2, error="no space left")])
    lines = note.splitlines()
    assert lines[0] == "# aads-ulora production: v2.0.0 was rolled back by itself"
    assert [line for line in lines if line.startswith("## ")] == [
        "## What happened",
        "## Why",
        "## Replicas",
        "## What to look at",
    ]
    assert f"decision `{'d' * 64}`" in note
    assert "| units with an error (canary) | 37 |" in lines
    assert "| 2026-11-21T12:03:00+00:00 | 3 | abort | v1.0.0 |  | ann | guard: error_rate |" in lines
    assert "2 replicas, of which 1 did not serve generation 3 yet." in lines
    shown = [line for line in lines if line.startswith(("| one", "| two"))]
    assert shown == [
        "| two | v1.0.0 | 2 | serving | 3 s ago | no space left |",
        "| one | v1.0.0 | 3 | serving | 3 s ago |  |",
    ]
    assert "`ulora diff v1.0.0 v2.0.0`" in note
    assert incident_note(RECORDS, HARM, []) == incident_note(list(RECORDS), HARM, [])


def test_markdown_makes_nothing_of_what_people_wrote() -> None:
    note = incident_note(RECORDS, HARM, [])
    assert "try \\| it \\<b\\>now\\</b\\> \\[x\\](http://evil)" in note
    assert "None reports for this channel." in note


def test_a_long_story_is_cut() -> None:
    story = [record(number, "promote", reason="x\ny" * 900) for number in range(1, 200)]
    note = incident_note(story, HARM, [replica(f"r{number:04}", 199) for number in range(300)])
    assert "149 earlier records" in note
    assert "200 more are left out." in note
    assert len(note) < 100_000
