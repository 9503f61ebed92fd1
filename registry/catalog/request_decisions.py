"""Decide on what was requested in MLflow: a promotion by the gates, a rollback by the channel's own rules, and both by
what the channel's log says since."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from registry.answers import Change
from registry.catalog.requests import ROLLBACK, Request
from registry.channels.channel import BACKWARD_ACTIONS, Channel, PromoteOptions, RollbackOptions
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


class RollBack(Protocol):
    """`Registry.rollback`."""

    def __call__(self, channel: str, options: RollbackOptions, *, reason: str) -> Change: ...


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
        roll_back: `Registry.rollback`, with the same author.
        may_roll_back: whether the policy lets a request roll a channel back.
    """

    who: str
    channel: Callable[[str], Channel]
    versions: Bindings
    promote: Promote
    roll_back: RollBack
    may_roll_back: Callable[[str], bool]

    def generation(self, channel: str) -> int:
        """The channel's newest generation; 0 if it is empty, or can't be read: `decide` then answers with the error."""
        try:
            head = self.channel(channel).head()
        except IntegrityError:
            return 0
        return head.generation if head else 0

    def decide(self, request: Request, claimed: int) -> str:
        """Do what a request asks for as the generation after `claimed`, unless the log already has the outcome.

        Returns words that begin with `promoted`, `rolled` (back) or `refused`.

        Raises:
            Unreachable: it can't be decided now; the request stays claimed.
        """
        return self._outcome(request, claimed, self._roll_back if request.asks == ROLLBACK else self._promote)

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
            if request.asks == ROLLBACK and record.action in BACKWARD_ACTIONS:
                return f"rolled back {_what(record)}"
            if (
                request.asks != ROLLBACK
                and record.action in _PROMOTES
                and record.stable
                and record.stable.version == request.version
            ):
                left = "" if request.version in head.live() else f"; left since by {_what(head)}"
                return f"promoted {_what(record)}{left}"
        return f"refused {request.channel} was moved meanwhile, by {_what(since[-1])}; {_again(request)}"

    def _promote(self, request: Request, claimed: int) -> str:
        name, reason = self._named(request)
        change = self.promote(name, request.channel, PromoteOptions(expected=claimed), reason=reason)
        if not change.changed:
            return f"promoted it was already stable, generation {change.generation}"
        return f"promoted generation {change.generation}"

    def _roll_back(self, request: Request, claimed: int) -> str:
        """From the version that is served, or to one that a rollback can go to; of nothing that was served since."""
        name, reason = self._named(request)
        if not self.may_roll_back(request.channel):
            raise BadInput(
                f"the policy switches rollbacks by request off in {request.channel}; whoever may write to the store "
                f"runs `ulora rollback --from {name}`"
            )
        head = self.channel(request.channel).head()
        if head is None or head.generation != claimed:
            raise ChannelMoved(f"{request.channel} moved")
        if name in head.live():
            options = RollbackOptions(leave=name)
        elif head.stable and name in [each.version for each in head.rollback_targets()]:
            options = RollbackOptions(leave=head.stable.version, to=name)
        else:
            raise BadInput(
                f"{request.channel} does not serve {name}, and a rollback can't go to it; set the alias on the version "
                "that is served, to leave it, or on an earlier one, to go to it"
            )
        change = self.roll_back(request.channel, options, reason=reason)
        return f"rolled back generation {change.generation}: {request.channel} serves {change.version}"

    def _named(self, request: Request) -> tuple[str, str]:
        """The version that a request is for, and the reason for the record.

        Raises:
            BadInput: the version in MLflow is not the one of this name in the store.
        """
        name = request.version or ""
        if not request.is_for(self.versions.get(VersionName.parse(name))):
            raise BadInput(
                f"#{request.number} in MLflow has the name {name}, but not the content of {name} in this store"
            )
        return name, f"asked for in MLflow: alias {request.alias} on its version {request.number}"


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
