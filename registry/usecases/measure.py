"""Measure a version: run benchmarks, keep the evidence in the store, then show it in MLflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from registry.catalog.runs import EvidenceRun
from registry.errors import BadInput, BadPolicy, NotInMlflow, StoreDenied, first_line
from registry.evidence.candidate import Candidate
from registry.evidence.measure import (
    Benchmark,
    Measured,
    Subject,
    check_data,
    compares,
    data_folder,
    find_benchmarks,
    open_data,
)
from registry.evidence.measure import measure as run_benchmark
from registry.evidence.policy import Policy, load_policy
from registry.evidence.results import ComparedVersion, Evidence
from registry.names import VersionName
from registry.progress import Say
from registry.usecases.mirror import not_shown, show_version
from registry.usecases.options import MeasureOptions
from registry.usecases.serve import load
from registry.versions.manifest import Manifest
from registry.wiring import Wiring


def measure(
    wiring: Wiring,
    version: str,
    options: MeasureOptions | None,
    *,
    offline: bool,
    on_done: Callable[[Evidence], None],
    say: Say,
) -> list[Evidence]:
    """Run benchmarks on a version; see `Registry.measure`."""
    options = options or MeasureOptions()
    folder = data_folder(options.data or wiring.settings.data)
    manifest = wiring.manifest(version)
    benchmarks = find_benchmarks(options.only)
    _check_against(options, benchmarks)
    images = open_data(manifest.flavor, folder, options.rename)
    for sentence in check_data(images, _policy(wiring, say), Candidate.of(manifest), options.only):
        say(sentence)
    if not offline:
        wiring.catalog.ping()
    subject = _load(wiring, manifest, options)
    kept: list[Evidence] = []
    lacking: NotInMlflow | None = None
    for name, benchmark in benchmarks.items():
        done = run_benchmark(name, benchmark, subject, images, who=wiring.settings.who, say=say)
        evidence = _keep(wiring, done, say)
        kept.append(evidence)
        if not offline:
            lacking = _show(wiring, manifest.name, EvidenceRun.of(evidence, done.measurement), kept) or lacking
        on_done(evidence)
    if lacking:
        raise lacking
    return kept


def _check_against(options: MeasureOptions, benchmarks: Mapping[str, Benchmark]) -> None:
    if not options.against:
        return
    VersionName.parse(options.against)
    if not any(map(compares, benchmarks.values())):
        names = ", ".join(benchmarks)
        raise BadInput(f"{names} can't compare two versions in one run", hint="--against is for `--only latency`")


def _load(wiring: Wiring, manifest: Manifest, options: MeasureOptions) -> Subject:
    """The version in memory, and beside it the one that it is compared with, by the same runtime."""
    pointer = wiring.bindings.get(VersionName.parse(options.against)).pointer if options.against else None
    loaded = load(wiring, manifest.version, device=options.device, runtime=options.runtime)
    if pointer is None:
        return Subject(manifest, loaded)
    other = load(wiring, pointer.version, device=options.device, runtime=loaded.runtime)
    named = ComparedVersion(version=pointer.version, manifest_sha256=pointer.manifest_sha256)
    return Subject(manifest, loaded, other, named, options.rounds)


def _keep(wiring: Wiring, done: Measured, say: Say) -> Evidence:
    """Keep what was measured; without the outcomes where the store refuses them: roles of earlier releases lack that
    right, and a long measurement must not be lost for want of it.

    Raises:
        StoreDenied: evidence may not be written.
    """
    try:
        wiring.ledger.add(done.evidence, done.outcomes)
        return done.evidence
    except StoreDenied as error:
        if not done.outcomes:
            raise
        evidence = done.evidence.without_outcomes()
        wiring.ledger.add(evidence)
        say(
            f"{evidence.benchmark}: the results are kept, but not the answers for each image, which `judge: paired` "
            f"and `ulora diff` need ({first_line(error)}): docs/policies/measurer.json has the right to create outcomes"
        )
        return evidence


def _policy(wiring: Wiring, say: Say) -> Policy | None:
    """The policy in force. An invalid one does not keep a version from being measured."""
    try:
        return load_policy(wiring.settings.policy)
    except BadPolicy as error:
        say(f"what the gates need is not known: {error}")
        return None


def _show(wiring: Wiring, name: VersionName, run: EvidenceRun, kept: list[Evidence]) -> NotInMlflow | None:
    """Show evidence in MLflow; the reason if it does not take it. The next benchmark is run anyway."""
    try:
        with not_shown(f"the results of {name} are in the store, but not in MLflow", kept):
            binding = wiring.bindings.get(name)
            wiring.catalog.record_evidence(binding, run)
            show_version(wiring, binding)
    except NotInMlflow as error:
        return error
    except StoreDenied as error:  # the page says more than who measures may read
        said = f"the results of {name} are in the store, but not in MLflow: {first_line(error)}"
        return NotInMlflow(said, hint="`ulora reconcile` by somebody who may read the model shows them", answer=kept)
    return None
