"""Credentials for an OCI registry that no header can hold: an error that does not show them, and nothing is sent."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from registry.errors import BadSetting, OciDenied, OciUnreachable, UloraError
from registry.oci.credentials import PASSWORD, USERNAME, OciCredentials
from registry.oci.reference import OciReference
from registry.oci.session import OciSession
from tests.servers.loopback import Loopback

BASIC = base64.b64encode(b"robot:correct horse battery staple, and more of it").decode()


class Asking(BaseHTTPRequestHandler):
    """Asks for credentials as `challenge` says, and is its own token server."""

    challenge = ""
    token = ""
    given: list[str]

    def do_GET(self) -> None:
        self.given.append(self.headers.get("Authorization", ""))
        body = json.dumps({"token": self.token}).encode() if self.path.startswith("/token") else b""
        self.send_response(200 if body else 401)
        self.send_header("WWW-Authenticate", self.challenge)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (USERNAME, PASSWORD):
        monkeypatch.delenv(name, raising=False)
    Asking.given = []
    with Loopback(Asking) as loopback:
        yield loopback


def log_in(registry: Loopback, auth: str) -> None:
    """Write docker's configuration."""
    folder = Path("~/.docker").expanduser()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"auths": {f"127.0.0.1:{registry.port}": {"auth": auth}}}))


def asked(registry: Loopback, kind: type[UloraError]) -> str:
    """What is said where a registry is asked for a manifest."""
    with pytest.raises(kind) as raised:
        OciSession(
            OciReference.parse(f"oci://127.0.0.1:{registry.port}/plants/x"), OciCredentials.from_environment()
        ).ask("GET", "/v2/plants/x/manifests/v1.0.0")
    return f"{raised.value} {raised.value.hint}"


def challenge(registry: Loopback, kind: str) -> str:
    return 'Basic realm="x"' if kind == "Basic" else f'Bearer realm="{registry.url}/token",service="s"'


@pytest.mark.parametrize("kind", ["Basic", "Bearer"])
@pytest.mark.parametrize(
    ("auth", "problem"),
    [
        (f"{BASIC}\n", "ends with a line break"), (f"{BASIC[:30]}\n{BASIC[30:]}", "has a line break in it"),
        (f"{BASIC}\u0151", "is not ASCII"),
    ],
)  # fmt: skip
def test_what_docker_has_is_named_and_not_shown(
    registry: Loopback, monkeypatch: pytest.MonkeyPatch, kind: str, auth: str, problem: str
) -> None:
    monkeypatch.setattr(Asking, "challenge", challenge(registry, kind))
    log_in(registry, auth)
    said = asked(registry, BadSetting)
    assert f"the `auth` of 127.0.0.1:{registry.port} in ~/.docker/config.json" in said
    assert problem in said
    assert BASIC[:10] not in said
    assert Asking.given == []


def test_good_credentials_of_docker_are_sent(registry: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Asking, "challenge", challenge(registry, "Basic"))
    log_in(registry, BASIC)
    asked(registry, OciDenied)
    assert Asking.given == ["", f"Basic {BASIC}"]


@pytest.mark.parametrize(
    ("name", "value"), [(PASSWORD, "SECRET\n"), (PASSWORD, "SECRET\udcff"), (USERNAME, "SECRET\r")]
)
def test_a_variable_is_named_and_not_shown(
    registry: Loopback, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(USERNAME, "robot")
    monkeypatch.setenv(PASSWORD, "horse")
    monkeypatch.setenv(name, value)
    said = asked(registry, BadSetting)
    assert name in said
    assert "SECRET" not in said


@pytest.mark.parametrize("token", ["SECRET\n", "SEC\r\nRET", "SECRET\xe9", "SECRET\u0151"])
def test_a_token_of_a_token_server_is_not_shown(
    registry: Loopback, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setattr(Asking, "challenge", challenge(registry, "Bearer"))
    monkeypatch.setattr(Asking, "token", token)
    said = asked(registry, OciUnreachable)
    assert "its token server's answer is a token that" in said
    assert "SEC" not in said


def test_what_requests_says_of_a_header_is_cut(registry: Loopback) -> None:
    """Should one that can't be sent come from elsewhere."""
    session = OciSession(OciReference.parse(f"oci://127.0.0.1:{registry.port}/plants/x"), OciCredentials())
    session._authorization = "Bearer SECRET\n"
    with pytest.raises(OciUnreachable, match=r"in header value \(not shown\)"):
        session.upload("/v2/plants/x/blobs/uploads/1", lambda: b"", 0)
