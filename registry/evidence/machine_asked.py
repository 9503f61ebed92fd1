"""The machine that a policy's rule on times names: a time says little without the machine that it was measured on."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from registry.machine.hardware import Machine


class MachineAsked(BaseModel):
    """The machine that a rule on times is for; what is left out may be anything. For the fields see `Machine`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    cpu: str | None = Field(default=None, min_length=1, max_length=200)
    accelerator: str | None = Field(default=None, min_length=1, max_length=200)
    cores: int | None = Field(default=None, ge=1, le=100_000)
    threads: int | None = Field(default=None, ge=1, le=100_000)

    def is_met_by(self, machine: Machine | None) -> bool:
        """Whether times of a machine count; those of an unknown one do not."""
        return machine is not None and all(getattr(machine, name) == value for name, value in self.asked().items())

    def asked(self) -> dict[str, str | int]:
        """The fields that are asked for."""
        return {name: value for name, value in self if value is not None}

    def __str__(self) -> str:
        texts = [f"{value}" if isinstance(value, str) else f"{value} {name}" for name, value in self.asked().items()]
        return ", ".join(texts)

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.asked():
            raise ValueError(f"`machine` names at least one of {', '.join(type(self).model_fields)}")
        return self
