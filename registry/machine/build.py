"""What this installation was built from: its release and its git commit. Nothing here raises an error."""

from __future__ import annotations

import re
from contextlib import suppress
from importlib import resources
from pathlib import Path

from registry.machine.provenance import release

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def version_line() -> str:
    """The release, with the commit where it is known."""
    commit = build_commit()
    return (release() or "(not installed)") + (f" (commit {commit[:12]})" if commit else "")


def build_commit() -> str:
    """The commit that this code is of, empty if nothing says it.

    A wheel has it in `registry/commit.txt`, which `hatch_build.py` writes; in a checkout git is asked.
    """
    with suppress(Exception):
        written = resources.files("registry").joinpath("commit.txt")
        found = written.read_text("ascii").strip() if written.is_file() else _of_checkout(Path(__file__).parents[2])
        return found if _COMMIT.fullmatch(found) else ""
    return ""


def _of_checkout(folder: Path) -> str:
    """The commit that is checked out there; empty where the folder only lies in another project's repository."""
    from registry.machine.repository import opened

    if not (folder / ".git").exists():
        return ""
    with opened(folder) as repository:
        return (repository.commit if repository else None) or ""
