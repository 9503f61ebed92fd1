"""A store on a real server, and the same store behind a proxy that makes faults."""

from __future__ import annotations

import pytest

from registry.store.client import Deadlines
from registry.store.objects import ObjectStore
from tests.servers.proxy import Proxy


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    return ObjectStore(store_url)


@pytest.fixture
def distant(store_url: str, proxy: Proxy) -> ObjectStore:
    """The same store, behind the proxy."""
    return ObjectStore(store_url, endpoint_url=proxy.url, deadlines=Deadlines(write=10))
