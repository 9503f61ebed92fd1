"""`ulora verify`."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli.options import dry_run_option, folder, registry_options
from registry.cli.output import Output, megabytes
from registry.errors import BadInput, CorruptBlob, IntegrityError, NotTrusted
from registry.names import CHANNELS

if TYPE_CHECKING:
    from registry.answers import Documents, Mended, Verification
    from registry.api import Registry
    from registry.integrity.verify import Sample
    from registry.progress import Progress

_SHOWN = 5


class _Percent(click.ParamType):  # type: ignore[type-arg]
    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?)%?", str(value))
        share = float(match[1]) / 100 if match else 0.0
        if not 0 < share <= 1:
            self.fail(f"{value!r} is no share of the bytes; for example 10%", param, ctx)
        return share


@click.command("verify", short_help="Check that a version's files are what they should be; repair them.")
@click.argument("versions", nargs=-1, metavar="[VERSION]…")
@click.option("--all", "everything", is_flag=True, help="Every version, log and document, and the backbones.")
@click.option("--read-data", is_flag=True, help="Read every byte instead of asking the store for its checksums.")
@click.option("--sample", "share", type=_Percent(), metavar="P%", help="Read this share of the bytes, by whole files.")
@click.option("--seed", type=int, metavar="N", help="Chooses the sample; printed, so that it can be read again.")
@click.option("--repair", "source", type=folder, metavar="DIR", help="Put good copies from DIR where files are bad.")
@dry_run_option
@registry_options
def verify_command(
    registry: Registry,
    out: Output,
    *,
    versions: tuple[str, ...],
    everything: bool,
    read_data: bool,
    share: float | None,
    seed: int | None,
    source: Path | None,
    dry_run: bool,
) -> None:
    """Check every file of the versions in the store. What is bad or missing is named, and the exit status is 6.

    --all also checks the chain of every channel, the names, evidence, verdicts and notes, the backbones, and whether
    `store gc` could tell what is needed. Where trusted keys are set, a version that none of them signed is bad too.

    --repair looks in DIR, by what is in its files and not by their names, for good copies: a bundle, a restored tree,
    an old backup, a blob cache, a `store copy`. A corrupt file is replaced only after it was read and found bad, and
    only while it is still what was read; afterwards it is read again. The exit status is 0 when nothing bad is left.

    \b
    Examples:
      ulora verify v5.5.3-performance
      ulora verify --all --sample 10%
      ulora verify v5.5.3-performance --read-data --repair bundle/ --dry-run
      ulora verify --all --read-data --repair backup/
    """
    if everything == bool(versions):
        raise BadInput("say which versions to verify, or --all", hint="`ulora list` shows the versions")
    if dry_run and source is None:
        raise BadInput("without --repair nothing is changed", hint="--dry-run goes with --repair DIR")
    sample = _sample(read_data, share, seed)
    desk = _VerifyReport(registry, out, sample, source, dry_run)
    names = [str(name) for name in registry.bindings.names()] if everything else versions
    report: dict[str, Any] = {"versions": [desk.version(name) for name in names], "chains": {}}
    if everything:
        report["chains"] = _check_chains(registry, out)
        report["documents"] = _check_documents(registry, out)
        report["backbones"] = list(desk.backbones())
        report["garbage"] = _check_garbage(registry, out)
    report |= {"mended": desk.mended, "seed": sample.seed if share else None}
    if share:
        read = megabytes(sum(checked.bytes_read for checked in desk.found))
        out.say(f"read {read}, chosen by --seed {sample.seed}")
    if out.as_json:
        out.answer(report)
    _fail_if_bad(desk, report, source)


class _VerifyReport:
    """Verifies and prints, one after the other; mends what is bad where there are copies."""

    def __init__(self, registry: Registry, out: Output, sample: Sample, source: Path | None, dry_run: bool) -> None:
        from registry.integrity.repair import FilesByDigest

        self._registry = registry
        self._out = out
        self._sample = sample
        self._dry_run = dry_run
        self._repairer = (
            registry.repairer(FilesByDigest(source), sample, dry_run=dry_run, tell=self._tell)
            if source is not None
            else None
        )
        self._verifier = self._repairer.verifier if self._repairer else registry.verifier(sample)
        self.found: list[Verification] = []
        self.mended: list[Mended] = []

    @property
    def to_mend(self) -> int:
        """How many bad blobs there are good copies of, after a dry run."""
        return sum(bool(each.source) and not each.done for each in self.mended)

    def version(self, name: str) -> Verification:
        with self._out.progress(self._to_read(name), f"reading {name}") as progress:
            return self._show(*self._look(name, progress))

    def backbones(self) -> Iterator[Verification]:
        from registry.answers import BadFile
        from registry.integrity.audit import check_backbones

        for name, files, problem in check_backbones(self._registry.backbone_mirror):
            checked = self._verifier.files(name, files)
            if problem:
                checked = replace(checked, bad=(BadFile("note", "", problem),))
            yield self._show(*self._mend(checked))

    def _look(self, name: str, progress: Progress) -> tuple[Verification, tuple[Mended, ...]]:
        if self._repairer:
            return self._repairer.version(name, progress)
        return self._verifier.inspect(name, progress), ()

    def _mend(self, checked: Verification) -> tuple[Verification, tuple[Mended, ...]]:
        return self._repairer.repair(checked) if self._repairer else (checked, ())

    def _show(self, checked: Verification, mended: tuple[Mended, ...]) -> Verification:
        self.found.append(checked)
        self.mended += mended
        note = f" ({checked.note})" if checked.note else ""
        files = f"{checked.files} files, {megabytes(checked.size)}"
        self._out.say(f"{'ok ' if checked.ok else 'BAD'} {checked.version}: {files}{note}")
        for bad in checked.bad:
            self._out.say(f"    {bad.problem}: {bad.path}")
        return checked

    def _tell(self, mended: Mended) -> None:
        what = f"{mended.version} {mended.path}"
        if mended.done:
            self._out.say(
                f"    {what} is good" if not mended.problem else f"    {what} was {mended.problem}, is good now"
            )
        elif mended.source:
            do = "would put" if self._dry_run else "putting"
            self._out.say(f"    {what} is {mended.problem}: {do} {mended.source} there")
        elif mended.problem:
            self._out.say(f"    {what} is {mended.problem}, and no file there is a copy of it")

    def _to_read(self, name: str) -> int:
        try:
            return int(self._registry.manifest(name).size * self._sample.share) if self._sample.share else 0
        except IntegrityError:
            return 0


def _sample(read_data: bool, share: float | None, seed: int | None) -> Sample:
    from registry.integrity.verify import ALL, NONE, Sample

    if share is None:
        return ALL if read_data else NONE
    if read_data:
        raise BadInput("--read-data reads everything, --sample a part", hint="give one of them")
    return Sample(share, random.randrange(10**6) if seed is None else seed)  # noqa: S311  no secret


def _check_chains(registry: Registry, out: Output) -> dict[str, dict[str, Any]]:
    """Of every channel, scratch ones too: how long its chain is, and what is wrong with it, empty when nothing is."""
    from registry.channels.channel import channel_names
    from registry.integrity.audit import check_chain

    chains = {}
    for name in dict.fromkeys([*CHANNELS, *channel_names(registry.store, registry.model)]):
        length, problem = check_chain(registry.store, registry.model, name)
        chains[name] = {"records": length, "problem": problem}
        out.say(f"BAD {name}: {problem}" if problem else f"ok  {name}: a chain of {length} records")
    return chains


def _check_documents(registry: Registry, out: Output) -> Documents:
    from registry.integrity.audit import check_documents

    checked = check_documents(registry.store, registry.model)
    out.say(f"{'BAD' if checked.bad else 'ok '} {checked.checked} documents: evidence, verdicts and notes")
    for key, problem in checked.bad.items():
        out.say(f"    {key}: {problem}")
    return checked


def _check_garbage(registry: Registry, out: Output) -> list[str]:
    from registry.integrity.audit import garbage_problems

    problems = garbage_problems(registry.store, registry.blobs)
    for problem in problems:
        out.say(f"BAD garbage can't be told from what is needed: {problem}")
    return problems


def _fail_if_bad(desk: _VerifyReport, report: dict[str, Any], source: Path | None) -> None:
    from registry.integrity.verify import SIGNATURE

    files = [(checked.version, bad) for checked in desk.found for bad in checked.bad]
    wrong = [f"{version} {bad.path} ({bad.problem})" for version, bad in files]
    wrong += [f"{name} ({chain['problem']})" for name, chain in report["chains"].items() if chain["problem"]]
    if "documents" in report:
        wrong += [f"{key} ({problem})" for key, problem in report["documents"].bad.items()]
    wrong += [f"garbage ({problem})" for problem in report.get("garbage", ())]
    if not wrong:
        return
    summary = f"{len(wrong)} bad: {', '.join(wrong[:_SHOWN])}{' …' * (len(wrong) > _SHOWN)}"
    if len(files) == len(wrong) and all(bad.path == SIGNATURE for _, bad in files):
        raise NotTrusted(summary, hint=f"`ulora sign {files[0][0]} --key PRIVATE.pem`, if it is what its name promises")
    hint = "what is live keeps serving from verified memory; `--repair DIR` puts good files back from any copy"
    if desk.to_mend:
        hint = f"run it again without --dry-run: {source} holds copies of {desk.to_mend} blobs"
    elif source is not None:
        hint = f"{source} holds no copy of what is left; another DIR may"
    raise CorruptBlob(summary, hint=hint)
