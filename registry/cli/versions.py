"""`ulora create`, `list`, `show`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli.options import dry_run_option, folder, lazy_registry_options, offline_option, registry_options
from registry.cli.output import Output, facts, megabytes, table
from registry.errors import BadInput, BadManifest, IntegrityError
from registry.formats import canonical
from registry.names import CHANNELS

if TYPE_CHECKING:
    from registry.answers import Created, Listed
    from registry.api import Registry
    from registry.evidence.gates import Verdict
    from registry.evidence.results import Evidence
    from registry.tree.snapshot import Project


@click.command("create", short_help="Make a bundle, or adapters of another layout, a version.")
@click.argument("version")
@click.option("--from", "source", metavar="SRC", help="The bundle, another layout, or models:/NAME/7.")
@click.option("--source", "project", type=folder, metavar="DIR", help="A project's folder: take a snapshot of it.")
@click.option("--allow-secret", "allowed", multiple=True, metavar="PATH", help="Take this file all the same.")
@click.option("--if-changed", is_flag=True, help="Do nothing if the newest version of this kind has the same content.")
@click.option("--git-tag", is_flag=True, help="Then tag DIR's commit with the version's name, annotated.")
@click.option("--target", metavar="NAME", help="Another layout: the target it is for, if its files do not tell.")
@click.option("--backbone", metavar="REF", help="Another layout: the backbone's folder, hub id or name.")
@click.option("--description", default="", metavar="TEXT", help="What is new, in a line.")
@click.option("--changes", type=folder, metavar="FILE", help="A JSON object of changes, in a structure of your own.")
@click.option("--breaking-change", "breaking", multiple=True, metavar="TEXT", help="Give it once for each.")
@click.option("--backward-compatibility", default="", metavar="TEXT", help="What still works with what.")
@click.option("--testing-instructions", default="", metavar="TEXT", help="How to test it.")
@click.option("--parent", metavar="VERSION", help="The version it was made from: changed files are listed against it.")
@click.option("--set", "replaced", multiple=True, metavar="COMPONENT=DIR", help="The parent, but for this; repeatable.")
@click.option("--sign-with", type=folder, metavar="PEM", help="Sign it with this private key; see `ulora sign`.")
@offline_option
@dry_run_option
@lazy_registry_options
def create_command(
    open_registry: Callable[[], Registry],
    out: Output,
    *,
    version: str,
    source: str | None,
    project: Path | None,
    allowed: tuple[str, ...],
    if_changed: bool,
    git_tag: bool,
    target: str | None,
    backbone: str | None,
    description: str,
    changes: Path | None,
    breaking: tuple[str, ...],
    backward_compatibility: str,
    testing_instructions: str,
    parent: str | None,
    replaced: tuple[str, ...],
    sign_with: Path | None,
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

    With --source DIR alone the version is a snapshot of DIR: `ulora restore` and `ulora switch` bring it back, it can't
    be served. Beside --from, DIR becomes the bundle's project/. Left out are .git, what .gitignore files exclude,
    caches, virtual environments and links. Files of a project that look like credentials are refused, wherever it comes
    from, each by name, unless --allow-secret.

    With --set the version is its --parent, but for these components, each from a folder that holds its own files (what
    stands below adapters/tomato/ in a bundle, say). Only these are uploaded; the others are taken over in the store.

    \b
    Examples:
      ulora create v5.5.4 --source . --git-tag
      ulora create "v$(date +%Y.%-m.%-d)-nightly" --source /srv/aads --if-changed
      ulora create v5.5.4-dinov3 --from bundle/ --description "DINOv3 backbone"
      ulora create v5.5.5-router --from bundle/ --parent v5.5.4-dinov3 --dry-run
      ulora create v5.5.6 --parent v5.5.5-router --set adapters/tomato=new-tomato/
      ulora create v5.5.1 --from backups/v5.5.1 --backbone facebook/dinov2-base
      ulora create v6.0.0 --from release-v1.1.2/ --dry-run
      ulora create v6.0.1 --from my-lora/ --target tomato__leaf
      ulora create v6.1.0 --from models:/plants@champion
    """
    from registry.versions.bundle import ReleaseNotes

    if not (source or project or replaced):
        raise BadInput(
            "say what to make it from: --from SRC, --source DIR, or --parent VERSION --set COMPONENT=DIR",
            hint="`ulora create --help` shows how",
        )
    registry = open_registry()
    release_notes = ReleaseNotes(
        description, _read_changes(changes), breaking, backward_compatibility, testing_instructions
    )
    notes = _WaitingNotes() if out.as_json else out
    sign = _signer(registry, sign_with)
    parts = _parts(replaced, parent, [source, project, target, backbone, if_changed, git_tag])
    found = _walked(project or parts.get("project"), notes, dry_run)
    size = _size_of(Path(source)) if source and not dry_run else 0
    bar = out.progress(size + _bytes_of(None if parts else found, dry_run), "uploading")
    with sigterm_interrupts(), notes.warnings_as_notes(), bar as progress:
        how: dict[str, Any] = {
            "release_notes": release_notes, "allow_secrets": allowed, "offline": offline, "dry_run": dry_run,
            "progress": progress,
        }  # fmt: skip
        if parts:
            created = registry.compose(version, parent or "", parts, **how)
        else:
            created = registry.create(
                version,
                source,
                project=found,
                if_changed=if_changed,
                git_tag=git_tag,
                parent=parent,
                target=target,
                backbone=backbone,
                say=notes.note,
                **how,
            )
        if not (dry_run or created.is_unchanged) and (signed := sign(created)):
            notes.note(signed)
    if isinstance(notes, _WaitingNotes):
        for line in notes.told:
            out.note(line)
    exists = "brought back" if created.brought_back else "exists already with this content:"
    did = exists if not created.is_new else "would create" if dry_run else "created"
    did = "unchanged since" if created.is_unchanged else did
    number = f", MLflow version {created.catalog_number}" if created.catalog_number else ""
    out.answer(
        created,
        f"{did} {created.model} {created.version}: {created.files} files, {megabytes(created.size)}, "
        f"{megabytes(created.uploaded)} uploaded, content {created.content_sha256[:12]}{number}",
    )


