"""The bucket of a store."""

from __future__ import annotations

import pytest

from registry.errors import (
    BucketNotFound,
)
from registry.store.objects import ObjectStore

KEY = "models/m/channels/staging/0999999999999.json"


def test_a_bucket_can_be_created_twice(s3_env: dict[str, str], model: str) -> None:
    store = ObjectStore(f"s3://{model}/x")
    with pytest.raises(BucketNotFound, match=model) as error:
        store.create(KEY, b"x")
    assert "--create-bucket" in error.value.hint
    for _ in range(2):
        store.create_bucket()
    store.initialise()
