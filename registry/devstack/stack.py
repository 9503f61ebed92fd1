"""The embedded stack for `ulora dev`, the demo and the tests: a real S3 server and a real MLflow server on loopback."""

from __future__ import annotations

import json
import os
import re
import shlex
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

from registry.devstack.mlflow_server import MlflowServer
from registry.devstack.s3_server import S3Server
from registry.devstack.server import Server
from registry.errors import disk_errors

_SETTINGS, _EXPORTS = "stack.json", "env.sh"
_KEY = re.compile(r"[A-Za-z0-9_-]{8,100}")
_MAX_SETTINGS = 64 * 1024


class Stack:
    """Both servers, started side by side, with their data below one folder. A context manager; leaving it stops both.

    Keys and ports are those of an earlier stack in the same folder, so that terminals and replicas which know them go
    on; a port that another process has taken meanwhile is replaced. `env.sh` in the folder has the exports.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.s3 = S3Server(self.folder / "s3")
        self.mlflow = MlflowServer(self.folder / "mlflow")
        self._take_over(self._read_settings())

    @property
    def servers(self) -> tuple[Server, Server]:
        """Both servers."""
        return self.s3, self.mlflow

    @property
    def exports_file(self) -> Path:
        """A file for `source` in a shell, once the stack is started. It holds the keys."""
        return self.folder / _EXPORTS

    @property
    def env(self) -> dict[str, str]:
        """The exports that make `ulora`, MLflow and boto3 use this stack, once it is started."""
        return self.s3.env | self.mlflow.env | {"ULORA_STORE": f"s3://{self.s3.bucket}/ulora"}

    def start(self) -> Self:
        """Start both servers and return when both answer. If one does not come up, neither is left running.

        Raises:
            StoreUnreachable, CatalogUnreachable: a server did not come up.
            NotNow: another stack uses the folder.
            BadSetting: the folder can't be made or written.
        """
        with ExitStack() as undo:
            undo.callback(self.stop)
            # Before anything waits: MLflow takes seconds.
            self.mlflow.launch()
            self.s3.launch()
            self.s3.wait_ready()
            self.mlflow.wait_ready()
            self._write_settings()
            undo.pop_all()
        return self

    def stop(self) -> None:
        """Stop both servers and return when they are gone."""
        with ExitStack() as both:
            both.callback(self.s3.stop)
            both.callback(self.mlflow.stop)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _read_settings(self) -> dict[str, Any]:
        """The settings of an earlier stack; empty if there are none that can be read."""
        with suppress(OSError, ValueError, RecursionError):
            with (self.folder / _SETTINGS).open("rb") as file:
                found = json.loads(file.read(_MAX_SETTINGS))
            return found if isinstance(found, dict) else {}
        return {}

    def _take_over(self, found: dict[str, Any]) -> None:
        keys = [found.get(name) for name in ("access_key", "secret_key")]
        if all(isinstance(key, str) and _KEY.fullmatch(key) for key in keys):
            self.s3.access_key, self.s3.secret_key = map(str, keys)
        for server in self.servers:
            port = found.get(f"{server.name}_port")
            server.wanted_port = port if type(port) is int and 1024 <= port < 50_000 else None

    def _write_settings(self) -> None:
        ports = {f"{server.name}_port": server.port for server in self.servers}
        keys = {"access_key": self.s3.access_key, "secret_key": self.s3.secret_key}
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self.env.items())
        with disk_errors(self.folder):
            _write(self.folder / _SETTINGS, json.dumps({**keys, **ports}, indent=2) + "\n")
            _write(self.exports_file, exports)


def _write(path: Path, text: str) -> None:
    """Write a file that only this user may read, whole or not at all."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    new.replace(path)
