"""Two versions that are compared: what is known of them, and measuring what keeps them from being compared.

Only evidence of one device and one runtime is compared: else a difference might be theirs. Answers do not depend on the
machine otherwise; times do, and are never subtracted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from registry.api import Registry
from registry.errors import BadInput
from registry.evidence.results import Evidence, newest
from registry.progress import Say
from registry.usecases.diff import MeasuredBy
from registry.usecases.options import MeasureOptions

COMPARED = ("accuracy", "routing", "ood")
"""The benchmarks whose answers are compared image by image."""


@dataclass(frozen=True)
class VersionPair:
    """Two versions, and what is known of them."""

    registry: Registry
    older: str
    newer: str

    def known_by(self, options: MeasureOptions) -> MeasuredBy:
        """The device that is asked for, and the runtime that is, else one that computed the newer version (the older
        one, if there is none), by which most can be compared; of several the latest; empty if there is none.
        """
        if options.runtime:
            return MeasuredBy(options.device, options.runtime)
        known = self._measured(self.newer, options.device) or self._measured(self.older, options.device)
        found = [MeasuredBy(options.device, runtime) for runtime in dict.fromkeys(one.runtime for one in known)]
        return min(found, key=lambda by: len(self.incomparable(by)), default=MeasuredBy(options.device))

    def measure_missing(self, options: MeasureOptions, say: Say, on_done: Callable[[Evidence], None]) -> MeasuredBy:
        """Measure what keeps the two from being compared; returns what computed both.

        First the benchmarks of which a version has no answers by that runtime; then those that were answered for other
        images. Where nothing of the newer version is known, its own runtime is taken, for both.

        Raises:
            BadInput: a version can't be computed by that runtime.
        """
        by = self.known_by(options)
        if not options.runtime and not self._measured(self.newer, options.device):
            by = replace(by, runtime="")
        measuring = _Measuring(self.registry, options, say, on_done)
        for version in (self.newer, self.older):
            by = measuring.measure(version, set(COMPARED) - self._answered(version, by).keys(), by)
        for version in (self.older, self.newer):
            measuring.measure(version, self.incomparable(by), by)
        return by

    def incomparable(self, by: MeasuredBy) -> set[str]:
        """The benchmarks whose newest answers by a runtime are not for the same images."""
        older, newer = self._answered(self.older, by), self._answered(self.newer, by)
        return {name for name in COMPARED if name not in older or older[name] != newer.get(name)}

    def sentence(self, by: MeasuredBy) -> str:
        """What is compared, and what is not."""
        known = [one for version in (self.older, self.newer) for one in self._measured(version, by.device)]
        others = sorted({one.runtime for one in known} - {by.runtime})
        left = f"; what {', '.join(others)} computed is not (--runtime chooses)" if others and by.runtime else ""
        return f"answers by {by.runtime or 'any runtime'} on {by.device} are compared{left}"

    def _answered(self, version: str, by: MeasuredBy) -> dict[str, str]:
        """The data of the newest measurements with answers, by benchmark."""
        if not by.runtime:
            return {}
        known = newest(one for one in self._measured(version, by.device) if by.has_made(one))
        return {place[0]: one.data.sha256 for place, one in known.items() if one.outcomes and place[0] in COMPARED}

    def _measured(self, version: str, device: str) -> list[Evidence]:
        """The evidence of a version's content on a device, the newest first."""
        content = self.registry.manifest(version).content_sha256
        known = [
            one for one in self.registry.evidence(version) if (one.content_sha256, one.device) == (content, device)
        ]
        return sorted(known, key=lambda one: one.order, reverse=True)


@dataclass(frozen=True)
class _Measuring:
    """How versions are measured."""

    registry: Registry
    options: MeasureOptions
    say: Say
    on_done: Callable[[Evidence], None]

    def measure(self, version: str, only: Collection[str], by: MeasuredBy) -> MeasuredBy:
        """Measure benchmarks, if there are any; returns what computed them.

        Raises:
            BadInput: that is another runtime, because the version does not allow this one.
        """
        if not only:
            return by
        self.say(f"{version}: {', '.join(sorted(only))} is measured{f' by {by.runtime}' if by.runtime else ''}")
        wanted = replace(self.options, only=tuple(sorted(only)), runtime=by.runtime or None)
        offline = not self.registry.settings.tracking_uri
        done = self.registry.measure(version, wanted, offline=offline, on_done=self.on_done, say=self.say)
        took = done[0].runtime
        if by.runtime and took != by.runtime:
            raise BadInput(
                f"{version} was computed by {took}, as {by.runtime} does not compute its answers: nothing is compared",
                hint=f"compare both by one that computes both: --runtime {took}",
            )
        return replace(by, runtime=took)
