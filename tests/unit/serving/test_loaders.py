"""The loader of a flavor is found among the installed packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.errors import LoadFailed, MissingDependency
from registry.serving.loaders import find_loader, no_mirror
from tests.support.bundles import manifest_of, write_bundle


def test_our_own_flavor_is_found() -> None:
    from adapters.answer.loading import load

    assert find_loader("dino-lora") is load


def test_a_flavor_without_a_loader_is_named() -> None:
    with pytest.raises(MissingDependency, match=r"ulora\.loaders: kind-b"):
        find_loader("kind-b")


def test_a_snapshot_is_not_served(tmp_path: Path) -> None:
    manifest = manifest_of(write_bundle(tmp_path / "version"))
    with pytest.raises(LoadFailed, match="snapshot of files") as caught:
        find_loader("files")(manifest, {}, device="cpu", runtime=None, fetch=no_mirror)
    assert f"ulora restore {manifest.version}" in caught.value.hint
