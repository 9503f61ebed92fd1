"""What `serve run registry.serving.ray:app` and the YAML file of `serve deploy` name."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from registry.serving.ray.arguments import RayArguments
from registry.serving.ray.opening import follow
from registry.serving.ray.replica import OpenLive, RayReplica

if TYPE_CHECKING:
    from ray.serve import Application

NAME = "ulora"
"""Of the deployment, in Ray's tables and in a YAML file."""


def app(arguments: dict[str, Any]) -> Application:
    """The application whose replicas follow a channel of the store that their settings name.

    Args:
        arguments: those of `RayArguments`, by name.

    Raises:
        BadInput: one is unknown or invalid.
    """
    wanted = RayArguments.read(arguments)
    return application(partial(follow, wanted.channel, wanted.live_options()), wanted)


def application(open_live: OpenLive, arguments: RayArguments) -> Application:
    """The application whose replicas `open_live` makes, for programs that open a registry in another way."""
    from ray import serve

    deployment = serve.deployment(serve.ingress()(RayReplica), name=NAME, **arguments.deployment())
    return deployment.bind(open_live, arguments.http_options(), arguments.ongoing)
