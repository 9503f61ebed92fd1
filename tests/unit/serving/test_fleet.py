"""Heartbeats as documents: anybody who may write to the store writes them, so every field is checked."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import BadManifest
from registry.serving.fleet import Heartbeat

SAID: dict[str, Any] = {
    "format": 1, "id": "host-1-ab", "host": "host", "pid": 7, "device": "cpu", "state": "serving", "version": "v1.0.0",
    "runtime": "torch-fp32",
    "generation": 3, "newest": 3, "rollback_ready": True, "resident": ["v1.0.0"], "error": "",
    "loading": "loading v1.1.0 for 7 s (loader)", "manifest_sha256": "1" * 64, "weights_sha256": "2" * 64,
    "weights_count": 3, "golden_sha256": "3" * 64, "proved": "2026-01-01T00:00:00.000+00:00",
    "canary": "v1.1.0", "trial_problem": "", "observed": "2026-01-01T00:00:00.000+00:00", "observations_problem": "",
    "started": "2026-01-01T00:00:00.000+00:00", "when": "2026-01-01T00:00:00.000+00:00",
}  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(string.printable), st.lists, max_leaves=5
)


def test_a_heartbeat_is_read_as_it_was_written() -> None:
    heartbeat = Heartbeat.parse(json.dumps(SAID).encode(), "a heartbeat")
    assert Heartbeat.parse(heartbeat.to_bytes(), "a heartbeat").model_dump(mode="json") == SAID


def test_an_earlier_replica_does_not_say_what_it_loads() -> None:
    earlier = {name: value for name, value in SAID.items() if name != "loading"}
    assert Heartbeat.parse(json.dumps(earlier).encode(), "a heartbeat").loading == ""


def test_an_earlier_replica_does_not_say_what_is_in_its_memory() -> None:
    new = ("manifest_sha256", "weights_sha256", "weights_count", "golden_sha256", "proved")
    new += ("canary", "trial_problem", "observed", "observations_problem")
    document = json.dumps({name: value for name, value in SAID.items() if name not in new}).encode()
    earlier = Heartbeat.parse(document, "a heartbeat")
    assert [getattr(earlier, name) for name in new] == ["", "", 0, "", "", "", "", "", ""]
    assert earlier.to_bytes() == document


@pytest.mark.parametrize("digest", ["1" * 63, "1" * 65, "A" * 64, "1" * 64 + "\n", "g" * 64])
@pytest.mark.parametrize("field", ["manifest_sha256", "weights_sha256", "golden_sha256"])
def test_a_digest_is_a_sha256_or_the_heartbeat_is_refused(field: str, digest: str) -> None:
    with pytest.raises(BadManifest):
        Heartbeat.parse(json.dumps({**SAID, field: digest}).encode(), "a heartbeat")


def test_a_newer_replica_may_say_more() -> None:
    assert Heartbeat.parse(json.dumps({**SAID, "mood": "fine"}).encode(), "a heartbeat").id == SAID["id"]


@given(st.binary(max_size=200))
def test_junk_is_refused(junk: bytes) -> None:
    with pytest.raises(BadManifest):
        Heartbeat.parse(junk, "a heartbeat")


@given(st.sampled_from(sorted(SAID)), JSON)
def test_a_field_is_as_declared_or_the_whole_is_refused(field: str, value: Any) -> None:
    document = json.dumps({**SAID, field: value}).encode()
    try:
        heartbeat = Heartbeat.parse(document, "a heartbeat")
    except BadManifest:
        return
    assert isinstance(getattr(heartbeat, field), type(SAID[field]) if field != "resident" else tuple)


@pytest.mark.parametrize(
    "field", ["id", "host", "device", "state", "version", "error", "loading", "when", "proved", "canary", "observed"]
)
def test_no_field_is_endless(field: str) -> None:
    with pytest.raises(BadManifest):
        Heartbeat.parse(json.dumps({**SAID, field: "a" * 10_000}).encode(), "a heartbeat")
