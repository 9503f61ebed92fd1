"""A real PostgreSQL server for tests, as MLflow's backend. It needs PostgreSQL's programs on this machine."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import psycopg

from registry.devstack.mlflow_server import MlflowServer
from registry.devstack.ports import HOST, Ports

_DEBIAN = Path("/usr/lib/postgresql")
_USER, _PASSWORD, _DATABASE = "mlflow", "a-password-of-tests", "mlflow"
_NOBODY = 65534
"""Whom the server runs as where this process is root: it refuses root."""
_SECONDS = 120.0
_WATCHDOG = 'read -r _; kill -s INT "$1"'
"""Ends the server, with all its processes, when this process has ended however."""


def program(name: str) -> str | None:
    """A program of PostgreSQL, from PATH or where Debian has it; None if it is not installed."""
    folders = [str(folder) for folder in sorted(_DEBIAN.glob("*/bin"), reverse=True)]
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(folders))


class PostgresqlServer:
    """A PostgreSQL server with one database, in a folder of its own that is removed at its end.

    It proves that it is itself by its `cluster_name`, which it was given at its start.
    """

    def __init__(self) -> None:
        self._ports = Ports()
        self._name = secrets.token_hex(16)
        self._folder = Path(os.devnull)  # until it is started
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """The address for SQLAlchemy, with its password."""
        return f"postgresql+psycopg://{_USER}:{_PASSWORD}@{HOST}:{self._ports.first}/{_DATABASE}"

    def start(self) -> Self:
        """Make the database, and return when it answers. One that runs is left alone."""
        if self._process:
            return self
        self._folder = Path(tempfile.mkdtemp(prefix="ulora-postgresql-"))
        self._folder.chmod(0o711)  # nobody has to reach the data in it
        data, secret = self._folder / "data", self._folder / "password"
        data.mkdir(mode=0o700)
        secret.write_text(_PASSWORD)
        if os.geteuid() == 0:
            for path in (data, secret):
                os.chown(path, _NOBODY, _NOBODY)
        made = ["-D", data, "-U", _USER, "--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--no-sync"]
        subprocess.run([program("initdb"), *made], check=True, capture_output=True, **self._as_nobody())
        said = {
            "listen_addresses": HOST, "port": self._ports.first, "unix_socket_directories": "", "fsync": "off",
            "cluster_name": self._name,
        }  # fmt: skip
        words = [word for name, value in said.items() for word in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [program("postgres"), "-D", data, *words], stdout=log, stderr=log, **self._as_nobody()
            )
        watched = ["sh", "-c", _WATCHDOG, "sh", str(self._process.pid)]
        self._watchdog = subprocess.Popen(watched, stdin=subprocess.PIPE, start_new_session=True)
        deadline = time.monotonic() + _SECONDS
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL does not answer"
            time.sleep(0.05)
        return self

    def end(self) -> None:
        """End it and remove its folder. May be called twice."""
        if self._process and self._watchdog:
            self._watchdog.communicate()
            self._process.wait()
            self._process = None
            shutil.rmtree(self._folder)

    def _as_nobody(self) -> dict[str, Any]:
        """How a program of PostgreSQL is run."""
        known = {"env": {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}, "cwd": self._folder}
        nobody = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
        return known | (nobody if os.geteuid() == 0 else {})

    def _answers(self) -> bool:
        """Whether it answers, and is this one; its database is made then."""
        try:
            with psycopg.connect(
                host=HOST, port=self._ports.first, user=_USER, password=_PASSWORD, dbname="postgres", autocommit=True,
                connect_timeout=5,
            ) as connection:  # fmt: skip
                if connection.execute("show cluster_name").fetchone() != (self._name,):
                    return False
                known = connection.execute("select 1 from pg_database where datname = %s", [_DATABASE]).fetchone()
                if not known:
                    connection.execute(f"create database {_DATABASE}")
        except psycopg.Error:
            return False
        return True


class MlflowOnPostgresql(MlflowServer):
    """An MLflow server that keeps what it is told in a PostgreSQL server, which ends with it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._database = PostgresqlServer()

    @property
    def backend_store_uri(self) -> str:
        """The database's address."""
        return self._database.uri

    def kill(self) -> None:
        """End both."""
        super().kill()
        self._database.end()

    def _prepare_folder(self) -> None:
        super()._prepare_folder()
        self._database.start()
