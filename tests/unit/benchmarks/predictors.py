"""Predictors whose answers are known, so that the arithmetic of a benchmark can be worked out by hand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from registry.formats import canonical


@dataclass(frozen=True)
class Shot:
    """An image that is no file: its bytes are its name."""

    path: Path

    @property
    def sha256(self) -> str:
        return canonical.sha256(self.read())

    def read(self) -> bytes:
        return str(self.path).encode()


@dataclass(frozen=True)
class Picture(Shot):
    target: str
    label: str


@dataclass(frozen=True)
class Answer:
    label: str | None
    confidence: float = 0.9
    ood_score: float | None = None
    is_ood: bool = False
    blocks_used: int = 0


@dataclass(frozen=True)
class Album:
    """Data of which the name of a file says what is on it."""

    root: Path
    test: tuple[Picture, ...]
    far: tuple[Shot, ...] = ()
    near: tuple[Shot, ...] = ()

    def split(self, name: str) -> tuple[Picture, ...]:
        return self.test if name == "test" else ()

    def ood(self, kind: str) -> tuple[Shot, ...]:
        return self.far if kind == "far" else self.near

    def digest(self, name: str) -> str:
        return canonical.digest([name, len(self.test)])


@dataclass(frozen=True)
class Player:
    """A version that answers by rule, from the path that is an image's bytes."""

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

    def predict(self, images: Sequence[bytes], *, target: Sequence[str | None] | None = None) -> list[Answer]:
        named = target or [None] * len(images)
        return [Answer(self.label_of(image, target)) for image, target in zip(_paths(images), named, strict=True)]

    def route(self, images: Sequence[bytes]) -> list[tuple[str, float]]:
        return [(self.target_of(image), 1.0) for image in _paths(images)]

    def ood_scores(self, images: Sequence[bytes], target: str) -> list[float | None]:
        return [self.score_of(image, target) for image in _paths(images)]


def _paths(images: Sequence[bytes]) -> list[Path]:
    return [Path(image.decode()) for image in images]


def pictures(counts: Mapping[tuple[str, str], int]) -> tuple[Picture, ...]:
    """Pictures named `target-label-number`, so many of each."""
    return tuple(
        Picture(Path(f"{target}-{label}-{number}"), target, label)
        for (target, label), count in counts.items()
        for number in range(count)
    )
