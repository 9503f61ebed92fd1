"""What makes a prefix a store, and what a store of another format is told."""

from __future__ import annotations

import re

import pytest

from registry.errors import (
    ObjectNotFound,
    StoreUnfit,
)
from registry.formats import canonical
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
    found = canonical.decode(seen(store, "format.json"), "it")
    assert found == {"format": 1, "id": store.identity()}
    assert re.fullmatch("[0-9a-f]{32}", store.identity())


@pytest.mark.parametrize(
    "said", [b'{"format":1}', b'{"format":1,"id":"x#y"}', b'{"format":1,"id":7}'], ids=["none", "no digits", "a number"]
)
def test_a_store_without_an_id_works_as_before(store: ObjectStore, said: bytes) -> None:
    assert store.identity() == ""
    store.create(layout.FORMAT_KEY, said)
    store.initialise()
    assert (store.identity(), seen(store, "format.json")) == ("", said)


def test_a_store_of_a_newer_format_is_not_written_to(store: ObjectStore) -> None:
    store.create(layout.FORMAT_KEY, b'{"format":2}')
    for act in (store.initialise, store.check_writable):
        with pytest.raises(StoreUnfit, match="format 2") as error:
            act()
        assert "upgrade" in error.value.hint
