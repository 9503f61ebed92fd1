"""What a measured time depends on: the processor, the cores and their quota, the threads, the load."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import Field

from registry.formats.document import DocumentPart
from registry.machine.cores import allowed_cores, quota

_MAX_TEXT = 200
Name = Annotated[str, Field(max_length=_MAX_TEXT)]


class Machine(DocumentPart):
    """The machine of a measurement, when it began.

    Attributes:
        cpu: the processor's name.
        cores: how many the process may run on.
        quota: of its container, in cores; None without one.
        load: processes that ran or wanted to, on average over the minute before. Above `cores` they wait.
        threads: of the library that computes; None if it is not known.
        accelerator: the name of the device, if it is not the processor.
        system: the operating system.
    """

    cpu: Name
    cores: int = Field(ge=1)
    quota: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    load: float = Field(ge=0, allow_inf_nan=False)
    threads: int | None = Field(default=None, ge=1)
    accelerator: Name = ""
    system: Name = ""

    def __str__(self) -> str:
        parts = [self.accelerator, self.cpu, f"{self.cores} cores"]
        if self.quota is not None:
            parts.append(f"quota {self.quota:g}")
        if self.threads is not None:
            parts.append(f"{self.threads} threads")
        return ", ".join([part for part in parts if part] + [f"load {self.load:g}"])


def this_machine(*, threads: int | None = None, accelerator: str = "", root: Path = Path("/")) -> Machine:
    """This machine, now.

    Args:
        threads, accelerator: see `Machine`; whoever computes knows them.
        root: where `proc` and `sys` are.
    """
    return Machine(
        cpu=_cpu(root)[:_MAX_TEXT],
        cores=allowed_cores(),
        quota=quota(root),
        load=_load(),
        threads=threads,
        accelerator=accelerator[:_MAX_TEXT],
        system=f"{platform.system()} {platform.machine()}"[:_MAX_TEXT],
    )


def _load() -> float:
    """Of the last minute; 0 where the system does not tell it."""
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return 0.0


def _cpu(root: Path) -> str:
    """The processor's name; its architecture where the system does not tell more."""
    with suppress(OSError, UnicodeDecodeError):
        for line in (root / "proc/cpuinfo").read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return " ".join(value.split())
    return platform.processor() or platform.machine() or "unknown"
