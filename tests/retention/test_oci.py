"""tmp"""
from __future__ import annotations
from collections.abc import Iterator
from pathlib import Path
import pytest
from registry.api import Registry
from registry.formats.canonical import sha256
from registry.store import layout
from tests.servers.oci_registry import OciRegistryServer, needs_program
from tests.support.store_with_clock import open_calendar, release
from tests.support.working_trees import write_tree
pytestmark = needs_program

@pytest.fixture(scope="module")
def oci(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OciRegistryServer]:
    server = OciRegistryServer(tmp_path_factory.mktemp("oci"))
    try:
        yield server.start()
    finally:
        server.kill()

def _registry(folder: Path, store: str, model: str) -> Registry:
    registry, calendar = open_calendar(folder, store, model)
    calendar.initialise()
    registry.wiring.check_writable()
    return registry

def test_round(store_url: str, model: str, tmp_path: Path, oci: OciRegistryServer) -> None:
    here = _registry(tmp_path / "here", store_url, model)
    release(here, "v1.0.0", b"one", b"two", b"")
    for key_of, body in ((layout.evidence, b'{"accuracy":1}'), (layout.signature, b"signed")):
        here.store.create(key_of(model, "v1.0.0", sha256(body)), body)
    place = f"oci://{oci.host}/{model}"
    print(here.copy_to("v1.0.0", place, dry_run=True))
    print(here.copy_to("v1.0.0", place))
    print(here.copy_to("v1.0.0", place))
    there = _registry(tmp_path / "there", f"{store_url}-there", model)
    print(there.copy_from("v1.0.0", place))
    assert there.verify("v1.0.0", read_data=True).ok
    assert 0
