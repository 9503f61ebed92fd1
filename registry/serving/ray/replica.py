"""One replica of the fleet, in an actor of Ray Serve.

It is the replica of `ulora serve`: it follows the channel by itself, so that a promotion or a rollback needs no
redeployment; it makes its batches, admits and refuses requests, and writes its own heartbeat. Ray starts, counts,
checks and ends it, and brings it the requests. This module knows nothing of Ray but the names of three methods.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from registry.errors import ReplicaClosed
from registry.serving.follow import Live
from registry.serving.http.app import create_app
from registry.serving.http.options import HttpOptions
from registry.serving.liveness import problem_of_process
from registry.serving.pauses import shorten_collections
from registry.serving.ray.headers import BehindRay

if TYPE_CHECKING:
    from fastapi import FastAPI

OpenLive: TypeAlias = Callable[[], Live]
"""Makes the replica, which is not started yet. Ray has to be able to pickle it."""
_log = logging.getLogger(__name__)


class RayReplica:
    """A deployment's class, to be wrapped by `serve.ingress()`; see `application`."""

    def __init__(self, open_live: OpenLive, http: HttpOptions, max_ongoing_requests: int) -> None:
        """Load what the channel serves; it may take minutes, which Ray waits for.

        Args:
            max_ongoing_requests: those that Ray sends here at a time.

        Raises:
            UloraError: the errors of `open_live`, and those of `Live.start`. Ray shows them, and tries again.
        """
        self._http = http
        self._live = open_live()
        self._live.start()
        shorten_collections()
        if max_ongoing_requests < 2 * self._live.scheduler.max_batch:
            _log.warning(
                "Ray sends at most %d requests at a time, so batches of up to %d images are not filled while one is "
                "computed: let max_ongoing_requests be at least twice that",
                max_ongoing_requests, self._live.scheduler.max_batch,
            )  # fmt: skip

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application of `ulora serve`. Ray calls this once, after the constructor.

        Raises:
            BadSetting: the tokens, the rate or the fleet's keys can't be used.
        """
        app = create_app(self._live, self._http)
        app.add_middleware(BehindRay)
        return app

    async def check_health(self) -> None:
        """Ray calls this every few seconds, and replaces a replica for which it fails three times in a row.

        This is liveness. A replica that is not ready, e.g. because the store does not answer, is none that a restart
        helps.

        Raises:
            ReplicaClosed: only a restart helps.
        """
        if problem := problem_of_process(self._live, self._http.compute_limit):
            raise ReplicaClosed(problem, hint="Ray Serve starts another one in its place")

    def __del__(self) -> None:
        """Ray calls this once all requests were answered, and nothing is sent here any more: delete the heartbeat, end
        the threads. It takes 5 seconds at most."""
        if live := vars(self).get("_live"):
            live.close()
