"""`ulora create`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from registry.cli.completers import complete_versions
from registry.cli.options import dry_run_option, folder, lazy_registry_options, offline_option, options_as
from registry.cli.output import Output, megabytes
from registry.cli.signals import sigterm_interrupts
from registry.errors import BadInput, BadManifest, NotInMlflow
from registry.formats import canonical
from registry.formats.counts import counted
from registry.usecases.options import CreateOptions

if TYPE_CHECKING:
    from registry.answers import Created
    from registry.api import Registry
    from registry.tree.snapshot import Project


@dataclass(frozen=True)
class _CreateRun:
    """How `ulora create` runs, besides what it creates."""

    offline: bool
    dry_run: bool
    sign_with: Path | None


def _read_changes(context: click.Context, parameter: click.Parameter, path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return canonical.decode(canonical.read_file(path, f"--changes {path}"), f"--changes {path}")
    except OSError as error:
        raise BadInput(f"--changes {path} can't be read: {error.strerror}") from error
    except BadManifest as error:
        raise BadInput(str(error)) from error


def _read_components(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, Path]:
    pairs = [each.partition("=") for each in given]
    components = {name: Path(place) for name, _, place in pairs}
    if not all(name and place for name, _, place in pairs) or len(components) < len(pairs):
        raise BadInput("--set reads COMPONENT=DIR, each component once", hint="for example adapters/tomato=new-tomato/")
    return components


@click.command("create", short_help="Create a version from a bundle, a project, or adapters of another layout.")
@click.argument("version")
@click.option("--from", "source", metavar="SRC", help="The bundle, another layout, or models:/NAME/7.")
@click.option("--source", "project", type=folder, metavar="DIR", help="A project's folder: take a snapshot of it.")
@click.option("--allow-secret", "allow_secrets", multiple=True, metavar="PATH", help="Take this file all the same.")
@click.option("--if-changed", is_flag=True, help="Do nothing if the newest version of this kind has the same content.")
@click.option("--git-tag", is_flag=True, help="Tag DIR's commit with the version's name afterwards (annotated tag).")
@click.option("--target", metavar="NAME", help="Another layout: the target it is for, if its files do not say.")
@click.option("--backbone", metavar="REF", help="Another layout: the backbone's folder, hub id or name.")
@click.option("--description", default="", metavar="TEXT", help="What is new, in a line.")
@click.option(
    "--changes", type=folder, callback=_read_changes, metavar="FILE", help="A JSON object of changes, in any structure."
)
@click.option("--breaking-change", "breaking_changes", multiple=True, metavar="TEXT", help="Repeat it for each.")
@click.option("--backward-compatibility", default="", metavar="TEXT", help="What still works with what.")
@click.option("--testing-instructions", default="", metavar="TEXT", help="How to test it.")
@click.option(
    "--parent", metavar="VERSION", shell_complete=complete_versions,
    help="The version it was made from: changed files are listed against it.",
)  # fmt: skip
@click.option(
    "--set", "components", multiple=True, callback=_read_components, metavar="COMPONENT=DIR",
    help="Take the parent, with this component replaced; repeatable.",
)  # fmt: skip
@click.option("--sign-with", type=folder, metavar="PEM", help="Sign it with this private key; see `ulora sign`.")
@offline_option
@dry_run_option
@lazy_registry_options
@options_as("registry.versions.bundle:ReleaseNotes", "release_notes")
@options_as(CreateOptions)
@options_as(_CreateRun, "run")
def create_command(
    open_registry: Callable[[], Registry], out: Output, *, version: str, source: str | None, options: CreateOptions,
    run: _CreateRun,
) -> None:  # fmt: skip
    """Create a version from SRC: its files go to the store, its name is bound to them for good, MLflow shows it.

    Running it again after an interruption finishes it; nothing is uploaded twice. The same name with the same content
    is not an error. Every file is checked by itself; whether they fit together shows when the version is first loaded,
    by `ulora measure`.

    \b
    SRC is a bundle, which holds
      backbone.json                  which frozen backbone it runs on
      adapters/<target>/…            weights as .safetensors, configuration as .json
      router/…  config/…  project/…  optional

    \b
    or what can be converted into one; --dry-run shows the result
      a PEFT folder                            adapter_config.json, adapter_model.safetensors or .bin
      models/phase3_conec_lora_adapter/ …      of one target, or of each in a folder of its own
      <crop>/<part>/continual_sd_lora_adapter  one, or a whole tree of them
      versions/<v>/ or backups/<v>/            that hold one of these beside an old version.json
      models:/NAME/7, models:/NAME@alias       a version in MLflow

    Its answers for a few images are computed with PEFT's own layers and recorded; a bundle that answers otherwise is
    refused. How images are prepared is assumed where no file says it, as the published processor of the backbone's
    family has it, and printed.

    Weights in .bin, .pth and .pt become .safetensors; no code in them is run. Fields that a version has no place for
    are kept in its source_meta.json.

    With --source DIR alone the version is a snapshot of DIR: `ulora restore` and `ulora switch` bring it back, but it
    can't be served. Beside --from, DIR becomes the bundle's project/. Left out are .git, what .gitignore files exclude,
    caches, virtual environments and links. Files of a project that look like credentials are refused, wherever it comes
    from; --allow-secret PATH takes one of them.

    With --set the version is its --parent with these components replaced, each by a folder that holds its own files
    (those below adapters/tomato/ in a bundle, for example). Only these are uploaded.

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
    options.check_source(source)
    registry = open_registry()
    sign = _signer(registry, run.sign_with)
    with _notes_at_the_end(out) as notes, sigterm_interrupts(), notes.warnings_as_notes():
        options, size = _walked(options, source, notes, run.dry_run)
        with out.progress(size, "uploading") as progress:
            created, lacking = _created(
                lambda: registry.create(
                    version,
                    source,
                    options,
                    offline=run.offline,
                    dry_run=run.dry_run,
                    progress=progress,
                    say=notes.note,
                )
            )
        if not (run.dry_run or created.is_unchanged) and (signed := sign(created)):
            notes.note(signed)
    out.answer(created, _sentence(created, run.dry_run))
    if lacking:
        raise lacking


