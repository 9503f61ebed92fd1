"""A version copied through a real OCI registry: whole, verified, tagged last; and what others pull from there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import oras.client
import pytest
import trustme

from adapters.backbone.locate import TINY
from registry.api import Registry
from registry.errors import OciDenied, OciUnreachable, VersionExists, VersionNotFound
from registry.formats.canonical import sha256
from registry.machine.clock import timestamp
from registry.oci import documents as oci
from registry.oci.repository import fallback_tag
from registry.store import layout
from registry.usecases.options import CopyOptions
from registry.versions.backbones import MirroredBackbone
from tests.servers.oci_registry import OciRegistryServer, htpasswd, needs_program
from tests.servers.proxy import Exchange, Proxy, Reply, cut_request
from tests.support.pages import ROOT, blocks
from tests.support.registries import create, listing, open_registry
from tests.support.run_ulora import complains, ulora
from tests.support.store_with_clock import has, open_calendar, release

pytestmark = needs_program
V1 = "v1.0.0"


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
    """A proxy in front of it."""
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def _no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody's docker configuration."""
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def here(store_url: str, model: str, tmp_path: Path) -> Registry:
    """A store that holds v1.0.0 of three files, one of them empty, with evidence and a signature."""
    registry = _registry(tmp_path / "here", store_url, model)
    release(registry, V1, b"one", b"two", b"")
    for key_of, body in ((layout.evidence, b'{"accuracy":1}'), (layout.signature, b"signed")):
        registry.store.create(key_of(model, V1, sha256(body)), body)
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


def place_of(registry: Registry, server: OciRegistryServer | Proxy) -> str:
    address = server.url.removeprefix("http://")
    return f"oci://{address}/plants/{registry.model}"


def documents(registry: Registry) -> set[str]:
    return {key for key in listing(registry) if any(f"/{kind}/" in key for kind in ("evidence", "signatures"))}


def is_bound(registry: Registry) -> bool:
    return registry.store.head(layout.version(registry.model, V1)) is not None


def tagged(registry: Registry, server: OciRegistryServer, tag: str = V1) -> dict[str, object]:
    """What a tag names, by oras' own client."""
    client = oras.client.OrasClient(insecure=True)
    return client.get_manifest(f"{server.host}/plants/{registry.model}:{tag}")  # type: ignore[no-any-return]


def test_a_version_comes_back_as_it_was(here: Registry, there: Registry, server: OciRegistryServer) -> None:
    place = place_of(here, server)
    planned = here.copy_to(V1, place, dry_run=True)
    with pytest.raises(VersionNotFound):
        there.copy_from(V1, place)
    done = here.copy_to(V1, place)
    assert (done.blobs, done.blobs_of, done.evidence, done.signatures) == (4, 4, 1, 1)
    assert (planned.blobs, planned.size, planned.digest) == (4, done.size, done.digest)
    assert there.copy_from(V1, place, dry_run=True).blobs == 4
    assert not is_bound(there)
    back = there.copy_from(V1, f"{place}@{done.digest}")
    assert (back.is_new, back.digest) == (True, done.digest)
    assert there.verify(V1, read_data=True).ok
    assert there.manifest(V1).to_bytes() == here.manifest(V1).to_bytes()
    assert documents(there) == documents(here)
    there.approve(V1)
    again = there.copy_to(V1, place)
    assert (again.is_new, again.blobs, again.size, again.digest) == (False, 0, 0, done.digest)


def test_what_the_registry_has_is_not_sent_again(here: Registry, server: OciRegistryServer, door: Proxy) -> None:
    here.copy_to(V1, place_of(here, door))
    release(here, "v1.1.0", b"one", b"three")
    door.clear()
    assert here.copy_to("v1.1.0", place_of(here, door)).blobs == 2
    sent = [path for method, path in door.requests if method == "PUT" and "/blobs/uploads/" in path]
    assert len(sent) == 2 + 1, sent  # the new file, version.json, and ModelPack's description of the model


