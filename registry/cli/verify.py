"""`ulora verify`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from registry.cli.completers import complete_versions
from registry.cli.options import dry_run_option, folder, options_as, registry_options
from registry.cli.output import Output, megabytes
from registry.errors import BadInput, BadWeights, CorruptBlob, NotTrusted, StoreDenied
from registry.formats.counts import counted
from registry.integrity.report import (
    ChainCheck,
    Documents,
    GarbageCheck,
    Mended,
    Verification,
    VerificationReport,
)
from registry.store.refusals import MAY_NOT
from registry.usecases.options import VerifyOptions

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.usecases.verify import Checked

_SHOWN = 5


class _Percent(click.ParamType):  # type: ignore[type-arg]
    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?)%?", str(value))
        share = float(match[1]) / 100 if match else 0.0
        if not 0 < share <= 1:
            self.fail(f"{value!r} is not a share of the bytes; for example 10%", param, ctx)
        return share


@click.command("verify", short_help="Check that a version's files are what they should be; repair them.")
@click.argument("versions", nargs=-1, metavar="[VERSION]…", shell_complete=complete_versions)
@click.option("--all", "everything", is_flag=True, help="Every version, log and document, and the backbones.")
@click.option("--read-data", is_flag=True, help="Read every byte instead of asking the store for its checksums.")
@click.option("--sample", "share", type=_Percent(), metavar="P%", help="Read this share of the bytes, by whole files.")
@click.option("--seed", type=int, metavar="N", help="Chooses the sample; printed, so that it can be read again.")
@click.option(
    "--repair", "repair_from", type=folder, metavar="DIR", help="Replace bad files by good copies from DIR."
)  # fmt: skip
@dry_run_option
@registry_options
@options_as(VerifyOptions)
def verify_command(
    registry: Registry, out: Output, *, versions: tuple[str, ...], everything: bool, options: VerifyOptions,
    dry_run: bool,
) -> None:  # fmt: skip
    """Check every file of the versions in the store. What is bad or missing is named, and the exit status is 6.

    What the store refuses to give, e.g. an object under its writer's own key, is named too, and may be whole: if
    nothing else is wrong, the exit status is 7.

    --all also checks the chain of every channel, the names, evidence, verdicts and notes, the backbones, and whether
    `store gc` could tell what is needed. A name that was bound again contradicts the records of the
    channels. Where trusted keys are set, a version that none of them signed is bad too. So is one whose adapters
    loading would refuse, because their training changed the backbone; its bytes are right, and nothing repairs it.

    --repair looks in DIR for good copies, by content and not by name: a bundle, a restored tree, an old backup, a blob
    cache, a `store copy`. A corrupt file is replaced only after it was read and found bad, and only while it is still
    the object that was read; afterwards it is read again. The exit status is 0 when nothing bad is left.

    \b
    Examples:
      ulora verify v5.5.3-performance
      ulora verify --all --sample 10%
      ulora verify v5.5.3-performance --read-data --repair bundle/ --dry-run
      ulora verify --all --read-data --repair backup/
    """
    if everything == bool(versions):
        raise BadInput("say which versions to verify, or --all", hint="`ulora list` shows the versions")
    if dry_run and options.repair_from is None:
        raise BadInput("without --repair nothing is changed", hint="--dry-run goes with --repair DIR")
    report = registry.verify_all(
        None if everything else versions, options, dry_run=dry_run,
        tell=lambda checked: _show(out, checked, dry_run), progress=lambda size: out.progress(size, "reading"),
    )  # fmt: skip
    if options.share:
        read = sum(checked.bytes_read for checked in (*report.versions, *report.backbones))
        out.say(f"read {megabytes(read)}, chosen by --seed {report.seed}")
    if out.as_json:
        out.answer(_document(report, everything))
    _fail_if_bad(report, options)


def _show(out: Output, checked: Checked, dry_run: bool) -> None:
    """Print one result as soon as it is known."""
    match checked:
        case Mended():
            if text := _mended(checked, dry_run):
                out.say(f"    {checked.version} {checked.path} {text}")
        case Verification():
            note = f" ({checked.note})" if checked.note else ""
            files = f"{counted(checked.files, 'file')}, {megabytes(checked.size)}"
            out.say(
                f"{_mark(not checked.ok and not checked.is_unread, checked.is_unread)} {checked.version}: {files}{note}"
            )
            for bad in checked.bad:
                out.say(f"    {bad.path}: {bad.problem}" if bad.refused else f"    {bad.problem}: {bad.path}")
        case ChainCheck(channel, records, problem, refused):
            gap = "the chain can't be checked over what may not be read" if refused else ""
            found = problem or gap or f"a chain of {counted(records or 0, 'record')}"
            out.say(f"{_mark(bool(problem), bool(refused))} {channel}: {found}")
            for record in refused:
                out.say(f"    {record}")
        case Documents():
            documents = counted(checked.checked, "document")
            mark = _mark(bool(checked.bad), bool(checked.refused))
            out.say(f"{mark} {documents}: evidence, verdicts and notes")
            for key, problem in (*checked.bad.items(), *checked.refused.items()):
                out.say(f"    {key}: {problem}")
        case GarbageCheck(problems, refused):
            for problem in (*problems, *refused):
                mark = _mark(problem in problems, problem in refused)
                out.say(f"{mark} garbage collection can't tell what is needed: {problem}")


def _mark(is_bad: bool, is_refused: bool) -> str:
    """How a line begins; what may not be read is neither good nor bad."""
    return "BAD" if is_bad else "???" if is_refused else "ok "


def _mended(mended: Mended, dry_run: bool) -> str:
    if mended.problem == MAY_NOT:
        return f"{MAY_NOT}, and is not repaired"
    if mended.done:
        return f"was {mended.problem}, is good now" if mended.problem else "is good"
    if mended.source:
        return f"is {mended.problem}: {'would put' if dry_run else 'putting'} {mended.source} there"
    return f"is {mended.problem}, and no file there is a copy of it" if mended.problem else ""


def _document(report: VerificationReport, everything: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "versions": report.versions,
        "chains": {
            chain.channel: {"records": chain.records, "problem": chain.problem, "refused": chain.refused}
            for chain in report.chains
        },
    }
    if everything:
        document["documents"] = report.documents
        document["backbones"] = report.backbones
        document["garbage"] = report.garbage.problems if report.garbage else ()
    return document | {"mended": report.mended, "seed": report.seed, "refused": report.refused}


def _fail_if_bad(report: VerificationReport, options: VerifyOptions) -> None:
    from registry.integrity.verify import SIGNATURE

    problems, files = report.problems, report.bad_files
    if not problems:
        _fail_if_refused(report)
        return
    loadable = [bad for _, bad in files if not bad.unusable]
    summary = f"{len(problems)} bad: {_first(problems)}"
    if len(files) == len(problems) and all(bad.path == SIGNATURE for _, bad in files):
        raise NotTrusted(summary, hint=f"`ulora sign {files[0][0]} --key PRIVATE.pem`, if you trust what it holds")
    if len(files) == len(problems) and not loadable:
        raise BadWeights(summary, hint="create versions of converted adapters, and promote those: docs/importing.md")
    hint = "what is live keeps serving from verified memory; `--repair DIR` puts good files back from any copy"
    if not any(bad.sha256 for _, bad in files):
        hint = "no file is bad: bring names, records and documents back from the bucket's own versions, or a copy of it"
    to_repair = sum(bool(each.source) and not each.done for each in report.mended)
    if to_repair:
        hint = f"run it again without --dry-run: {options.repair_from} holds copies of {counted(to_repair, 'blob')}"
    elif options.repair_from is not None:
        hint = f"{options.repair_from} holds no copy of what is left; another DIR may"
    raise CorruptBlob(summary, hint=hint)


def _fail_if_refused(report: VerificationReport) -> None:
    if report.refused:
        raise StoreDenied(
            f"nothing else is bad, but {len(report.refused)} may not be read: {_first(report.refused)}",
            hint="was it written under a key of its writer's own? Verify as somebody who may read it, or bring it back",
        )


def _first(found: list[str]) -> str:
    return f"{', '.join(found[:_SHOWN])}{' …' * (len(found) > _SHOWN)}"
