"""What `-C name=value` says of a change of a deployment: which action, and its options.

MLflow's command line gives texts, its API whatever was passed; both are checked here, and unknown names are refused.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from registry.answers import Change
from registry.api import Registry
from registry.channels.channel import PromoteOptions, RollbackOptions
from registry.errors import BadInput
from registry.usecases.options import AbortOptions, AdvanceOptions, CanaryOptions
from registry.usecases.rollback import with_chain

Generation = Annotated[int | None, Field(ge=0, lt=10**12)]
_MAX_SHOWN = 100


def _components(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


class Action(BaseModel):
    """One change of a channel. `reason` stays on the record.

    Attributes:
        takes_version: whether it brings a version into the channel, which the model URI names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)
    takes_version: ClassVar[bool] = False

    reason: str = ""

    @abstractmethod
    def carry_out(self, registry: Registry, channel: str, version: str) -> Change:
        """Make the change; the errors are those of the method of `Registry`."""


class Promote(Action):
    """Make the version stable, through the gates."""

    takes_version: ClassVar[bool] = True
    force: bool = False
    expected: Generation = None

    def carry_out(self, registry: Registry, channel: str, version: str) -> Change:
        return registry.promote(version, channel, PromoteOptions(self.force, self.expected), reason=self.reason)


class StartCanary(Action):
    """Try the version beside stable, through the gates."""

    takes_version: ClassVar[bool] = True
    percent: float | None = None
    shadow: bool = False
    plan: str | None = None
    force: bool = False
    expected: Generation = None

    def carry_out(self, registry: Registry, channel: str, version: str) -> Change:
        options = CanaryOptions(self.percent, self.shadow, self.plan, self.force, self.expected)
        return registry.canary.start(version, channel, options, reason=self.reason)


class Advance(Action):
    """Give the version on trial a larger share; 100 makes it stable."""

    to: float
    force: bool = False
    expected: Generation = None

    def carry_out(self, registry: Registry, channel: str, version: str) -> Change:
        return registry.canary.advance(channel, self.to, AdvanceOptions(self.force, self.expected), reason=self.reason)


class Abort(Action):
    """End the trial."""

    expected: Generation = None

    def carry_out(self, registry: Registry, channel: str, version: str) -> Change:
        return _mirrored(registry, registry.canary.abort(channel, AbortOptions(self.expected), reason=self.reason))


class RollBack(Action):
    """Go back to the version before, or with `only` for these components."""

    leave: str | None = Field(default=None, alias="from")
    to: str | None = None
    expected: Generation = None
    again: bool = False
    stable: bool = False
    only: Annotated[tuple[str, ...], BeforeValidator(_components)] = ()

    def carry_out(self, registry: Registry, channel: str, version: str) -> Change:
        options = RollbackOptions(self.leave, self.expected, self.to, self.again, self.stable)
        done = registry.rollback(channel, options, reason=self.reason, only=self.only)
        return _mirrored(registry, with_chain(registry.wiring, done))


def _mirrored(registry: Registry, done: Change) -> Change:
    """The same change, after MLflow was made to show it: that needs S3 only, so it is asked afterwards."""
    return done.with_notes(registry.mirror())


ACTIONS: Mapping[str, type[Action]] = {
    "promote": Promote,
    "canary": StartCanary,
    "advance": Advance,
    "abort": Abort,
    "rollback": RollBack,
}


def options_of(action: type[Action]) -> list[str]:
    """The names that `-C` may have for an action, beside `action`."""
    return sorted(field.alias or name for name, field in action.model_fields.items())


def read_action(config: Mapping[str, Any] | None, *, with_version: bool) -> Action:
    """The action that a configuration asks for, by default a promotion.

    Args:
        with_version: whether a version was named.

    Raises:
        BadInput: it is unknown, has an unknown or invalid option, or does not go with a version, or without one.
    """
    given = dict(config or {})
    name = str(given.pop("action", "promote"))
    kind = ACTIONS.get(name)
    if kind is None:
        raise BadInput(f"-C action={name[:_MAX_SHOWN]} is unknown", hint=f"it may be {', '.join(ACTIONS)}")
    if kind.takes_version != with_version:
        raise BadInput(
            f"the action {name} needs a version" if kind.takes_version else f"the action {name} takes no version",
            hint="-m models:/NAME/7 or -m ulora://MODEL/VERSION names one"
            if kind.takes_version
            else "leave -m out; -C to=VERSION says where a rollback goes",
        )
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        option = str(first["loc"][0])[:_MAX_SHOWN] if first["loc"] else ""
        raise BadInput(
            f"-C {option} of the action {name}: {first['msg']}", hint=f"it takes {', '.join(options_of(kind))}"
        ) from error
