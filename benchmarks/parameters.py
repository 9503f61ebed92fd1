"""The parameters of the entry points, checked. An empty value stands for one that is not given: MLflow hands it on."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from registry.errors import BadInput, no_folder
from registry.names import VersionName, check_model
from registry.usecases.options import MeasureOptions

OF_A_VERSION = ("accuracy", "routing", "ood", "latency", "memory")
"""What `all` measures."""

_DEVICE = re.compile(r"[a-z]+(:\d{1,3})?")
_RUNTIME = re.compile(r"[a-z][a-z0-9-]{0,39}")


@dataclass(frozen=True)
class MeasuringParameters:
    """On what versions are measured.

    Attributes:
        data: the folder of images.
        rename: a file that says what the folders of images show.
    """

    model: str = ""
    data: str = ""
    rename: str = ""
    device: str = ""
    runtime: str = ""

    def options(self, only: tuple[str, ...]) -> MeasureOptions:
        """What is measured, and on what.

        Raises:
            BadInput: a parameter is invalid.
        """
        if self.device and not _DEVICE.fullmatch(self.device):
            raise BadInput(f"{self.device[:40]!r} is not a device", hint="for example cpu or cuda:0")
        if self.runtime and not _RUNTIME.fullmatch(self.runtime):
            raise BadInput(f"{self.runtime[:40]!r} is not a runtime", hint="for example torch-fp32")
        return MeasureOptions(
            only=only,
            data=_path(self.data, "data"),
            device=self.device or "cpu",
            runtime=self.runtime or None,
            rename=_path(self.rename, "rename"),
        )

    def checked_model(self) -> str | None:
        """The model's name, None for the one of the settings.

        Raises:
            BadInput: it is invalid.
        """
        return check_model(self.model) if self.model else None


@dataclass(frozen=True)
class VersionParameters:
    """What is measured of which version.

    Attributes:
        name: of the benchmark, or `all`.
        against: another version, which times are measured in turns with; only of `latency`.
    """

    name: str
    version: str
    on: MeasuringParameters = MeasuringParameters()
    against: str = ""

    def options(self) -> MeasureOptions:
        """What is measured, and on what.

        Raises:
            BadInput: a parameter is invalid.
        """
        VersionName.parse(self.version)
        self.on.checked_model()
        options = self.on.options(OF_A_VERSION if self.name == "all" else (self.name,))
        return replace(options, against=str(VersionName.parse(self.against)) if self.against else None)


@dataclass(frozen=True)
class CompareParameters:
    """Which two versions are compared."""

    older: str
    newer: str
    on: MeasuringParameters = MeasuringParameters()

    def options(self) -> MeasureOptions:
        """On what is measured what is missing.

        Raises:
            BadInput: a parameter is invalid, or a version would be compared with itself.
        """
        if VersionName.parse(self.older) == VersionName.parse(self.newer):
            raise BadInput(f"older and newer are both {self.older}", hint="give two versions")
        self.on.checked_model()
        return self.on.options(())


def _path(text: str, name: str) -> Path | None:
    """The place that a parameter names; None for an empty one.

    Raises:
        BadInput: there is nothing.
    """
    if not text:
        return None
    path = Path(text)
    if "\0" in text or not (path.is_dir() if name == "data" else path.is_file()):
        raise BadInput(no_folder(path) if name == "data" else f"there is no file {text!r}", hint=f"check --{name}")
    return path