def test_signatures_and_results_refer_to_the_version(here: Registry, server: OciRegistryServer) -> None:
    done = here.copy_to(V1, place_of(here, server))
    (note,) = done.notes
    assert fallback_tag(done.digest) in note
    index = tagged(here, server, fallback_tag(done.digest))
    assert isinstance(index["manifests"], list)
    kinds = {each["artifactType"]: each["digest"] for each in index["manifests"]}
    assert set(kinds) == {oci.SIGNATURE_TYPE, oci.EVIDENCE_TYPE}
    signature = tagged(here, server, f"{V1}@{kinds[oci.SIGNATURE_TYPE]}")
    assert signature["subject"]["digest"] == done.digest  # type: ignore[index]
    later = b'{"accuracy":2}'
    here.store.create(layout.evidence(here.model, V1, sha256(later)), later)
    here.copy_to(V1, place_of(here, server))
    assert len(tagged(here, server, fallback_tag(done.digest))["manifests"]) == 3  # type: ignore[arg-type]


def test_a_registry_with_referrers_gets_no_list(here: Registry, there: Registry, door: Proxy) -> None:
    """The proxy adds the API that this registry lacks: it says so after each write, and lists by pages of one."""
    listed: list[dict[str, object]] = []

    def put(exchange: Exchange) -> None:
        reply, body = exchange.forward(), json.loads(exchange.body)
        subject = body.get("subject", {}).get("digest")
        if subject:
            known = {"mediaType": oci.MANIFEST_TYPE, "digest": f"sha256:{sha256(exchange.body)}"}
            listed.append({**known, "size": len(exchange.body), "artifactType": body["artifactType"]})
        exchange.send(Reply(reply.status, [*reply.headers, *([("OCI-Subject", subject)] if subject else [])], b""))

    def get(exchange: Exchange) -> None:
        number = int(exchange.path.partition("?last=")[2] or 0)
        page = {"schemaVersion": 2, "mediaType": oci.INDEX_TYPE, "manifests": listed[number : number + 1]}
        link = [("Link", f'<{exchange.path.partition("?")[0]}?last={number + 1}>; rel="next"')]
        more = link if number + 1 < len(listed) else []
        exchange.send(Reply(200, [("Content-Type", oci.INDEX_TYPE), *more], json.dumps(page).encode()))

    door.next(put, method="PUT", containing="/manifests/", times=10_000)
    door.next(get, method="GET", containing="/referrers/", times=10_000)
    place = place_of(here, door)
    done = here.copy_to(V1, place)
    assert done.notes == ()
    assert not [path for _, path in door.requests if fallback_tag(done.digest) in path]
    assert len(listed) == 2
    assert there.copy_from(V1, place).signatures == 1
    assert documents(there) == documents(here)


def test_a_tag_with_something_else_is_left_alone(
    here: Registry, there: Registry, server: OciRegistryServer, tmp_path: Path
) -> None:
    release(there, V1, b"other")
    place = place_of(here, server)
    digest = here.copy_to(V1, place).digest
    for dry_run in (True, False):
        with pytest.raises(VersionExists, match="nothing was changed"):
            there.copy_to(V1, place, dry_run=dry_run)
    (tmp_path / "image").write_text("an image of somebody else")
    oras.client.OrasClient(insecure=True).push(
        f"{server.host}/plants/{here.model}:other", files=[str(tmp_path / "image")], disable_path_validation=True
    )
    with pytest.raises(VersionExists):
        here.copy_to(V1, f"{place}:other")
    assert here.copy_to(V1, place).digest == digest
    complains(
        ulora("store", "copy", V1, "--from", f"{place}:other", "--model", here.model), 6, "not a version of ulora"
    )


@pytest.mark.acceptance
def test_a_broken_push_is_finished_by_the_next_one(here: Registry, there: Registry, door: Proxy) -> None:
    place = place_of(here, door)
    door.next(cut_request, method="PUT", containing="/blobs/", times=100)
    with pytest.raises(OciUnreachable):
        here.copy_to(V1, place)
    with pytest.raises(VersionNotFound):
        there.copy_from(V1, place)
    door.clear()
    door.next(cut_request, method="PUT", containing="/blobs/")  # one that breaks is begun again
    assert here.copy_to(V1, place).is_new
    door.next(Exchange.reset, method="GET", containing="/manifests/")  # a connection that breaks once is tried again
    assert there.copy_from(V1, place).is_new


