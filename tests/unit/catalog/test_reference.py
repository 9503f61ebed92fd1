"""References that were changed in MLflow, and models that are none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from registry.catalog.held_files import MANIFEST
from registry.catalog.reference import CODE, complete
from registry.errors import CorruptBlob
from registry.store.blobs import Blobs
from registry.store.objects import ObjectStore

URI = "models:/plants/1"


@pytest.fixture
def blobs(tmp_path: Path, dead_address: str) -> Blobs:
    """A store that nobody may ask here."""
    return Blobs(ObjectStore("s3://bucket/a", endpoint_url=dead_address), tmp_path / "cache")


def test_a_model_that_is_no_reference_stays_as_it_is(tmp_path: Path, blobs: Blobs) -> None:
    document = tmp_path / "model" / MANIFEST
    document.parent.mkdir(parents=True)
    document.write_text("{}")
    complete(tmp_path / "model", URI, blobs)
    assert list(document.parent.iterdir()) == [document]


@pytest.mark.parametrize(("text", "says"), [(None, "version.json is missing"), ("{}", "version.json")])
def test_a_reference_without_its_manifest_is_refused(tmp_path: Path, blobs: Blobs, text: str | None, says: str) -> None:
    document = tmp_path / MANIFEST
    document.parent.mkdir(parents=True)
    shutil.copy(CODE, tmp_path)
    if text is not None:
        document.write_text(text)
    with pytest.raises(CorruptBlob, match=says):
        complete(tmp_path, URI, blobs)
