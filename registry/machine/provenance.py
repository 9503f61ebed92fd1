"""Where a version comes from: the git commit of its folder and the installed libraries. Never raises an error."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

_LIBRARIES = ("ulora-registry", "torch", "transformers", "peft", "mlflow", "boto3", "safetensors", "scikit-learn")
_GIT_SECONDS = 10


def collect(folder: Path) -> dict[str, Any]:
    """The git commit of `folder` and whether it has changes (None outside a repository), the versions of Python and the
    libraries, and the platform."""
    commit = git(folder, "rev-parse", "HEAD")
    return {
        "git_commit": commit,
        "git_dirty": bool(git(folder, "status", "--porcelain")) if commit else None,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "libraries": libraries(),
    }


def libraries() -> dict[str, str]:
    """The versions of the installed libraries that can influence a result."""
    return {name: found for name in _LIBRARIES if (found := _version(name))}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def git(folder: Path, *words: str) -> str | None:
    """The output of a git command, None if it fails or git is not installed."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=_GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
