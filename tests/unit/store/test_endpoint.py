"""Mistakes in the address of the S3 server are named before anything is sent there, and show no password."""

from __future__ import annotations

import pytest

from registry.devstack.s3_server import S3Server
from registry.errors import BadSetting
from registry.store.endpoint import check_endpoint
from registry.store.objects import ObjectStore


@pytest.mark.parametrize(
    ("address", "server"),
    [
        ("http://h:1/bucket", "http://h:1"),
        ("http://h:1/bucket/prefix/", "http://h:1"),
        ("https://user:SECRET@h/storage/v1/bucket", "https://h"),
        ("https://bucket.s3.eu-west-1.amazonaws.com", "https://s3.eu-west-1.amazonaws.com"),
    ],
)
def test_an_endpoint_with_the_bucket_in_it_is_refused(address: str, server: str) -> None:
    with pytest.raises(BadSetting, match="has the bucket 'bucket' in it") as error:
        ObjectStore("s3://bucket/x", endpoint_url=address)
    assert error.value.hint.endswith(f"to {server}")
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_one_in_a_variable_of_aws_is_refused_too(s3: S3Server, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    for name, value in {**s3.env, variable: f"{s3.url}/{s3.bucket}"}.items():
        monkeypatch.setenv(name, value)
    if variable == "AWS_ENDPOINT_URL":
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    with pytest.raises(BadSetting, match="has the bucket"):
        ObjectStore(f"s3://{s3.bucket}/x").get("format.json")


@pytest.mark.parametrize("address", ["127.0.0.1:9000", "htps://h", "s3://h", "http://", "http://h:99999", "http://h /"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(BadSetting, match="is not an address") as error:
        ObjectStore("s3://bucket/x", endpoint_url=address)
    assert "http://HOST:PORT" in error.value.hint


@pytest.mark.parametrize("address", ["http://h:1", "https://x.example.com/storage/v1/s3", "http://bucket.example.com"])
def test_other_paths_and_hosts_are_left_to_the_server(address: str) -> None:
    assert check_endpoint(address, "bucket") == address


def test_a_server_without_tls_is_said_to_have_none(s3: S3Server, s3_env: dict[str, str]) -> None:
    with pytest.raises(BadSetting, match="does not speak TLS") as error:
        ObjectStore(f"s3://{s3.bucket}/x", endpoint_url=s3.url.replace("http:", "https:")).get("format.json")
    assert "http:// instead of https://" in error.value.hint
