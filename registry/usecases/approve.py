"""Approve a version for a channel whose policy asks several people."""

from __future__ import annotations

from dataclasses import dataclass

from registry.errors import BadInput, NotNow
from registry.evidence.approvals import Approval, approvers, person
from registry.evidence.policy import load_policy
from registry.formats.html import HtmlTable
from registry.machine import clock
from registry.names import check_channel
from registry.wiring import Wiring


@dataclass(frozen=True)
class Approved(HtmlTable):
    """A version that somebody approved.

    Attributes:
        who: everybody who has approved it for the channel, this time included.
        needed: how many different people the policy asks for.
    """

    model: str
    version: str
    channel: str
    who: tuple[str, ...]
    needed: int


def approve(wiring: Wiring, version: str, channel: str, *, reason: str, dry_run: bool) -> Approved:
    """Say yes to a version in a channel; see `Registry.approve`."""
    check_channel(channel)
    manifest, author = wiring.manifest(version), wiring.author(reason)
    approvals = wiring.ledger.approvals(manifest.name)
    known = approvers(approvals, channel, manifest.content_sha256)
    if not person(author.who):
        raise BadInput("an approval needs a person's name", hint="ULORA_WHO says who you are")
    if person(author.who) in map(person, known):
        raise NotNow(
            f"{author.who} has approved {version} for {channel} already; nothing changed",
            hint="another person has to: each counts once. ULORA_WHO says who you are",
        )
    approval = Approval(
        format=1, model=wiring.model, version=version, content_sha256=manifest.content_sha256, channel=channel,
        who=author.who, when=clock.timestamp(), reason=author.reason,
    )  # fmt: skip
    if not dry_run:
        wiring.check_writable()
        wiring.ledger.add_approval(approval)
    needed = load_policy(wiring.settings.policy).approvals(channel)
    everybody = approvers([*approvals, approval], channel, manifest.content_sha256)
    return Approved(wiring.model, version, channel, everybody, needed)
