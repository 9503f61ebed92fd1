"""What becomes of a promotion that somebody asked for in MLflow: the gates decide, the log remembers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from registry.answers import Change
from registry.catalog.requests import Request
from registry.channels.channel import Channel, PromoteOptions
from registry.channels.record import Record
from registry.errors import BadInput, ChannelMoved, GateRefused, IntegrityError, StoreDenied, UloraError, Unreachable
from registry.names import VersionName
from registry.versions.bindings import Bindings

_TRIES = 3
_BROUGHT = ("promote", "advance")


class Promote(Protocol):
    """`Registry.promote`."""

    def __call__(self, version: str, channel: str, options: PromoteOptions, *, reason: str) -> Change: ...


@dataclass(frozen=True)
class RequestDecider:
    """Decides on requests by the gates, as `ulora promote` does.

    Attributes:
        who: shown while a request is decided.
        channel: gives the log of a channel.
        promote: `Registry.promote`, signed as what it is: asked for in MLflow, by nobody knows whom.
    """

    who: str
    channel: Callable[[str], Channel]
    versions: Bindings
    promote: Promote

    def generation(self, channel: str) -> int:
        """The channel's newest generation, 0 while it is empty, and where it can't be read: `decide` says so then."""
        try:
            head = self.channel(channel).head()
        except IntegrityError:
            return 0
        return head.generation if head else 0

    def decide(self, request: Request, taken: int) -> str:
        """Promote as the generation after `taken`, or refuse; or what the log says that became of it meanwhile.

        Raises:
            Unreachable: it can't be decided now.
        """
        return self._in_words(request, taken, self._promoted)

    def recall(self, request: Request, taken: int) -> str:
        """What the log says that became of a request that was being taken at a generation; nothing is promoted.

        Raises:
            Unreachable: it can't be read now.
        """
        return self._in_words(request, taken, _interrupted)

    def _in_words(self, request: Request, taken: int, act: Callable[[Request, int], str]) -> str:
        """What the log says that became of a request, else what comes of `act`."""
        try:
            for _ in range(_TRIES):
                if told := self._told_by_log(request, taken):
                    return told
                try:
                    return act(request, taken)
                except ChannelMoved:
                    continue  # now the log says by whom
            return "refused the channel moves all the time; ask again later"
        except GateRefused as error:
            return f"refused {_reasons(error)}"
        except StoreDenied as error:
            return f"refused whoever runs `ulora reconcile` may not promote: {error}"
        except Unreachable:
            raise
        except UloraError as error:
            return f"refused {error}"
        except Exception as error:  # by something that came after the commit: then the log says so
            return self._told_by_log(request, taken) or f"refused unexpected {type(error).__name__}: {error}"

    def _told_by_log(self, request: Request, taken: int) -> str:
        """What the log says of a request that was taken at a generation; empty where it still stands there."""
        channel = self.channel(request.channel)
        head = channel.head()
        if head is None or head.generation <= taken:
            return ""
        since = channel.history(head.generation - taken)
        for record in reversed(since):
            if record.action in _BROUGHT and record.stable and record.stable.version == request.version:
                left = "" if request.version in head.live() else f"; left since by {_what(head)}"
                return f"promoted {_what(record)}{left}"
        return f"refused {request.channel} was moved meanwhile, by {_what(since[-1])}; {_again(request)}"

    def _promoted(self, request: Request, taken: int) -> str:
        name = request.version or ""
        if self.versions.get(VersionName.parse(name)).content_sha256 != request.content_sha256:
            raise BadInput(f"#{request.number} in MLflow says that it is {name}, but not with what {name} holds here")
        reason = f"asked for in MLflow: alias {request.alias} on its version {request.number}"
        change = self.promote(name, request.channel, PromoteOptions(expected=taken), reason=reason)
        if not change.changed:
            return f"promoted it was stable already, generation {change.generation}"
        return f"promoted generation {change.generation}"


def _interrupted(request: Request, taken: int) -> str:
    return f"refused it was moved, taken back or interrupted while it was taken; {_again(request)}"


def _again(request: Request) -> str:
    return f"set the alias {request.alias} again if it is still wanted"


def _what(record: Record) -> str:
    return f"generation {record.generation} ({record.action} by {record.who})"


def _reasons(error: GateRefused) -> str:
    """Every rule that was not met, as the message names only the first ones."""
    refusals = getattr(error.verdict, "refusals", ())
    return "; ".join(check.reason for check in refusals) or str(error)
