"""The folder beside a bundle in which a fit works, so that it can be interrupted anywhere and go on.

    .OUT.fit/  recipe.json                  what is being fitted: another recipe or other data are refused
               targets/<target>/            finished: report.json, frozen.safetensors, adapter/…; appears whole
               training/<target>/           the state after the last epoch: state.json, state.safetensors
               scratch/                     what is being written now; emptied at the start

A step is done when its folder or its JSON file has its final name. Nothing here is pickled.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from adapters import bundle
from adapters.writing import write_tensors
from registry import canonical
from registry.errors import BadInput, BadManifest, NotNow, disk_errors

_RECIPE = "recipe.json"


def workplace_of(out: Path) -> Path:
    """Where a fit of `out` works."""
    return out.parent / f".{out.name}.fit"


@dataclass(frozen=True)
class Workplace:
    """An open folder of this kind; one process holds it."""

    folder: Path

    def target(self, target: str) -> Path:
        """Where a finished target stands."""
        return self.folder / "targets" / target

    def checkpoint(self, target: str) -> Checkpoint:
        """Where the training of a target keeps its state."""
        return Checkpoint(self.folder / "training" / target)

    def finish(self, target: str, made: Path) -> None:
        """Give a folder that is complete its final place, and forget the state of the training that led to it."""
        self.target(target).parent.mkdir(exist_ok=True)
        made.rename(self.target(target))
        shutil.rmtree(self.folder / "training" / target, ignore_errors=True)

    def scratch(self, name: str) -> Path:
        """An empty folder to write in."""
        folder = self.folder / "scratch" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        return folder


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training after an epoch, replaced as a whole by the next one."""

    folder: Path

    def write(self, epochs: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep the state after so many epochs."""
        path = self.folder / f"state-{epochs}.safetensors"
        write_tensors(path, tensors)
        document = {"epochs": epochs, "sha256": canonical.sha256(path.read_bytes())}
        bundle.write_document(self.folder / "state.json.new", document)
        (self.folder / "state.json.new").replace(self.folder / "state.json")
        for older in self.folder.glob("state-*.safetensors"):
            if older != path:
                older.unlink()

    def read(self) -> tuple[int, dict[str, torch.Tensor]]:
        """The epochs that are done and their state; 0 and nothing if there is none, or if it is damaged."""
        try:
            document = canonical.decode((self.folder / "state.json").read_bytes(), "state.json")
            epochs = int(document["epochs"])
            data = (self.folder / f"state-{epochs}.safetensors").read_bytes()
        except (OSError, BadManifest, KeyError, TypeError, ValueError):
            return 0, {}
        return (epochs, load(data)) if canonical.sha256(data) == document.get("sha256") else (0, {})


@contextmanager
def opened(out: Path, recipe: Mapping[str, Any]) -> Iterator[Workplace]:
    """The workplace of a fit of `out`, made or found; it stays if the fit does not end well.

    Args:
        recipe: all that decides what comes out, as JSON; also the digest of the data.

    Raises:
        BadInput: an interrupted fit is there that was told to do something else.
        NotNow: another process is fitting there.
        DiskFull, BadSetting: it can't be written.
    """
    folder = workplace_of(out)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _held(folder):
            _check_recipe(folder, out, recipe)
            shutil.rmtree(folder / "scratch", ignore_errors=True)
            yield Workplace(folder)
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    # The kernel lets go of it however the process ends.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise NotNow(f"another process is fitting in {folder}", hint="wait for it, or give another --out") from error
    try:
        yield
    finally:
        os.close(descriptor)


def _check_recipe(folder: Path, out: Path, recipe: Mapping[str, Any]) -> None:
    path = folder / _RECIPE
    if not path.exists():
        bundle.write_document(folder / f"{_RECIPE}.new", recipe)
        (folder / f"{_RECIPE}.new").replace(path)
        return
    known = canonical.decode(path.read_bytes(), str(path))
    if changed := sorted(name for name in known.keys() | recipe.keys() if known.get(name) != recipe.get(name)):
        told = ", ".join(f"{name} was {_short(known.get(name))}, now {_short(recipe.get(name))}" for name in changed)
        raise BadInput(
            f"an interrupted fit of {out} was told to do something else: {told}",
            hint=f"give the same settings to go on with it, or remove {folder} to start anew",
        )


def _short(value: object) -> str:
    text = canonical.encode(value).decode()
    return text if len(text) <= 60 else text[:59] + "…"
