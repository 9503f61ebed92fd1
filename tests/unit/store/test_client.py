"""Which URLs are a store, and what errors say of servers, credentials and addresses that do not work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from registry.devstack.s3_server import S3Server
from registry.errors import (
    BadSetting,
    StoreDenied,
    StoreUnreachable,
)
from registry.store.objects import ObjectStore

KEY = "models/m/channels/staging/0999999999999.json"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "bucket/x",
        "s3://",
        "s3:///x",
        "http://bucket",
        "s3://Junk Bucket!/x",
        "s3://a/x",
        "s3://../x",
        "s3://ääää/x",
        "s3://bucket//x",
        "s3://bucket/a/../b",
        "s3://bucket/x//",
        "s3://" + "b" * 64,
        "s3://bucket/a\x01",
        "s3://bucket/a\x7fb",
        "s3://bucket/a\n",
        "s3://bucket/\udcff\udcfe",
    ],
)
def test_a_url_that_is_not_of_s3_is_refused(url: str) -> None:
    with pytest.raises(BadSetting, match="is not a store") as error:
        ObjectStore(url)
    assert "s3://BUCKET/PREFIX" in error.value.hint


@pytest.mark.parametrize(
    "url",
    ["s3://bucket", "s3://bucket/", "s3://bucket/a", "s3://bucket/a/b-c/", "s3://my.b/ä b", "s3://my.b/می\u200cخواهم"],
)
def test_a_store_is_a_bucket_and_a_prefix(url: str) -> None:
    assert ObjectStore(url).url == url.rstrip("/")


def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


def _write_keys(path: Path, keys: dict[str, str], more: str = "") -> None:
    """A file of credentials, as `aws configure` writes it."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    path.write_text("[default]\n" + "".join(f"{name.lower()} = {keys[name]}\n" for name in names) + more)


def _wrong_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")


def _wrong_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")


def _half_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


@pytest.mark.parametrize("spoil", [_no_keys, _wrong_secret, _wrong_key, _half_a_key], ids=lambda act: act.__name__)
def test_credentials_that_are_wrong_or_missing_are_a_refusal(
    store_url: str, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[pytest.MonkeyPatch], None]
) -> None:
    spoil(monkeypatch)
    for act in (
        lambda store: store.get(KEY),
        lambda store: store.head(KEY),
        lambda store: store.first(""),
        lambda store: store.create(KEY, b"x"),
        lambda store: store.initialise(),
    ):
        with pytest.raises(StoreDenied) as error:
            act(ObjectStore(store_url))
        assert store_url in str(error.value)
        assert "credentials" in f"{error.value} {error.value.hint}"


def test_a_profile_that_is_not_there_is_a_bad_setting(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "missing")
    with pytest.raises(BadSetting, match="missing"):
        ObjectStore(store_url).get(KEY)


@pytest.mark.parametrize("name", ["AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_ACCESS_KEY_ID"])
@pytest.mark.parametrize("value", ["horse\n", "ho\r\nrse", "horse\x01", "horse\udcff"])
def test_credentials_that_cant_be_sent_are_named(
    s3_env: dict[str, str], dead_address: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSetting, match=f"^{name} ") as error:
        ObjectStore("s3://bucket/x", endpoint_url=dead_address).get(KEY)
    assert "rse" not in f"{error.value} {error.value.hint}"


def test_a_token_that_is_not_used_is_not_looked_at(
    store_url: str, s3_env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """boto3 takes all from one place."""
    _write_keys(tmp_path / "keys", s3_env)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("AWS_SESSION_TOKEN", "SECRET\n")
    assert ObjectStore(store_url, profile="default").first("") is None
    _no_keys(monkeypatch)
    assert ObjectStore(store_url).first("") is None


def test_a_token_of_a_file_that_cant_be_sent_is_not_shown(
    s3_env: dict[str, str], dead_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _no_keys(monkeypatch)
    _write_keys(tmp_path / "keys", s3_env, "aws_session_token = SECRET\n  SECRET\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    with pytest.raises(BadSetting, match="a header of the request has a line break") as error:
        ObjectStore("s3://bucket/x", endpoint_url=dead_address).get(KEY)
    assert "aws configure list" in error.value.hint
    assert "SECRET" not in f"{error.value}{error.value.hint}"


def test_certificates_that_are_not_there_are_named(
    s3: S3Server, s3_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "/no/such.pem")
    with pytest.raises(StoreUnreachable, match=r"AWS_CA_BUNDLE is /no/such\.pem"):
        ObjectStore("s3://bucket/x", endpoint_url=f"https://127.0.0.1:{s3.port}").get(KEY)


def test_an_invalid_endpoint_is_a_bad_setting(s3_env: dict[str, str]) -> None:
    with pytest.raises(BadSetting, match="not an address"):
        ObjectStore("s3://bucket/x", endpoint_url="not an address").get(KEY)


def test_without_a_server_a_write_is_unreachable_not_unknown(s3_env: dict[str, str], dead_address: str) -> None:
    nowhere = ObjectStore("s3://bucket/x", endpoint_url=dead_address)
    writes = (lambda: nowhere.create(KEY, b"x"), lambda: nowhere.swap(KEY, b"x", '"etag"'))
    for act in (*writes, lambda: nowhere.get(KEY), lambda: nowhere.first("")):
        with pytest.raises(StoreUnreachable, match=r"s3://bucket/x at http://127\.0\.0\.1:\d+ does") as error:
            act()
        assert "ULORA_S3_ENDPOINT" in error.value.hint


def test_a_server_that_is_not_of_s3_is_no_empty_store(s3_env: dict[str, str]) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            store = ObjectStore("s3://nosuchbucket/x", endpoint_url=f"http://127.0.0.1:{server.server_port}")
            with pytest.raises(StoreUnreachable, match=r"not an answer of S3 \(404\)") as error:
                store.first("")
        finally:
            server.shutdown()
    assert "without a bucket" in error.value.hint


def test_an_sso_session_that_ended_is_begun_anew(
    s3: S3Server, s3_env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _no_keys(monkeypatch)
    (tmp_path / "config").write_text(
        "[profile work]\nsso_session=s\nsso_account_id=111122223333\nsso_role_name=x\n"
        "[sso-session s]\nsso_start_url=https://x.invalid/start\nsso_region=us-east-1\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    with pytest.raises(StoreDenied, match="SSO session of the profile work has ended") as error:
        ObjectStore(f"s3://{s3.bucket}/x").get(KEY)
    assert "aws sso login --profile work" in error.value.hint


def test_the_password_of_an_endpoint_is_not_shown(s3_env: dict[str, str], dead_address: str) -> None:
    address = dead_address.replace("://", "://user:SECRET@")
    with pytest.raises(StoreUnreachable, match="Connection refused") as error:
        ObjectStore("s3://bucket/x", endpoint_url=address).get(KEY)
    assert "SECRET" not in f"{error.value}{error.value.hint}"
    with pytest.raises(BadSetting) as refused:
        ObjectStore("s3://user:SECRET@bucket/x")
    assert "SECRET" not in str(refused.value)
