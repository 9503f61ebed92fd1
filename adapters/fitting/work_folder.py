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
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from adapters import bundle
from registry.errors import BadInput, BadManifest, NotNow, disk_errors
from registry.formats import canonical

_RECIPE = "recipe.json"
_REPORT = "report.json"
_SHOWN = 60  # characters of an option's value


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
    if known == recipe:
        return
    used = [*_options(known, recipe)]
    if used:
        raise BadInput(
            f"the unfinished fit in {folder} used {' '.join(used)}",
            hint=f"rerun with that, or delete the folder {folder} to start again",
        )
    raise BadInput(
        f"the unfinished fit in {folder} used {_what_else(known, recipe)}",
        hint=f"delete the folder {folder} to start again, or give another --out than {out}",
    )


def _options(known: Mapping[str, Any], recipe: Mapping[str, Any]) -> Iterator[str]:
    """The options of the unfinished fit, as they are typed, that are others now."""
    before, now = (_with_own_alpha(one.get("recipe")) for one in (known, recipe))
    yield from (_option(name, value) for name, value in sorted(before.items()) if now.get(name) != value)
    names = [str((one.get("backbone") or {}).get("name")) for one in (known, recipe)]
    if "backbone" in known and names[0] != names[1]:
        yield _option("backbone", names[0])
    targets = [sorted(one.get("targets") or {}) for one in (known, recipe)]
    if "targets" in known and targets[0] != targets[1]:
        yield _option("targets", targets[0])


def _with_own_alpha(recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings without an alpha that follows from the rank."""
    settings = dict(recipe or {})
    if "rank" in settings and settings.get("alpha") == 2 * settings["rank"]:
        settings["alpha"] = None
    return settings


def _option(name: str, value: Any) -> str:
    """An option with its value, as it is typed; a setting without a value was left out."""
    option = f"--{name.replace('_', '-')}"
    if value is None or value == []:
        return f"no {option}"
    text = (
        ",".join(map(str, value))
        if isinstance(value, list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
    return f"{option} {text if len(text) <= _SHOWN else text[: _SHOWN - 1] + '…'}"


def _what_else(known: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """What differs besides the options."""
    if known.get("targets") != recipe.get("targets"):
        return "other labels"
    if known.get("digests") != recipe.get("digests"):
        return "other images"
    if known.get("backbone") != recipe.get("backbone"):
        return "other weights of the backbone"
    return "another release of this software"
