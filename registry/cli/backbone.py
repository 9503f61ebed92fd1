"""`ulora backbone add`, `ulora backbone list`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.options import dry_run_option, registry_options
from registry.cli.output import Output, megabytes, table
from registry.errors import BadManifest, StoreDenied

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.versions.backbones import AddedBackbone, MirroredBackbone

_DIGITS = 12


@click.group("backbone", short_help="The backbones that the store holds: add, list.")
def backbone_command() -> None:
    """Backbones in the store: once per store, for all models, versions and machines.

    Versions name their backbone by the digest of its weights and never hold it. A machine that lacks it looks in
    ULORA_BACKBONES and the hub's cache, then takes it from the store, and only then asks the hub.
    """


@backbone_command.command("add", short_help="Put a backbone's weights into the store.")
@click.argument("backbone", metavar="ID-OR-DIR")
@click.option("--revision", metavar="R", help="Commit, branch or tag of the repository; main when left out.")
@click.option("--name", metavar="N", help="What to call it instead of the repository's or folder's name.")
@dry_run_option
@registry_options
def add_command(
    registry: Registry, out: Output, *, backbone: str, revision: str | None, name: str | None, dry_run: bool
) -> None:
    """Put a backbone's weights into the store: those of a folder with config.json and model.safetensors, or of a
    repository on the hub (from its cache on this machine, else downloaded).

    A second run uploads nothing. For a gated repository, accept the licence on its page and run `hf auth login` first;
    that is needed once, here, and not on the machines that serve. --dry-run downloads and hashes too, to say what it
    is.

    \b
    Examples:
      ulora backbone add facebook/dinov2-base
      ulora backbone add facebook/dinov3-vitb16-pretrain-lvd1689m --revision main
      ulora backbone add ./plant-vit --name plant-vit-2026
    """
    with out.warnings_as_notes():
        added = registry.add_backbone(
            backbone,
            revision=revision,
            name=name,
            dry_run=dry_run,
            progress=lambda size: out.progress(size, "uploading"),
        )
    ref = added.mirrored.backbone
    if name not in (None, ref.name):
        out.note(f"it keeps the name {ref.name}, under which {added.mirrored.who} added it")
    out.answer(added, _sentence(added, dry_run))


@backbone_command.command("list", short_help="The backbones in the store.")
@registry_options
def list_command(registry: Registry, out: Output) -> None:
    """List the backbones that the store holds.

    \b
    Example:
      ulora backbone list --json | jq -r '.backbones[].backbone.sha256'
    """
    mirrored = registry.backbones()
    header = ("NAME", "FAMILY", "HUB ID", "REVISION", "MB", "DIGEST")
    rows = [_row(each) for each in mirrored]
    out.answer(mirrored, table(header, rows) if rows else "the store holds no backbones yet")
    if mirrored.damaged:
        raise BadManifest(
            f"{len(mirrored.damaged)} can't be read: {'; '.join(mirrored.damaged[:3])}",
            hint="delete that object in the bucket, then run `ulora backbone add` again: the weights are not touched",
        )
    if mirrored.refused:
        raise StoreDenied(f"{len(mirrored.refused)} may not be read: {'; '.join([*mirrored.refused.values()][:3])}")


def _row(mirrored: MirroredBackbone) -> tuple[object, ...]:
    ref = mirrored.backbone
    revision = ref.revision[:_DIGITS] if ref.revision else None
    return ref.name, ref.family, ref.hub_id, revision, f"{mirrored.size / 1e6:.2f}", ref.sha256[:_DIGITS]


def _sentence(added: AddedBackbone, dry_run: bool) -> str:
    did = "the store holds already" if not added.is_new else "would add" if dry_run else "added"
    ref = added.mirrored.backbone
    uploaded = "" if dry_run else f", {megabytes(added.uploaded)} uploaded"
    return f"{did} {ref.name} ({ref.family}): {megabytes(added.mirrored.size)}{uploaded}, sha256 {ref.sha256}"