@pytest.mark.acceptance
def test_a_registry_asks_for_a_password(here: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = OciRegistryServer(tmp_path / "closed", htpasswd=htpasswd(tmp_path, "ann", "correct horse"))
    try:
        place = place_of(here, server.start())
        with pytest.raises(OciDenied, match="no credentials"):
            here.copy_to(V1, place)
        monkeypatch.setenv("ULORA_OCI_USERNAME", "ann")
        complains(ulora("store", "copy", V1, "--to", place, "--model", here.model), 2, "ULORA_OCI_PASSWORD is not set")
        monkeypatch.setenv("ULORA_OCI_PASSWORD", "wrong donkey")
        refused = ulora("store", "copy", V1, "--to", place, "--model", here.model)
        complains(refused, 7, "docker login")
        assert "donkey" not in refused.out + refused.err
        monkeypatch.setenv("ULORA_OCI_PASSWORD", "correct horse")
        assert here.copy_to(V1, place).is_new
        monkeypatch.delenv("ULORA_OCI_USERNAME")
        monkeypatch.delenv("ULORA_OCI_PASSWORD")
        known = {"auths": {server.host: {"auth": "YW5uOmNvcnJlY3QgaG9yc2U="}}}
        (tmp_path / ".docker").mkdir()
        (tmp_path / ".docker" / "config.json").write_text(json.dumps(known))
        assert not here.copy_to(V1, place).is_new
        (tmp_path / ".docker" / "config.json").write_text("{ correct horse")
        unread = ulora("store", "copy", V1, "--to", place, "--model", here.model)
        complains(unread, 2, "config.json can't be read")
        assert "horse" not in unread.out + unread.err
    finally:
        server.kill()


@pytest.mark.acceptance
def test_a_registry_with_tls(here: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    files = (tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem")
    files[0].write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(files[1])
    authority.cert_pem.write_to_path(files[2])
    server = OciRegistryServer(tmp_path / "tls", tls=files)
    try:
        place, tls = place_of(here, server.start()), CopyOptions(plain_http=False)
        with pytest.raises(OciUnreachable, match="SSL"):
            here.copy_to(V1, place, tls)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(files[2]))
        assert here.copy_to(V1, place, tls).is_new
        there = _registry(tmp_path / "there", f"{here.settings.store}-there", here.model)
        assert there.copy_from(V1, place, tls).is_new
        with pytest.raises(OciUnreachable):
            there.copy_from(V1, place)
    finally:
        server.kill()


@pytest.fixture
def with_backbone(store_url: str, model: str, tmp_path: Path) -> Registry:
    """A store that holds v1.0.0, of one target, and the tiny backbone that it runs on."""
    registry = open_registry(tmp_path / "here", store_url, model)
    registry.store.initialise()
    create(registry, V1, tmp_path)
    ref = registry.manifest(V1).backbone
    assert ref
    weights = (TINY / "dinov3-tiny" / "model.safetensors").read_bytes()
    assert registry.blobs.put(weights) == ref.sha256
    mirrored = MirroredBackbone(format=1, backbone=ref, size=len(weights), who="ann", when=timestamp())
    registry.store.create(layout.backbone(ref.sha256), mirrored.to_bytes())
    return registry


@pytest.mark.acceptance
def test_others_pull_plain_folders(with_backbone: Registry, server: OciRegistryServer, tmp_path: Path) -> None:
    """With oras' own client; the adapter and its backbone are loaded by PEFT and transformers."""
    from peft import PeftModel
    from transformers import AutoModel

    here = with_backbone
    assert here.copy_to(V1, place_of(here, server)).backbone
    base = tagged(here, server)["annotations"][oci.BASE_DIGEST]  # type: ignore[index]
    client, repository = oras.client.OrasClient(insecure=True), f"{server.host}/plants/{here.model}"
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    client.pull(f"{repository}:{V1}", outdir=str(whole))
    client.pull(f"{repository}:{V1}_adapters_low", outdir=str(parts))
    client.pull(f"{repository}@{base}", outdir=str(parts))
    files = {file.path: file.sha256 for file in here.manifest(V1).files}
    assert digests(whole) == files | {"version.json": sha256(here.manifest(V1).to_bytes())}
    adapter = {path: digest for path, digest in files.items() if path.startswith("adapters/low/")}
    assert {path: digest for path, digest in digests(parts).items() if path.startswith("adapters/")} == adapter
    assert {"adapters/low/adapter_config.json", "adapters/low/adapter_model.safetensors"} <= set(adapter)
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(parts / "backbone"), str(parts / "adapters" / "low"))
    loaded = [value for name, value in model.named_parameters() if "lora_B" in name]
    assert loaded
    assert all(bool(value.any()) for value in loaded)  # PEFT begins with zeros


@pytest.mark.acceptance
def test_the_backbone_comes_back(with_backbone: Registry, server: OciRegistryServer, tmp_path: Path) -> None:
    here = with_backbone
    here.copy_to(V1, place_of(here, server))
    there = _registry(tmp_path / "there", f"{here.settings.store}-there", here.model)
    name = there.copy_from(V1, place_of(here, server)).backbone
    assert [each.backbone.name for each in there.backbones()] == [name]
    assert has(there, (TINY / "dinov3-tiny" / "model.safetensors").read_bytes())
    assert there.verify(V1, read_data=True).ok


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()) for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.acceptance
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_a_killed_push_is_no_version_and_is_finished(
    with_backbone: Registry, server: OciRegistryServer, tmp_path: Path, share: float
) -> None:
    """`ulora store copy` as a process, killed by SIGKILL at one of its requests that write."""
    here = with_backbone
    there = _registry(tmp_path / "there", f"{here.settings.store}-there", here.model)
    with Proxy(server.port) as door:
        count = writes(here, door, f"{place_of(here, door)}/counted")
        place = f"{place_of(here, door)}/killed"
        process = started(here, place)

        def kill() -> None:
            os.kill(process.pid, signal.SIGKILL)

        at_write(door, int(share * count), kill)
        assert process.wait(300) == -signal.SIGKILL
        door.clear()
        with pytest.raises(VersionNotFound):
            there.copy_from(V1, place)
        assert started(here, place).wait(300) == 0
        assert there.copy_from(V1, place).is_new
        assert there.verify(V1, read_data=True).ok


