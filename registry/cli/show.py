"""`ulora show`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from registry.cli.completers import complete_versions
from registry.cli.options import registry_options
from registry.cli.output import Output, checks, facts, megabytes, metrics_table, table
from registry.errors import IntegrityError, StoreDenied
from registry.names import CHANNELS, VersionName
from registry.store.refusals import MAY_NOT, each_by_itself

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.evidence.results import Evidence
    from registry.evidence.verdict import Verdict
    from registry.retention.notes import Forgotten
    from registry.versions.manifest import Manifest


@click.command("show", short_help="Everything about one version.")
@click.argument("version", shell_complete=complete_versions)
@registry_options
@each_by_itself()
def show_command(registry: Registry, out: Output, *, version: str) -> None:
    """Show a version: what it is, its files, what was measured, and whether it would pass the gates.

    \b
    Example:
      ulora show v5.5.4-dinov3
    """
    manifest = registry.manifest(version)
    unread: list[str] = []
    evidence = _evidence(registry, manifest.name, unread)
    tested, ready = (_judge(registry, version, channel) for channel in CHANNELS)
    forgotten = _forgotten(registry, version, unread)
    channels = _channels(registry, version, unread)
    document = {
        **manifest.model_dump(mode="json"),
        "tested": tested.passes,
        "ready_for_production": ready.passes,
        "evidence": evidence,
        "verdicts": {"staging": tested.verdict, "production": ready.verdict},
        "forgotten": forgotten,
        "channels": channels,
        "unread": unread,
    }
    files = table(("FILE", "BYTES", "SHA256"), [(file.path, file.size, file.sha256[:12]) for file in manifest.files])
    text = (
        _facts(manifest, forgotten, channels, tested, ready),
        "\n".join(f"{MAY_NOT}: {each}" for each in unread),
        files,
        metrics_table(evidence),
        tested.checks(),
        ready.checks(),
    )
    out.answer(document, "\n\n".join(part for part in text if part))


@dataclass(frozen=True)
class _Judged:
    """What the gates of a channel say of a version now; `verdict` is None where it can't be judged, for a reason."""

    verdict: Verdict | None
    reason: str = ""

    @property
    def passes(self) -> bool:
        return self.verdict is not None and self.verdict.outcome == "pass"

    @property
    def answer(self) -> str:
        """Whether it passes, in a word; or why that can't be said."""
        return self.reason or ("yes" if self.passes else "no")

    def checks(self) -> str:
        """The checks that do not pass, a line each; empty where it can't be judged."""
        return checks(self.verdict, refusals_only=True) if self.verdict else ""


def _evidence(registry: Registry, version: VersionName, unread: list[str]) -> list[Evidence]:
    """What was measured, oldest first; what may not be read is added to `unread`."""
    try:
        kept = registry.wiring.ledger.kept_evidence(version)
    except StoreDenied as error:
        unread.append(f"all evidence ({error})")
        return []
    unread.extend(kept.refused)
    return sorted(kept.found.values(), key=lambda one: one.order)


def _forgotten(registry: Registry, version: str, unread: list[str]) -> Forgotten | None:
    try:
        return registry.wiring.forgotten.find(version)
    except StoreDenied as error:
        unread.append(f"whether it was forgotten ({error})")
        return None


def _channels(registry: Registry, version: str, unread: list[str]) -> list[dict[str, Any]]:
    """What the version is in each channel, by which record, and the rules that a forced promotion overruled."""
    from registry.usecases.pages import Pages, forced

    found = []
    pages = Pages.read(registry.wiring)
    unread.extend(map(str, pages.refused))
    for each in pages.standings(registry.bindings.get(VersionName.parse(version))):
        verdicts: dict[int, str] = {}
        overruled = forced(registry.wiring, [each.promoted] if each.promoted else [], verdicts)
        unread.extend(f"generation {number} of {each.channel}: {why}" for number, why in verdicts.items())
        record = each.record
        of_record = {
            name: getattr(record, name) if record else None for name in ("generation", "who", "when", "reason")
        }
        found.append(
            {
                "channel": each.channel,
                "role": each.role,
                **of_record,
                "forced": bool(overruled),
                "overruled": "; ".join(overruled.values()),
            }
        )
    return found


def _in_words(each: dict[str, Any]) -> str:
    """`production: withdrawn by bob, 2026-…, generation 3: error rate`."""
    by = f" by {each['who']}, {each['when']}, generation {each['generation']}" if each["generation"] else ""
    why = f": {each['reason']}" if each["reason"] else ""
    forced = f" (forced; overruled: {each['overruled']})" if each["forced"] else ""
    return f"{each['channel']}: {each['role']}{by}{why}{forced}"


def _judge(registry: Registry, version: str, channel: str) -> _Judged:
    try:
        return _Judged(registry.judge(version, channel))
    except (IntegrityError, StoreDenied) as error:
        return _Judged(None, f"can't be judged: {error}")


def _facts(
    manifest: Manifest, forgotten: Forgotten | None, channels: list[dict[str, Any]], tested: _Judged, ready: _Judged
) -> str:
    backbone = manifest.backbone
    return facts(
        {
            "version": f"{manifest.model} {manifest.version}",
            "forgotten": f"by {forgotten.who}, {forgotten.when}: {forgotten.reason or 'old'}" if forgotten else "",
            "channels": "; ".join(map(_in_words, channels)),
            "description": manifest.description,
            "made": f"{manifest.timestamp} from {manifest.source}",
            "content": manifest.content_sha256,
            "backbone": f"{backbone.name} ({backbone.family}, {backbone.sha256[:12]})" if backbone else "",
            "components": sorted(manifest.components),
            "files": f"{len(manifest.files)}, {megabytes(manifest.size)}",
            "parent": manifest.parent.version if manifest.parent else "",
            "breaking changes": manifest.breaking_changes,
            "ready for staging": tested.answer,
            "ready for production": ready.answer,
        }
    )
