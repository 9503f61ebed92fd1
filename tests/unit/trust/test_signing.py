"""Signatures: only those of a trusted key on exactly these bytes are accepted."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_signing import hashing, signing

from registry.errors import BadInput, BadSetting, MissingDependency, NotTrusted
from registry.trust.keys import SigningKey, TrustedKey
from registry.trust.signing import Trust, is_signed_by
from tests.support.signing_keys import Pair, certified, key_pair, rsa_pair

MANIFEST = b'{"version":"v1.0.0"}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def ours(folder: Path) -> Pair:
    return key_pair(folder, "ours")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Pair:
    return key_pair(folder, "theirs")


@pytest.fixture(scope="module")
def signature(ours: Pair) -> bytes:
    return ours.key.sign(MANIFEST)


def trusts(trusted: list[Path], manifest: bytes, *signatures: bytes) -> bool:
    try:
        Trust(trusted).check(manifest, signatures, "v1.0.0")
    except NotTrusted:
        return False
    return True


def changed(signature: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    bundle = json.loads(signature)
    change(bundle)
    return json.dumps(bundle).encode()


def restated(signature: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """A bundle whose statement is another, with the signature of the first."""

    def restate(bundle: dict[str, Any]) -> None:
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        change(statement)
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()

    return changed(signature, restate)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_a_version_signed_by_a_trusted_key_is_trusted(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    pair = key_pair(tmp_path, "release", curve)
    by = Trust([pair.trusted]).check(MANIFEST, [pair.key.sign(MANIFEST)], "v1.0.0")
    assert (by.name, by.kind) == (str(pair.trusted), "public key")


def test_one_valid_signature_and_one_trusted_key_are_enough(ours: Pair, theirs: Pair, signature: bytes) -> None:
    assert trusts([theirs.trusted, ours.trusted], MANIFEST, b"", b"{}", theirs.key.sign(b"other"), signature)


def test_unsigned_versions_are_refused_naming_the_trusted_keys(ours: Pair, theirs: Pair, signature: bytes) -> None:
    for signatures, says in (([], "it is unsigned"), ([theirs.key.sign(MANIFEST)], "none by a trusted key")):
        with pytest.raises(NotTrusted, match=says) as refused:
            Trust([ours.trusted]).check(MANIFEST, signatures, "v1.0.0")
        assert str(ours.trusted) in str(refused.value)
        assert TrustedKey.read(ours.trusted).fingerprint[:12] in str(refused.value)
        assert "ulora sign v1.0.0" in refused.value.hint
    assert not trusts([theirs.trusted], MANIFEST, signature)


def test_a_signature_is_valid_for_exactly_these_bytes(ours: Pair, signature: bytes) -> None:
    assert trusts([ours.trusted], MANIFEST, signature)
    assert not trusts([ours.trusted], MANIFEST + b" ", signature)
    assert not trusts([ours.trusted], b"", signature)


@pytest.mark.parametrize(
    "change",
    [
        lambda bundle: bundle.update(mediaType="application/other"),
        lambda bundle: bundle["verificationMaterial"]["publicKey"].pop("hint"),
        lambda bundle: bundle["verificationMaterial"]["publicKey"].update(hint="0" * 64),
        lambda bundle: bundle["verificationMaterial"].pop("publicKey"),
        lambda bundle: bundle["verificationMaterial"].update(publicKey=[]),
        lambda bundle: bundle.update(verificationMaterial=[]),
        lambda bundle: bundle["dsseEnvelope"].update(signatures=[]),
        lambda bundle: bundle["dsseEnvelope"].update(payloadType="text/plain"),
        lambda bundle: bundle["dsseEnvelope"]["signatures"][0].update(sig="AAAA"),
        lambda bundle: bundle["dsseEnvelope"]["signatures"].append(bundle["dsseEnvelope"]["signatures"][0]),
        lambda bundle: bundle.update(dsse_envelope=bundle["dsseEnvelope"]),
        lambda bundle: bundle.pop("dsseEnvelope"),
    ],
)
def test_a_bundle_with_other_fields_is_ignored(
    ours: Pair, signature: bytes, change: Callable[[dict[str, Any]], None]
) -> None:
    assert not trusts([ours.trusted], MANIFEST, changed(signature, change))


def test_a_statement_changed_after_signing_is_ignored(ours: Pair, signature: bytes) -> None:
    assert not trusts([ours.trusted], MANIFEST, restated(signature, lambda statement: statement.update(extra=1)))


def test_a_signed_statement_without_the_manifest_is_ignored(ours: Pair, tmp_path: Path) -> None:
    # A key that also signs folders of models, some of whose files it was told to leave out.
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "version.json").write_bytes(b"{}")
    leaves_out = hashing.Config().set_ignored_paths(paths=[".", "version.json"])
    config = signing.Config().use_elliptic_key_signer(private_key=ours.private).set_hashing_config(leaves_out)
    config.sign(folder, tmp_path / "signature.json")
    assert not trusts([ours.trusted], MANIFEST, (tmp_path / "signature.json").read_bytes())


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_byte_neither_crashes_nor_trusts_other_bytes(
    ours: Pair, signature: bytes, position: int, value: int
) -> None:
    damaged = bytearray(signature)
    damaged[position % len(damaged)] = value
    assert not trusts([ours.trusted], b"other bytes", bytes(damaged))
    trusts([ours.trusted], MANIFEST, bytes(damaged))


@settings(max_examples=50)
@given(st.binary(max_size=200) | st.just(b'{"a":' * 10_000))
def test_invalid_bytes_are_not_a_signature(ours: Pair, garbage: bytes) -> None:
    assert not trusts([ours.trusted], MANIFEST, garbage)


# --- certificates ----------------------------------------------------------------------------------------------------


def test_a_certificate_of_a_trusted_authority_is_accepted(tmp_path: Path, ours: Pair) -> None:
    one, other = certified(tmp_path, "one"), certified(tmp_path, "other")
    signature = one.key.sign(MANIFEST)
    assert trusts([ours.trusted, one.trusted], MANIFEST, signature)
    assert not trusts([other.trusted], MANIFEST, signature)
    assert not trusts([one.trusted], MANIFEST + b" ", signature)
    assert not trusts([ours.trusted], MANIFEST, signature)


def test_a_certificate_that_may_not_sign_does_not(tmp_path: Path) -> None:
    pair = certified(tmp_path, "web", may_sign=False)
    assert not trusts([pair.trusted], MANIFEST, pair.key.sign(MANIFEST))


def test_a_certificate_of_another_key_is_refused_when_signing(tmp_path: Path) -> None:
    one, other = certified(tmp_path, "one"), certified(tmp_path, "other")
    with pytest.raises(BadInput, match="does not match"):
        SigningKey(one.private, other.certificate).sign(MANIFEST)
    with pytest.raises(BadInput, match="a certificate chain needs"):
        SigningKey(one.private, chain=(one.trusted,))


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "neither a PEM public key"),
        (b"\x00" * 300_000, "larger than"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "not an elliptic-curve public key"),
    ],
)
def test_a_file_that_is_not_a_key_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(BadSetting, match=says):
        TrustedKey.read(path)


def test_files_that_are_not_trusted_keys_are_refused(tmp_path: Path, ours: Pair) -> None:
    with pytest.raises(BadSetting, match="is a private key"):
        TrustedKey.read(ours.private)
    with pytest.raises(BadSetting, match="not an elliptic-curve public key"):
        TrustedKey.read(rsa_pair(tmp_path).trusted)
    with pytest.raises(BadSetting, match="secp256k1"):
        TrustedKey.read(key_pair(tmp_path, "coin", ec.SECP256K1()).trusted)
    with pytest.raises(BadSetting, match="can't be read"):
        Trust([tmp_path / "nothing.pem"]).check(MANIFEST, [], "v1.0.0")
    with pytest.raises(BadSetting, match="trusted_keys is empty"):
        Trust([])


def test_an_encrypted_key_signs_with_its_password_only(tmp_path: Path) -> None:
    pair = key_pair(tmp_path, "secret", password=b"open sesame")
    assert trusts([pair.trusted], MANIFEST, SigningKey(pair.private, password="open sesame").sign(MANIFEST))
    for password in (None, "wrong"):
        with pytest.raises(BadInput, match=r"encrypted|wrong password"):
            SigningKey(pair.private, password=password).public_key()
    assert "sesame" not in repr(SigningKey(pair.private, password="open sesame"))


def test_a_key_that_can_not_sign_is_refused(tmp_path: Path, ours: Pair) -> None:
    for path, says in ((rsa_pair(tmp_path).private, "not an elliptic-curve"), (ours.trusted, "not a PEM private key")):
        with pytest.raises(BadInput, match=says):
            SigningKey(path).public_key()


def test_a_private_key_readable_by_everybody_gives_a_warning(tmp_path: Path) -> None:
    pair = key_pair(tmp_path, "open")
    pair.private.chmod(0o644)
    with pytest.warns(UserWarning, match="can be read by every user"):
        pair.key.public_key()


def test_a_signature_names_its_key_as_other_tools_do(ours: Pair, signature: bytes) -> None:
    named = json.loads(signature)["verificationMaterial"]["publicKey"]["hint"]
    assert named == TrustedKey.read(ours.trusted).fingerprint == ours.key.public_key().fingerprint
    assert is_signed_by(ours.key.public_key(), MANIFEST, signature)


def test_without_the_library_nothing_is_trusted(ours: Pair, signature: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "model_signing", None)
    with pytest.raises(MissingDependency, match="model-signing"):
        Trust([ours.trusted]).check(MANIFEST, [signature], "v1.0.0")
