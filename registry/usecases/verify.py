"""Verify versions and everything else that a model has in the store, and repair what is bad from copies."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from registry.channels.channel import channel_names
from registry.errors import IntegrityError, StoreDenied
from registry.integrity.audit import check_backbones, check_chain, check_documents, check_garbage
from registry.integrity.rebound import BoundNames, contradictions, newest_records
from registry.integrity.repair import BlobRepair, FilesByDigest, Repairer, only_plan
from registry.integrity.report import (
    ChainCheck,
    Documents,
    GarbageCheck,
    Mended,
    Verification,
    VerificationReport,
)
from registry.integrity.verify import ALL, NONE, Sample, Verifier
from registry.names import CHANNELS
from registry.progress import OpenProgress, Progress, no_progress, open_no_progress
from registry.retention.references import deletable_versions
from registry.store.refusals import each_by_itself
from registry.usecases.checks import check_trusted
from registry.usecases.options import VerifyOptions
from registry.wiring import Wiring

Checked = Verification | Mended | ChainCheck | Documents | GarbageCheck
"""What `verify_all` tells while it runs."""
Tell = Callable[[Checked], None]
Found = TypeVar("Found", Verification, ChainCheck, Documents, GarbageCheck)


@each_by_itself()
def verify(wiring: Wiring, version: str, *, read_data: bool, progress: Progress) -> Verification:
    """Verify one version; see `Registry.verify`."""
    return verify_or_stop(wiring, version, read_data=read_data, progress=progress)


def verify_or_stop(
    wiring: Wiring, version: str, *, read_data: bool = False, progress: Progress = no_progress
) -> Verification:
    """The same for what decides by it: it stops where the store fails for a file, as nothing is known of that.

    Raises:
        StoreUnreachable, and those of `Registry.verify`.
    """
    return _verifier(wiring, ALL if read_data else NONE).version(version, progress)


@each_by_itself()
def verify_all(
    wiring: Wiring,
    versions: Sequence[str] | None,
    options: VerifyOptions | None,
    *,
    dry_run: bool,
    tell: Tell,
    progress: OpenProgress | None,
) -> VerificationReport:
    """Verify the given versions, or everything; see `Registry.verify_all`."""
    options = options or VerifyOptions()
    sample, source = _sample(options), options.repair_from
    verifier = _verifier(wiring, sample)
    repairer = _repairer(wiring, verifier, source, dry_run=dry_run, tell=tell) if source else None
    run = _VerifyRun(wiring, sample, verifier, repairer, tell, BoundNames(wiring.bindings))
    names = [str(name) for name in wiring.bindings.existing_names()] if versions is None else versions
    report = VerificationReport(
        versions=tuple(run.version(name, progress or open_no_progress) for name in names),
        seed=None if options.share is None else sample.seed,
    )
    if versions is None:
        report = replace(
            report,
            chains=tuple(run.chains()),
            documents=run.documents(),
            backbones=tuple(run.backbones()),
            garbage=run.garbage(),
        )
    return replace(report, mended=tuple(run.mended))


@dataclass(frozen=True)
class _VerifyRun:
    """One run of `verify_all`: every finding is passed to `tell` as soon as it is known."""

    wiring: Wiring
    sample: Sample
    verifier: Verifier
    repairer: Repairer | None
    tell: Tell
    names: BoundNames
    mended: list[Mended] = field(default_factory=list)

    def version(self, name: str, progress: OpenProgress) -> Verification:
        with progress(self._bytes_to_read(name)) as advance:
            if self.repairer is None:
                return self._told(self.verifier.inspect(name, advance))
            checked, mended = self.repairer.version(name, advance)
        self.mended.extend(mended)
        return self._told(checked)

    def chains(self) -> Iterator[ChainCheck]:
        store, model = self.wiring.store, self.wiring.model
        for name in dict.fromkeys([*CHANNELS, *channel_names(store, model)]):
            yield self._told(check_chain(store, model, name, self.names))

    def documents(self) -> Documents:
        return self._told(check_documents(self.wiring.store, self.wiring.model, self.names))

    def backbones(self) -> Iterator[Verification]:
        for name, files, problem in check_backbones(self.wiring.backbone_mirror):
            checked = self.verifier.files(name, files)
            if problem:
                checked = replace(checked, bad=(problem,))
            if self.repairer is not None:
                checked, mended = self.repairer.repair(checked)
                self.mended.extend(mended)
            yield self._told(checked)

    def garbage(self) -> GarbageCheck:
        return self._told(check_garbage(self.wiring.store, self.wiring.blobs))

    def _told(self, found: Found) -> Found:
        self.tell(found)
        return found

    def _bytes_to_read(self, name: str) -> int:
        if not self.sample.share:
            return 0
        try:
            return int(self.wiring.manifest(name).size * self.sample.share)
        except (IntegrityError, StoreDenied):
            return 0


def _sample(options: VerifyOptions) -> Sample:
    """Which files are read."""
    if options.share is None:
        return ALL if options.read_data else NONE
    return Sample(options.share, random.randrange(10**6) if options.seed is None else options.seed)  # noqa: S311  no secret


def _verifier(wiring: Wiring, sample: Sample) -> Verifier:
    """Verifies versions one after the other, and looks at each blob and at the ends of the channels' logs once."""
    newest = cache(lambda: newest_records(wiring.store, wiring.model))
    return Verifier(
        wiring.bindings, wiring.blobs, sample,
        check=lambda manifest: check_trusted(wiring, manifest),
        contradictions=lambda binding: contradictions(binding, newest()),
        deletable=lambda: deletable_versions(wiring.store, wiring.model),
        note=wiring.last_reads.note,
    )  # fmt: skip


def _repairer(wiring: Wiring, verifier: Verifier, source: Path, *, dry_run: bool, tell: Tell) -> Repairer:
    """Repairs what the verifier finds, from the files of a folder."""
    copies = FilesByDigest(source)
    if not dry_run:
        wiring.check_writable()
    blob_repair = BlobRepair(wiring.store, wiring.blobs, copies)
    return Repairer(verifier, blob_repair, only_plan if dry_run else BlobRepair.apply, tell)
