"""The same weights of a version, answering at other depths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

from adapters.answer.early_exits import Depth
from adapters.answer.loaded import LoadedVersion
from adapters.answer.stages import Stage


def three_ways(version: LoadedVersion) -> dict[str, LoadedVersion]:
    """The same weights at full depth, with exits, and cut at the mean depth of the exits; three times at full depth if
    a target has no exits.
    """
    return {
        "full": _with_depth(version, lambda one: replace(one, mode="full")),
        "dynamic": _with_depth(version, lambda one: replace(one, mode="dynamic")),
        "static": _with_depth(version, _cut),
    }


def cut_at(version: LoadedVersion, block: int) -> LoadedVersion:
    """The same weights, every image leaving at one block; targets without an exit there keep their depth."""

    def at_block(exits: Depth) -> Depth:
        has_it = block in exit_blocks(exits)
        return replace(exits, mode="static", cut=block) if has_it else exits

    return _with_depth(version, at_block)


def exit_blocks(exits: Depth | None) -> tuple[int, ...]:
    """The blocks of exits, the earliest first."""
    return tuple(stage.block for stage in exits.exits) if exits else ()


def _with_depth(version: LoadedVersion, change: Callable[[Depth], Depth]) -> LoadedVersion:
    parts = version.components
    adapters = {
        target: replace(one, depth=change(one.depth)) if one.depth else one for target, one in parts.adapters.items()
    }
    return LoadedVersion(version.version, "", replace(parts, adapters=MappingProxyType(adapters)), {})


def _cut(exits: Depth) -> Depth:
    """Cut at the first exit that is at least as deep as rows left on average in the calibration; full depth without
    one.
    """
    mean = float((exits.report.get("dynamic") or {}).get("mean_blocks", 0.0))
    deep_enough: list[Stage] = [stage for stage in exits.exits if stage.block >= mean]
    if not deep_enough:
        return replace(exits, mode="full")
    return replace(exits, mode="static", cut=deep_enough[0].block)
