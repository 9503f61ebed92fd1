"""The machine's own nginx, as a process that has no rights and ends with this one."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from registry.devstack.ports import HOST, Ports
from registry.devstack.server import INSTANCE_HEADER, request
from tests.support.echo_releases import wait_until

PROGRAM = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin")
_NOBODY = 65534
_AROUND = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    add_header {header} {instance} always;
    include {folder}/served.conf;
}}
"""


class Nginx:
    """nginx with one configuration.

    Attributes:
        log: what it printed.
    """

    def __init__(self, folder: Path, configuration: Callable[[int], str]) -> None:
        """Args:
        folder: an existing one, that everybody may enter.
        configuration: gives the text to include, by the port to listen on.
        """
        self.folder, self.log = folder, folder / "nginx.log"
        self._ports = Ports()
        self._instance = secrets.token_hex(16)
        if os.getuid() == 0:
            os.chown(folder, _NOBODY, _NOBODY)
        around = _AROUND.format(folder=folder, header=INSTANCE_HEADER, instance=self._instance)
        (folder / "nginx.conf").write_text(around)
        self._write(configuration)
        drop = [f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"] if os.getuid() == 0 else []
        command = ["setpriv", "--pdeathsig=TERM", *drop, str(PROGRAM), "-e", "stderr", "-p", str(folder)]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen([*command, "-c", str(folder / "nginx.conf")], stderr=log)
        wait_until(lambda: self._process.poll() is not None or self._answers())
        assert self._process.poll() is None, self.log.read_text()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self._ports.first}"

    def reload(self, configuration: Callable[[int], str]) -> None:
        """Let it read another configuration, as `nginx -s reload` does. It may take a moment."""
        self._write(configuration)
        self._process.send_signal(signal.SIGHUP)

    def end(self) -> None:
        """End it, with its workers."""
        self._process.terminate()
        self._process.wait()

    def _write(self, configuration: Callable[[int], str]) -> None:
        (self.folder / "served.conf").write_text(configuration(self._ports.first))

    def _answers(self) -> bool:
        reply = request(self._ports.first, "GET", "/a/health/ready")
        return reply is not None and reply.instance == self._instance
