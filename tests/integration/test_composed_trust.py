"""A composed version is trusted if composing it again from trusted versions gives the same version."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry.api import Registry
from registry.errors import NotTrusted
from registry.names import VersionName
from registry.trust.admission import Admission
from registry.versions.compose import ComponentFiles, compose
from registry.versions.manifest import Component, FileEntry, Manifest
from tests.support.registries import listing, open_registry
from tests.support.signing_keys import Pair, key_pair

TOMATO, POTATO = "adapters/tomato", "adapters/potato"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return key_pair(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    """Two versions of two components each, unsigned."""
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    for name in ("v1.0.0", "v2.0.0"):
        bind(registry, original(registry, name))
    return registry


def original(registry: Registry, name: str) -> Manifest:
    files = [_put(registry, part, name) for part in (POTATO, TOMATO)]
    return Manifest.make(
        model=registry.model, version=name, flavor="empty", backbone=None, files=files,
        components={part: Component() for part in (POTATO, TOMATO)}, timestamp="2026-11-21T12:00:00Z",
    )  # fmt: skip


def composed(registry: Registry, base: str = "v2.0.0", source: str = "v1.0.0", part: str = TOMATO) -> Manifest:
    pieces = [ComponentFiles.of(registry.manifest(source), part)]
    return compose(registry.manifest(base), pieces).manifest("2026-11-21T13:00:00Z")


def bind(registry: Registry, manifest: Manifest) -> Manifest:
    registry.bindings.bind(manifest, registry.blobs.put(manifest.to_bytes()))
    return registry.manifest(manifest.version)


def told(manifest: Manifest, **changes: Any) -> Manifest:
    """The same but for what it says of itself; its content stays."""
    fields = {name: getattr(manifest, name) for name in manifest.model_fields_set - {"format", "content_sha256"}}
    return Manifest.make(**{**fields, **changes})


def admission(registry: Registry, ours: Pair, oldest: str | None = None) -> Admission:
    name = VersionName.parse(oldest) if oldest else None
    return Admission(registry.bindings, registry.wiring.signatures, [ours.trusted], name)


def refused(admission: Admission, manifest: Manifest, says: str) -> None:
    with pytest.raises(NotTrusted, match=says):
        admission.check(manifest)


def test_only_compositions_of_signed_versions_are_trusted(registry: Registry, ours: Pair) -> None:
    made = bind(registry, composed(registry))
    registry.sign("v2.0.0", ours.key)
    refused(
        admission(registry, ours),
        made,
        r"composed of is not trusted either: v1\.0\.0 is not trusted",
    )
    registry.sign("v1.0.0", ours.key)
    admission(registry, ours).check(made)


def test_a_signature_of_its_own_is_enough(registry: Registry, ours: Pair) -> None:
    made = bind(registry, composed(registry))
    registry.sign(made.version, ours.key)
    admission(registry, ours).check(made)


def test_a_composition_of_compositions_is_trusted_by_its_sources(registry: Registry, ours: Pair) -> None:
    first = bind(registry, composed(registry))
    bind(registry, original(registry, "v1.1.0"))
    second = bind(registry, composed(registry, first.version, "v1.1.0", POTATO))
    for name in ("v1.0.0", "v2.0.0"):
        registry.sign(name, ours.key)
    refused(admission(registry, ours), second, r"v1\.1\.0 is not trusted")
    registry.sign("v1.1.0", ours.key)
    admission(registry, ours).check(second)


def test_another_content_or_name_than_its_parts_make_is_refused(registry: Registry, ours: Pair) -> None:
    for name in ("v1.0.0", "v2.0.0"):
        registry.sign(name, ours.key)
    made = composed(registry)
    evil = FileEntry(path="adapters/tomato/evil", size=1, sha256="e" * 64)
    renamed = told(made, version="v9.9.9")
    fuller = told(made, files=sorted([*made.files, evil], key=lambda file: file.path))
    for false in (renamed, fuller):
        refused(admission(registry, ours), bind(registry, false), "composing it again gives v2.0.0-p")


@pytest.mark.parametrize(
    "origin",
    [
        {}, [], "v2.0.0", None, {"live": {}}, {"live": None, "components": {}}, {"live": [], "components": []},
        {"live": {"version": "v2.0.0", "content_sha256": "0" * 64}, "components": {}},
        {"live": {"version": "v9.0.0", "content_sha256": "0" * 64}, "components": {}},
        {"live": {"version": "../x", "content_sha256": "0" * 64}, "components": {}},
        {"live": {"version": ["v2.0.0"], "content_sha256": 1}, "components": {}},
        {"live": {"version": "v2.0.0", "content_sha256": 1}, "components": {f"c{n}": {} for n in range(100)}},
        {"live": {"source": "x"}, "components": {}}, {"live": {"source": "x"}, "components": {"": {}}},
    ],
    ids=lambda origin: str(origin)[:60],
)  # fmt: skip
def test_a_false_origin_is_refused_and_no_crash(registry: Registry, ours: Pair, origin: Any) -> None:
    registry.sign("v2.0.0", ours.key)
    refused(admission(registry, ours), told(composed(registry), provenance={"composed": origin}), "is not trusted")


def test_other_fields_with_signed_content_are_not_trusted(registry: Registry, ours: Pair) -> None:
    for name in ("v1.0.0", "v2.0.0"):
        registry.sign(name, ours.key)
    made = composed(registry)
    alone = compose(registry.manifest("v1.0.0"), []).manifest("2026-11-21T13:00:00Z")
    origin = made.provenance["composed"]["components"]
    false = told(alone, provenance={"composed": {"live": {"source": "x"}, "components": origin}})
    refused(admission(registry, ours), false, "does not say which versions")
    for words in ({"description": "trust me"}, {"parent": None}, {"files_modified": ()}, {"changes": {"all": "well"}}):
        refused(admission(registry, ours), told(made, **words), "it has fields that composing does not give")
    admission(registry, ours).check(told(made))


def test_two_versions_do_not_make_each_other_trusted(registry: Registry, ours: Pair) -> None:
    one = composed(registry)
    other = compose(one, [ComponentFiles.of(registry.manifest("v1.0.0"), TOMATO)]).manifest("2026-11-21T13:00:00Z")
    vouched = {"version": other.version, "content_sha256": other.content_sha256}
    one = bind(registry, told(one, provenance={"composed": {"live": vouched, "components": {}}}))
    bind(registry, other)
    refused(admission(registry, ours), one, "is composed of itself")


def test_a_component_of_a_too_old_version_is_refused(registry: Registry, ours: Pair) -> None:
    for name in ("v1.0.0", "v2.0.0"):
        registry.sign(name, ours.key)
    made = bind(registry, composed(registry))
    refused(admission(registry, ours, oldest="v1.1.0"), made, r"v1\.0\.0 is older than v1\.1\.0")
    keyless = Admission(registry.bindings, registry.wiring.signatures, oldest=VersionName.parse("v1.1.0"))
    refused(keyless, made, r"v1\.0\.0 is older than v1\.1\.0")
    admission(registry, ours, oldest="v1.0.0").check(made)


def test_a_partial_rollback_of_signed_versions_is_served(registry: Registry, ours: Pair) -> None:
    careful = Registry(settings=replace(registry.settings, trusted_keys=(ours.trusted,)))
    registry.promote("v1.0.0", "production")
    registry.sign("v2.0.0", ours.key)
    careful.promote("v2.0.0", "production")
    before = listing(registry)
    for dry_run in (True, False):
        with pytest.raises(NotTrusted, match=r"v1\.0\.0 is not trusted") as unsigned:
            careful.rollback(only=[TOMATO], dry_run=dry_run)
        assert "ulora sign v1.0.0" in unsigned.value.hint
    assert listing(registry) == before, "what is refused gets no name"
    registry.sign("v1.0.0", ours.key)
    change = careful.rollback(only=[TOMATO])
    assert change.version.startswith("v2.0.0-p")
    assert careful.verify(change.version).ok
    assert careful.trusted_manifest(change.version).content_sha256 == composed(registry).content_sha256


def _put(registry: Registry, part: str, name: str) -> FileEntry:
    body = f"{part} {name}".encode()
    return FileEntry(path=f"{part}/weights", size=len(body), sha256=registry.blobs.put(body))
