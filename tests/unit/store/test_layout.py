"""The keys of the store, pinned: what was written once must be found for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.store import layout

SHA = "ab" + "0" * 62


def test_every_key_is_where_the_design_puts_it() -> None:
    assert layout.FORMAT_KEY == "format.json"
    assert layout.blob(SHA) == f"blobs/sha256/ab/{SHA}"
    assert layout.backbone(SHA) == f"backbones/{SHA}.json"
    assert layout.version("m", "v1.0.0-x") == "models/m/versions/v1.0.0-x.json"
    assert layout.evidence("m", "v1.0.0", SHA) == f"models/m/evidence/v1.0.0/{SHA}.json"
    assert layout.policy("m", SHA) == f"models/m/policies/{SHA}.json"
    assert layout.verdict("m", SHA) == f"models/m/verdicts/{SHA}.json"
    assert layout.record("m", "production", 1) == "models/m/channels/production/0999999999999.json"
    assert layout.passed("m", "staging", "v1.0.0", SHA) == f"models/m/passed/staging/v1.0.0/{SHA}.json"
    assert layout.GC_KEY == "gc.json"
    assert layout.forgotten("m", "v1.0.0") == "models/m/forgotten/v1.0.0.json"
    assert layout.pin("m", "v1.0.0") == "models/m/pins/v1.0.0.json"
    assert layout.script("m", "v1.0.0", SHA) == f"models/m/scripts/v1.0.0/{SHA}/rollback_to_v1.0.0.py"
    assert layout.signature("m", "v1.0.0", SHA) == f"models/m/signatures/v1.0.0/{SHA}.json"
    assert layout.all_replicas("m") == "models/m/replicas/"
    assert layout.replica("m", "staging", "host-1") == "models/m/replicas/staging/host-1.json"
    assert layout.observations("m") == "models/m/observations/"
    assert layout.observation("m", "staging", "host-1") == "models/m/observations/staging/host-1.json"
    assert layout.decision("m", "staging", SHA) == f"models/m/decisions/staging/{SHA}.json"
    assert layout.incident("m", "staging", SHA) == f"models/m/incidents/staging/{SHA}.md"


@given(st.integers(1, 10**12 - 1), st.integers(1, 10**12 - 1))
def test_newer_records_come_first_in_a_listing(one: int, two: int) -> None:
    assert layout.generation(layout.record("m", "staging", one)) == one
    assert (layout.record("m", "staging", one) < layout.record("m", "staging", two)) == (one > two)


@pytest.mark.parametrize("name", ["", "1.json", "x" * 13 + ".json", "+000000000001.json", "٠" * 13 + ".json"])
def test_a_key_that_is_not_of_a_record_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not the key"):
        layout.generation(f"models/m/channels/staging/{name}")
