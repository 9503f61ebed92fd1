"""An OCI registry that lies, stalls, sends without end or leads elsewhere: a clear error, and nothing is bound."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from registry.api import Registry
from registry.errors import (
    BadManifest,
    CorruptBlob,
    MissingBlob,
    OciDenied,
    OciUnreachable,
    Overwritten,
    UloraError,
    UnsafePath,
)
from registry.formats import canonical
from registry.oci import attached, session
from registry.oci import documents as oci
from registry.retention.copy import Copied
from registry.store import layout
from tests.servers.loopback import Loopback
from tests.servers.oci_registry import OciRegistryServer, needs_program
from tests.servers.proxy import Exchange, Proxy, Reply, cut_body, drip_body, drip_headers
from tests.support.store_with_clock import open_calendar, release

pytestmark = needs_program
V1 = "v1.0.0"
SECRET = "correct horse"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OciRegistryServer]:
    """A registry that asks nobody for a password."""
    started = OciRegistryServer(tmp_path_factory.mktemp("oci"))
    try:
        yield started.start()
    finally:
        started.kill()


@pytest.fixture
def door(server: OciRegistryServer) -> Iterator[Proxy]:
    """What lies: a proxy in front of it."""
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def here(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A store that holds v1.0.0 of two files."""
    monkeypatch.setenv("HOME", str(tmp_path))
    registry = _registry(tmp_path / "here", store_url, model)
    release(registry, V1, b"one", b"two")
    return registry


@pytest.fixture
def there(here: Registry, tmp_path: Path) -> Registry:
    """Another store, which holds nothing yet."""
    return _registry(tmp_path / "there", f"{here.settings.store}-there", here.model)


def _registry(folder: Path, store: str, model: str) -> Registry:
    registry, calendar = open_calendar(folder, store, model)
    calendar.initialise()
    registry.wiring.check_writable()
    return registry


def place_of(registry: Registry, door: Proxy) -> str:
    return f"oci://{door.url.removeprefix('http://')}/plants/{registry.model}"


def refuses(there: Registry, act: Callable[[], Copied], error: type[UloraError], *says: str) -> None:
    """Check that a copy ends with this error, and binds nothing."""
    with pytest.raises(error) as raised:
        act()
    for word in says:
        assert word in str(raised.value)
    assert SECRET not in f"{raised.value} {raised.value.hint}"
    assert there.store.head(layout.version(there.model, V1)) is None


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Exchange], None]:
    """Give the client a manifest that was changed on the way."""

    def answer(exchange: Exchange) -> None:
        reply = exchange.forward()
        document = json.loads(reply.body)
        change(document)
        exchange.send(Reply(reply.status, reply.headers, canonical.encode(document)))

    return answer


def bodies(body: bytes) -> Callable[[Exchange], None]:
    """Give the client another body."""
    return lambda exchange: exchange.send(Reply(200, [("Content-Type", oci.MANIFEST_TYPE)], body))


def endless(exchange: Exchange) -> None:
    """Give the client a body that never ends."""
    exchange._handler.send_response(200)
    exchange._handler.send_header("Content-Type", oci.MANIFEST_TYPE)
    exchange._handler.end_headers()
    exchange.close()
    try:
        while True:
            exchange.write(b" " * 65536)
    except OSError:
        return


def leave(path: str) -> Callable[[dict[str, Any]], object]:
    """Let a file's title lead out of its folder."""
    return lambda document: document["layers"][0]["annotations"].update({oci.TITLE: path})


def swap_digests(document: dict[str, Any]) -> None:
    """Let two files have each other's bytes."""
    first, second = document["layers"][:2]
    first["digest"], second["digest"] = second["digest"], first["digest"]


def one_more(document: dict[str, Any]) -> None:
    """Add a layer that version.json does not have."""
    extra = {**document["layers"][0], "annotations": {oci.TITLE: "run.sh", oci.FILE_PATH: "run.sh"}}
    document["layers"].append(extra)


