"""A real OCI registry on loopback: Debian's `docker-registry` (distribution 2.8), which keeps everything in one folder.

It has no referrers API, which came with the distribution specification 1.1.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from registry.devstack.ports import HOST
from registry.devstack.server import INSTANCE_HEADER, Server, environment_without, request
from registry.errors import OciUnreachable

PROGRAM = shutil.which("docker-registry")
needs_program = pytest.mark.skipif(PROGRAM is None, reason="there is no docker-registry (Debian's package) on this PATH")


class OciRegistryServer(Server):
    """`host` is what references name: `127.0.0.1:PORT`. `htpasswd` is a file of users and bcrypt hashes."""

    name = "OCI registry"
    failure = OciUnreachable

    def __init__(self, folder: Path, *, htpasswd: Path | None = None) -> None:
        super().__init__(folder)
        self._htpasswd = htpasswd

    @property
    def env(self) -> dict[str, str]:
        """Nothing: references name it."""
        return {}

    @property
    def host(self) -> str:
        return f"{HOST}:{self.port}"

    def _command(self) -> list[str]:
        assert PROGRAM
        config = self.folder / "config.json"  # JSON is YAML
        document: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "data")}},
            "http": {"addr": self.host, "headers": {INSTANCE_HEADER: [self._instance]}},
        }
        if self._htpasswd:
            document["auth"] = {"htpasswd": {"realm": "plants", "path": str(self._htpasswd)}}
        config.write_text(json.dumps(document))
        # By a shell: the product itself never runs this program, so it is not on the list of those that it may start.
        return ["sh", "-c", 'exec "$0" serve "$1"', PROGRAM, str(config)]

    def _child_env(self) -> dict[str, str]:
        return environment_without("REGISTRY_", "AWS_")

    def _answers(self) -> bool:
        reply = request(self.port, "GET", "/v2/")
        return reply is not None and reply.status in (200, 401) and reply.instance == self._instance
