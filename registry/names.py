"""Names of versions, models, channels and targets: parsing, order, MLflow alias."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import total_ordering

from registry.errors import BadInput, BadVersionName

_VERSION = re.compile(
    r"v(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})(?:-([A-Za-z0-9][A-Za-z0-9.-]{0,63}))?", re.ASCII
)
MAX_SUFFIX = 64
"""Characters of the longest suffix of a version name."""
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_CHANNEL = re.compile(r"staging|production|drill-[a-z0-9-]{1,40}")
_TARGET = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*(__[a-z0-9]+(_[a-z0-9]+)*)?")

MAX_TARGET = 200
"""Characters of a target's name, as in evidence. Folders are named after targets, and file systems take 255 bytes."""
CHANNELS = ("staging", "production")
"""The channels that exist in every model and that MLflow mirrors."""


@total_ordering
@dataclass(frozen=True)
class VersionName:
    """The name of a version, `v[MAJOR].[MINOR].[PATCH]-[OPTIMIZATION]`, e.g. `v5.5.4-dinov3`.

    Order: (major, minor, patch), then the plain name before suffixed ones, then the suffix as text. This is NOT
    SemVer's pre-release order: `v5.5.4-dinov3` is a finished release, and comes after `v5.5.4`.
    """

    major: int
    minor: int
    patch: int
    suffix: str = ""

    @classmethod
    def parse(cls, text: str) -> VersionName:
        """Read a version name.

        Raises:
            BadVersionName: it does not have this form.
        """
        match = _VERSION.fullmatch(text)
        if match is None:
            raise BadVersionName(
                f"{text[:80]!r} is not a version name",
                hint="a version name is v[MAJOR].[MINOR].[PATCH]-[OPTIMIZATION], for example v5.5.4-dinov3",
            )
        major, minor, patch, suffix = match.groups()
        return cls(int(major), int(minor), int(patch), suffix or "")

    @property
    def alias(self) -> str:
        """The name as an MLflow alias, which can't have dots: `v5_5_4-dinov3`."""
        return str(self).replace(".", "_")

    @property
    def suffix_words(self) -> frozenset[str]:
        """The words of the suffix, for a policy's `by_suffix`: `ood-v2` has `ood` and `v2`."""
        return frozenset(re.split(r"[.-]", self.suffix)) - {""}

    def __str__(self) -> str:
        return f"v{self.major}.{self.minor}.{self.patch}" + (f"-{self.suffix}" if self.suffix else "")

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, VersionName):
            return NotImplemented
        return self._key < other._key

    @property
    def _key(self) -> tuple[int, int, int, str]:
        return (self.major, self.minor, self.patch, self.suffix)


def is_version_name(text: str) -> bool:
    """Whether a text is a version's name."""
    return _VERSION.fullmatch(text) is not None


def check_model(text: str) -> str:
    """Return a model's name unchanged.

    Raises:
        BadInput: it is not 1 to 100 letters, digits, dots, dashes or underscores.
    """
    return _check(_MODEL, text, "model", "for example aads-ulora")


def is_channel_name(text: str) -> bool:
    """Whether a text is a channel's name."""
    return _CHANNEL.fullmatch(text) is not None


def check_channel(text: str) -> str:
    """Return a channel's name unchanged.

    Raises:
        BadInput: it is neither `staging`, `production` nor `drill-<id>`.
    """
    near = get_close_matches(text, CHANNELS, n=1)
    hint = f"did you mean {near[0]}?" if near else "for example staging or production"
    return _check(_CHANNEL, text, "channel", hint)


def is_target_name(text: str) -> bool:
    """Whether a text is a target's name."""
    return _TARGET.fullmatch(text) is not None


def check_target(text: str) -> str:
    """Return a target's name unchanged: a crop such as `sweet_corn`, or a crop and part such as `tomato__leaf`.

    Raises:
        BadInput: it has other characters than small letters, digits and single underscores between them, or more parts.
    """
    return _check(_TARGET, text, "target", "for example tomato or tomato__leaf")


def check_new_target(text: str) -> str:
    """Return the name of a target of a new version unchanged. Those of earlier releases are read at any length.

    Raises:
        BadInput: see `check_target`; or it has more than `MAX_TARGET` characters.
    """
    if len(text) > MAX_TARGET:
        raise BadInput(
            f"a target's name has {len(text)} characters, more than {MAX_TARGET}: {text[:80]!r}",
            hint="choose a shorter one, for example tomato__leaf",
        )
    return check_target(text)


def _check(pattern: re.Pattern[str], text: str, what: str, hint: str) -> str:
    if pattern.fullmatch(text) is None:
        raise BadInput(f"{text[:80]!r} is not a {what}'s name", hint=hint)
    return text
