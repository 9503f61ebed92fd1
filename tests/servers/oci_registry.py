"""A real OCI registry on loopback: Debian's `docker-registry` (distribution 2.8), which keeps everything in one folder.

It has no referrers API, which came with the distribution specification 1.1.
"""

from __future__ import annotations

import http.client
import json
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from registry.devstack.ports import HOST
from registry.devstack.server import INSTANCE_HEADER, Server, environment_without, request
from registry.errors import OciUnreachable

PROGRAM = shutil.which("docker-registry")
needs_program = pytest.mark.skipif(
    PROGRAM is None, reason="there is no docker-registry (Debian's package) on this PATH"
)


class OciRegistryServer(Server):
    """`host` is what references name: `127.0.0.1:PORT`. `htpasswd` is a file of users and bcrypt hashes.

    `tls` are the files of a certificate and its key, and of the authority that has signed it.
    """

    name = "OCI registry"
    failure = OciUnreachable

    def __init__(
        self, folder: Path, *, htpasswd: Path | None = None, tls: tuple[Path, Path, Path] | None = None
    ) -> None:
        super().__init__(folder)
        self._htpasswd, self._tls = htpasswd, tls

    @property
    def env(self) -> dict[str, str]:
        """Nothing: references name it."""
        return {}

    @property
    def host(self) -> str:
        return f"{HOST}:{self.port}"

    def _command(self) -> list[str]:
        assert PROGRAM
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "config.json"  # JSON is YAML
        document: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "data")}},
            "http": {"addr": self.host, "headers": {INSTANCE_HEADER: [self._instance]}, **self._tls_settings()},
        }
        if self._htpasswd:
            document["auth"] = {"htpasswd": {"realm": "plants", "path": str(self._htpasswd)}}
        config.write_text(json.dumps(document))
        # By a shell: the product itself never runs this program, so it is not on the list of those that it may start.
        return ["sh", "-c", 'exec "$0" serve "$1"', PROGRAM, str(config)]

    def collect_garbage(self) -> None:
        """Delete manifests that have no tag, and blobs that no manifest names. It must be stopped."""
        assert PROGRAM
        config = str(self.folder / "config.json")
        subprocess.run([PROGRAM, "garbage-collect", "--delete-untagged", config], check=True, capture_output=True)

    def _tls_settings(self) -> dict[str, object]:
        if self._tls is None:
            return {}
        certificate, key, _ = self._tls
        return {"tls": {"certificate": str(certificate), "key": str(key)}}

    def _child_env(self) -> dict[str, str]:
        return environment_without("REGISTRY_", "AWS_")

    def _answers(self) -> bool:
        if self._tls:
            return self._answers_over_tls(self._tls[2])
        reply = request(self.port, "GET", "/v2/")
        return reply is not None and reply.status in (200, 401) and reply.instance == self._instance

    def _answers_over_tls(self, authority: Path) -> bool:
        context = ssl.create_default_context(cafile=str(authority))
        connection = http.client.HTTPSConnection(HOST, self.port, timeout=5, context=context)
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().getheader(INSTANCE_HEADER) == self._instance
        except OSError:
            return False
        finally:
            connection.close()


def htpasswd(folder: Path, user: str, password: str) -> Path:
    """A file with one user. The program takes bcrypt only, which the system's own `crypt` makes."""
    crypt = pytest.importorskip("crypt", reason="Python 3.13 has no crypt any more")
    hashed = crypt.crypt(password, crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16))
    path = folder / "htpasswd"
    path.write_text(f"{user}:{hashed}\n")
    return path
