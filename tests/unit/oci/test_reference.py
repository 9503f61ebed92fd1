"""Where a version is in an OCI registry, as people write it."""

from __future__ import annotations

import pytest

from registry.errors import BadInput
from registry.oci.reference import OciReference, is_loopback, is_oci

DIGEST = f"sha256:{'0a' * 32}"


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        ("oci://ghcr.io/plants/aads-ulora", "ghcr.io", "plants/aads-ulora", "", ""),
        ("oci://localhost:5000/a:v1.0.0", "localhost:5000", "a", "v1.0.0", ""),
        (f"oci://[::1]:5000/a/b_c__d/e.f@{DIGEST}", "[::1]:5000", "a/b_c__d/e.f", "", DIGEST),
        (f"oci://r.example/a:t@{DIGEST}", "r.example", "a", "t", DIGEST),
    ],
)
def test_a_reference_is_taken_apart(text: str, registry: str, repository: str, tag: str, digest: str) -> None:
    found = OciReference.parse(text)
    assert (found.registry, found.repository, found.tag, found.digest) == (registry, repository, tag, digest)


@pytest.mark.parametrize(
    "text",
    [
        "oci:ghcr.io/a", "oci://ghcr.io", "oci://ghcr.io/", "oci:///a", "oci://ghcr.io/A", "oci://ghcr.io/a/../b",
        "oci://ghcr.io/a:", "oci://ghcr.io/a:b/c", "oci://ghcr.io/a:.b", f"oci://ghcr.io/a:{'b' * 129}",
        "oci://ghcr.io/a@sha256:00", "oci://ghcr.io/a@md5:00", f"oci://ghcr.io/a@{DIGEST}x", "oci://ghcr.io/a?b",
        "oci://ghcr.io/a#b", "oci://ghcr.io/a b", "oci://ghcr.io/a\r\nHost: b", f"oci://ghcr.io/{'a' * 256}",
        "oci://gh\u0456cr.io/a", "OCI://ghcr.io/a",
    ],
)  # fmt: skip
def test_what_is_no_reference_is_refused(text: str) -> None:
    assert is_oci(text)
    with pytest.raises(BadInput):
        OciReference.parse(text)


def test_a_password_in_a_reference_is_refused_and_not_repeated() -> None:
    with pytest.raises(BadInput) as raised:
        OciReference.parse("oci://ann:horse@ghcr.io/a")
    assert "horse" not in str(raised.value)
    assert "ULORA_OCI_PASSWORD" in raised.value.hint


@pytest.mark.parametrize(
    ("registry", "is_near"),
    [
        ("localhost", True), ("LOCALHOST:5000", True), ("127.0.0.1", True), ("127.9.9.9:80", True),
        ("[::1]:5000", True),
        ("[::1]", True), ("localhost.example.com", False), ("127.0.0.1.example.com", False), ("10.0.0.1:5000", False),
        ("registry:5000", False), ("0.0.0.0:5000", False),
    ],
)  # fmt: skip
def test_only_this_machine_is_reached_without_tls(registry: str, is_near: bool) -> None:
    assert is_loopback(registry) is is_near
    if not registry.startswith("["):
        assert OciReference.parse(f"oci://{registry.lower()}/a").is_plain is is_near
    scheme = "http" if is_near else "https"
    assert OciReference.parse(f"oci://{registry}/a").origin == f"{scheme}://{registry}"


@pytest.mark.parametrize(("plain_http", "scheme"), [(True, "http"), (False, "https")])
def test_a_choice_counts_more_than_the_host(plain_http: bool, scheme: str) -> None:
    for host in ("localhost", "r.example"):
        assert OciReference.parse(f"oci://{host}/a", plain_http=plain_http).origin == f"{scheme}://{host}"


def test_the_tag_is_the_version_if_none_is_given() -> None:
    assert str(OciReference.parse("oci://r.example/a").with_tag("v1.0.0")) == "oci://r.example/a:v1.0.0"
    assert str(OciReference.parse("oci://r.example/a:b").with_tag("v1.0.0")) == "oci://r.example/a:b"
    pinned = OciReference.parse(f"oci://r.example/a:b@{DIGEST}")
    assert pinned.wanted == DIGEST
