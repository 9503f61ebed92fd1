"""The guard of a model's channels. It stands above the API and needs the store only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from registry.api import Registry
from registry.catalog.watch import LoopControl, repeat
from registry.errors import BadInput, BadPolicy, BadSetting, Unreachable, first_line
from registry.guard.alerts import PATIENCE, Alerts
from registry.guard.channel_guard import ChannelGuard
from registry.guard.looked import Looked
from registry.guard.notifiers import Notifiers
from registry.guard.teller import Teller
from registry.names import CHANNELS, check_channel

EVERY = 5.0
"""Seconds between two looks."""


@dataclass(frozen=True)
class GuardOptions:
    """What the guard does.

    Attributes:
        channels: those that it watches.
        every: seconds between two looks.
        dry_run: it only says what it would do: nothing is stored, nobody is told.
        once: one look, of which everything is told at once.
    """

    channels: tuple[str, ...] = CHANNELS
    every: float = EVERY
    dry_run: bool = False
    once: bool = False

    def __post_init__(self) -> None:
        """Raises: BadInput: no channel, the name of one is invalid, or `every` is not above 0."""
        if not self.channels:
            raise BadInput("the guard has no channel to watch")
        for name in self.channels:
            check_channel(name)
        if not self.every > 0:
            raise BadInput(f"can't look every {self.every} seconds", hint="give a number of seconds above 0")


class Guard:
    """Watches the channels of one model. Two may watch the same channels; each may end at any instant."""

    def __init__(self, registry: Registry, notifiers: Notifiers, options: GuardOptions | None = None) -> None:
        self._options = options or GuardOptions()
        self._teller = Teller(registry.model, notifiers.tell)
        self._outages = _Outages()
        self._errors: tuple[Exception, ...] = ()
        patience = 0.0 if self._options.once else PATIENCE
        self._channels = {
            name: ChannelGuard(registry.wiring, name, self._teller, Alerts(patience)) for name in self._options.channels
        }

    @property
    def errors(self) -> tuple[Exception, ...]:
        """Why channels could not be judged at the last look, or what followed not be done."""
        return self._errors

    def look(self) -> list[Looked]:
        """Look at every channel once, and do what follows. What is wrong with one channel hides no other.

        Raises:
            StoreUnreachable, StoreDenied, OutcomeUnknown: the store does not answer, or refuses everything.
            BadPolicy, BadSetting: the policy can't be read, or a setting, which all channels have.
        """
        found, errors = list[Looked](), list[Exception]()
        for name, channel in self._channels.items():
            try:
                found.append(channel.look(dry_run=self._options.dry_run))
                self._outages.over(name)
            except Exception as error:  # of any kind: another channel may have to go back
                errors.append(error)
                found.append(self._problem(name, error))
        self._errors = tuple(errors)
        if shared := self._of_all(errors):
            raise shared
        return found

    def run(
        self, control: LoopControl, done: Callable[[list[Looked]], None], failed: Callable[[Exception, float], None]
    ) -> None:
        """Look again and again until `control.stop`, also through outages of the store.

        Args:
            done: called with what came of each round.
            failed: called with an error and the seconds until the next try.

        Raises:
            BadPolicy, BadSetting: the policy or a setting is invalid at the beginning.
        """

        def tell(error: Exception, pause: float) -> None:
            for name in self._channels:
                self._problem(name, error)
            failed(error, pause)

        repeat(lambda _: self.look(), control, done, tell)

    def _of_all(self, errors: Sequence[Exception]) -> Exception | None:
        """The error that is none of a channel: that of the policy or a setting, which all have; or of the store."""
        shared = next((error for error in errors if isinstance(error, BadPolicy | BadSetting)), None)
        if len(errors) == len(self._channels) and all(isinstance(error, Unreachable) for error in errors):
            return errors[0]
        return shared

    def _problem(self, channel: str, error: Exception) -> Looked:
        said = f"it can't be judged: {type(error).__name__}"
        number = self._outages.number(channel)
        if not self._options.dry_run:
            self._teller.problem(channel, said if number == 1 else f"{said} (time {number})", first_line(error))
        hint = getattr(error, "hint", "")
        return Looked(channel, summary=said, problem=first_line(error), notes=(hint,) if hint else ())


class _Outages:
    """How often each channel could not be judged: the next time is told as another one."""

    def __init__(self) -> None:
        self._count, self._is_out = Counter[str](), set[str]()

    def number(self, channel: str) -> int:
        """Which outage this is, from 1; the same one until it is over."""
        if channel not in self._is_out:
            self._is_out.add(channel)
            self._count[channel] += 1
        return self._count[channel]

    def over(self, channel: str) -> None:
        """The channel can be judged again."""
        self._is_out.discard(channel)
