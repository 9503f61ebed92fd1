"""How to fit: the settings of a fit, all in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from adapters import ood
from adapters.families import Family
from registry.errors import BadInput

METHODS = ("lora", "dora")
HEADS = ("cls", "cls+mean", "fusion")
DEPTHS = ("full", "dynamic", "static", "auto")
ALL_LINEAR = "all-linear"
MAX_RANK = 1024


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
            BadInput: a number is out of bounds, or a name is not known.
        """
        _check_name("method", self.method, METHODS)
        _check_name("head", self.head, HEADS)
        _check_name("depth", self.depth, DEPTHS)
        for name, sound in {
            "rank": 0 < self.rank <= MAX_RANK,
            "alpha": self.alpha is None or 0 < self.alpha < float("inf"),
            "epochs": 0 < self.epochs <= 10_000,
            "seed": 0 <= self.seed < 2**32,
            "false_alarm_rate": 0 < self.false_alarm_rate < 1,
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
        modules = self.modules or family.lora_targets
        if ALL_LINEAR in modules:
            modules = tuple(sorted(present))
        if unknown := sorted(set(modules) - present):
            raise BadInput(
                f"the backbone has no linear module {unknown[0][:80]!r} in its blocks",
                hint=f"it has {', '.join(sorted(present))}; or {ALL_LINEAR} for all of them",
            )
        return replace(self, modules=tuple(sorted(set(modules))), alpha=float(self.alpha or 2 * self.rank))

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "modules": list(self.modules), "runtimes": list(self.runtimes)}


_BOUNDS = {
    "rank": f"1 to {MAX_RANK}",
    "alpha": "a positive number",
    "epochs": "1 to 10000",
    "seed": "0 to 4294967295",
    "false_alarm_rate": "between 0 and 1, e.g. 0.03",
}


def _check_name(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise BadInput(f"there is no {name} {value[:80]!r}", hint=f"there are {', '.join(known)}")
