"""How an actor of Ray opens the registry of its settings.

`registry.api` lies above this package. So it is found as loaders are, by an entry point: group `ulora.registry`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol, TypeAlias

from registry import plugins
from registry.serving.follow import Live
from registry.serving.loaders import Loaded
from registry.serving.options import LiveOptions
from registry.versions.manifest import Manifest


class OpenedRegistry(Protocol):
    """What an actor asks of `registry.api.Registry`, whose methods these are."""

    def follow(self, channel: str = "production", options: LiveOptions | None = None) -> Live: ...
    def load(self, version: str, *, device: str = "cpu", runtime: str | None = None) -> Loaded: ...
    def manifest(self, version: str) -> Manifest: ...


OpenRegistry: TypeAlias = Callable[[], OpenedRegistry]
"""Called in each actor, so Ray has to be able to pickle it: a function or class of a module, or a `partial` of one."""


def from_settings() -> OpenedRegistry:
    """The registry that the settings of this process name: `ULORA_*`, AWS's own variables, `ulora.toml`.

    Raises:
        BadSetting, BadInput: a setting is missing or invalid.
        MissingDependency: this package is not installed as a whole.
    """
    opened: OpenedRegistry = plugins.plugin(plugins.REGISTRY, "settings")()
    return opened


def follow(channel: str, options: LiveOptions) -> Live:
    """A replica of the fleet that the settings of this process name; not started yet. Raises as `from_settings`."""
    _show_log()
    return from_settings().follow(channel, options)


def _show_log() -> None:
    """Let the log lines of this package go to standard error, which Ray keeps with its logs of this actor."""
    logger = logging.getLogger("registry")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
