"""`ulora create`, `list`, `show`, `verify`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry import canonical
from registry.cli.options import dry_run_option, folder, offline_option, registry_options
from registry.cli.output import Output, facts, megabytes, table
from registry.errors import BadInput, BadManifest, CorruptBlob, IntegrityError
from registry.names import CHANNELS

if TYPE_CHECKING:
    from registry.answers import Verification
    from registry.api import Registry
    from registry.evidence.gates import Verdict
    from registry.evidence.results import Evidence


@click.command("create", short_help="Make a bundle, or adapters of another layout, a version.")
@click.argument("version")
@click.option("--from", "source", required=True, metavar="SRC", help="The bundle, another layout, or models:/NAME/7.")
@click.option("--target", metavar="NAME", help="Another layout: the target it is for, if its files do not tell.")
@click.option("--backbone", metavar="REF", help="Another layout: the backbone's folder, hub id or name.")
@click.option("--description", default="", metavar="TEXT", help="What is new, in a line.")
@click.option("--changes", type=folder, metavar="FILE", help="A JSON object of changes, in a structure of your own.")
@click.option("--breaking-change", "breaking", multiple=True, metavar="TEXT", help="Give it once for each.")
@click.option("--backward-compatibility", default="", metavar="TEXT", help="What still works with what.")
@click.option("--testing-instructions", default="", metavar="TEXT", help="How to test it.")
@click.option("--parent", metavar="VERSION", help="The version it was made from: changed files are listed against it.")
@offline_option
@dry_run_option
@registry_options
def create_command(
    registry: Registry,
    out: Output,
    *,
    version: str,
    source: str,
    target: str | None,
    backbone: str | None,
    description: str,
    changes: Path | None,
    breaking: tuple[str, ...],
    backward_compatibility: str,
    testing_instructions: str,
    parent: str | None,
    offline: bool,
    dry_run: bool,
) -> None:
    """Make what lies in SRC a version: its files go to the store, its name is bound to them for ever, MLflow shows it.

    Running it again after an interruption finishes it; nothing is uploaded twice. The same name with the same content
    is no error. Every file is checked for itself; whether they fit together shows when the version is first loaded,
    by `ulora measure`.

    \b
    SRC is a bundle, which holds
      backbone.json                  which frozen backbone it runs on
      adapters/<target>/…            weights as .safetensors, configuration as .json
      router/…  config/…  project/…  optional

    \b
    or what can be converted into one; --dry-run shows what would become of it
      a PEFT folder                            adapter_config.json, adapter_model.safetensors or .bin
      models/phase3_conec_lora_adapter/ …      of one target, or of each in a folder of its own
      <crop>/<part>/continual_sd_lora_adapter  one, or a whole tree of them
      versions/<v>/ or backups/<v>/            that hold one of these beside an old version.json
      models:/NAME/7, models:/NAME@alias       a version in MLflow

    Weights in .bin, .pth and .pt become .safetensors; no code in them is run. Fields that a version has no place for
    are kept in its source_meta.json.

    \b
    Examples:
      ulora create v5.5.4-dinov3 --from bundle/ --description "DINOv3 backbone"
      ulora create v5.5.5-router --from bundle/ --parent v5.5.4-dinov3 --dry-run
      ulora create v5.5.1 --from backups/v5.5.1 --backbone facebook/dinov2-base
      ulora create v6.0.0 --from release-v1.1.2/ --dry-run
      ulora create v6.0.1 --from my-lora/ --target tomato__leaf
      ulora create v6.1.0 --from models:/plants@champion
    """
    from registry.bundles import Story

    story = Story(description, _read_changes(changes), breaking, backward_compatibility, testing_instructions)
    notes = _WaitingNotes() if out.as_json else out
    bar = out.progress(0 if dry_run else _size_of(Path(source)), "uploading")
    with _sigterm_interrupts(), notes.warnings_as_notes(), bar as progress:
        created = registry.create(
            version,
            source,
            story=story,
            parent=parent,
            target=target,
            backbone=backbone,
            offline=offline,
            dry_run=dry_run,
            progress=progress,
            say=notes.note,
        )
    if isinstance(notes, _WaitingNotes):
        for line in notes.told:
            out.note(line)
    did = "exists already with this content:" if not created.is_new else "would create" if dry_run else "created"
    number = f", MLflow version {created.catalog_number}" if created.catalog_number else ""
    out.answer(
        created,
        f"{did} {created.model} {created.version}: {created.files} files, {megabytes(created.size)}, "
        f"{megabytes(created.uploaded)} uploaded, content {created.content_sha256[:12]}{number}",
    )


class _WaitingNotes(Output):
    """With --json an error is the only line on standard error: notes wait until it is done."""

    def __init__(self) -> None:
        super().__init__(as_json=True)
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does, so that temporary folders, which may be large, are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one does not disturb the tidying up
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@click.command("list", short_help="The versions of the model.")
@registry_options
def list_command(registry: Registry, out: Output) -> None:
    """List the versions in the order of their names: what they are, where they are live, what was measured.

    \b
    Example:
      ulora list --json | jq -r '.[].version'
    """
    versions = registry.versions()
    rows = [
        (
            found.version,
            found.description,
            found.files,
            f"{found.size / 1e6:.2f}",
            ", ".join([*found.channels, *(f"withdrawn from {name}" for name in found.withdrawn_from)]) or "-",
            found.catalog_number,
            found.evidence,
        )
        for found in versions
    ]
    header = ("VERSION", "DESCRIPTION", "FILES", "MB", "CHANNEL", "MLFLOW", "EVIDENCE")
    out.answer(versions, table(header, rows) if rows else f"{registry.model} has no versions yet")


@click.command("show", short_help="Everything about one version.")
@click.argument("version")
@registry_options
def show_command(registry: Registry, out: Output, *, version: str) -> None:
    """Show a version: what it is, its files, what was measured, and whether the gates would let it pass.

    \b
    Example:
      ulora show v5.5.4-dinov3
    """
    manifest = registry.manifest(version)
    evidence = registry.evidence(version)
    tested, ready = (_judge(registry, version, channel) for channel in CHANNELS)
    document = {
        **manifest.model_dump(mode="json"),
        "tested": tested.passes,
        "ready_for_production": ready.passes,
        "evidence": evidence,
        "verdicts": {"staging": tested.verdict, "production": ready.verdict},
    }
    backbone = manifest.backbone
    text = facts(
        {
            "version": f"{manifest.model} {manifest.version}",
            "description": manifest.description,
            "made": f"{manifest.timestamp} from {manifest.source}",
            "content": manifest.content_sha256,
            "backbone": f"{backbone.name} ({backbone.family}, {backbone.sha256[:12]})" if backbone else "",
            "components": sorted(manifest.components),
            "files": f"{len(manifest.files)}, {megabytes(manifest.size)}",
            "parent": manifest.parent.version if manifest.parent else "",
            "breaking changes": manifest.breaking_changes,
            "tested": tested.text,
            "ready for production": ready.text,
        }
    )
    files = table(("FILE", "BYTES", "SHA256"), [(file.path, file.size, file.sha256[:12]) for file in manifest.files])
    out.answer(document, "\n\n".join(part for part in (text, files, metrics_table(evidence)) if part))


@click.command("verify", short_help="Check that a version's files are what they should be.")
@click.argument("versions", nargs=-1, metavar="[VERSION]…")
@click.option("--all", "everything", is_flag=True, help="Every version, and the chain of every channel.")
@click.option("--read-data", is_flag=True, help="Read every byte instead of asking the store for its checksums.")
@registry_options
def verify_command(
    registry: Registry, out: Output, *, versions: tuple[str, ...], everything: bool, read_data: bool
) -> None:
    """Check every file of the versions in the store. Bad and missing files are named, and the exit status is 6.

    \b
    Examples:
      ulora verify v5.5.3-performance
      ulora verify --all --read-data
    """
    if everything == bool(versions):
        raise BadInput("say which versions to verify, or --all", hint="`ulora list` shows the versions")
    names = [str(name) for name in registry.bindings.names()] if everything else versions
    found = [_verify(registry, out, name, read_data) for name in names]
    chains = {name: _verify_chain(registry, out, name) for name in CHANNELS} if everything else {}
    if out.as_json:
        out.answer({"versions": found, "chains": chains})
    wrong = [f"{checked.version} {bad.path} ({bad.problem})" for checked in found for bad in checked.bad]
    wrong += [f"{name} ({chain['problem']})" for name, chain in chains.items() if chain["problem"]]
    if wrong:
        raise CorruptBlob(
            f"{len(wrong)} bad: {', '.join(wrong[:5])}",
            hint="what is live keeps serving from verified memory; do not promote these versions",
        )


def _verify(registry: Registry, out: Output, name: str, read_data: bool) -> Verification:
    from registry.answers import BadFile, Verification

    try:
        with out.progress(registry.manifest(name).size if read_data else 0, f"reading {name}") as progress:
            checked = registry.verify(name, read_data=read_data, progress=progress)
    except IntegrityError as error:
        checked = Verification(name, 0, 0, read_data, (BadFile("version.json", "", str(error)),))
    out.say(f"{'ok ' if checked.ok else 'BAD'} {name}: {checked.files} files, {megabytes(checked.size)}")
    for bad in checked.bad:
        out.say(f"    {bad.problem}: {bad.path}")
    return checked


def _verify_chain(registry: Registry, out: Output, channel: str) -> dict[str, Any]:
    """How long the chain of a channel is, and what is wrong with it; `problem` is empty when nothing is."""
    try:
        length = len(registry.history(channel))
    except IntegrityError as error:
        out.say(f"BAD {channel}: {error}")
        return {"records": None, "problem": str(error)}
    out.say(f"ok  {channel}: a chain of {length} records")
    return {"records": length, "problem": ""}


def _size_of(folder: Path) -> int:
    """Bytes of the files that can be seen; only the progress bar needs it."""
    files = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    size = 0
    for file in files:
        with suppress(OSError):
            size += file.stat().st_size
    return size


def metrics_table(evidence: list[Evidence]) -> str:
    """The newest evidence, a metric a line."""
    from registry.evidence.results import newest

    rows = [
        (
            one.benchmark,
            metric.name,
            metric.target or "all",
            _number(metric.value),
            _interval(metric),
            metric.n,
            one.device,
        )
        for one in newest(evidence).values()
        for metric in one.metrics
    ]
    header = ("BENCHMARK", "METRIC", "TARGET", "VALUE", "95% INTERVAL", "N", "DEVICE")
    return table(header, sorted(rows)) if rows else ""


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4g}"


def _interval(metric: Any) -> str:
    return "-" if metric.low is None or metric.high is None else f"{metric.low:.4g} to {metric.high:.4g}"


@dataclass(frozen=True)
class _Judged:
    """What the gates of a channel say of a version now, or why they can't: `verdict` is None then."""

    verdict: Verdict | None
    text: str

    @property
    def passes(self) -> bool:
        return self.verdict is not None and self.verdict.outcome == "pass"


def _judge(registry: Registry, version: str, channel: str) -> _Judged:
    try:
        verdict = registry.judge(version, channel)
    except IntegrityError as error:
        return _Judged(None, f"can't be judged: {error}")
    refused = "; ".join(check.reason for check in verdict.refusals[:3])
    return _Judged(verdict, f"no: {refused}" if refused else "yes")


def _read_changes(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return canonical.decode(path.read_bytes(), f"--changes {path}")
    except OSError as error:
        raise BadInput(f"--changes {path} can't be read: {error.strerror}") from error
    except BadManifest as error:
        raise BadInput(str(error)) from error
