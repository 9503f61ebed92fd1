"""Predictors whose answers are known, so that the arithmetic of a benchmark can be worked out by hand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from registry.formats import canonical


@dataclass(frozen=True)
class Picture:
    path: Path
    target: str
    label: str

    @property
    def sha256(self) -> str:
        return canonical.sha256(str(self.path).encode())


@dataclass(frozen=True)
class Answer:
    label: str | None
    confidence: float = 0.9
    ood_score: float | None = None
    is_ood: bool = False
    blocks_used: int = 0


@dataclass(frozen=True)
class Album:
    """Data whose files are never opened by a predictor: the name of a file says what is on it."""

    root: Path
    test: tuple[Picture, ...]
    far: tuple[Path, ...] = ()
    near: tuple[Path, ...] = ()

    def split(self, name: str) -> tuple[Picture, ...]:
        return self.test if name == "test" else ()

    def ood(self, kind: str) -> tuple[Path, ...]:
        return self.far if kind == "far" else self.near

    def sha256_of(self, path: Path) -> str:
        return canonical.sha256(str(path).encode())

    def digest(self, name: str) -> str:
        return canonical.digest([name, len(self.test)])


@dataclass(frozen=True)
class Player:
    """A version that answers by rule, from a file's path."""

    labels: Mapping[str, Sequence[str]]
    label_of: Callable[[Path, str | None], str | None] = lambda path, target: path.name.split("-")[1]
    target_of: Callable[[Path], str] = lambda path: path.name.split("-")[0]
    score_of: Callable[[Path, str], float | None] = lambda path, target: float(path.name.split("-")[-1])
    memory: Mapping[str, int] = field(default_factory=dict)
    device: str = "cpu"
    runtime: str = "none"

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(self.labels)

    def predict(self, images: Sequence[Path], *, target: Sequence[str | None] | None = None) -> list[Answer]:
        named = target or [None] * len(images)
        return [Answer(self.label_of(image, target)) for image, target in zip(images, named, strict=True)]

    def route(self, images: Sequence[Path]) -> list[tuple[str, float]]:
        return [(self.target_of(image), 1.0) for image in images]

    def ood_scores(self, images: Sequence[Path], target: str) -> list[float | None]:
        return [self.score_of(image, target) for image in images]


def pictures(counts: Mapping[tuple[str, str], int]) -> tuple[Picture, ...]:
    """Pictures named `target-label-number`, so many of each."""
    return tuple(
        Picture(Path(f"{target}-{label}-{number}"), target, label)
        for (target, label), count in counts.items()
        for number in range(count)
    )
