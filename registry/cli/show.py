"""`ulora show`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from registry.cli.measure import metrics_table
from registry.cli.options import registry_options
from registry.cli.output import Output, facts, megabytes, table
from registry.errors import IntegrityError
from registry.names import CHANNELS

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.evidence.verdict import Verdict
    from registry.retention.notes import Forgotten
    from registry.versions.manifest import Manifest


@click.command("show", short_help="Everything about one version.")
@click.argument("version")
@registry_options
def show_command(registry: Registry, out: Output, *, version: str) -> None:
    """Show a version: what it is, its files, what was measured, and whether it would pass the gates.

    \b
    Example:
      ulora show v5.5.4-dinov3
    """
    manifest = registry.manifest(version)
    evidence = registry.evidence(version)
    tested, ready = (_judge(registry, version, channel) for channel in CHANNELS)
    forgotten = registry.wiring.forgotten.find(version)
    document = {
        **manifest.model_dump(mode="json"),
        "tested": tested.passes,
        "ready_for_production": ready.passes,
        "evidence": evidence,
        "verdicts": {"staging": tested.verdict, "production": ready.verdict},
        "forgotten": forgotten,
    }
    files = table(("FILE", "BYTES", "SHA256"), [(file.path, file.size, file.sha256[:12]) for file in manifest.files])
    text = (_facts(manifest, forgotten, tested, ready), files, metrics_table(evidence))
    out.answer(document, "\n\n".join(part for part in text if part))


@dataclass(frozen=True)
class _Judged:
    """What the gates of a channel say of a version now; `verdict` is None where it can't be judged."""

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


def _facts(manifest: Manifest, forgotten: Forgotten | None, tested: _Judged, ready: _Judged) -> str:
    backbone = manifest.backbone
    return facts(
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
