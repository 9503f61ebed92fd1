"""Decide on a promotion that was requested in MLflow: by the gates, and by what the channel's log says since."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from registry.answers import Change
from registry.catalog.requests import Request
from registry.channels.channel import Channel, PromoteOptions
from registry.channels.record import Record
from registry.errors import (
    BadInput,
    ChannelMoved,
    GateRefused,
    IntegrityError,
    Overwritten,
    StoreDenied,
    UloraError,
    Unreachable,
)
from registry.names import VersionName
from registry.versions.bindings import Bindings

_TRIES = 3
_PROMOTES = ("promote", "advance")


class Promote(Protocol):
    """`Registry.promote`."""

    def __call__(self, version: str, channel: str, options: PromoteOptions, *, reason: str) -> Change: ...


@dataclass(frozen=True)
class RequestDecider:
    """Decides on requests by the gates, as `ulora promote` does.

    Attributes:
        who: shown in the claim while a request is decided.
        channel: returns the log of a channel.
        promote: `Registry.promote`, with an author that says that the request came from MLflow.
    """

    who: str
    channel: Callable[[str], Channel]
    versions: Bindings
    promote: Promote

    def generation(self, channel: str) -> int:
        """The channel's newest generation; 0 if it is empty, or can't be read: `decide` then answers with the error."""
        try:
            head = self.channel(channel).head()
        except IntegrityError:
            return 0
        return head.generation if head else 0

    def decide(self, request: Request, claimed: int) -> str:
        """Promote a request's version as the generation after `claimed`, unless the log already has the outcome.

        Returns words that begin with `promoted` or `refused`.

        Raises:
            Unreachable: it can't be decided now; the request stays claimed.
        """
        return self._outcome(request, claimed, self._promote)

    def look_up(self, request: Request, claimed: int) -> str:
        """The outcome of a request that a reconciler began to claim at a generation; nothing is promoted.

        Raises:
            Unreachable: the log can't be read now.
        """
        return self._outcome(request, claimed, _interrupted)

    def _outcome(self, request: Request, claimed: int, act: Callable[[Request, int], str]) -> str:
        """The outcome that the log has, else the result of `act`."""
        try:
            for _ in range(_TRIES):
                if outcome := self._outcome_in_log(request, claimed):
                    return outcome
                try:
                    return act(request, claimed)
                except ChannelMoved:
                    continue  # now the log says who moved it
            return "refused the channel was moved several times meanwhile; request it again later"
        except GateRefused as error:
            return f"refused {_reasons(error)}"
        except StoreDenied as error:
            return f"refused whoever runs `ulora reconcile` may not promote: {error}"
        except Unreachable:
            raise
        except Overwritten as error:  # raised after the commit: the log says what stands
            return f"{self._outcome_in_log(request, claimed) or 'refused'}; {error}"
        except UloraError as error:
            return f"refused {error}"
        except Exception as error:  # if it was raised after the commit, the log has the outcome
            return self._outcome_in_log(request, claimed) or f"refused unexpected {type(error).__name__}: {error}"

    def _outcome_in_log(self, request: Request, claimed: int) -> str:
        """The outcome of a request by the records since a generation; empty if there are none."""
        channel = self.channel(request.channel)
        head = channel.head()
        if head is None or head.generation <= claimed:
            return ""
        since = channel.history(head.generation - claimed)
        for record in reversed(since):
            if record.action in _PROMOTES and record.stable and record.stable.version == request.version:
                left = "" if request.version in head.live() else f"; left since by {_what(head)}"
                return f"promoted {_what(record)}{left}"
        return f"refused {request.channel} was moved meanwhile, by {_what(since[-1])}; {_again(request)}"

    def _promote(self, request: Request, claimed: int) -> str:
        name = request.version or ""
        if not request.is_for(self.versions.get(VersionName.parse(name))):
            raise BadInput(
                f"#{request.number} in MLflow has the name {name}, but not the content of {name} in this store"
            )
        reason = f"asked for in MLflow: alias {request.alias} on its version {request.number}"
        change = self.promote(name, request.channel, PromoteOptions(expected=claimed), reason=reason)
        if not change.changed:
            return f"promoted it was already stable, generation {change.generation}"
        return f"promoted generation {change.generation}"


def _interrupted(request: Request, claimed: int) -> str:
    return f"refused it was changed, withdrawn or interrupted while it was being claimed; {_again(request)}"


def _again(request: Request) -> str:
    return f"set the alias {request.alias} again if it is still wanted"


def _what(record: Record) -> str:
    return f"generation {record.generation} ({record.action} by {record.who})"


def _reasons(error: GateRefused) -> str:
    """Every rule that was not met; the error's message has only the first ones."""
    refusals = getattr(error.verdict, "refusals", ())
    return "; ".join(check.reason for check in refusals) or str(error)
