"""`ulora measure V --against W`: both are really loaded and answer in turns, and the gates take it for what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks import latency
from registry.api import Registry
from registry.errors import BadInput, VersionNotFound
from registry.usecases.options import MeasureOptions
from tests.support.bundles import noise
from tests.support.registries import create, open_registry

V1, V2 = "v1.0.0", "v2.0.0"
POLICY = "format: 1\nchannels: {staging: {}, production: {defaults: [{metric: latency_ratio_p50, max: 50}]}}\n"


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Two versions; the first one is stable, under a policy on the ratio."""
    monkeypatch.setattr(latency, "MIN_ROUNDS", 50)
    monkeypatch.setattr(latency, "MAX_ROUNDS", 50)
    opened = open_registry(tmp_path, store_url, model)
    opened.store.initialise()
    for version in (V1, V2):
        create(opened, version, tmp_path)
    assert opened.settings.policy is not None
    opened.settings.policy.write_text(POLICY)
    opened.promote(V1, "production")
    return opened


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images/low/test/zero"
    folder.mkdir(parents=True)
    for number in range(3):
        Image.fromarray(noise(number)).save(folder / f"{number}.png")
    return tmp_path / "images"


@pytest.mark.acceptance
def test_a_ratio_to_the_stable_version_decides(registry: Registry, images: Path) -> None:
    before = registry.judge(V2, "production")
    (check,) = before.checks
    assert (before.outcome, f"`ulora measure {V2} --only latency --against {V1}`" in check.reason) == (
        "inconclusive",
        True,
    )
    options = MeasureOptions(only=("latency",), data=images, against=V1)
    (evidence,) = registry.measure(V2, options, offline=True)
    assert evidence.against is not None
    assert (evidence.against.version, evidence.against.manifest_sha256) == (V1, registry.manifest(V1).sha256)
    assert evidence.machine is not None
    assert evidence.machine.threads is not None
    assert registry.evidence(V2)[0].to_bytes() == evidence.to_bytes()
    after = registry.judge(V2, "production")
    assert (after.outcome, after.stable, after.checks[0].evidence) == ("pass", V1, evidence.sha256)
    (longer,) = registry.measure(
        V2, MeasureOptions(only=("latency",), data=images, against=V1, rounds=70), offline=True
    )
    assert {metric.n for metric in longer.metrics if "ratio" in metric.name} == {70}
    registry.promote(V2, "production")
    (check,) = registry.judge(V1, "production").checks
    assert "not measured against v2.0.0" in check.reason


def test_what_can_not_be_compared_is_refused_before_a_load(registry: Registry, images: Path) -> None:
    with pytest.raises(BadInput, match="accuracy can't compare two versions in one run"):
        registry.measure(V2, MeasureOptions(only=("accuracy",), data=images, against=V1), offline=True)
    with pytest.raises(BadInput, match="--rounds is for two versions"):
        MeasureOptions(only=("latency",), data=images, rounds=100)
    with pytest.raises(BadInput, match="9 rounds are not 50 to 20,000"):
        MeasureOptions(only=("latency",), data=images, against=V1, rounds=9)
    with pytest.raises(BadInput, match=r"'1\.0' is not a version name"):
        registry.measure(V2, MeasureOptions(only=("latency",), data=images, against="1.0"), offline=True)
    with pytest.raises(VersionNotFound):
        registry.measure(V2, MeasureOptions(only=("latency",), data=images, against="v9.0.0"), offline=True)
    assert registry.evidence(V2) == []
