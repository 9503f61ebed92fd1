"""Where a version comes from: the git commit of its folder and the installed libraries. Never raises an error."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

from registry.errors import UloraError
from registry.machine.repository import opened

_LIBRARIES = ("ulora-registry", "torch", "transformers", "peft", "mlflow", "boto3", "safetensors", "scikit-learn")


def collect(folder: Path) -> dict[str, Any]:
    """The git commit of `folder`, whether its repository differs from it, the versions of Python and the libraries, and
    the platform. Outside of a repository the first two are None, and also where they can't be found out."""
    commit, is_dirty = _git_state(folder)
    return {
        "git_commit": commit,
        "git_dirty": is_dirty,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "libraries": libraries(),
    }


def libraries() -> dict[str, str]:
    """The versions of the installed libraries that can influence a result."""
    return {name: found for name in _LIBRARIES if (found := _version(name))}


def release() -> str:
    """The release of this package, empty where it is not installed."""
    return _version("ulora-registry") or ""


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_state(folder: Path) -> tuple[str | None, bool | None]:
    commit = None
    try:
        with opened(folder) as repository:
            commit = repository.commit if repository else None
            return commit, repository.differs(repository.root, commit) if repository and commit else None
    except (OSError, ValueError, UloraError):
        return commit, None
