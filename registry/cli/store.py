"""`ulora store`: init, gc, remember, copy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import click

from registry.cli.completers import complete_versions
from registry.cli.options import AGE, dry_run_option, options_as, reason_option, registry_options
from registry.cli.output import Output, complain, megabytes, table
from registry.errors import BadInput
from registry.formats.counts import counted
from registry.usecases.options import CopyOptions

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.retention.copy import Copied
    from registry.retention.forget import Collected, RetentionRule
    from registry.retention.prune import Pruned

_SHORT = timedelta(hours=1)


@click.group("store", short_help="The store itself: init, gc, remember, copy.")
def store_command() -> None:
    """Set up the store (the bucket and prefix that hold everything), free its space, and copy versions out of it."""


@store_command.command("init", short_help="Make a bucket's prefix a store.")
@click.option("--create-bucket", is_flag=True, help="Create the bucket too.")
@dry_run_option
@registry_options
def init_command(registry: Registry, out: Output, *, create_bucket: bool, dry_run: bool) -> None:
    """Check that the server supports what a store needs (conditional writes, ordered listings), then write format.json.

    A server that ignores conditional writes is refused. A second run changes nothing.

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
    registry.wiring.note_caller()
    out.answer({"store": store.url, "created": True}, f"{store.url} is a store")


@store_command.command("gc", short_help="Forget old versions; delete what nothing needs.")
@click.option("--keep", default=5, show_default=True, metavar="N", help="Keep the newest N versions, by their names.")
@click.option("--older-than", type=AGE, default="30d", show_default=True, help="Forget no version younger than this.")
@click.option("--grace", type=AGE, default="24h", show_default=True, help="Time between marking and deleting.")
@dry_run_option
@reason_option
@registry_options
@options_as("registry.retention.forget:RetentionRule", "rule")
def gc_command(
    registry: Registry, out: Output, *, rule: RetentionRule, grace: timedelta, dry_run: bool, reason: str
) -> None:
    """Forget versions of the model that are old and that nothing needs; then prune the store, in two passes.

    \b
    Never forgotten:  the newest N; what is younger than --older-than; what is stable, on trial or on the stack
                      of any channel; what a replica has in memory; what a rollback script pins.
    Never deleted:    names, manifests, records, verdicts, evidence; files that any version still needs.

    The name of a forgotten version is never used again. Its files are deleted when two passes, at least --grace apart,
    found that nothing needs them: run this daily. Until then `ulora store remember VERSION` takes it back; later,
    `ulora create` from the same files does. The prune looks at all models of the store. If anything there can't be
    read, nothing is deleted, and the exit status is 6.

    \b
    Examples:
      ulora store gc --dry-run
      ulora store gc --keep 10 --older-than 90d --reason "quarterly"
    """
    if grace < _SHORT:
        out.note("such a short --grace is safe only while nobody creates or promotes versions")
    done = registry.collect_garbage(rule, grace=grace, reason=reason, dry_run=dry_run, say=_say(out))
    out.answer({**_document(done), "dry_run": dry_run}, _collected(done, dry_run))


@store_command.command("remember", short_help="Take back that a version was forgotten.")
@click.argument("version", shell_complete=complete_versions)
@dry_run_option
@registry_options
def remember_command(registry: Registry, out: Output, *, version: str, dry_run: bool) -> None:
    """Take back that gc has forgotten a version, as long as all its files are still there (exit status 5 otherwise).

    \b
    Example:
      ulora store remember v5.5.3-performance
    """
    changed = registry.remember(version, dry_run=dry_run)
    did = "was not forgotten" if not changed else "would be remembered" if dry_run else "is remembered"
    out.answer({"version": version, "changed": changed and not dry_run}, f"{version} {did}")