def _created(create: Callable[[], Created]) -> tuple[Created, NotInMlflow | None]:
    """What was created, and the error that says that MLflow lacks it."""
    try:
        return create(), None
    except NotInMlflow as error:
        return cast("Created", error.answer), error


def _walked(options: CreateOptions, source: str | None, notes: Output, dry_run: bool) -> tuple[CreateOptions, int]:
    """The options with the project's files, and the bytes that a progress bar counts. What is left out is noted."""
    folder_of_project = options.project or options.components.get("project")
    size = _size_of(Path(source)) if source and not dry_run else 0
    if folder_of_project is None:
        return options, size
    from registry.tree.snapshot import Project

    project: Project = Project.at(Path(folder_of_project))  # type: ignore[arg-type]
    for line in project.left_out() if dry_run else project.cannot_hold():
        notes.note(line)
    if options.components:
        return options, size
    return replace(options, project=project), size + project.size * (1 if dry_run else 2)  # read, then uploaded


def _size_of(place: Path) -> int:
    """Bytes of the files that can be read; only the progress bar needs it."""
    files = (Path(parent, name) for parent, _, names in os.walk(place) for name in names)
    size = 0
    for file in files:
        with suppress(OSError):
            size += file.stat().st_size
    return size


def _signer(registry: Registry, path: Path | None) -> Callable[[Created], str]:
    """Signs a version that was created. The key is tried now, before anything is uploaded."""
    if path is None:
        return lambda created: ""
    from registry.cli.sign import sentence, with_password
    from registry.trust.keys import SigningKey

    key = with_password(SigningKey(path))
    key.public_key()
    key.sign(b"a trial")
    return lambda created: sentence(registry.sign(created.version, key, content_sha256=created.content_sha256))


def _sentence(created: Created, dry_run: bool) -> str:
    did = "would create" if dry_run else "created"
    if created.is_unchanged:
        did = "unchanged since"
    elif created.brought_back and not created.is_new:
        did = "brought back"
    elif not created.is_new:
        did = "exists already with this content:"
    number = f", MLflow version {created.catalog_number}" if created.catalog_number else ""
    lines = [
        f"{did} {created.model} {created.version}: {counted(created.files, 'file')}, {megabytes(created.size)}, "
        f"{megabytes(created.uploaded)} uploaded, content {created.content_sha256[:12]}{number}"
    ]
    return "\n".join([*lines, *(f"assumed: {each}" for each in created.assumed)])


class _HeldNotes(Output):
    """Keeps notes instead of printing them."""

    def __init__(self) -> None:
        super().__init__(as_json=True)
        self.held: list[str] = []

    def note(self, text: str) -> None:
        self.held.append(text)


@contextmanager
def _notes_at_the_end(out: Output) -> Iterator[Output]:
    """With --json, print notes only when the command has succeeded: an error is the only line on standard error."""
    if not out.as_json:
        yield out
        return
    notes = _HeldNotes()
    yield notes
    for line in notes.held:
        out.note(line)
