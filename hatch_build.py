"""Puts the git commit into a wheel or sdist as `registry/commit.txt`, for `ulora --version`.

Nothing fails where there is no git or no repository: built from an sdist, the file that the sdist has is kept.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SECONDS = 20


class CommitHook(BuildHookInterface[Any]):
    """Asks git which commit the folder is of. An editable installation asks when it runs."""

    scratch: Path | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the file to what is built."""
        commit = "" if version == "editable" else commit_of(Path(self.root))
        if commit:
            self.scratch = Path(tempfile.mkdtemp(prefix="ulora-build-"))
            file = self.scratch / "commit.txt"
            file.write_text(f"{commit}\n")
            build_data["force_include"][str(file)] = "registry/commit.txt"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the scratch folder."""
        if self.scratch:
            shutil.rmtree(self.scratch, ignore_errors=True)


def commit_of(root: Path) -> str:
    """The commit that is checked out in this folder, empty if it is not a repository of its own."""
    if not (root / ".git").exists():
        return ""
    try:
        asked = ["git", "-C", str(root), "rev-parse", "--verify", "HEAD^{commit}"]
        return subprocess.run(asked, capture_output=True, text=True, timeout=SECONDS, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
