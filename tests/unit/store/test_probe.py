"""What makes a prefix a store, and what a store of another format is told."""

from __future__ import annotations

import pytest

from registry.errors import (
    ObjectNotFound,
    StoreUnfit,
)
from registry.store import layout
from registry.store.objects import ObjectStore

KEY = "models/m/channels/staging/0999999999999.json"


def seen(store: ObjectStore, key: str = KEY) -> bytes:
    return store.get(key).body


def test_a_prefix_becomes_a_store_once(store: ObjectStore) -> None:
    with pytest.raises(ObjectNotFound) as error:
        store.check_writable()
    assert "ulora store init" in error.value.hint
    for _ in range(2):
        store.initialise()
    store.check_writable()
    assert [info.key for info in store.list("")] == ["format.json"]
    assert seen(store, "format.json") == b'{"format":1}'


def test_a_store_of_a_newer_format_is_not_written_to(store: ObjectStore) -> None:
    store.create(layout.FORMAT_KEY, b'{"format":2}')
    for act in (store.initialise, store.check_writable):
        with pytest.raises(StoreUnfit, match="format 2") as error:
            act()
        assert "upgrade" in error.value.hint
