"""The work folder of a fit beside the bundle, so that an interrupted fit can be continued.

    .OUT.fit/  recipe.json                  the settings: a fit with other settings or other data is refused
               targets/<target>/            finished targets: report.json, frozen.safetensors, adapter/…; renamed into
               place training/<target>/           the state after the last epoch: state.json, state.safetensors scratch/
               files that are being written; emptied at the start

A step is done when its folder or JSON file has its final name. Nothing is pickled.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from adapters import bundle
from registry.errors import BadInput, BadManifest, NotNow, disk_errors
from registry.formats import canonical

_RECIPE = "recipe.json"
_REPORT = "report.json"
_CHANGES, _SHOWN = 5, 60  # how many differences are shown, and characters of each


def work_folder_of(out: Path) -> Path:
    """The work folder of a fit of `out`."""
    return out.parent / f".{out.name}.fit"


@dataclass(frozen=True)
class WorkFolder:
    """An open work folder; one process holds it."""

    folder: Path

    def target(self, target: str) -> Path:
        """The folder of a finished target."""
        return self.folder / "targets" / target

    def checkpoint(self, target: str) -> Checkpoint:
        """The checkpoint of a target's training."""
        return Checkpoint(self.folder / "training" / target)

    def report(self, target: str) -> dict[str, Any]:
        """The report of a finished target."""
        return canonical.decode((self.target(target) / _REPORT).read_bytes(), _REPORT)

    def finish(self, target: str, made: Path, report: Mapping[str, Any]) -> None:
        """Move a complete folder to its final place, and delete the checkpoint of its training."""
        bundle.write_document(made / _REPORT, report)
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
    """The state of a training after an epoch; each one replaces the previous one as a whole."""

    folder: Path

    def write(self, epochs: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Save the state after so many epochs."""
        path = self.folder / f"state-{epochs}.safetensors"
        bundle.write_tensors(path, tensors)
        document = {"epochs": epochs, "sha256": canonical.sha256(path.read_bytes())}
        bundle.write_document(self.folder / "state.json.new", document)
        (self.folder / "state.json.new").replace(self.folder / "state.json")
        for older in self.folder.glob("state-*.safetensors"):
            if older != path:
                older.unlink()

    def read(self) -> tuple[int, dict[str, torch.Tensor]]:
        """How many epochs are done, and the state; 0 and nothing if there is no checkpoint or it is damaged."""
        try:
            document = canonical.decode((self.folder / "state.json").read_bytes(), "state.json")
            epochs = int(document["epochs"])
            data = (self.folder / f"state-{epochs}.safetensors").read_bytes()
        except (OSError, BadManifest, KeyError, TypeError, ValueError):
            return 0, {}
        return (epochs, load(data)) if canonical.sha256(data) == document.get("sha256") else (0, {})


@contextmanager
def open_work_folder(out: Path, recipe: Mapping[str, Any]) -> Iterator[WorkFolder]:
    """Create or reopen the work folder of a fit of `out`; it is deleted unless the fit fails.

    Args:
        recipe: all settings that decide the result, as JSON, with the digest of the data.

    Raises:
        BadInput: when an interrupted fit had other settings.
        NotNow: when another process runs this fit.
        DiskFull, BadSetting: when it can't be written.
    """
    folder = work_folder_of(out)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _held(folder):
            _check_recipe(folder, out, recipe)
            shutil.rmtree(folder / "scratch", ignore_errors=True)
            yield WorkFolder(folder)
            shutil.rmtree(folder, ignore_errors=True)


def replace_folder(folder: Path, new: Path) -> None:
    """Replace a folder by another one. If it fails, the old one stays; if the process is killed, `restore_folder`
    repairs it.

    Args:
        folder: not a symbolic link.
        new: on the same disk.
    """
    folder.rename(_aside(folder))
    try:
        new.rename(folder)
    finally:
        restore_folder(folder)


def restore_folder(folder: Path) -> None:
    """Finish or undo a `replace_folder` that was killed."""
    if _aside(folder).exists() and not folder.exists():
        _aside(folder).rename(folder)
    shutil.rmtree(_aside(folder), ignore_errors=True)


def _aside(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.replaced"


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    # The kernel releases the lock however the process ends.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise NotNow(f"another process runs the fit in {folder}", hint="wait for it, or give another --out") from error
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
    if changes := list(_changes(known, recipe)):
        more = f" and {len(changes) - _CHANGES} more" if len(changes) > _CHANGES else ""
        raise BadInput(
            f"an interrupted fit of {out} had other settings: {', '.join(changes[:_CHANGES])}{more}",
            hint=f"give the same settings to continue it, or remove {folder} to start again",
        )


def _changes(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """The differences between two JSON values, each as `path was this, now that`."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                yield from _changes(before.get(name), now.get(name), f"{place}.{name}" if place else name)
        return
    texts = [canonical.encode(value).decode() for value in (before, now)]
    same = takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False))
    start = sum(1 for _ in same)
    yield "{} was {}, now {}".format(place, *(_short(text, start) for text in texts))


def _short(text: str, start: int) -> str:
    """A text around the character at `start`, shortened on both sides if it is long."""
    if len(text) <= _SHOWN:
        return text
    first = max(0, start - _SHOWN // 2)
    last = first + _SHOWN
    return f"{'…' * (first > 0)}{text[first:last]}{'…' * (last < len(text))}"
