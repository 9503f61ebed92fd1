"""The wanted state of channels, as people keep it in Git: a YAML file, read strictly.

```yaml
format: 1
channels:
  staging: {stable: v5.5.4-dinov3}
  production:
    stable: v5.5.3-performance
    canary: {version: v5.5.4-dinov3, percent: 10}
```
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from registry.channels.trial import StartTrial
from registry.errors import BadInput, UloraError
from registry.formats import canonical
from registry.formats.strict_yaml import BadYaml, FormatNumber, StrictYaml
from registry.names import CHANNELS, VersionName
from registry.usecases.options import CanaryOptions

MAX_BYTES = 64 * 1024
"""Of the largest file."""


def _check_version(name: str) -> str:
    return str(_named(lambda: VersionName.parse(name)))


VersionText = Annotated[str, Field(max_length=200), AfterValidator(_check_version)]


class _Part(BaseModel):
    # Unknown fields are refused: a mistyped one would be a wish that nobody reads.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class WantedTrial(_Part):
    """The version that is to be on trial; the fields are those of `ulora canary start`."""

    version: VersionText
    percent: float | None = None
    shadow: bool = False
    plan: Annotated[str, Field(min_length=1, max_length=100)] | None = None

    @property
    def options(self) -> CanaryOptions:
        """How the trial begins."""
        return CanaryOptions(percent=self.percent, shadow=self.shadow, plan=self.plan)

    @property
    def start(self) -> StartTrial:
        """Kind and size of the trial."""
        return self.options.start

    @model_validator(mode="after")
    def _is_a_trial(self) -> Self:
        _named(lambda: self.start)
        return self


class WantedChannel(_Part):
    """What a channel is to serve, and which version is to be on trial beside it."""

    stable: VersionText
    canary: WantedTrial | None = None

    @model_validator(mode="after")
    def _tries_another_version(self) -> Self:
        if self.canary and self.canary.version == self.stable:
            raise ValueError(f"{self.stable} can't be stable and on trial beside itself")
        return self


class WantedChannels(_Part):
    """The wanted state of some channels of a model. Channels that are not named are left alone.

    Attributes:
        model: whose channels they are; None leaves that to the settings.
    """

    format: FormatNumber
    model: Annotated[str, Field(max_length=100)] | None = None
    channels: Annotated[dict[str, WantedChannel], Field(min_length=1)]

    @property
    def digest(self) -> str:
        """The sha256 of what the file says; comments and order do not count."""
        return canonical.sha256(canonical.encode(self.model_dump(mode="json")))

    def check_model(self, model: str) -> None:
        """Raises: BadInput: the channels are those of another model."""
        if self.model not in (None, model):
            raise BadInput(
                f"the file is for the model {self.model!r}, and this is {model!r}; nothing changed",
                hint=f"--model {self.model}, or another file",
            )

    @model_validator(mode="after")
    def _names_channels(self) -> Self:
        for name in self.channels:
            if name not in CHANNELS:
                raise ValueError(f"no channel is called {name[:100]!r}; there are {' and '.join(CHANNELS)}")
        return self


def read_wanted(path: Path) -> WantedChannels:
    """Read the wanted state from a file.

    Raises:
        BadInput: it can't be read, or does not follow the format; the message names the line.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadInput(f"{path} can't be read: {error.strerror}", hint="check the path") from error
    return parse_wanted(data, str(path))


def parse_wanted(data: bytes, what: str = "the file") -> WantedChannels:
    """Read the bytes of such a file; `what` names it in errors.

    Raises:
        BadInput: see `read_wanted`.
    """
    if len(data) > MAX_BYTES:
        raise _bad(what, f"it has more than {MAX_BYTES:,} bytes")
    try:
        read = StrictYaml.read(data)
        return WantedChannels.model_validate(read.value)
    except BadYaml as error:
        raise _bad(what, str(error), error.line) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        problem = first["msg"].removeprefix("Value error, ")
        raise _bad(what, f"{place}: {problem}" if place else problem, read.line_of(first["loc"])) from error


def _named(check: Any) -> Any:
    """The value that `check` returns; its error as one that pydantic places."""
    try:
        return check()
    except UloraError as error:
        raise ValueError(str(error)) from error


def _bad(what: str, problem: str, line: int | None = None) -> BadInput:
    place = f", line {line}" if line else ""
    return BadInput(f"{what}{place}: {problem}", hint="docs/channels-in-git.md has the format")