MANIFEST_LIES = {
    "a path that leaves its folder": (changed(leave("../../.ssh/authorized_keys")), UnsafePath, "can't be in a folder"),
    "an absolute path": (changed(leave("/etc/passwd")), UnsafePath, "not relative"),
    "files exchanged": (changed(swap_digests), BadManifest, "not what its version.json says"),
    "a file more": (changed(one_more), BadManifest, "1 other layer"),
    "a file less": (changed(lambda document: document["layers"].pop(0)), BadManifest, "1 file missing"),
    "too many layers": (
        changed(lambda document: document.update(layers=[{"mediaType": "x", "digest": "y", "size": 1}] * 30_000)),
        BadManifest, "layers",
    ),
    "a huge annotation": (
        changed(lambda document: document["annotations"].update(x="y" * 100_000)), BadManifest, "annotations",
    ),
    "a huge manifest": (bodies(b" " * (5 * 1024 * 1024)), OciUnreachable, "more than"),
    "a manifest without end": (endless, OciUnreachable, "more than"),
    "no JSON": (bodies(b"<html>log in</html>"), BadManifest, "not valid JSON"),
    "an index": (
        bodies(b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'),
        BadManifest, "no OCI image manifest",
    ),
    "a size that no file has": (
        changed(lambda document: [layer.update(size=-1) for layer in document["layers"]]), BadManifest, "size",
    ),
}  # fmt: skip


def test_a_manifest_that_lies_binds_nothing(here: Registry, there: Registry, door: Proxy) -> None:
    place = place_of(here, door)
    here.copy_to(V1, place)
    for fault, error, words in MANIFEST_LIES.values():
        door.next(fault, method="GET", containing=f"/manifests/{V1}")
        refuses(there, lambda: there.copy_from(V1, place), error, words)
    assert there.copy_from(V1, place).is_new


def flipped(exchange: Exchange) -> None:
    """Give the client bytes with one changed."""
    reply = exchange.forward()
    exchange.send(Reply(reply.status, reply.headers, bytes([reply.body[0] ^ 1]) + reply.body[1:]))


def test_bytes_that_lie_bind_nothing(here: Registry, there: Registry, door: Proxy) -> None:
    place = place_of(here, door)
    digest = here.copy_to(V1, place).digest
    files = {file.path: file.sha256 for file in here.manifest(V1).files}
    version = canonical.sha256(here.manifest(V1).to_bytes())
    pinned = f"{place}@{digest}"
    lies: list[tuple[str, Callable[[Exchange], None], type[UloraError], str]] = [
        (f"/manifests/{digest}", changed(leave("x")), CorruptBlob, digest),
        (version, flipped, CorruptBlob, version),
        (version, endless, OciUnreachable, "sends more than"),
        (files["config/0"], flipped, CorruptBlob, files["config/0"]),
        (files["config/0"], endless, OciUnreachable, "sends more than"),
        (files["config/0"], cut_body, OciUnreachable, "does not answer"),
        (files["config/0"], lambda exchange: exchange.send(Reply(404, [], b"")), MissingBlob, files["config/0"]),
        (files["config/0"], lambda exchange: exchange.send(Reply(200, [], b"")), CorruptBlob, files["config/0"]),
    ]
    for containing, fault, error, words in lies:
        door.next(fault, method="GET", containing=containing)
        refuses(there, lambda: there.copy_from(V1, pinned), error, words)
        door.clear()
    assert there.copy_from(V1, pinned).is_new


@pytest.mark.acceptance
@pytest.mark.parametrize("drip", [drip_headers, drip_body])
def test_a_registry_that_drips_is_given_up(
    here: Registry, there: Registry, door: Proxy, monkeypatch: pytest.MonkeyPatch, drip: Callable[[Exchange], None]
) -> None:
    here.copy_to(V1, place_of(here, door))
    monkeypatch.setattr(session, "SECONDS", 0.5)
    door.next(drip, method="GET", containing="/manifests/", times=10)
    refuses(there, lambda: there.copy_from(V1, place_of(here, door)), OciUnreachable, "took longer than")


def page_after_page(exchange: Exchange) -> None:
    """List one more referrer, and say that there are others."""
    last = int(exchange.path.partition("?last=")[2] or 0)
    entry = {"mediaType": oci.MANIFEST_TYPE, "digest": f"sha256:{last:064x}", "size": 2}
    page = {"schemaVersion": 2, "mediaType": oci.INDEX_TYPE, "manifests": [entry]}
    link = f'<{exchange.path.partition("?")[0]}?last={last + 1}>; rel="next"'
    exchange.send(Reply(200, [("Content-Type", oci.INDEX_TYPE), ("Link", link)], canonical.encode(page)))


def test_a_list_without_end_ends_a_push(here: Registry, door: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attached, "SECONDS", 0.5)
    door.next(page_after_page, method="GET", containing="/referrers/", times=10_000)
    with pytest.raises(OciUnreachable, match="took longer than"):
        here.copy_to(V1, place_of(here, door))


class Elsewhere(Loopback):
    """Another host, which notes the credentials that reach it, and gives what it is told to give."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.seen: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.seen.append((self.path, self.headers.get("Authorization")))
                body = outer.bodies.get(self.path.partition("?")[0], b"{}")
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_PUT = do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Print nothing."""

        super().__init__(Handler)


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    with Elsewhere() as host:
        yield host


@pytest.fixture
def password(monkeypatch: pytest.MonkeyPatch) -> str:
    """Credentials for the registry; how they are sent."""
    monkeypatch.setenv("ULORA_OCI_USERNAME", "ann")
    monkeypatch.setenv("ULORA_OCI_PASSWORD", SECRET)
    return "Basic " + base64.b64encode(f"ann:{SECRET}".encode()).decode()


def asks(exchange: Exchange) -> None:
    """Ask for a password where there is none; the server behind does not look at it."""
    given = exchange._handler.headers.get("Authorization")
    exchange.send(exchange.forward() if given else Reply(401, [("WWW-Authenticate", 'Basic realm="x"')], b""))


def to(url: str, status: int = 307) -> Callable[[Exchange], None]:
    """Lead the client elsewhere."""
    return lambda exchange: exchange.send(Reply(status, [("Location", url)], b""))


def test_credentials_stay_with_the_registry(
    here: Registry, there: Registry, door: Proxy, elsewhere: Elsewhere, password: str
) -> None:
    """Files may be elsewhere, as in S3 behind a registry: they are read there, without the password."""
    place, file = place_of(here, door), here.manifest(V1).files[0]
    here.copy_to(V1, place)
    door.next(to(f"{elsewhere.url}/file?signed=1"), method="GET", containing=file.sha256)
    door.next(asks, times=10_000)
    elsewhere.bodies["/file"] = b"one"
    assert there.copy_from(V1, place).is_new
    assert elsewhere.seen == [("/file?signed=1", None)]


def test_nothing_is_uploaded_elsewhere(
    here: Registry, there: Registry, door: Proxy, elsewhere: Elsewhere, password: str
) -> None:
    place = place_of(here, door)
    for fault in (to(f"{elsewhere.url}/upload", 202), to(f"{elsewhere.url}/upload")):
        door.next(fault, method="POST", containing="/blobs/uploads/", times=100)
        door.next(asks, times=10_000)
        refuses(there, lambda: here.copy_to(V1, place), OciUnreachable, "/upload")
        door.clear()
    assert elsewhere.seen == []


def test_nothing_is_sent_without_tls_to_others(
    here: Registry, there: Registry, door: Proxy, elsewhere: Elsewhere, password: str
) -> None:
    place = place_of(here, door)
    here.copy_to(V1, place)
    bearer = Reply(401, [("WWW-Authenticate", 'Bearer realm="http://tokens.example/t",service="x"')], b"")
    for fault in (to("http://files.example/x"), lambda exchange: exchange.send(bearer)):
        door.next(fault, method="GET", containing=f"/manifests/{V1}", times=10)
        refuses(there, lambda: there.copy_from(V1, place), OciUnreachable, "has no TLS")
        door.clear()


@pytest.mark.acceptance
def test_a_token_server_may_be_elsewhere(
    here: Registry, there: Registry, door: Proxy, elsewhere: Elsewhere, password: str
) -> None:
    """As in the distribution specification: it gets the password, the registry the token."""
    place = place_of(here, door)
    here.copy_to(V1, place)
    given: list[str | None] = []
    wanted = f'Bearer realm="{elsewhere.url}/token",service="plants",scope="repository:plants:pull"'

    def asks_for_token(exchange: Exchange) -> None:
        given.append(exchange._handler.headers.get("Authorization"))
        known = given[-1] == "Bearer abc"
        exchange.send(exchange.forward() if known else Reply(401, [("WWW-Authenticate", wanted)], b""))

    elsewhere.bodies["/token"] = b'{"token":"abc"}'
    door.next(asks_for_token, times=10_000)
    assert there.copy_from(V1, place).is_new
    assert elsewhere.seen == [("/token?service=plants&scope=repository%3Aplants%3Apull", password)]
    assert set(given) == {None, "Bearer abc"}


@pytest.mark.acceptance
@pytest.mark.parametrize("token", [b"[]", b"no JSON", b"{}", b'{"token":"abc"}', b'{"token":"abc\\n"}'])
def test_a_token_that_is_none_or_never_enough(
    here: Registry, there: Registry, door: Proxy, elsewhere: Elsewhere, password: str, token: bytes
) -> None:
    elsewhere.bodies["/token"] = token
    wanted = Reply(401, [("WWW-Authenticate", f'Bearer realm="{elsewhere.url}/token"')], b"")
    door.next(lambda exchange: exchange.send(wanted), times=10_000)
    with pytest.raises((OciDenied, OciUnreachable)) as raised:
        there.copy_from(V1, place_of(here, door))
    assert "abc" not in str(raised.value)
    assert len(elsewhere.seen) <= 3 * 3


@pytest.mark.acceptance
def test_a_tag_that_moves_under_a_push_is_told(here: Registry, there: Registry, door: Proxy) -> None:
    """The registry takes the tag, and then has another one there."""
    place = place_of(here, door)
    other = canonical.encode({"schemaVersion": 2, "mediaType": oci.MANIFEST_TYPE})
    tag = f"/manifests/{V1}"

    def put(exchange: Exchange) -> None:
        exchange.send(exchange.forward())
        door.next(bodies(other), method="GET", containing=tag)

    door.next(put, method="PUT", containing=tag)
    with pytest.raises(Overwritten, match="another writer came"):
        here.copy_to(V1, place)
    assert not here.copy_to(V1, place).is_new
