"""Where a version is in an OCI registry: `oci://REGISTRY/REPO[:TAG][@DIGEST]`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Self

from registry.errors import BadInput
from registry.formats.addresses import without_password

SCHEME = "oci:"
MAX_TAG = 128
"""Characters, by the distribution specification."""
_MAX_REPOSITORY = 255
_TAG = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9._-]{{0,{MAX_TAG - 1}}}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_REFERENCE = re.compile(
    r"oci://(?P<registry>(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?)"
    r"/(?P<repository>[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[^:@/]+))?(?:@(?P<digest>.+))?"
)
"""The grammar of the distribution specification, 1.1."""


def is_oci(place: str) -> bool:
    """Whether this text names an OCI registry."""
    return place.lower().startswith(SCHEME)


def is_tag(text: str) -> bool:
    """Whether this can be a tag."""
    return _TAG.fullmatch(text) is not None


@dataclass(frozen=True)
class OciReference:
    """A repository of a registry, and what is meant in it.

    Attributes:
        registry: host and port.
        tag: empty if none was given.
        digest: `sha256:…` of a manifest, or empty.
        is_plain: it is reached over HTTP, without TLS.
    """

    registry: str
    repository: str
    tag: str
    digest: str
    is_plain: bool

    @classmethod
    def parse(cls, text: str, *, plain_http: bool | None = None) -> Self:
        """Read a reference.

        Args:
            plain_http: HTTP instead of HTTPS; if None, for a registry on this machine only.

        Raises:
            BadInput: it has another form; the message does not repeat a password in it.
        """
        match = _REFERENCE.fullmatch(text)
        if match is None or len(match["repository"]) > _MAX_REPOSITORY:
            raise _bad(text, "is not of the form oci://REGISTRY/REPO:TAG")
        registry, repository, tag, digest = (match[name] or "" for name in ("registry", "repository", "tag", "digest"))
        if tag and not is_tag(tag):
            raise _bad(text, "has a tag that no registry takes")
        if digest and not _DIGEST.fullmatch(digest):
            raise _bad(text, "has a digest that is not sha256: and 64 hex digits")
        is_plain = is_loopback(registry) if plain_http is None else plain_http
        return cls(registry, repository, tag, digest, is_plain)

    def with_tag(self, tag: str) -> Self:
        """The same with a tag if none was given.

        Raises:
            BadInput: it can't be one.
        """
        if self.tag:
            return self
        if not is_tag(tag):
            raise BadInput(f"{tag!r} can't be a tag", hint="give one: oci://REGISTRY/REPO:TAG")
        return replace(self, tag=tag)

    @property
    def origin(self) -> str:
        """The address of the registry."""
        return f"{'http' if self.is_plain else 'https'}://{self.registry}"

    @property
    def wanted(self) -> str:
        """What names the manifest: the digest if there is one."""
        return self.digest or self.tag

    def __str__(self) -> str:
        return f"oci://{self.registry}/{self.repository}" + (f"@{self.digest}" if self.digest else f":{self.tag}")


def is_loopback(registry: str) -> bool:
    """Whether a host, with or without a port, is this machine by its spelling. No name is looked up."""
    host = registry.rpartition(":")[0] if re.search(r":[0-9]+$", registry) and registry[-1] != "]" else registry
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _bad(text: str, problem: str) -> BadInput:
    return BadInput(
        f"{without_password(text)[:200]!r} {problem}",
        hint="for example oci://oci.example.com/plants/aads-ulora:v5.5.4-dinov3; a registry's user and password "
        "come from `docker login`, or ULORA_OCI_USERNAME and ULORA_OCI_PASSWORD",
    )
