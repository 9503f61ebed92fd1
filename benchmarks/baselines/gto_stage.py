"""GTO: stages of models as tags of a git repository. It is bookkeeping: no server follows it by itself.

Its best settings: a local repository without a remote, a commit for each version, `gto assign` as its documentation
says, with `--force`, as a version that had the stage before gets it again. With a remote it would push too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.baselines.programs import RivalPackages, run_python

PACKAGE = "gto"
_MODEL = "leaf"
_CLI = "from gto.cli import app; app()"


class GtoStages:
    """A repository with two registered versions; one of them has the stage."""

    def __init__(self, folder: Path, packages: RivalPackages) -> None:
        from git import Repo

        folder.mkdir(parents=True)
        repo = Repo.init(folder)
        with repo.config_writer() as config:
            config.set_value("user", "name", "a benchmark")
            config.set_value("user", "email", "benchmark@localhost")
        self._folder, self._env = folder, packages.env()
        self._turn = 0
        for version in ("v1.0.0", "v1.0.1"):
            self._gto("register", _MODEL, repo.index.commit(version).hexsha, "--version", version)
        repo.close()

    def assign(self) -> None:
        """Give the stage to the other version, by a process."""
        self._turn += 1
        self._gto("assign", _MODEL, "--version", f"v1.0.{self._turn % 2}", "--stage", "production", "--force")

    def _gto(self, *words: str) -> None:
        command: Sequence[str] = ["-c", _CLI, *words, "--repo", str(self._folder)]
        run_python(command, env=self._env, cwd=self._folder)