def started(registry: Registry, place: str) -> subprocess.Popen[bytes]:
    words = ["store", "copy", V1, "--to", place, "--model", registry.model, "--store", registry.settings.store]
    env = os.environ | {"ULORA_CACHE": str(registry.settings.cache)}
    return subprocess.Popen([sys.executable, "-m", "registry", *words], env=env, stdout=subprocess.DEVNULL)


def writes(registry: Registry, door: Proxy, place: str) -> int:
    registry.copy_to(V1, place)
    return sum(method in ("PUT", "POST") for method, _ in door.requests)


def at_write(door: Proxy, number: int, act: Callable[[], None]) -> None:
    """Do something at the write of this number from now on, which never reaches the server."""
    seen: list[str] = []

    def look(exchange: Exchange) -> None:
        seen.append(exchange.path)
        if len(seen) > number:
            act()
            exchange.reset()
        else:
            exchange.send(exchange.forward())

    for method in ("PUT", "POST"):
        door.next(look, method=method, times=10_000)


@pytest.mark.acceptance
def test_the_commands_of_the_page(
    store_url: str, server: OciRegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = _registry(tmp_path / "here", store_url, "aads-ulora")
    release(here, "v5.5.4-dinov3", b"one")
    there = _registry(tmp_path / "there", f"{store_url}-there", "aads-ulora")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("REGISTRY", server.host)
    monkeypatch.setenv("OTHER_STORE", there.settings.store)
    (block,) = [block for block in blocks(ROOT / "docs" / "oci.md") if block.language == "sh"]
    subprocess.run(["bash", "-euc", block.text], check=True, cwd=tmp_path)
    assert there.verify("v5.5.4-dinov3", read_data=True).ok


@pytest.mark.acceptance
def test_what_a_registry_collects_is_sent_again(here: Registry, there: Registry, tmp_path: Path) -> None:
    """The program deletes manifests without a tag, those that a tagged index lists too."""
    server = OciRegistryServer(tmp_path / "collected")
    try:
        place = place_of(here, server.start())
        digest = here.copy_to(V1, place).digest
        server.stop()
        server.collect_garbage()
        place = place_of(here, server.start())
        assert not here.copy_to(V1, place).is_new
        assert there.copy_from(V1, f"{place}@{digest}").signatures == 1
        assert documents(there) == documents(here)
    finally:
        server.kill()
