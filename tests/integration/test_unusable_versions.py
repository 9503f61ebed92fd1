"""Versions of older releases whose adapters changed the backbone: named by verify and doctor, refused by everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.importing import literal_names
from registry.api import Registry
from registry.channels.channel import PromoteOptions
from registry.doctor import examine
from registry.errors import BadWeights
from registry.store import layout
from registry.usecases import promote as promoting
from tests.support.other_adapter_layouts import edit_json
from tests.support.registries import bind, create, file_of, open_registry, small_bundle
from tests.support.run_ulora import complains, ulora

CONFIG = "adapters/low/adapter_config.json"


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = open_registry(tmp_path, store_url, model)
    monkeypatch.setenv("ULORA_MODEL", model)
    monkeypatch.chdir(tmp_path)
    registry.store.initialise()
    create(registry, "v1.0.0", tmp_path)
    return registry


@pytest.fixture
def pissa(tmp_path: Path) -> Path:
    """A bundle whose adapter says that its training changed the backbone."""
    bundle = small_bundle(tmp_path / "pissa")
    edit_json(bundle / CONFIG, lambda it: it.update(init_lora_weights="pissa"))
    return bundle


@pytest.fixture
def old(registry: Registry, pissa: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """v1.1.0 was created by a release that did not look at these fields."""
    with monkeypatch.context() as older:
        older.setattr(literal_names, "check_fields", lambda document, path: None)
        registry.create("v1.1.0", pissa, offline=True)
    return registry


def test_create_takes_no_bundle_that_could_not_be_loaded(registry: Registry, pissa: Path) -> None:
    with pytest.raises(BadWeights, match=f"{CONFIG}: init_lora_weights is 'pissa'"):
        registry.create("v1.1.0", pissa, offline=True)
    assert [str(name) for name in registry.bindings.names()] == ["v1.0.0"]


def test_no_channel_takes_a_version_that_could_not_be_loaded(old: Registry) -> None:
    with pytest.raises(BadWeights, match=r"this release would not load v1.1.0: .*init_lora_weights is 'pissa'"):
        old.promote("v1.1.0", "production", PromoteOptions(force=True), reason="in haste")
    assert old.history("production") == []


def test_verify_names_the_version_and_what_is_wrong(old: Registry) -> None:
    checked = old.verify("v1.1.0")
    assert [(bad.path, bad.sha256, bad.unusable) for bad in checked.bad] == [(CONFIG, "", True)]
    assert "init_lora_weights is 'pissa'" in checked.bad[0].problem
    assert old.verify("v1.0.0").ok
    done = ulora("verify", "--all")
    complains(done, 6, f"1 bad: v1.1.0 {CONFIG} (init_lora_weights is 'pissa'", "converted adapters")
    assert "ok  v1.0.0" in done.out
    with pytest.raises(BadWeights, match="init_lora_weights is 'pissa'"):
        old.load("v1.1.0")


def test_a_missing_configuration_is_only_missing(old: Registry) -> None:
    old.store.delete(layout.blob(file_of(old, "v1.1.0", CONFIG).sha256))
    assert [(bad.path, bad.problem) for bad in old.verify("v1.1.0").bad] == [(CONFIG, "missing")]


def test_doctor_names_the_version_served_or_not(old: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    bind(old, "v0.9.0")
    (finding,) = [each for each in examine(old) if each.subject == "adapters"]
    assert (finding.level, "v1.1.0 can't be loaded" in finding.detail) == ("error", True)
    assert "importing.md" in finding.fix
    with monkeypatch.context() as older:
        older.setattr(promoting, "check_loadable", lambda *_: None)
        old.promote("v1.1.0", "production")
    served = {each.subject: each for each in examine(old)}["production stable"]
    assert (served.level, "converted" in served.fix) == ("error", True)


def test_doctor_says_that_all_versions_are_loadable(registry: Registry) -> None:
    (finding,) = [each for each in examine(registry) if each.subject == "adapters"]
    assert finding.level == "ok"
