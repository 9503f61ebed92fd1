"""What `serve`, `follow` and `load` find for a snapshot: the reason why it can't be served."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from registry.errors import LoadFailed
from registry.versions.manifest import Manifest


def load(manifest: Manifest, files: Mapping[str, Path], **how: Any) -> NoReturn:
    """Refuse: there is nothing to load.

    Raises:
        LoadFailed: always.
    """
    raise LoadFailed(
        f"{manifest.version} is a snapshot of files: it holds no model, so it can't be served",
        hint=f"`ulora restore {manifest.version} --target DIR` brings its files back",
    )
