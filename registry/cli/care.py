"""`ulora store`, `reconcile`, `doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.options import dry_run_option, registry_options
from registry.cli.output import Output
from registry.errors import CorruptBlob, UloraError

if TYPE_CHECKING:
    from registry.answers import Finding
    from registry.api import Registry


@click.group("store", short_help="The store itself: init.")
def store_command() -> None:
    """Care for the store: the bucket and prefix that hold everything."""


@store_command.command("init", short_help="Make a bucket's prefix a store.")
@click.option("--create-bucket", is_flag=True, help="Create the bucket too.")
@dry_run_option
@registry_options
def init_command(registry: Registry, out: Output, *, create_bucket: bool, dry_run: bool) -> None:
    """Check that the server keeps what we promise (conditional writes, ordered listings), then write format.json.

    A server that ignores conditional writes is refused. Doing it twice is fine.

    \b
    Example:
      ulora store init --store s3://my-bucket/ulora --create-bucket
    """
    store = registry.store
    if dry_run:
        would = "is a store already" if store.is_initialised() else "would become a store"
        out.answer({"store": store.url, "created": False}, f"{store.url} {would}")
        return
    if create_bucket:
        store.create_bucket()
    store.initialise()
    out.answer({"store": store.url, "created": True}, f"{store.url} is a store")


@click.command("reconcile", short_help="Make MLflow show what is true.")
@click.option("--adopt", is_flag=True, help="Take stages and aliases from versions that others registered.")
@dry_run_option
@registry_options
def reconcile_command(registry: Registry, out: Output, *, adopt: bool, dry_run: bool) -> None:
    """Log versions and evidence that MLflow lacks, and put its stages and aliases to what the channels serve.

    Versions that were not registered by ulora are left alone, unless --adopt.

    \b
    Example:
      ulora reconcile --dry-run
    """
    done = registry.reconcile(adopt=adopt, dry_run=dry_run)
    would = "would " if dry_run else ""
    lines = [f"{would}log {version} in MLflow" for version in done.logged]
    lines += [f"{would}set {change}" for change in done.changes]
    lines += [f"left alone: {skipped}" for skipped in done.skipped]
    lines += [f"damaged in the store: {damaged}" for damaged in done.damaged]
    out.answer(done, "\n".join(lines) or "MLflow shows what is true; nothing to do")
    if done.damaged:
        raise CorruptBlob(
            f"{len(done.damaged)} damaged: {'; '.join(done.damaged[:3])}", hint="run `ulora verify --all`"
        )


@click.command("doctor", short_help="Look for trouble before it finds you.")
@registry_options
def doctor_command(registry: Registry, out: Output) -> None:
    """Check the store, the channels, what is live and where a rollback goes, MLflow, the replicas and this machine.

    Exits with 1 if anything is wrong. Each finding says what to run.

    \b
    Example:
      ulora doctor --json | jq '.[] | select(.level != "ok")'
    """
    from registry.doctor import examine

    findings = examine(registry)
    lines = [f"{found.level:<8} {found.subject}: {found.detail}" + _to_do(found) for found in findings]
    out.answer(findings, "\n".join(lines))
    wrong = [found.subject for found in findings if found.level == "error"]
    if wrong:
        raise UloraError(f"something is wrong with: {', '.join(wrong)}", hint="the list above says what to run")


def _to_do(found: Finding) -> str:
    return f"\n         to do: {found.fix}" if found.fix else ""
