"""The rows of the budget: which command measures each, how much, and what stands beside each of its budgets.

Sizes of the full run are chosen to end within 25 minutes together on 2 idle cores. Why a budget is missed is data here,
beside the row, and is shown wherever the row is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

Bound = Literal["at most", "at least"]
RunKind = Literal["any", "full", "quick"]


@dataclass(frozen=True)
class ShownBudget:
    """One budget of a command: it must be in its result, and is shown so.

    Attributes:
        begins: how its name begins in the result; the first that fits is taken.
        ours: the contender in `times`, or the figure, that is ours.
        rivals: those beside it; what a result does not have is left out.
        reason: why it is missed where it is, as far as that is known.
        run: which runs have it; that of a large backbone is not in the quick one.
    """

    begins: str
    ours: str = ""
    rivals: tuple[str, ...] = ()
    reason: str = ""
    run: RunKind = "any"


@dataclass(frozen=True)
class BudgetRow:
    """One command.

    Attributes:
        module: below `benchmarks`.
        full, quick: its arguments; `quick` None: only where it is asked for by name.
        takes_packages: whether it takes `--packages`.
        shown: its budgets, all of them: one that a result lacks is told. One that is not listed is shown by its name.
        ratios: figures without a budget that the check compares too, each with `at most` where less is better, or
            `at least`: those of budgets in milliseconds.
        tolerance: by which share a ratio may be worse than in the baseline: that much comes from a busy machine.
    """

    name: str
    module: str
    full: tuple[str, ...]
    quick: tuple[str, ...] | None
    shown: tuple[ShownBudget, ...] = ()
    takes_packages: bool = False
    ratios: tuple[tuple[str, Bound], ...] = ()
    tolerance: float = 0.5

    @property
    def tiny(self) -> tuple[str, ...]:
        """Its arguments in a quick run that asks for it by name."""
        return ("--only", self.name, "--quick", "--size", "tiny") if self.module == "serving" else ("--size", "tiny")

    def expected(self, *, quick: bool) -> list[ShownBudget]:
        """The budgets that a run must report."""
        return [one for one in self.shown if one.run in ("any", "quick" if quick else "full")]

    def shown_for(self, what: str) -> ShownBudget:
        """What is known of a budget."""
        return next((one for one in self.shown if what.startswith(one.begins)), ShownBudget(what))


_MLFLOW_FOLLOWS = ("propagation: MLflow alias set -> last server has loaded, median and worst in ms",)


_FLIPS = "a change takes about 10 ms of processor time, for its heartbeat among others, of two cores that are in use"
_LOADS = "a load takes one of the two cores for a while; the client and the store are on them too"
_VIT_B = "two threads share each forward pass, and any other work on the two cores holds up both"
_TINY = "reading a photo and HTTP take 0.6 ms of processor time each, the forward pass 0.4 ms, all on two cores"
_DEADLINE = "an image that is being computed at its deadline is waited for"
_TOO_MANY = "in the first second 1,500 connections are opened and two seconds of images are admitted at once"
_STARTING = "importing and setting up botocore takes 190 ms, Python, click and pydantic most of the rest"
_HASHING = "the files are hashed before they are sent, and the store is asked what is there"
_LOADING = "reading adapters, and two forward passes of 0.3 s that time batches, come on top"


_SMALL = "by the larger sizes a load takes 0.7 ms for anything but bytes, which reading so few does not"
_OVERLOAD = (
    "p99 of the admitted", "admitted and not answered", "p99 of refusals", "p99 of health", "growth of resident memory",
)  # fmt: skip
_ADAPTERS: tuple[tuple[str, RunKind], ...] = (
    ("tiny", "quick"),
    ("2.4 MB", "full"),
    ("10.6 MB", "full"),
    ("57 MB", "full"),
)
Said = TypeVar("Said")


def _of_sizes(tiny: Said, vit_b: Said) -> tuple[tuple[str, Said, RunKind], ...]:
    """What `serving` measures on both backbones in the full run, and on the tiny one in the quick run."""
    return ("tiny", tiny, "any"), ("vit-b", vit_b, "full")


def _serving(
    part: str, scale: str, *shown: ShownBudget, in_quick: bool = True, ratios: tuple[tuple[str, Bound], ...] = ()
) -> BudgetRow:
    full = ("--only", part, "--scale", scale)
    row = BudgetRow(part, "serving", full, None, shown, True, ratios, tolerance=1.0)
    return replace(row, quick=row.tiny) if in_quick else row


ROWS: Sequence[BudgetRow] = (
    BudgetRow(
        "rollback", "rollback", ("--rounds", "10"), ("--size", "tiny", "--rounds", "5"),
        (
            ShownBudget(
                "ulora rollback, process", "ulora rollback", ("MLflow alias", "gto assign", "folder copy"), _STARTING
            ),
            ShownBudget("import registry", "python, import registry", ("python",)),
            ShownBudget("rollback in process", "rollback in process", ("raw boto3: LIST, GET, PUT",)),
        ),
        takes_packages=True,
        ratios=(("rollback in process / raw boto3", "at most"),),
    ),
    BudgetRow(
        "flip", "flip", ("--rounds", "60"), ("--size", "tiny", "--rounds", "20"),
        (
            ShownBudget(
                "flip to a resident", "flip of a replica", ("PEFT: set_adapter", "PEFT: hotswap_adapter")
            ),
            ShownBudget("tensors that moved"),
            ShownBudget("growth of the bank"),
        ),
        ratios=(("PEFT set_adapter / flip", "at least"), ("PEFT hotswap_adapter / flip", "at least")),
    ),
    _serving(
        "propagation", "0.5",
        ShownBudget(
            "log moved -> last replica, p90",
            "propagation: log moved -> last replica, by polling, median and worst in ms",
            _MLFLOW_FOLLOWS,
        ),
        ShownBudget(
            "log moved -> last replica with refresh",
            "propagation: log moved -> last replica, with refresh, median and worst in ms",
            _MLFLOW_FOLLOWS,
        ),
        ratios=(("propagation: rival / ours, by polling", "at least"),),
    ),
    _serving(
        "swaps", "0.1",
        ShownBudget("swaps while requests ran"),
        ShownBudget("requests through swaps that failed"),
        ShownBudget("answers that are not their version's"),
        in_quick=False,
    ),
    _serving(
        "flips", "0.25",
        ShownBudget("p99 around flips", reason=_FLIPS), ShownBudget("p99 while a version is loaded", reason=_LOADS),
        in_quick=False,
    ),
    _serving(
        "throughput", "0.15",
        *(
            ShownBudget(
                f"{size}: replica", f"throughput: {size}: replica at saturation, images a second",
                (
                    f"throughput: {size}: bare forward, images a second",
                    f"throughput: {size}: replica / mlflow models serve, each at its best",
                    f"throughput: {size}: replica / LitServe, each at its best",
                ),
                reason, run,
            )
            for size, reason, run in _of_sizes(_TINY, _VIT_B)
        ),
        in_quick=False,
    ),
    _serving(
        "overload", "0.25",
        *(
            ShownBudget(f"{size}: 10 x overload, {what}", reason=why, run=run)
            for size, reasons, run in _of_sizes(("", "", _TOO_MANY, _TOO_MANY, ""), (_DEADLINE, "", "", "", ""))
            for what, why in zip(_OVERLOAD, reasons, strict=True)
        ),
        in_quick=False,
    ),
    BudgetRow(
        "transfer", "transfer", ("--scale", "0.2", "--rounds", "3"), ("--size", "tiny", "--rounds", "2"),
        (
            ShownBudget(
                "raw parallel PUT / publish", "publish: ours",
                ("publish: raw boto3", "publish: mlflow.log_artifacts to S3", "publish: s5cmd", "publish: awscli"),
                _HASHING,
            ),
            ShownBudget(
                "bytes of files sent", "publish next: ours",
                ("publish next: mlflow.log_artifacts to S3", "publish next: s5cmd", "publish next: awscli"),
            ),
        ),
        takes_packages=True,
        tolerance=1.0,
    ),
    _serving(
        "cold-start", "0.45",
        *(
            ShownBudget(
                f"{size}: cold start", f"cold-start: {size}: replica, seconds",
                (
                    f"cold-start: {size}: bytes and backbone, seconds",
                    f"cold-start: {size}: mlflow.pyfunc.load_model, seconds",
                ),
                _LOADING, run,
            )
            for size, _, run in _of_sizes("", "")
        ),
        in_quick=False,
    ),
    BudgetRow(
        "scale", "scale", ("--rounds", "10"), ("--size", "tiny", "--rounds", "10"),
        tuple(
            ShownBudget(f"{what} at ", f"{what}, 10000 versions", (f"{rival}, 10000 versions",))
            for what, rival in (
                ("promote", "MLflow set alias"), ("rollback", "MLflow set alias"), ("resolve", "MLflow resolve alias"),
            )
        ),
    ),
    BudgetRow(
        "mixed", "mixed", ("--rounds", "7"), ("--size", "tiny", "--rounds", "10"),
        tuple(
            ShownBudget(f"{modules}: mixed", f"{modules}: ours, 8 adapters", (f"{modules}: PEFT, 8 adapters",))
            for modules in ("q,v", "all-linear")
        ),
        ratios=tuple((f"{modules}: ours mixed / PEFT mixed", "at most") for modules in ("q,v", "all-linear")),
    ),
    BudgetRow(
        "loading", "loading", ("--rounds", "15"), ("--size", "tiny", "--rounds", "10"),
        tuple(
            ShownBudget(
                f"{size}: {where}", f"{size}: ours, {where}", (f"{size}: PEFT, load_adapter", f"{size}: read"), _SMALL,
                run,
            )
            for size, run in _ADAPTERS
            for where in ("into a free slot", "into a new page")
        ),
    ),
    BudgetRow(
        "residents", "residents", (), None,
        tuple(
            ShownBudget(f"{count} versions, {what}")
            for what in ("growth of the process", "memory that they report")
            for count in (1, 2, 4, 8)
        ),
    ),
)  # fmt: skip
"""In the order of the budget in docs/benchmarks.md. Slow parts of `serving` are in the full run only."""


def rows_named(names: Sequence[str], *, quick: bool) -> list[BudgetRow]:
    """The rows to measure: those named, or all of the full or quick run, in the order of `ROWS`."""
    if names:
        return [row for row in ROWS if row.name in names]
    return [row for row in ROWS if not quick or row.quick is not None]
