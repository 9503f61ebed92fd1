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
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from adapters import bundle
from adapters.writing import write_tensors
from registry.errors import BadInput, BadManifest, NotNow, disk_errors
from registry.formats import canonical

_RECIPE = "recipe.json"
_REPORT = "report.json"
_CHANGES, _SHOWN = 5, 60  # of what differs, how many are told, and letters of each


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

    def report(self, target: str) -> dict[str, Any]:
        """What is to be known of a finished target."""
        return canonical.decode((self.target(target) / _REPORT).read_bytes(), _REPORT)

    def finish(self, target: str, made: Path, report: Mapping[str, Any]) -> None:
        """Give a folder that is complete its final place, and forget the state of the training that led to it."""
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


def replace_folder(folder: Path, new: Path) -> None:
    """Put a folder in another one's place, or leave that one there; killed in between, `restore_folder` sees to it.

    Args:
        folder: no link to it.
        new: on the same disk.
    """
    folder.rename(_aside(folder))
    try:
        new.rename(folder)
    finally:
        restore_folder(folder)


def restore_folder(folder: Path) -> None:
    """End what a killed `replace_folder` began."""
    if _aside(folder).exists() and not folder.exists():
        _aside(folder).rename(folder)
    shutil.rmtree(_aside(folder), ignore_errors=True)


def _aside(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.replaced"


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
    if changes := list(_changes(known, recipe)):
        more = f" and {len(changes) - _CHANGES} more" if len(changes) > _CHANGES else ""
        raise BadInput(
            f"an interrupted fit of {out} was told to do something else: {', '.join(changes[:_CHANGES])}{more}",
            hint=f"give the same settings to go on with it, or remove {folder} to start anew",
        )


def _changes(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """What differs between two JSON values, innermost, each as `place was this, now that`."""
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
    """A text with the letter at `start` in it, cut on both sides if it is long."""
    if len(text) <= _SHOWN:
        return text
    first = max(0, start - _SHOWN // 2)
    last = first + _SHOWN
    return f"{'…' * (first > 0)}{text[first:last]}{'…' * (last < len(text))}"