@store_command.command("copy", short_help="Copy a version to another store, a folder or an OCI registry.")
@click.argument("version", shell_complete=complete_versions)
@click.option("--to", metavar="PLACE", help="s3://BUCKET/PREFIX, a folder, or oci://REGISTRY/REPO[:TAG].")
@click.option(
    "--from", "source", type=click.Path(), metavar="PLACE",
    help="What --to has filled, into the store: a folder, or oci://REGISTRY/REPO[:TAG|@DIGEST].",
)  # fmt: skip
@click.option("--endpoint-url", metavar="URL", help="The S3 server of --to; AWS's own choice when left out.")
@click.option("--to-profile", "profile", metavar="NAME", help="The AWS profile whose credentials are for --to.")
@click.option(
    "--plain-http/--no-plain-http", default=None,
    help="Reach an OCI registry without TLS; by default only one on localhost.",
)  # fmt: skip
@dry_run_option
@registry_options
@options_as(CopyOptions)
def copy_command(
    registry: Registry, out: Output, *, version: str, to: str | None, source: str | None, options: CopyOptions,
    dry_run: bool,
) -> None:  # fmt: skip
    """Copy a version to another account's store, through a folder to a site without a network, or to an OCI registry.

    Copied are the files that are missing there, the manifest, the evidence, the signatures, and the backbone if the
    store holds it. Every byte is verified; the name is bound last, so an interrupted copy is not a version yet, and
    the same command again finishes it. Channels, verdicts, policies, passes, approvals and ticks are not copied: each
    store has its own history, and judges by its own policy. Another store must be one already: `ulora store init`.

    In an OCI registry the tag is the version's name, if none is given. It is never moved to other content. The user and
    password are those of `docker login`, or ULORA_OCI_USERNAME and ULORA_OCI_PASSWORD.

    \b
    Examples:
      ulora store copy v5.5.4-dinov3 --to s3://partner-bucket/ulora --to-profile partner
      ulora store copy v5.5.4-dinov3 --to /media/disk/ulora
      ulora store copy v5.5.4-dinov3 --from /media/disk/ulora
      ulora store copy v5.5.4-dinov3 --to oci://oci.example.com/plants/aads-ulora
    """
    if (to is None) == (source is None):
        raise BadInput("say where to copy to, or where from", hint="--to PLACE, or --from PLACE")
    _check_options(to or str(source), options, is_target=to is not None)
    progress = partial(out.progress, label="copying")
    if source is not None:
        done = registry.copy_from(version, source, options, dry_run=dry_run, progress=progress)
    else:
        done = registry.copy_to(version, str(to), options, dry_run=dry_run, progress=progress)
    for line in done.notes:
        out.note(line)
    out.answer(done, _copied(done, dry_run))


def _check_options(place: str, options: CopyOptions, *, is_target: bool) -> None:
    """Check that options are about this place.

    Raises:
        BadInput: they are about another kind.
    """
    from registry.oci.reference import is_oci
    from registry.retention.copy import is_remote

    if (options.endpoint_url or options.profile) and not (is_target and is_remote(place)):
        raise BadInput("--endpoint-url and --to-profile are about the other store", hint="--to s3://BUCKET/PREFIX")
    if options.plain_http is not None and not is_oci(place):
        raise BadInput("--plain-http is about an OCI registry", hint="oci://REGISTRY/REPO")


def _document(done: Collected) -> dict[str, object]:
    return {"model": done.model, "kept": done.kept, "forgotten": done.forgotten, "forgotten_before": done.before,
            "remembered": done.remembered, "pruned": done.pruned, "old_counts": done.old_counts,
            "old_operations": done.old_operations}  # fmt: skip


def _collected(done: Collected, dry_run: bool) -> str:
    kept = table(("KEPT", "WHY"), [(one.version, "; ".join(one.why)) for one in done.kept]) if done.kept else ""
    names = ", ".join(done.forgotten) or "nothing new"
    before = f" ({len(done.before)} before)" if done.before else ""
    forgot = f"{'would forget' if dry_run else 'forgot'} {names}{before}"
    if done.remembered:
        forgot += f"\n{'would remember' if dry_run else 'remembered'} {', '.join(done.remembered)}: still needed"
    would = "would delete" if dry_run else "deleted"
    counts = f"\n{would} what {counted(done.old_counts, 'replica')} counted in trials" if done.old_counts else ""
    if done.old_operations:
        counts += f"\n{would} {counted(done.old_operations, 'note')} in the operations log"
    return "\n\n".join(part for part in (kept, f"{forgot}\n{_pruned(done.pruned, dry_run)}{counts}") if part)


def _pruned(done: Pruned, dry_run: bool) -> str:
    lines = [
        f"{'would delete' if dry_run else 'deleted'} {counted(done.deleted, 'blob')}, {megabytes(done.deleted_size)}"
    ]
    if done.marked:
        when = f"; the next pass may delete them from {done.next_pass} on" if done.next_pass else ""
        would = "would mark" if dry_run else "marked"
        lines.append(f"{would} {counted(done.marked, 'blob')} for deletion, {megabytes(done.marked_size)}{when}")
    if done.left:
        lines.append(f"{done.left} of them could have been deleted by now: run it again")
    if done.uploads:
        lines.append(f"removed {counted(done.uploads, 'unfinished upload')}")
    return "\n".join(lines)


def _copied(done: Copied, dry_run: bool) -> str:
    did = "would copy" if dry_run else "copied" if done.is_new else "was there already, completed:"
    place = f"{done.place}, {done.digest}" if done.place.startswith("oci:") else done.place
    return (
        f"{did} {done.model} {done.version} to {place}: {done.blobs} of {counted(done.blobs_of, 'blob')}, "
        f"{megabytes(done.size)}, {counted(done.evidence, 'result')}, {counted(done.signatures, 'signature')}"
        + (f", backbone {done.backbone}" if done.backbone else "")
    )


def _say(out: Output) -> Callable[[str], None]:
    """Prints what is going on, on a terminal only."""
    if out.as_json or not sys.stderr.isatty():
        return lambda line: None
    return lambda line: complain(f"… {line}")
