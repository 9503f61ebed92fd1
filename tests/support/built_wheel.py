"""The distribution as users get it: a wheel, and an environment that has what one extra asks for, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).parents[2]
NEVER_COPIED = (".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", "ulora-data", "shared")


def build_wheel(folder: Path) -> Path:
    """The wheel, built in `folder` from a copy of this checkout."""
    shutil.copytree(CHECKOUT, folder / "source", ignore=shutil.ignore_patterns(*NEVER_COPIED), symlinks=True)
    pip("wheel", folder / "source", "--no-build-isolation", "--wheel-dir", folder)
    (built,) = folder.glob("*.whl")
    return built


def pip(verb: str, what: Path, *words: object) -> None:
    """Run pip, without looking for dependencies."""
    command = [sys.executable, "-m", "pip", verb, what, "--no-deps", "--quiet", "--disable-pip-version-check", *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def environment_with(wheel: Path, extras: frozenset[str], folder: Path) -> Path:
    """A new environment with the wheel and links to the installed packages that it asks for; returns its Python.

    pip would download the same packages; here nothing is downloaded.
    """
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    pip("install", wheel, "--no-index", "--target", site)
    for package in needed("ulora-registry", extras):
        for name in _top_names(package):
            place = site / name
            if not place.exists():
                place.symlink_to(Path(str(package.locate_file(name))))
    return folder / "bin" / "python"


def needed(name: str, extras: frozenset[str]) -> list[Distribution]:
    """The installed packages that a package asks for with these extras, and those that they ask for; without itself."""
    found: dict[tuple[str, frozenset[str]], Distribution] = {}
    waiting = [(name, extras)]
    while waiting:
        each, wanted = waiting.pop()
        key = (str(canonicalize_name(each)), wanted)
        if key in found:
            continue
        try:
            found[key] = distribution(each)
        except PackageNotFoundError:
            continue  # a requirement of another platform
        for requirement in map(Requirement, found[key].requires or []):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in wanted or {""}):
                waiting.append((requirement.name, frozenset(requirement.extras)))
    return list({key: each for (key, _), each in found.items() if key != name}.values())


def _top_names(package: Distribution) -> set[str]:
    names = {file.parts[0] for file in package.files or [] if file.parts[0] not in ("..", "__pycache__")}
    return {name for name in names if Path(str(package.locate_file(name))).exists()}
