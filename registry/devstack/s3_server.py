"""The embedded S3 server: SeaweedFS, from a wheel."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import secrets
import shutil
import sysconfig
from datetime import UTC, datetime
from pathlib import Path

from registry.devstack.ports import HOST
from registry.devstack.server import Server, environment_without, request
from registry.errors import MissingDependency, StoreUnreachable, install_hint

BUCKET = "ulora"
_GRPC_OFFSET = 10_000
"""SeaweedFS opens, for each of its HTTP ports, another one this far above it."""

_PORT_TRIES = 20


class S3Server(Server):
    """SeaweedFS with one bucket, keys made on the spot, conditional writes and checksums. Ready = a put succeeds.

    Attributes:
        bucket: made at the start when it is missing.
        access_key, secret_key: the only credentials that it accepts.
    """

    name = "s3"
    failure = StoreUnreachable
    port_count = 5
    port_offset = _GRPC_OFFSET

    def __init__(self, folder: Path, bucket: str = BUCKET) -> None:
        super().__init__(folder)
        self.bucket = bucket
        self.access_key = f"ulora{secrets.token_hex(8)}"
        self.secret_key = secrets.token_urlsafe(30)

    @property
    def env(self) -> dict[str, str]:
        """What boto3 and the AWS tools read."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def stop(self) -> None:
        """End it by SIGTERM, and remove the sockets that it leaves in /tmp."""
        super().stop()
        self._remove_sockets()

    def kill(self) -> None:
        """End it as a power cut would, and remove the sockets that it leaves in /tmp."""
        super().kill()
        self._remove_sockets()

    def _prepare_folder(self) -> None:
        # weed writes its options here and prefers them to its arguments at the next start.
        (self.folder / "mini.options").unlink(missing_ok=True)

    def _choose_ports(self) -> None:
        for _ in range(_PORT_TRIES):
            super()._choose_ports()
            # weed can't start on a port whose socket an earlier one left behind and it may not remove.
            left = self._remove_sockets()
            if not left:
                return
            if self._is_address_known:
                break
        names = ", ".join(map(str, left))
        raise StoreUnreachable(
            f"the s3 server can't start on its ports: {names} can't be removed", hint=f"remove {names}"
        )

    def _command(self) -> list[str]:
        port = self.port
        return [
            _program("weed", hint=install_hint("demo")),
            "-logtostderr", "mini", f"-dir={self.folder}", f"-bucket={self.bucket}", f"-ip={HOST}", f"-ip.bind={HOST}",
            "-master.telemetry=false", "-admin.ui=false", "-webdav=false", f"-s3.port={port}", "-s3.port.iceberg=0",
            "-s3.port.lance=0", f"-master.port={port + 1}", f"-volume.port={port + 2}", f"-filer.port={port + 3}",
            f"-admin.port={port + 4}", "-s3.autoCreateBucket=false",
        ]  # fmt: skip

    def _child_env(self) -> dict[str, str]:
        keys = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        return environment_without("AWS_", "S3_", "WEED_") | keys | {"GOMEMLIMIT": "300MiB"}

    def _answers(self) -> bool:
        """Whether right signatures are accepted and wrong ones are not.

        A program that gives every request the same answer fails this, and so does one that alternates two answers. It
        does not detect a program that is made to imitate this server.
        """
        right, wrong = self.secret_key, f"{self.secret_key}-wrong"
        expected = ((right, http.client.OK), (wrong, http.client.FORBIDDEN))
        return all(self._put_status(key) == status for key, status in (*expected, *reversed(expected)))

    def _put_status(self, secret_key: str) -> int | None:
        """Put a small object, signed as AWS Signature Version 4 asks, and return the status.

        Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
        """
        path, body = f"/{self.bucket}/.ready", b"ready"
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{now[:8]}/us-east-1/s3/aws4_request"
        digest = hashlib.sha256(body).hexdigest()
        headers = {"host": f"{HOST}:{self.port}", "x-amz-content-sha256": digest, "x-amz-date": now}
        signed = ";".join(headers)
        lines = [f"{name}:{value}" for name, value in headers.items()]
        canonical = "\n".join(["PUT", path, "", *lines, "", signed, digest])
        to_sign = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = f"AWS4{secret_key}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
        credential = f"Credential={self.access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
        reply = request(self.port, "PUT", path, body, {**headers, "Authorization": f"AWS4-HMAC-SHA256 {credential}"})
        return reply.status if reply else None

    def _remove_sockets(self) -> list[Path]:
        """Remove weed's sockets for its ports, and return those that can't be removed, as another user's."""
        left = []
        for number in self._ports.numbers if self._ports else []:
            for path in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):  # noqa: S108  weed's fixed place
                try:
                    path.unlink(missing_ok=True)
                except OSError:
                    left.append(path)
        return left


def _program(name: str, *, hint: str) -> str:
    path = shutil.which(name, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))
    if path is None:
        raise MissingDependency(f"the program {name!r} is not installed", hint=hint)
    return path
