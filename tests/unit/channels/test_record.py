"""The rules of a channel as pure functions, compared with a simple model."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from registry.channels.channel import check_link
from registry.channels.record import (
    STACK_DEPTH,
    Author,
    Canary,
    ChannelPosition,
    Record,
    aborted,
    promoted,
    rolled_back,
    trial_advanced,
    trial_started,
)
from registry.channels.trial import StartTrial, TrialKind
from registry.errors import BadInput, BadManifest, BrokenChain, NotFound, NothingToRollBackTo, NotNow
from registry.formats import canonical
from registry.versions.pointer import Pointer

NAMES = [f"v{number}.0.0" for number in range(14)]
ME = Author("me@here", "because")


def pointer(name: str) -> Pointer:
    return Pointer(version=name, manifest_sha256=canonical.sha256(name.encode()))


def place(*names: str) -> ChannelPosition:
    """A channel to which these versions were promoted, one after the other."""
    head: Record | None = None
    for name in names:
        head = promoted(ChannelPosition("m", "production", head), pointer(name), ME, None)
    return ChannelPosition("m", "production", head)


def state(record: Record | None) -> tuple[str | None, list[str], list[str]]:
    """What is stable, the stack, and what is withdrawn."""
    if record is None:
        return None, [], []
    stable = record.stable.version if record.stable else None
    return stable, [pointer.version for pointer in record.stack], list(record.withdrawn)


def with_canary(before: ChannelPosition, name: str) -> ChannelPosition:
    head = before.head
    assert head
    canary = Canary(**pointer(name).model_dump(), weight=5.0)
    return ChannelPosition(before.model, before.channel, head.model_copy(update={"canary": canary}))


def test_one_two_one_then_two_rollbacks() -> None:
    at = place("v1.0.0", "v2.0.0", "v1.0.0")
    assert state(at.head) == ("v1.0.0", ["v2.0.0"], [])
    back = rolled_back(at, ME)
    assert state(back) == ("v2.0.0", [], ["v1.0.0"])
    with pytest.raises(NothingToRollBackTo, match="nothing changed"):
        rolled_back(ChannelPosition("m", "production", back), ME)


def test_rolling_back_to_a_version_withdraws_all_above_it() -> None:
    back = rolled_back(place("v1.0.0", "v2.0.0", "v3.0.0", "v4.0.0"), ME, to="v2.0.0")
    assert state(back) == ("v2.0.0", ["v1.0.0"], ["v4.0.0", "v3.0.0"])


def test_rolling_back_to_what_is_not_on_the_stack_names_what_is() -> None:
    with pytest.raises(NothingToRollBackTo) as refused:
        rolled_back(place("v1.0.0", "v2.0.0", "v3.0.0"), ME, to="v9.0.0")
    assert "v2.0.0, v1.0.0" in refused.value.hint


def test_a_promotion_takes_a_version_back_from_the_withdrawn() -> None:
    back = rolled_back(place("v1.0.0", "v2.0.0"), ME)
    again = promoted(ChannelPosition("m", "production", back), pointer("v2.0.0"), ME, None)
    assert state(again) == ("v2.0.0", ["v1.0.0"], [])


def test_the_stack_keeps_the_newest_ten() -> None:
    head = place(*NAMES).head
    assert state(head)[1] == NAMES[-2 : -2 - STACK_DEPTH : -1]


def test_during_a_trial_a_rollback_withdraws_both_versions() -> None:
    trial = with_canary(place("v1.0.0", "v2.0.0"), "v3.0.0")
    with pytest.raises(NotNow, match=r"v3\.0\.0 is on trial"):
        promoted(trial, pointer("v4.0.0"), ME, None)
    ended = aborted(trial, ME)
    assert (state(ended), ended.canary) == (("v2.0.0", ["v1.0.0"], ["v3.0.0"]), None)
    back = rolled_back(trial, ME)
    assert (state(back), back.canary) == (("v1.0.0", [], ["v2.0.0", "v3.0.0"]), None)
    with pytest.raises(NotFound, match="no canary"):
        aborted(place("v1.0.0"), ME)


def test_a_record_says_who_when_why_and_on_what_verdict() -> None:
    record = promoted(place("v1.0.0"), pointer("v2.0.0"), Author("you", "why not"), "a" * 64)
    assert (record.who, record.reason, record.verdict, record.who_verified) == ("you", "why not", "a" * 64, False)
    assert record.when.endswith("+00:00")
    assert record.action == "promote"
    back = rolled_back(ChannelPosition("m", "production", record), ME)
    assert (back.who, back.verdict) == ("me@here", None)


def test_two_records_with_the_same_meaning_have_different_bytes() -> None:
    at = place("v1.0.0")
    one, two = (promoted(at, pointer("v2.0.0"), ME, None) for _ in range(2))
    assert one.to_bytes() != two.to_bytes()


def test_fields_of_a_newer_release_are_copied_to_the_next_record() -> None:
    head = place("v1.0.0", "v2.0.0").head
    assert head
    data = canonical.encode({**canonical.decode(head.to_bytes(), "x"), "region": "eu", "notes": [1]})
    newer = Record.parse(data, "x")
    assert newer.to_bytes() == data
    back = canonical.decode(rolled_back(ChannelPosition("m", "production", newer), ME).to_bytes(), "x")
    assert (back["region"], back["notes"], back["previous"]) == ("eu", [1], canonical.sha256(data))


def test_a_log_that_needs_a_newer_writer_is_read_but_not_written() -> None:
    head = place("v1.0.0", "v2.0.0").head
    assert head
    newer = Record.parse(canonical.encode({**canonical.decode(head.to_bytes(), "x"), "min_writer": 2}), "x")
    with pytest.raises(NotNow, match="needs writer version 2") as refused:
        rolled_back(ChannelPosition("m", "production", newer), ME)
    assert "upgrade" in refused.value.hint


@pytest.mark.parametrize(("who", "reason"), [("me", "x" * 5000), ("x" * 300, ""), ("me", "\udcff")])
def test_a_reason_that_does_not_fit_into_a_record_is_bad_input(who: str, reason: str) -> None:
    with pytest.raises(BadInput, match=r"is longer than .* not valid text"):
        Author(who, reason)


def test_what_was_withdrawn_never_comes_back_by_a_rollback() -> None:
    on_trial = {"version": "v1.0.0", "manifest_sha256": pointer("v1.0.0").manifest_sha256, "weight": 5.0}
    head = promoted(place("v0.9.0", "v1.0.0"), pointer("v2.0.0"), ME, None)
    trial = Record.model_validate(head.model_dump() | {"canary": on_trial})
    assert [each.version for each in trial.stack] == ["v1.0.0", "v0.9.0"]
    ended = aborted(ChannelPosition("m", "production", trial), ME)
    assert [each.version for each in ended.stack] == ["v0.9.0"]
    for record in (trial, ended):
        back = rolled_back(ChannelPosition("m", "production", record), ME)
        assert back.stable == pointer("v0.9.0")
        assert "v0.9.0" not in back.withdrawn


def test_an_action_of_a_newer_release_is_read() -> None:
    head = place("v1.0.0").head
    assert head
    newer = Record.parse(head.model_copy(update={"action": "pause"}).to_bytes(), "record")
    assert newer.action == "pause"


def test_a_link_of_the_chain_holds_only_between_neighbours() -> None:
    first = place("v1.0.0").head
    assert first
    second = promoted(ChannelPosition("m", "production", first), pointer("v2.0.0"), ME, None)
    check_link(first, second)
    with pytest.raises(BrokenChain, match="does not hash"):
        check_link(first.model_copy(update={"reason": "another"}), second)
    with pytest.raises(BrokenChain, match="follows"):
        check_link(second, second)


def test_a_record_over_its_bound_is_refused() -> None:
    head = place("v1.0.0").head
    assert head
    data = canonical.encode({**canonical.decode(head.to_bytes(), "x"), "padding": "x" * Record.LIMIT})
    with pytest.raises(BadManifest, match="more than"):
        Record.parse(data, "x")


@dataclass
class Model:
    """A simple model of the rules."""

    stable: str | None = None
    canary: str | None = None
    weight: float = 0
    stack: list[str] = field(default_factory=list)
    withdrawn: set[str] = field(default_factory=set)

    @property
    def targets(self) -> list[str]:
        return [name for name in self.stack if name != self.canary]

    def start(self, name: str, weight: float) -> None:
        self.canary, self.weight = name, weight
        self.withdrawn.discard(name)

    def advance(self, percent: float) -> None:
        self.weight = percent
        if percent == 100 and self.canary:
            name, self.canary = self.canary, None
            self.promote(name)

    def abort(self) -> None:
        assert self.canary
        self.withdrawn.add(self.canary)
        self.stack, self.canary = self.targets, None

    def promote(self, name: str) -> None:
        older = [self.stable, *self.stack] if self.stable else []
        self.stack = [each for each in older if each != name][:STACK_DEPTH]
        self.stable = name
        self.withdrawn.discard(name)

    def rollback(self, steps: int) -> None:
        assert self.stable
        targets = self.targets
        self.withdrawn |= {self.stable, *filter(None, [self.canary]), *targets[: steps - 1]}
        self.stable, self.canary, self.stack = targets[steps - 1], None, targets[steps:]


class ChannelMachine(RuleBasedStateMachine):
    """Any sequence of promotions, trials and rollbacks has the state of the model and a valid chain."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.log: list[Record] = []

    @property
    def here(self) -> ChannelPosition:
        return ChannelPosition("m", "production", self.log[-1] if self.log else None)

    def append(self, record: Record) -> None:
        self.log.append(Record.parse(record.to_bytes(), "x"))  # as another process would read it

    @rule(name=st.sampled_from(NAMES))
    def promote(self, name: str) -> None:
        if self.model.canary:
            with pytest.raises(NotNow):
                promoted(self.here, pointer(name), ME, None)
            return
        self.append(promoted(self.here, pointer(name), ME, None))
        self.model.promote(name)

    @rule(name=st.sampled_from(NAMES), kind=st.sampled_from(("split", "shadow")))
    def start_trial(self, name: str, kind: TrialKind) -> None:
        start = StartTrial(kind, 10)
        if self.model.canary or name == self.model.stable or self.model.stable is None:
            with pytest.raises((NotNow, BadInput)):
                trial_started(self.here, pointer(name), ME, None, start)
            return
        self.append(trial_started(self.here, pointer(name), ME, None, start))
        self.model.start(name, 10 if kind == "split" else 0)

    @rule(percent=st.sampled_from((5, 50, 100)))
    def advance(self, percent: int) -> None:
        is_shadow = self.model.weight == 0
        if not self.model.canary or percent <= self.model.weight or (is_shadow and percent < 100):
            with pytest.raises((NotFound, BadInput)):
                trial_advanced(self.here, ME, percent)
            return
        self.append(trial_advanced(self.here, ME, percent))
        self.model.advance(percent)

    @precondition(lambda self: self.model.canary)
    @rule()
    def abort(self) -> None:
        self.append(aborted(self.here, ME))
        self.model.abort()

    @rule()
    def roll_back(self) -> None:
        if not self.model.targets:
            with pytest.raises(NothingToRollBackTo):
                rolled_back(self.here, ME)
            return
        self.append(rolled_back(self.here, ME))
        self.model.rollback(1)

    @precondition(lambda self: self.model.targets)
    @rule(data=st.data())
    def roll_back_to(self, data: st.DataObject) -> None:
        steps = data.draw(st.integers(1, len(self.model.targets)))
        self.append(rolled_back(self.here, ME, to=self.model.targets[steps - 1]))
        self.model.rollback(steps)

    @rule(name=st.sampled_from(NAMES))
    def roll_back_to_anything_else(self, name: str) -> None:
        if name not in self.model.targets:
            with pytest.raises(NothingToRollBackTo):
                rolled_back(self.here, ME, to=name)

    @invariant()
    def the_head_says_what_the_model_says(self) -> None:
        stable, stack, withdrawn = state(self.here.head)
        assert (stable, stack, set(withdrawn)) == (self.model.stable, self.model.stack, self.model.withdrawn)
        canary = self.here.head and self.here.head.canary
        assert (canary.version if canary else None) == self.model.canary
        assert (canary is not None) == bool(self.here.head and self.here.head.running_trial)
        assert len(withdrawn) == len(set(withdrawn))

    @invariant()
    def nothing_withdrawn_or_live_is_a_target(self) -> None:
        stable, stack, withdrawn = state(self.here.head)
        assert not {stable, *stack} & set(withdrawn)
        assert stable not in stack
        assert len(stack) == len(set(stack)) <= STACK_DEPTH

    @invariant()
    def the_chain_holds(self) -> None:
        for older, newer in zip(self.log, self.log[1:], strict=False):
            check_link(older, newer)


TestChannelMachine = ChannelMachine.TestCase
TestChannelMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
