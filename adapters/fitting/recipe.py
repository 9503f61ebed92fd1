"""The settings of a fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from adapters.backbone.families import Family
from adapters.bank.peft_values import MAX_RANK
from adapters.fitting.mahalanobis import FALSE_ALARM_RATE
from registry.errors import BadInput

METHODS = ("lora", "dora")
HEADS = ("cls", "cls+mean", "fusion")
DEPTHS = ("full", "dynamic", "static", "auto")
ALL_LINEAR = "all-linear"
MAX_ALPHA = 10_000
"""The largest rank uses 2048 by default. With a much larger alpha, features overflow float32."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a fit.

    Attributes:
        method: `lora` or `dora`.
        rank: of the LoRA.
        alpha: the LoRA's scale is alpha / rank; twice the rank by default.
        modules: the modules with a LoRA: last names of linear modules, or `all-linear`; by default those of the family,
            the queries and values.
        head: `cls`, `cls+mean` (of the patches), or `fusion` of four layers.
        epochs: how often each training image is used.
        seed: of all random numbers.
        depth: `full`; `dynamic` or `static` if the accuracy on held-out images allows it; `auto` for the recommended
            one, which also considers out-of-distribution images. With `full` no exit is fitted or written: detectors at
            eight blocks would be many times the size of an adapter.
        false_alarm_rate: the share of in-distribution images that may be flagged.
        runtimes: the detectors are calibrated for these too, and they are judged against torch in float32.
        device: a torch device, e.g. `cpu` or `cuda:0`.
    """

    method: str = "lora"
    rank: int = 4
    alpha: float | None = None
    modules: tuple[str, ...] = ()
    head: str = "cls+mean"
    epochs: int = 2
    seed: int = 0
    depth: str = "full"
    false_alarm_rate: float = FALSE_ALARM_RATE
    runtimes: tuple[str, ...] = ()
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check everything that does not depend on the backbone.

        Raises:
            BadInput: when a value has the wrong type, a number is out of bounds, or a name is unknown.
        """
        for name, kind in _TYPES.items():
            if not kind.accepts(getattr(self, name)):
                raise BadInput(f"{name} {str(getattr(self, name))[:40]!r} is invalid", hint=f"give {kind.description}")
        _check_name("method", self.method, METHODS)
        _check_name("head", self.head, HEADS)
        _check_name("depth", self.depth, DEPTHS)
        for name, sound in {
            "rank": 0 < self.rank <= MAX_RANK,
            "alpha": self.alpha is None or 0 < self.alpha <= MAX_ALPHA,
            "epochs": 0 < self.epochs <= 10_000,
            "seed": 0 <= self.seed < 2**32,
            "false_alarm_rate": 0 < self.false_alarm_rate < 1,
            "device": self.device.partition(":")[0] != "meta",  # it has shapes, but no values
        }.items():
            if not sound:
                raise BadInput(f"{name} {getattr(self, name)} is invalid", hint=_BOUNDS[name])

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Recipe:
        """A recipe from plain values, such as those of a command line; None means the default.

        Raises:
            BadInput: when a setting is unknown or invalid.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(settings.keys() - known):
            raise BadInput(f"there is no setting {unknown[0]}", hint=f"the settings are {', '.join(sorted(known))}")
        given = {name: value for name, value in settings.items() if value is not None}
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
        return cls(**values)

    def on(self, family: Family, present: set[str]) -> Recipe:
        """The recipe completed for a backbone.

        Args:
            present: the last names of its linear modules that can be adapted.

        Raises:
            BadInput: when it has no module with a given name.
        """
        modules = set(self.modules or family.lora_targets)
        if unknown := sorted(modules - present - {ALL_LINEAR}):
            raise BadInput(
                f"the backbone has no linear module {unknown[0][:80]!r} in its blocks",
                hint=f"it has {', '.join(sorted(present))}; or {ALL_LINEAR} for all of them",
            )
        chosen = present if ALL_LINEAR in modules else modules
        return replace(self, modules=tuple(sorted(chosen)), alpha=float(self.alpha or 2 * self.rank))

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "modules": list(self.modules), "runtimes": list(self.runtimes)}


@dataclass(frozen=True)
class _SettingType:
    """The type of a setting: its description, and a check."""

    description: str
    accepts: Callable[[Any], bool]


def _is_number(value: Any, *types: type) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


_TEXT = _SettingType("a string", lambda value: isinstance(value, str))
_INTEGER = _SettingType("an integer", lambda value: _is_number(value, int))
_NAMES = _SettingType(
    "a list of names", lambda value: isinstance(value, tuple) and all(isinstance(name, str) for name in value)
)
_TYPES = {
    "method": _TEXT,
    "rank": _INTEGER,
    "alpha": _SettingType("a number", lambda value: value is None or _is_number(value, int, float)),
    "modules": _NAMES,
    "head": _TEXT,
    "epochs": _INTEGER,
    "seed": _INTEGER,
    "depth": _TEXT,
    "false_alarm_rate": _SettingType("a number", lambda value: _is_number(value, int, float)),
    "runtimes": _NAMES,
    "device": _TEXT,
}
_BOUNDS = {
    "rank": f"1 to {MAX_RANK}",
    "alpha": f"above 0, up to {MAX_ALPHA}; twice the rank is usual",
    "epochs": "1 to 10000",
    "seed": "0 to 4294967295",
    "false_alarm_rate": "between 0 and 1, e.g. 0.03",
    "device": "one that computes, e.g. cpu or cuda:0",
}


def _check_name(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise BadInput(f"there is no {name} {value[:80]!r}", hint=f"use one of {', '.join(known)}")
