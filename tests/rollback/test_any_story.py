"""Any story of a channel, told to a real store by two writers, goes as a plain model of the rules says."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from registry.channels.channel import Channel, RollbackOptions
from registry.channels.record import (
    Author,
    ChannelPosition,
    Record,
    partly_rolled_back,
    promoted,
    trial_advanced,
    trial_started,
)
from registry.channels.trial import StartTrial, TrialKind
from registry.errors import BadInput, ChannelMoved, NotFound, NothingToRollBackTo, NotNow, UloraError, VersionNotFound
from registry.store.objects import ObjectStore
from registry.versions.pointer import Pointer

NAMES = [f"v{number}.0.0" for number in range(4)]
WRITERS = ("ann", "bob")
names = st.sampled_from(NAMES)
writers = st.sampled_from(WRITERS)
rollback_options = st.one_of(
    st.just(RollbackOptions()),
    st.builds(RollbackOptions, again=st.booleans(), leave_stable=st.booleans()),
    st.builds(RollbackOptions, leave=names),
    st.builds(RollbackOptions, to=names, leave_stable=st.booleans()),
    st.builds(RollbackOptions, expected=st.integers(1, 9), again=st.booleans()),
    st.permutations(NAMES).map(lambda order: RollbackOptions(leave=order[0], to=order[1])),
)


class Refused(Exception):
    """What the rules say no to, and by which error."""

    def __init__(self, kind: type[UloraError]) -> None:
        self.kind = kind


@dataclass
class Rules:
    """The rules of a channel in a page: no store, no records.

    Attributes:
        served: what each generation served, oldest first, as (action, stable, canary).
    """

    stable: str | None = None
    canary: str | None = None
    stack: list[str] = field(default_factory=list)
    withdrawn: set[str] = field(default_factory=set)
    served: list[tuple[str, str | None, str | None]] = field(default_factory=list)

    @property
    def generation(self) -> int:
        return len(self.served)

    @property
    def live(self) -> list[str]:
        return [name for name in (self.stable, self.canary) if name]

    @property
    def targets(self) -> list[str]:
        return [name for name in self.stack if name not in {*self.withdrawn, *self.live}]

    def promote(self, name: str) -> None:
        if self.canary:
            self._refuse(NotNow)
        self.stack = [each for each in [self.stable, *self.stack] if each and each != name]
        self.withdrawn.discard(name)
        self._serve("promote", name, None)

    def start_trial(self, name: str) -> None:
        if self.canary or not self.stable:
            self._refuse(NotNow)
        if name == self.stable:
            self._refuse(BadInput)
        self.withdrawn.discard(name)
        self._serve("canary", self.stable, name)

    def make_trial_stable(self) -> None:
        if self.canary is None:
            self._refuse(NotFound)
        self.stack = [each for each in [self.stable, *self.stack] if each and each != self.canary]
        self._serve("advance", self.canary, None)

    def roll_back_in_part(self, composed: str) -> None:
        if self.stable is None:
            self._refuse(NothingToRollBackTo)
        if self.canary or composed in self.withdrawn:
            self._refuse(NotNow)
        self.stack = [name for name in self.stack if name != composed]
        self.withdrawn.add(self.stable)
        self._serve("rollback", composed, None)

    def roll_back(self, options: RollbackOptions) -> bool:
        """Whether it changed anything."""
        leave = self._leave(options)
        if leave is not None and leave not in self.live and self.generation:
            self._check_left(leave, options.to)
            return False
        if leave is None and options.to is not None and self.live == [options.to]:
            return False
        if (
            options == RollbackOptions(leave_stable=options.leave_stable)
            and self.served
            and self.served[-1][0] in ("rollback", "abort")
        ):
            self._refuse(NotNow)
        if self._is_about_the_trial(leave, options):
            assert self.canary
            self.withdrawn.add(self.canary)
            self.stack = [name for name in self.stack if name not in self.withdrawn]
            self._serve("abort", self.stable, None)
            return True
        targets = self.targets
        if not targets or options.to not in (None, *targets):
            self._refuse(NothingToRollBackTo)
        depth = targets.index(options.to) if options.to else 0
        self.withdrawn |= {*self.live, *targets[:depth]}
        self.stack = targets[depth + 1 :]
        self._serve("rollback", targets[depth], None)
        return True

    def _leave(self, options: RollbackOptions) -> str | None:
        if options.expected is None or not self.served:
            return options.leave
        if options.expected > self.generation:
            self._refuse(NotFound)
        _, stable, canary = self.served[options.expected - 1]
        return canary or stable

    def _check_left(self, leave: str, to: str | None) -> None:
        if leave not in {*self.withdrawn, *self.live, *self.stack}:
            self._refuse(VersionNotFound)
        if to is not None and self.live != [to]:
            self._refuse(ChannelMoved)

    def _is_about_the_trial(self, leave: str | None, options: RollbackOptions) -> bool:
        return (
            self.canary is not None
            and not options.leave_stable
            and options.to in (None, self.stable)
            and leave in (None, self.canary)
        )

    def _serve(self, action: str, stable: str | None, canary: str | None) -> None:
        self.stable, self.canary = stable, canary
        self.served.append((action, stable, canary))

    @staticmethod
    def _refuse(kind: type[UloraError]) -> NoReturn:
        raise Refused(kind)


class Story(RuleBasedStateMachine):
    """Two writers change a channel, each from the newest record or from one that it saw some time ago."""

    store: ObjectStore

    def __init__(self) -> None:
        super().__init__()
        self.log = Channel(self.store, f"m-{uuid.uuid4().hex[:8]}", "production")
        self.rules = Rules()
        self.seen: dict[str, Record | None] = dict.fromkeys(WRITERS)

    @rule(writer=writers)
    def look(self, writer: str) -> None:
        self.seen[writer] = self.log.head()

    @rule(writer=writers, name=names)
    def promote(self, writer: str, name: str) -> None:
        self.look(writer)
        self.promote_what_was_decided_before(writer, name)

    @rule(writer=writers, name=names)
    def promote_what_was_decided_before(self, writer: str, name: str) -> None:
        """From the head that this writer saw last: refused by it, lost, or won."""
        seen = self.seen[writer]
        was_trial = seen is not None and seen.canary is not None
        is_late = (seen.generation if seen else 0) != self.rules.generation
        kind = NotNow if was_trial else ChannelMoved if is_late else None
        self._expect(kind, lambda: self.log.commit(promoted(self._place(seen), pointer(name), by(writer), None)))
        if kind is None:
            self.rules.promote(name)

    @rule(name=names, kind=st.sampled_from(("split", "shadow")))
    def start_trial(self, name: str, kind: TrialKind) -> None:
        start, head = StartTrial(kind, 5), self.log.head()
        self._both(
            lambda: self.log.commit(trial_started(self._place(head), pointer(name), by("ann"), None, start)),
            lambda: self.rules.start_trial(name),
        )

    @rule(writer=writers)
    def make_the_trial_stable(self, writer: str) -> None:
        head = self.log.head()
        self._both(
            lambda: self.log.commit(trial_advanced(self._place(head), by(writer), 100)), self.rules.make_trial_stable
        )

    @rule()
    def roll_back_in_part(self) -> None:
        composed = f"{(self.rules.stable or 'v0.0.0').partition('-')[0]}-p"
        head = self.log.head()
        self._both(
            lambda: self.log.commit(partly_rolled_back(self._place(head), pointer(composed), by("bob"))),
            lambda: self.rules.roll_back_in_part(composed),
        )

    @rule(options=rollback_options, times=st.sampled_from((1, 1, 2)))
    def roll_back(self, options: RollbackOptions, times: int) -> None:
        for _ in range(times):
            done = self._both(
                lambda: self.log.rollback(by("ann"), options).changed, lambda: self.rules.roll_back(options)
            )
            assert done[0] == done[1]

    @invariant()
    def the_log_says_what_the_rules_say(self) -> None:
        head, rules = self.log.head(), self.rules
        if head is None:
            assert rules.generation == 0
            return
        assert head.generation == rules.generation
        assert list(head.live()) == rules.live
        assert [target.version for target in head.rollback_targets()] == rules.targets
        assert [target.version for target in head.stack] == rules.stack
        assert set(head.withdrawn) == rules.withdrawn

    def teardown(self) -> None:
        told = [(one.action, version(one.stable), version(one.canary)) for one in self.log.history()]
        assert told[::-1] == self.rules.served

    def _both(self, real: Callable[[], object], rules: Callable[[], object]) -> tuple[object, object]:
        """Do something by the rules and for real: both do it, or both refuse for the same reason."""
        try:
            expected = rules()
        except Refused as refused:
            self._expect(refused.kind, real)
            return None, None
        return real(), expected

    def _expect(self, kind: type[UloraError] | None, act: Callable[[], object]) -> None:
        if kind is None:
            act()
            return
        with pytest.raises(kind) as error:
            act()
        assert type(error.value) is kind

    def _place(self, head: Record | None) -> ChannelPosition:
        return ChannelPosition(self.log.model, self.log.name, head)


def pointer(name: str) -> Pointer:
    return Pointer(version=name, manifest_sha256="a" * 64)


def by(who: str) -> Author:
    return Author(who)


def version(found: Pointer | None) -> str | None:
    return found.version if found else None


def test_random_changes_follow_the_rules(store_url: str) -> None:
    Told = type("Told", (Story,), {"store": ObjectStore(store_url)})
    # Told as it was found: to find the shortest one like it would take minutes on a real store.
    few = settings(
        max_examples=12, stateful_step_count=25, deadline=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(Told, settings=few)
