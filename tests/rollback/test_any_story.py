"""Any story of promotions and rollbacks, told to a real store, ends where a plain model of the rules says."""

from __future__ import annotations

import uuid
from contextlib import nullcontext

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from registry.channel import Channel, Wish
from registry.errors import NothingToRollBackTo, NotNow, UloraError, VersionNotFound
from registry.record import Place, Pointer, Signature, promoted
from registry.store.objects import ObjectStore

NAMES = [f"v{number}.0.0" for number in range(5)]
ME = Signature("a test")


class Story(RuleBasedStateMachine):
    """What production serves, what it can go back to, what it left, and whether the last change was a rollback."""

    store: ObjectStore

    def __init__(self) -> None:
        super().__init__()
        self.log = Channel(self.store, f"m-{uuid.uuid4().hex[:8]}", "production")
        self.stable: str | None = None
        self.stack: list[str] = []
        self.withdrawn: set[str] = set()
        self.length = 0
        self.just_rolled_back = False

    @rule(name=st.sampled_from(NAMES))
    def promote(self, name: str) -> None:
        pointer = Pointer(version=name, manifest_sha256="a" * 64)
        self.log.commit(promoted(Place(self.log.model, "production", self.log.head()), pointer, ME, None))
        self.stack = [each for each in [self.stable, *self.stack] if each and each != name]
        self.stable, self.just_rolled_back = name, False
        self.withdrawn.discard(name)
        self.length += 1

    @rule()
    def roll_back(self) -> None:
        refusal = NotNow if self.just_rolled_back else None if self.stack else NothingToRollBackTo
        self._roll_back(Wish(), refusal, steps=1)

    @rule()
    def roll_back_again(self) -> None:
        self._roll_back(Wish(again=True), None if self.stack else NothingToRollBackTo, steps=1)

    @rule(name=st.sampled_from(NAMES))
    def roll_back_from(self, name: str) -> None:
        wish = Wish(leave=name)
        if self.stable is None:
            self._roll_back(wish, NothingToRollBackTo, steps=0)
        elif name == self.stable:
            self._roll_back(wish, None if self.stack else NothingToRollBackTo, steps=1)
        else:
            known = name in self.withdrawn or name in self.stack
            self._roll_back(wish, None if known else VersionNotFound, steps=0)

    @rule(name=st.sampled_from(NAMES))
    def roll_back_to(self, name: str) -> None:
        wish = Wish(to=name)
        if name == self.stable:
            self._roll_back(wish, None, steps=0)
        elif name in self.stack:
            self._roll_back(wish, None, steps=self.stack.index(name) + 1)
        else:
            self._roll_back(wish, NothingToRollBackTo, steps=0)

    @invariant()
    def the_log_says_what_the_model_says(self) -> None:
        head = self.log.head()
        if head is None:
            assert self.length == 0
            return
        assert head.stable
        assert (head.stable.version, head.generation) == (self.stable, self.length)
        assert [pointer.version for pointer in head.stack] == self.stack
        assert set(head.withdrawn) == self.withdrawn

    def teardown(self) -> None:
        assert len(self.log.history()) == self.length

    def _roll_back(self, wish: Wish, refusal: type[UloraError] | None, steps: int) -> None:
        changed = False
        with pytest.raises(refusal) if refusal else nullcontext():
            changed = self.log.rollback(ME, wish).changed
        assert changed == (refusal is None and steps > 0)
        if changed:
            assert self.stable
            self.withdrawn |= {self.stable, *self.stack[: steps - 1]}
            self.stable, self.stack = self.stack[steps - 1], self.stack[steps:]
            self.length += 1
            self.just_rolled_back = True


def test_any_story_ends_where_the_rules_say(store_url: str) -> None:
    Told = type("Told", (Story,), {"store": ObjectStore(store_url)})
    few = settings(max_examples=8, stateful_step_count=25, suppress_health_check=list(HealthCheck), deadline=None)
    run_state_machine_as_test(Told, settings=few)
