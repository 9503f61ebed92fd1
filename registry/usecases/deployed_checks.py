"""The checks of what is deployed: a replica, or several behind one URL, is asked as its clients ask it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote

from registry.errors import BackboneNotFound, BadInput, CheckFailed, CorruptBlob, MissingDependency
from registry.evidence.results import Metric
from registry.formats.counts import counted
from registry.tree.layout import FILES_FLAVOR
from registry.usecases.answer_agreement import disagreement
from registry.usecases.check_results import CheckPassed, CheckSkipped
from registry.usecases.replica_client import ReplicaAnswer, ReplicaClient
from registry.usecases.sample_images import MAX_BYTES, SampleImage, sample_images
from registry.usecases.serve import load
from registry.usecases.version_test_options import TestOptions
from registry.versions.bindings import Binding
from registry.versions.manifest import Manifest
from registry.wiring import Wiring

_NO_TARGET = "no_such_target"
_NOT_AN_IMAGE = b"these bytes are not an image"


@dataclass(frozen=True)
class DeployedChecks:
    """The checks of one version at one URL, by name. Each may raise `ReplicaUnreachable`, and `ReplicaDenied`."""

    wiring: Wiring
    binding: Binding
    manifest: Manifest
    client: ReplicaClient
    options: TestOptions

    def named(self) -> dict[str, Callable[[], CheckPassed]]:
        """All of them, in the order in which they are made."""
        return {
            "live": lambda: self._probe("/health/live"),
            "ready": lambda: self._probe("/health/ready"),
            "version": self.version,
            "digest": self.digest,
            "answers": self.answers,
            "errors": self.errors,
            "latency": self.latency,
        }

    def version(self) -> CheckPassed:
        """Whether it serves the model and the version.

        Raises:
            CheckFailed: it does not.
        """
        said = self._said
        served, model = said.get("version"), said.get("model")
        if (served, model) != (self.manifest.version, self.manifest.model):
            wanted = f"{self.manifest.version} of {self.manifest.model}"
            raise CheckFailed(f"it serves {served!s:.120} of {model!s:.120}, not {wanted}")
        return CheckPassed(f"{served}, generation {said.get('generation')!s:.20} of {said.get('channel')!s:.60}")

    def digest(self) -> CheckPassed:
        """Whether what it serves has the digests that the version's name is bound to in the store.

        Raises:
            CheckSkipped: it serves another version.
            CorruptBlob: it has others.
        """
        if self._said.get("version") != self.manifest.version:
            raise CheckSkipped("it serves another version")
        for name in ("manifest_sha256", "content_sha256"):
            wanted, served = getattr(self.binding, name), self._said.get(name)
            if served != wanted:
                raise CorruptBlob(
                    f"{name} of what it serves is {served!s:.64}, not {wanted}",
                    hint=f"take it out of the traffic; `ulora verify {self.manifest.version}` checks the store",
                )
        return CheckPassed(f"manifest {self.binding.manifest_sha256[:12]}")

    def answers(self) -> CheckPassed:
        """Whether it answers images as the version does when it is loaded here.

        Raises:
            CheckSkipped: the version can't be computed here.
            CheckFailed: an answer differs, or is by another version.
        """
        images = self._images
        here = self._answers_here(images)
        problems = [
            f"{image.name}: {problem}"
            for image, wanted in zip(images, here, strict=True)
            if (problem := self._problem_of(self._predict(image), wanted))
        ]
        if problems:
            differ = f"{len(problems)} of {counted(len(images), 'answer')} differ from those computed here"
            raise CheckFailed(differ, lines=tuple(problems))
        return CheckPassed(f"{counted(len(images), 'answer')} as computed here", n=len(images))

    def errors(self) -> CheckPassed:
        """Whether it refuses what it should refuse, in its own words.

        Raises:
            CheckFailed: it does not.
        """
        large = self.client.announce("/predict", MAX_BYTES + 1)
        found = [self._bad_image(), self._unknown_target(), *([_large_body(large)] if large else ())]
        problems = tuple(filter(None, found))
        if problems:
            said = f"{len(problems)} of {len(found)} bad requests are not answered as they should be"
            raise CheckFailed(said, lines=problems)
        # What stands before a replica may want the whole body first.
        size = "a body of 32 MiB and one byte" + ("" if large else " (not answered before it is sent)")
        return CheckPassed(f"refused: a broken image, an unknown target, {size}", n=len(found))

    def latency(self) -> CheckPassed:
        """How long answers take, one request after the other, as seen from here.

        Raises:
            CheckFailed: a request failed, or they take too long.
        """
        images, seconds = self._images, list[float]()
        for number in range(self.options.requests):
            answer = self._predict(images[number % len(images)])
            if problem := self._refusal(answer):
                raise CheckFailed(f"request {number + 1} of {self.options.requests}: {problem}")
            seconds.append(answer.seconds)
        p50, p95 = (1e3 * percentile(seconds, share) for share in (0.5, 0.95))
        said = f"p50 {p50:.1f} ms, p95 {p95:.1f} ms of {counted(len(seconds), 'request')}"
        most = self.options.max_latency
        if most is not None and p95 > most:
            raise CheckFailed(f"{said}: p95 is above {most:g} ms")
        return CheckPassed(said, len(seconds), tuple(_latencies(p50, p95, len(seconds))))

    # --- parts -------------------------------------------------------------------------------------------------------

    @cached_property
    def _said(self) -> dict[str, Any]:
        answer = self.client.ask("GET", "/version")
        if answer.status != 200 or "version" not in answer.document:
            raise CheckFailed(f"GET /version: {answer.problem}", hint="is it the URL of a replica?")
        return answer.document

    @cached_property
    def _images(self) -> Sequence[SampleImage]:
        return sample_images(self.wiring, self.manifest, self.options.data)

    def _probe(self, path: str) -> CheckPassed:
        answer = self.client.ask("GET", path)
        if answer.status != 200:
            state = answer.document.get("error") or answer.document.get("state") or ""
            raise CheckFailed(f"GET {path}: status {answer.status} {state!s:.200}".rstrip())
        return CheckPassed(f"GET {path}: 200")

    def _predict(self, image: SampleImage) -> ReplicaAnswer:
        return self.client.ask("POST", "/predict" + _query(image.target), image.data)

    def _answers_here(self, images: Sequence[SampleImage]) -> list[dict[str, Any]]:
        if self.manifest.flavor == FILES_FLAVOR:
            raise CheckSkipped("a snapshot of files has no model to load")
        try:
            loaded = load(
                self.wiring, self.manifest.version, device=self.options.device, runtime=self.options.runtime
            )  # fmt: skip
        except (MissingDependency, BackboneNotFound) as error:
            raise CheckSkipped(f"the version can't be computed here: {error}") from error
        found = loaded.predict([image.data for image in images], target=[image.target for image in images])
        return [one.to_dict() for one in found]

    def _problem_of(self, answer: ReplicaAnswer, wanted: dict[str, Any]) -> str:
        """What is wrong with an answer; empty if it is as computed here, an image that nobody can read included."""
        if wanted.get("outcome") == "corrupt_image" and answer.status == 400:
            return ""
        return self._refusal(answer) or disagreement(wanted, answer.document)

    def _refusal(self, answer: ReplicaAnswer) -> str:
        """Why an answer is none of the version; empty if it is one."""
        if answer.status != 200:
            return answer.problem
        served = answer.document.get("version")
        return "" if served == self.manifest.version else f"it is answered by {served!s:.120}"

    def _bad_image(self) -> str:
        answer = self.client.ask("POST", "/predict", _NOT_AN_IMAGE)
        return "" if answer.status == 400 and _is_ours(answer) else f"bytes that are no image: {answer.problem}"

    def _unknown_target(self) -> str:
        """A target that the version lacks may be refused, or answered without a label."""
        answer = self.client.ask("POST", "/predict" + _query(_NO_TARGET), self._images[0].data)
        if answer.status == 200 and answer.document.get("label", "") is None:
            return ""
        return "" if 400 <= answer.status < 429 and _is_ours(answer) else f"an unknown target: {answer.problem}"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed (nearest rank).

    Raises:
        BadInput: there are no values.
    """
    if not values:
        raise BadInput("there is no percentile of nothing")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _latencies(p50: float, p95: float, n: int) -> Iterator[Metric]:
    for name, value in (("p50", p50), ("p95", p95)):
        yield Metric.of(f"deployed_latency_ms_{name}", round(value, 3), n=n, unit="ms")


def _large_body(answer: ReplicaAnswer) -> str:
    return "" if answer.status == 413 else f"a body of 32 MiB and one byte: {answer.problem}"


def _query(target: str | None) -> str:
    return f"?target={quote(target, safe='')}" if target else ""


def _is_ours(answer: ReplicaAnswer) -> bool:
    """Whether an error is one of a replica: whatever stands before it has others."""
    said = answer.document
    return isinstance(said.get("error"), str) and isinstance(said.get("message"), str)
