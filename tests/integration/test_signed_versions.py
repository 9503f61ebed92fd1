"""With trusted keys set, versions without their signature are not verified, promoted, loaded or served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry.answers import Signed
from registry.api import Registry
from registry.channels.channel import PromoteOptions
from registry.errors import Conflict, NotTrusted
from registry.integrity.verify import SIGNATURE, Verifier
from registry.serving.follow import Live, LiveOptions
from registry.store import layout
from registry.trust import signatures
from registry.trust.keys import TrustedKey
from registry.versions.manifest import Manifest
from tests.servers.proxy import Proxy, answering
from tests.support.echo_releases import Shop, find_echo, wait_until
from tests.support.registries import bind, create, listing, open_registry, write_policy
from tests.support.run_ulora import complains, ulora
from tests.support.signing_keys import Pair, key_pair


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return key_pair(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return key_pair(tmp_path_factory.mktemp("keys"), "theirs")


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    """A store with one version, in which signatures are not looked at."""
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    bind(registry, "v1.0.0")
    return registry


def trusting(registry: Registry, *keys: Pair, **settings: Any) -> Registry:
    """The same store, seen by somebody who trusts these keys only."""
    trusted = tuple(pair.trusted for pair in keys)
    return Registry(settings=replace(registry.settings, trusted_keys=trusted, **settings))


def test_an_unsigned_version_is_refused_until_it_is_signed(registry: Registry, ours: Pair, theirs: Pair) -> None:
    careful = trusting(registry, ours)
    registry.sign("v1.0.0", theirs.private)
    assert [bad.path for bad in careful.verify("v1.0.0").bad] == [SIGNATURE]
    for use in (careful.trusted_manifest, careful.load, careful.promote):
        with pytest.raises(NotTrusted, match=r"v1\.0\.0 is not trusted") as refused:
            use("v1.0.0")
        assert str(ours.trusted) in str(refused.value)
    assert careful.channel("staging").head() is None

    signed = registry.sign("v1.0.0", ours.private)
    assert signed.is_new
    assert careful.verify("v1.0.0").ok
    assert careful.promote("v1.0.0").changed


def test_no_force_promotes_what_is_not_trusted(registry: Registry, ours: Pair) -> None:
    with pytest.raises(NotTrusted):
        trusting(registry, ours).promote("v1.0.0", "production", PromoteOptions(force=True), reason="please")
    assert registry.channel("production").head() is None


def test_a_key_signs_once_and_each_of_several_once(registry: Registry, ours: Pair, theirs: Pair) -> None:
    first, again, other = (registry.sign("v1.0.0", pair.key) for pair in (ours, ours, theirs))
    assert (first.is_new, again.is_new, other.is_new) == (True, False, True)
    assert again.signature_sha256 == first.signature_sha256
    assert first.key == TrustedKey.read(ours.trusted).fingerprint
    stored = [key for key in listing(registry) if "/signatures/" in key]
    assert stored == sorted(
        layout.signature(registry.model, "v1.0.0", signed.signature_sha256) for signed in (first, other)
    )


def test_a_dry_run_signs_nothing(registry: Registry, ours: Pair) -> None:
    before = listing(registry)
    planned = registry.sign("v1.0.0", ours.key, dry_run=True)
    assert (planned.is_new, planned.signature_sha256) == (True, "")
    assert listing(registry) == before


def test_other_content_than_expected_is_not_signed(registry: Registry, ours: Pair) -> None:
    content = registry.manifest("v1.0.0").content_sha256
    assert registry.sign("v1.0.0", ours.key, content_sha256=content[:12]).is_new
    for wrong in ("0" * 64, content[:8]):
        with pytest.raises(NotTrusted, match="it was not signed"):
            registry.sign("v1.0.0", ours.key, content_sha256=wrong)


def test_a_signature_of_another_version_or_model_is_ignored(
    registry: Registry, ours: Pair, store_url: str, tmp_path: Path
) -> None:
    signed = registry.sign("v1.0.0", ours.key)
    body = registry.store.get(layout.signature(registry.model, "v1.0.0", signed.signature_sha256)).body
    bind(registry, "v2.0.0")
    other = open_registry(tmp_path / "other", store_url, f"{registry.model}-other")
    bind(other, "v1.0.0")
    for place, version in ((registry, "v2.0.0"), (other, "v1.0.0")):
        place.wiring.signatures.add(version, body)
        with pytest.raises(NotTrusted, match="1 signature, none by a trusted key"):
            trusting(place, ours).trusted_manifest(version)


def test_invalid_signatures_are_skipped_and_limited(registry: Registry, ours: Pair) -> None:
    folder = layout.signature(registry.model, "v1.0.0")
    registry.store.create(f"{folder}{'f' * 64}.json", b"{}")
    registry.store.create(f"{folder}{'e' * 64}.json", b"x" * 100_000)
    registry.sign("v1.0.0", ours.key)
    assert trusting(registry, ours).trusted_manifest("v1.0.0").version == "v1.0.0"
    assert len(registry.wiring.signatures.of("v1.0.0")) == 1


def test_invalid_signatures_do_not_hide_an_earlier_valid_one(
    registry: Registry, ours: Pair, theirs: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.sign("v1.0.0", ours.key)
    folder = layout.signature(registry.model, "v1.0.0")
    (signed,) = (info.modified for info in registry.store.list(folder))
    assert signed
    wait_until(lambda: registry.store.now() > signed)  # the server tells seconds
    monkeypatch.setattr(signatures, "MAX_SIGNATURES", 3)
    for number in range(3):
        registry.store.create(f"{folder}{number:064d}.json", b"{}")
    assert trusting(registry, ours).trusted_manifest("v1.0.0").version == "v1.0.0"
    for dry_run in (True, False):
        with pytest.raises(Conflict, match="has 3 signatures") as full:
            registry.sign("v1.0.0", theirs.key, dry_run=dry_run)
        assert folder in full.value.hint


def test_a_version_whose_check_fails_is_reported_as_a_finding(registry: Registry) -> None:
    def stumble(manifest: Manifest) -> None:
        raise ValueError(manifest.version)

    (bad,) = Verifier(registry.bindings, registry.blobs, check=stumble).inspect("v1.0.0").bad
    assert bad.problem == "can't be checked: ValueError: v1.0.0"


def test_keys_are_neither_in_the_store_nor_in_what_is_printed(registry: Registry, ours: Pair) -> None:
    signed = registry.sign("v1.0.0", ours.key)
    secret = "".join(ours.private.read_text().splitlines()[1:-1])
    for key in listing(registry):
        body = registry.store.get(key).body
        assert secret[:40].encode() not in body.replace(b"\n", b"")
    assert "PRIVATE" not in repr(signed) + repr(ours.key)


# --- replicas --------------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(store_url: str, model: str, tmp_path: Path) -> Shop:
    registry = open_registry(tmp_path, store_url, model)
    shop = Shop(registry.store, model, tmp_path)
    registry.store.initialise()
    for name in ("v1.0.0", "v1.1.0"):
        shop.release(name)
    return shop


@pytest.fixture
def careful(shop: Shop, store_url: str, ours: Pair, tmp_path: Path) -> Registry:
    """Somebody who trusts one key, and has no version that it signed yet."""
    return trusting(open_registry(tmp_path, store_url, shop.model), ours)


def follow(registry: Registry, **more: Any) -> Live:
    return registry.follow("production", LiveOptions(poll=0.02, retry=0.02, find=find_echo, **more))


def test_a_replica_keeps_its_version_if_the_new_one_is_untrusted(shop: Shop, careful: Registry, ours: Pair) -> None:
    careful.sign("v1.0.0", ours.key)
    shop.promote("v1.0.0")
    with follow(careful) as live:
        shop.promote("v1.1.0")
        wait_until(lambda: "v1.1.0 was not loaded" in live.health().error)
        assert "is not trusted: it is unsigned" in live.health().error
        assert (live.version, live.predict(b"leaf").version) == ("v1.0.0", "v1.0.0")
        wait_until(lambda: any("not trusted" in heard.error for heard in careful.status().channels[1].replicas))

        careful.sign("v1.1.0", ours.key)
        assert live.wait_for(version="v1.1.0", timeout=150)


def test_a_replica_does_not_start_on_an_untrusted_version(shop: Shop, careful: Registry) -> None:
    shop.promote("v1.0.0")
    with pytest.raises(NotTrusted, match="it is unsigned"), follow(careful):
        pass


def test_a_check_of_the_caller_adds_to_that_of_trusted_keys(shop: Shop, careful: Registry, ours: Pair) -> None:
    asked: list[str] = []

    def check(manifest: Manifest) -> None:
        asked.append(manifest.version)
        raise NotTrusted("the caller refuses it")

    shop.promote("v1.0.0")
    with pytest.raises(NotTrusted, match="it is unsigned"), follow(careful, check=check):
        pass
    assert asked == []
    careful.sign("v1.0.0", ours.key)
    with pytest.raises(NotTrusted, match="the caller refuses it"), follow(careful, check=check):
        pass
    assert asked == ["v1.0.0"]


def test_a_replica_refuses_versions_older_than_the_minimum(shop: Shop, careful: Registry, ours: Pair) -> None:
    for name in ("v1.0.0", "v1.1.0"):
        careful.sign(name, ours.key)
        shop.promote(name)
    newer = Registry(settings=replace(careful.settings, minimum_version="v1.1.0"))
    with follow(newer) as live:
        record = shop.rollback()
        assert record.stable
        assert record.stable.version == "v1.0.0"
        wait_until(lambda: live.health().newest == record.generation)
        assert "v1.0.0 is older than v1.1.0" in live.health().error
        assert live.version == "v1.1.0"


def test_a_held_version_is_admitted_by_the_keys_of_now(
    shop: Shop, careful: Registry, ours: Pair, theirs: Pair, proxy: Proxy, tmp_path: Path
) -> None:
    for name in ("v1.0.0", "v1.1.0"):
        careful.sign(name, ours.key)
        shop.promote(name)
    folder = tmp_path / "served"
    assert careful.sidecar("production", folder).once().ready == ("v1.0.0",)
    for kind in ("/blobs/", "/signatures/", "/versions/"):
        proxy.next(answering(403, "AccessDenied"), containing=kind, times=100_000)
    shop.rollback()
    through = Registry(settings=replace(careful.settings, endpoint_url=proxy.url))
    done = through.sidecar("production", folder).once()
    assert (done.version, done.moved, done.written) == ("v1.0.0", True, False)
    proxy.clear()
    with pytest.raises(NotTrusted):
        trusting(through, theirs).sidecar("production", folder).once()
    with pytest.raises(NotTrusted, match="older than"):
        trusting(through, ours, minimum_version="v1.1.0").sidecar("production", folder).once()


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def words(registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    monkeypatch.setenv("ULORA_POLICY", str(write_policy(tmp_path)))
    return ["--model", registry.model]


def test_the_command_signs_and_verify_refuses_or_passes(
    words: list[str], registry: Registry, ours: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULORA_TRUSTED_KEYS", str(ours.trusted))
    unsigned = ulora("verify", "v1.0.0", *words)
    complains(unsigned, 6, "v1.0.0 is not trusted: it is unsigned", str(ours.trusted), "ulora sign v1.0.0")
    assert "--repair" not in unsigned.err
    done = ulora("sign", "v1.0.0", "--key", ours.private, "--json", *words)
    assert Signed(**done.document) == replace(registry.sign("v1.0.0", ours.key), is_new=True)
    assert ulora("verify", "v1.0.0", *words).code == 0
    assert "is signed already by key" in ulora("sign", "v1.0.0", "--key", ours.private, *words).out


def test_a_key_that_can_not_sign_stops_create_before_uploads(
    words: list[str], registry: Registry, tmp_path: Path, ours: Pair
) -> None:
    before = listing(registry)
    done = ulora("create", "v2.0.0", "--from", tmp_path, "--sign-with", ours.trusted, "--offline", *words)
    complains(done, 2, "not a PEM private key")
    assert listing(registry) == before


def test_create_signs_what_it_made(words: list[str], registry: Registry, tmp_path: Path, ours: Pair) -> None:
    create(registry, "v2.0.0", tmp_path / "bundles")
    bundle = tmp_path / "bundles" / "v2.0.0"
    done = ulora("create", "v2.0.0", "--from", bundle, "--sign-with", ours.private, "--offline", *words)
    assert (done.code, "v2.0.0 is signed by key" in done.err) == (0, True)
    assert trusting(registry, ours).trusted_manifest("v2.0.0").version == "v2.0.0"


def test_a_key_file_that_is_missing_is_usage(words: list[str], tmp_path: Path) -> None:
    complains(ulora("sign", "v1.0.0", "--key", tmp_path / "none.pem", *words), 2, "can't be read")
