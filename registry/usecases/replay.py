"""Compute a verdict again from what it names, and compare the bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from registry.errors import BadInput, BadManifest, CorruptBlob, NotFound
from registry.evidence.verdict import Verdict
from registry.evidence.verdict_inputs import MEANING
from registry.formats.document import Document
from registry.formats.html import HtmlTable
from registry.machine.provenance import release
from registry.names import VersionName, check_channel, is_channel_name
from registry.usecases.named_inputs import NamedInputs
from registry.wiring import Wiring

MIN_PREFIX = 4
"""Characters of a digest that are enough where only one verdict begins so."""
_SHOWN = 10
_MAX_LINES, _MAX_LINE, _MAX_DEPTH = 400, 500, 20
_EARLIER = "an earlier release, which kept neither its policy nor the names of its inputs"


@dataclass(frozen=True)
class Replayed(HtmlTable):
    """A verdict and what came of computing it again.

    Attributes:
        verdict: its digest.
        outcome: what it says.
        timestamp: when it was judged.
        inputs: how many documents it was computed from, besides itself.
        size: bytes of the verdict.
        equal: whether computing it again gave the same bytes.
        differences: the lines that differ, `-` as kept and `+` as computed now; empty if none do.
        release: of ulora-registry that judged; `this_release` is the one that computed it again.
    """

    verdict: str
    version: str
    channel: str
    outcome: str
    timestamp: str
    inputs: int
    size: int
    equal: bool
    differences: tuple[str, ...]
    release: str
    this_release: str


def replay(wiring: Wiring, digest: str) -> Replayed:
    """Compute a verdict again.

    Args:
        digest: of the verdict, or its beginning, at least 4 characters.

    Raises:
        BadInput: it is not a digest, or more than one verdict begins so.
        NotFound: there is no such verdict, or it does not name its inputs, or some of them are gone.
        IntegrityError: the verdict or one of its inputs does not hash to its name, or does not follow its format.
    """
    kept = _verdict(wiring, _whole_digest(wiring, digest))
    if kept.inputs is None:
        raise NotFound(
            f"verdict {kept.sha256[:12]} on {kept.version} in {kept.channel} was made by {_EARLIER}: it can't be "
            "computed again, which does not make it wrong",
            hint="promotions of this release on keep what is needed",
        )
    if kept.inputs.meaning > MEANING:
        raise BadManifest(
            f"in verdict {kept.sha256[:12]} rules mean what this release does not know ({kept.inputs.meaning})",
            hint="upgrade ulora-registry",
        )
    named = NamedInputs(wiring, kept, kept.inputs)
    again = named.basis().judge()
    return Replayed(
        kept.sha256, kept.version, kept.channel, kept.outcome, kept.timestamp, len(named.found), len(kept.to_bytes()),
        again.to_bytes() == kept.to_bytes(), differing_lines(kept, again), kept.inputs.release, release(),
    )  # fmt: skip


def newest_digest(wiring: Wiring, version: str, channel: str) -> str:
    """The digest of the newest verdict on a version in a channel, refusals included. It reads every verdict.

    Raises:
        NotFound: there is none.
    """
    name = str(VersionName.parse(version))
    about = [
        each for each in wiring.ledger.verdicts() if (each.version, each.channel) == (name, check_channel(channel))
    ]
    if not about:
        wiring.store.check_holds(wiring.model)
        raise NotFound(
            f"no verdict on {version} in {channel} is kept",
            hint="`ulora promote` keeps one, whether it refuses or not",
        )
    return max(about, key=lambda each: (each.timestamp, each.sha256)).sha256


def _whole_digest(wiring: Wiring, digest: str) -> str:
    if not re.fullmatch(rf"[0-9a-f]{{{MIN_PREFIX},64}}", digest):
        raise BadInput(
            f"{digest[:100]!r} is not the digest of a verdict, or {MIN_PREFIX} characters or more of its beginning",
            hint="`ulora history --json` has the verdict of every promotion; or give --version and --channel",
        )
    listed = wiring.ledger.verdict_digests(digest, _SHOWN)
    found = [each for each in listed if re.fullmatch("[0-9a-f]{64}", each)]
    if not found:
        wiring.store.check_holds(wiring.model)
        raise NotFound(f"no verdict begins with {digest}", hint="`ulora history --json` has that of every promotion")
    if len(found) > 1:
        raise BadInput(f"more than one verdict begins with {digest}: {', '.join(found)}", hint="give more characters")
    return found[0]


def _verdict(wiring: Wiring, sha256: str) -> Verdict:
    kept = wiring.ledger.verdict(sha256)
    if not is_channel_name(kept.channel):
        raise BadManifest(f"verdict {sha256[:12]} names {kept.channel!r}, which is not a name of a channel")
    if kept.sha256 != sha256:
        raise CorruptBlob(
            f"verdict {sha256[:12]} hashes to {kept.sha256[:12]}: it is not what was written",
            hint="bring it back from the bucket's own versions, or a copy of it",
        )
    return kept


def differing_lines(kept: Document, again: Document) -> tuple[str, ...]:
    """The lines that differ between two documents, a value a line under its place: `-` as kept, `+` as computed now."""
    ours, theirs = (dict(_values(json.loads(document.to_bytes()))) for document in (kept, again))
    places = [place for place in {**ours, **theirs} if ours.get(place) != theirs.get(place)]
    lines = [
        f"{sign} {place}: {values[place]}"[:_MAX_LINE]
        for place in places
        for sign, values in (("-", ours), ("+", theirs))
        if place in values
    ]
    if not lines and kept.to_bytes() != again.to_bytes():
        return ("the same values in other bytes: it is not canonical JSON",)
    more = len(lines) - _MAX_LINES
    return (*lines[:_MAX_LINES], *([f"… and {more} more"] if more > 0 else ()))


def _values(value: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """The values in a document, as JSON, with their places, such as `checks.0.outcome`."""
    inner = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    if not inner or depth > _MAX_DEPTH:
        yield place, json.dumps(value, ensure_ascii=False)
        return
    for name, each in inner:
        yield from _values(each, f"{place}.{name}".lstrip("."), depth + 1)
