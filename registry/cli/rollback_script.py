"""`ulora rollback-script`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.completers import complete_versions
from registry.cli.options import (
    ChangeOptions,
    channel_option,
    dry_run_option,
    folder,
    options_as,
    reason_option,
    registry_options,
)
from registry.cli.output import Output
from registry.errors import BadInput, disk_errors

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.breakglass.write_script import Script


@click.command("rollback-script", short_help="Write a file that rolls back with Python and boto3 only.")
@click.argument("version", required=False, shell_complete=complete_versions)
@channel_option("production")
@click.option("--all", "everything", is_flag=True, help="One for each version that a rollback could go to now.")
@click.option(
    "--out", "place", type=folder, metavar="PATH", help="The file; with --all a folder. [rollback_to_VERSION.py here]"
)
@click.option("--unpin", is_flag=True, help="Write nothing: let garbage collection delete VERSION again.")
@reason_option
@dry_run_option
@registry_options
@options_as(ChangeOptions, "change")
def rollback_script_command(
    registry: Registry, out: Output, *, version: str | None, everything: bool, place: Path | None, unpin: bool,
    change: ChangeOptions,
) -> None:  # fmt: skip
    """Write rollback_to_VERSION.py: it makes the channel serve VERSION, without this package, MLflow and torch.

    It checks every file in the store, asks, and moves the channel as `ulora rollback --to VERSION` does. It needs
    Python 3.9, boto3 and credentials for the store; it contains none. `python rollback_to_VERSION.py --help` says more.

    Garbage collection keeps the files of VERSION until --unpin. With --all nothing is pinned: a version that a
    rollback could go to is never collected. `ulora promote` leaves a script for the version it replaces in the
    store, below models/MODEL/scripts/, and in MLflow.

    \b
    Examples:
      ulora rollback-script v5.5.3-performance
      ulora rollback-script --all --out /media/usb/
      ulora rollback-script v5.5.3-performance --unpin
    """
    if everything == (version is not None) or (everything and unpin):
        raise BadInput("say which version to go back to, or --all", hint="`ulora status` shows them")
    if version is None:
        _write_all(registry, out, change.channel, place or Path(), change.dry_run)
    elif unpin:
        _unpin(registry, out, version, change.dry_run)
    else:
        _write_one(registry, out, version, place, change)


def _write_one(registry: Registry, out: Output, version: str, place: Path | None, change: ChangeOptions) -> None:
    script = registry.rollback_script(version, change.channel, dry_run=True)
    path = place or Path(script.name)
    if change.dry_run:
        script.check_path(path)
    else:
        # The pin comes when nothing but the file's name is missing: no script, no pin. It is never taken back here,
        # because somebody else's script may rest on it by then.
        with script.being_written(path):
            registry.rollback_script(version, change.channel, reason=change.reason)
    _tell(out, [script], [path], change.dry_run)
    if not change.dry_run:
        out.note(f"garbage collection keeps {version} until `ulora rollback-script {version} --unpin`")


def _write_all(registry: Registry, out: Output, channel: str, place: Path, dry_run: bool) -> None:
    scripts = registry.rollback_scripts(channel)
    if place.exists() and not place.is_dir():
        raise BadInput(f"{place} is not a folder", hint="with --all, --out names a folder")
    if not dry_run:
        with disk_errors(place, hint="give another folder: --out DIR"):
            place.mkdir(parents=True, exist_ok=True)
    _tell(out, scripts, [_write(script, place / script.name, dry_run) for script in scripts], dry_run)


def _write(script: Script, path: Path, dry_run: bool) -> Path:
    if dry_run:
        script.check_path(path)
        return path
    return script.write(path)


def _tell(out: Output, scripts: list[Script], paths: list[Path], dry_run: bool) -> None:
    would = "would write" if dry_run else "wrote"
    document = [
        {
            "version": script.version, "channel": script.channel, "path": path, "sha256": script.sha256,
            "manifest_sha256": script.manifest_sha256, "written": not dry_run,
        }
        for script, path in zip(scripts, paths, strict=True)
    ]  # fmt: skip
    out.answer(document, "\n".join(f"{would} {path}" for path in paths))


def _unpin(registry: Registry, out: Output, version: str, dry_run: bool) -> None:
    was_pinned = registry.is_pinned(version) if dry_run else registry.unpin(version)
    did = "would be unpinned" if dry_run else "is unpinned"
    text = f"{version} {did}: garbage collection may delete it" if was_pinned else f"{version} was not pinned"
    out.answer({"version": version, "was_pinned": was_pinned, "unpinned": was_pinned and not dry_run}, text)
