"""How to fit: the settings of a fit, all in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from adapters.answer import ood
from adapters.backbone.families import Family
from adapters.bank.peft_config import MAX_RANK
from registry.errors import BadInput

METHODS = ("lora", "dora")
HEADS = ("cls", "cls+mean", "fusion")
DEPTHS = ("full", "dynamic", "static", "auto")
ALL_LINEAR = "all-linear"
MAX_ALPHA = 10_000
"""The largest rank takes 2048 unless told otherwise. Far beyond, the features leave the range of float32."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a fit.

    Attributes:
        method: `lora` or `dora`.
        rank: of the LoRA.
        alpha: its scale is alpha / rank; twice the rank when left out.
        modules: what the LoRA is put on, last names of linear modules or `all-linear`; the family's own choice, the
            queries and values, when left out.
        head: `cls`, `cls+mean` (of the patches), or `fusion` of four layers.
        epochs: how often each training image is seen.
        seed: of everything random.
        depth: `full`; `dynamic` or `static` if the accuracy on held-out images allows it; `auto` for what they
            recommend, foreign images considered too. With `full` no exit is fitted or written: detectors at eight
            blocks would be many times the size of an adapter.
        false_alarm_rate: the share of in-distribution images that may be flagged.
        runtimes: for which the detectors are calibrated too, and which are then judged against torch in float32.
        device: where it is computed, e.g. `cpu` or `cuda:0`.
    """

    method: str = "lora"
    rank: int = 4
    alpha: float | None = None
    modules: tuple[str, ...] = ()
    head: str = "cls+mean"
    epochs: int = 2
    seed: int = 0
    depth: str = "full"
    false_alarm_rate: float = ood.FALSE_ALARM_RATE
    runtimes: tuple[str, ...] = ()
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check everything that needs no backbone.

        Raises:
            BadInput: a value is of another type, a number is out of bounds, or a name is not known.
        """
        for name, kind in _KINDS.items():
            if not kind.holds(getattr(self, name)):
                raise BadInput(f"{name} {str(getattr(self, name))[:40]!r} can't be meant", hint=f"give {kind.told}")
        _check_name("method", self.method, METHODS)
        _check_name("head", self.head, HEADS)
        _check_name("depth", self.depth, DEPTHS)
        for name, sound in {
            "rank": 0 < self.rank <= MAX_RANK,
            "alpha": self.alpha is None or 0 < self.alpha <= MAX_ALPHA,
            "epochs": 0 < self.epochs <= 10_000,
            "seed": 0 <= self.seed < 2**32,
            "false_alarm_rate": 0 < self.false_alarm_rate < 1,
            "device": self.device.partition(":")[0] != "meta",  # which has shapes, but no numbers
        }.items():
            if not sound:
                raise BadInput(f"{name} {getattr(self, name)} can't be meant", hint=_BOUNDS[name])

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Recipe:
        """A recipe from plain values, such as those of a command line; what is left out or None keeps its default.

        Raises:
            BadInput: a setting is unknown or can't be meant.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(settings.keys() - known):
            raise BadInput(f"there is no setting {unknown[0]}", hint=f"there are {', '.join(sorted(known))}")
        given = {name: value for name, value in settings.items() if value is not None}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})

    def on(self, family: Family, present: set[str]) -> Recipe:
        """The recipe with what was left out filled in for a backbone.

        Args:
            present: the last names of its linear modules that can be adapted.

        Raises:
            BadInput: it has none of a module's name.
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
class _Kind:
    """What a setting must be, as whoever does not use type checks must be told."""

    told: str
    holds: Callable[[Any], bool]


def _is_number(value: Any, *types: type) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


_TEXT = _Kind("a word", lambda value: isinstance(value, str))
_WHOLE = _Kind("a whole number", lambda value: _is_number(value, int))
_NAMES = _Kind(
    "a list of names", lambda value: isinstance(value, tuple) and all(isinstance(name, str) for name in value)
)
_KINDS = {
    "method": _TEXT,
    "rank": _WHOLE,
    "alpha": _Kind("a number", lambda value: value is None or _is_number(value, int, float)),
    "modules": _NAMES,
    "head": _TEXT,
    "epochs": _WHOLE,
    "seed": _WHOLE,
    "depth": _TEXT,
    "false_alarm_rate": _Kind("a number", lambda value: _is_number(value, int, float)),
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
        raise BadInput(f"there is no {name} {value[:80]!r}", hint=f"there are {', '.join(known)}")