def _parts(replaced: tuple[str, ...], parent: str | None, others: list[object]) -> dict[str, Path]:
    """The folders of the components that --set names."""
    if not replaced:
        return {}
    if parent is None or any(others):
        raise BadInput("--set goes with --parent VERSION, and with no other source", hint="see --help")
    pairs = [each.partition("=") for each in replaced]
    parts = {name: Path(place) for name, _, place in pairs}
    if not all(name and place for name, _, place in pairs) or len(parts) < len(pairs):
        raise BadInput("--set reads COMPONENT=DIR, each component once", hint="for example adapters/tomato=new-tomato/")
    return parts


def _walked(project: Path | None, notes: Output, dry_run: bool) -> Project | None:
    """The files of a project's folder; people are told what a version of it can't hold."""
    if project is None:
        return None
    from registry.tree.snapshot import Project

    found = Project.at(project)
    for line in found.left_out() if dry_run else found.cannot_hold():
        notes.note(line)
    return found


def _bytes_of(project: Project | None, dry_run: bool) -> int:
    """What a progress bar counts: each byte is read, then uploaded."""
    return project.size * (1 if dry_run else 2) if project else 0


def _signer(registry: Registry, path: Path | None) -> Callable[[Created], str]:
    """What signs a version that was created. A key that can't be used shows here, before anything is uploaded."""
    if path is None:
        return lambda created: ""
    from registry.cli.signing import sentence, signing_key

    key = signing_key(path)
    key.public_key()
    key.sign(b"a trial")
    return lambda created: sentence(registry.sign(created.version, key, content_sha256=created.content_sha256))


class _WaitingNotes(Output):
    """With --json an error is the only line on standard error: notes wait until it is done."""

    def __init__(self) -> None:
        super().__init__(as_json=True)
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
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
            ", ".join(_standing(found)) or "-",
            found.catalog_number,
            found.evidence,
        )
        for found in versions
    ]
    header = ("VERSION", "DESCRIPTION", "FILES", "MB", "CHANNEL", "MLFLOW", "EVIDENCE")
    out.answer(versions, table(header, rows) if rows else f"{registry.model} has no versions yet")


def _standing(found: Listed) -> list[str]:
    """Where a version is live, where it was withdrawn, whether it was forgotten."""
    withdrawn = [f"withdrawn from {name}" for name in found.withdrawn_from]
    return [*found.channels, *withdrawn, *(["forgotten"] if found.forgotten else [])]


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
        "forgotten": registry.forgotten.find(version),
    }
    forgotten = document["forgotten"]
    backbone = manifest.backbone
    text = facts(
        {
            "version": f"{manifest.model} {manifest.version}",
            "forgotten": f"by {forgotten.who}, {forgotten.when}: {forgotten.reason or 'old'}" if forgotten else "",
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
        return canonical.decode(canonical.read_file(path, f"--changes {path}"), f"--changes {path}")
    except OSError as error:
        raise BadInput(f"--changes {path} can't be read: {error.strerror}") from error
    except BadManifest as error:
        raise BadInput(str(error)) from error
