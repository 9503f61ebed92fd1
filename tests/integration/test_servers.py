"""The embedded servers: what they promise when they are stopped, killed, interrupted or can't start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError

from registry.devstack.s3_server import S3Server
from registry.errors import StoreUnreachable
from tests.servers import proxy as faults
from tests.servers.proxy import Proxy

# What a process that uses the stack does, as a program so that it can be killed.
_HOLD_S3 = """
import sys, pathlib
from registry.devstack.s3_server import S3Server
server = S3Server(pathlib.Path(sys.argv[1])).start()
print(server.port, flush=True)
sys.stdin.read()
"""
_HOLD_STACK = """
import sys, pathlib
from registry.devstack.stack import Stack
stack = Stack(pathlib.Path(sys.argv[1]))
stack.s3.start()
print(stack.s3.port, flush=True)
with stack:
    sys.stdin.read()
"""


def client(server: S3Server, url: str | None = None, *, secret: str | None = None, seconds: float = 20):
    return boto3.client(
        "s3",
        endpoint_url=url or server.url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=secret or server.secret_key,
        region_name="us-east-1",
        config=Config(
            retries={"total_max_attempts": 1}, read_timeout=seconds, connect_timeout=5, signature_version="s3v4"
        ),
    )


def wait_until(true: Callable[[], bool], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.02)


def is_closed(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def key() -> str:
    return uuid.uuid4().hex


@pytest.mark.acceptance
def test_s3_killed_and_restarted_keeps_every_acknowledged_object(tmp_path: Path) -> None:
    server = S3Server(tmp_path).start()
    try:
        names = [key() for _ in range(30)]
        for name in names:
            client(server).put_object(Bucket=server.bucket, Key=name, Body=name.encode())
        url = server.url
        server.kill()
        assert not server.running
        assert is_closed(server.port)
        server.start()
        assert server.url == url
        bodies = [client(server).get_object(Bucket=server.bucket, Key=name)["Body"].read() for name in names]
        assert bodies == [name.encode() for name in names]
    finally:
        server.stop()
    assert is_closed(server.port)
    assert not [path for path in Path("/tmp").glob("seaweedfs-*.sock") if str(server.port) in path.name]


def test_s3_refuses_a_wrong_secret_and_a_missing_bucket(s3: S3Server) -> None:
    with pytest.raises(ClientError) as refused:
        client(s3, secret="wrong").put_object(Bucket=s3.bucket, Key=key(), Body=b"")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    with pytest.raises(ClientError) as missing:
        client(s3).put_object(Bucket="no-such-bucket", Key=key(), Body=b"")
    assert missing.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404


def test_s3_lets_one_conditional_write_win(s3: S3Server) -> None:
    name = key()
    client(s3).put_object(Bucket=s3.bucket, Key=name, Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError) as lost:
        client(s3).put_object(Bucket=s3.bucket, Key=name, Body=b"second", IfNoneMatch="*")
    assert lost.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412


class UnknownOption(S3Server):
    """An S3 server whose program does not start."""

    def _command(self) -> list[str]:
        return [*super()._command(), "-no.such.option=1"]


def test_a_server_that_cannot_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    server = UnknownOption(tmp_path)
    with pytest.raises(StoreUnreachable, match=r"(?s)ended with exit status 2 .*weed mini") as failed:
        server.start()
    assert str(server.log) in failed.value.hint
    assert not server.running


def test_a_server_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    with hold(_HOLD_S3, tmp_path) as (owner, port):
        assert not is_closed(port)
        owner.kill()
        wait_until(lambda: is_closed(port))


@pytest.mark.acceptance
def test_ctrl_c_stops_the_stack_even_while_it_starts(tmp_path: Path) -> None:
    with hold(_HOLD_STACK, tmp_path) as (owner, port):
        os.kill(owner.pid, signal.SIGINT)
        assert owner.wait(180) != 0
        wait_until(lambda: is_closed(port))
        assert processes_naming(tmp_path) == []


def test_the_proxy_passes_requests_through_and_counts_them(s3: S3Server, proxy: Proxy) -> None:
    name, body = key(), os.urandom(300_000)
    through = client(s3, proxy.url)
    through.put_object(Bucket=s3.bucket, Key=name, Body=body)
    assert through.get_object(Bucket=s3.bucket, Key=name)["Body"].read() == body
    assert through.head_object(Bucket=s3.bucket, Key=name)["ContentLength"] == len(body)
    assert [method for method, _ in proxy.requests] == ["PUT", "GET", "HEAD"]


def test_the_proxy_loses_the_reply_of_a_write_that_was_applied(s3: S3Server, proxy: Proxy) -> None:
    name = key()
    proxy.next(faults.swallow_reply, method="PUT", containing=name)
    with pytest.raises(ConnectionClosedError):
        client(s3, proxy.url).put_object(Bucket=s3.bucket, Key=name, Body=b"applied", IfNoneMatch="*")
    assert client(s3).get_object(Bucket=s3.bucket, Key=name)["Body"].read() == b"applied"


@pytest.mark.parametrize(("fault", "applied"), [(faults.unavailable, False), (faults.fail_after_applying, True)])
def test_the_proxy_answers_an_error_before_or_after_applying(s3: S3Server, proxy: Proxy, fault, applied: bool) -> None:
    name = key()
    proxy.next(fault, method="PUT")
    with pytest.raises(ClientError):
        client(s3, proxy.url).put_object(Bucket=s3.bucket, Key=name, Body=b"")
    assert exists(s3, name) == applied


def test_the_proxy_refuses_only_as_often_as_told(s3: S3Server, proxy: Proxy) -> None:
    name = key()
    proxy.next(faults.refuse, times=1)
    with pytest.raises(ConnectionClosedError):
        client(s3, proxy.url).put_object(Bucket=s3.bucket, Key=name, Body=b"")
    assert not exists(s3, name)
    client(s3, proxy.url).put_object(Bucket=s3.bucket, Key=name, Body=b"")
    assert exists(s3, name)


def test_the_proxy_lets_a_held_write_land_late(s3: S3Server, proxy: Proxy) -> None:
    name, hold = key(), faults.Hold()
    proxy.next(hold, method="PUT")
    with pytest.raises(ConnectionClosedError):
        client(s3, proxy.url).put_object(Bucket=s3.bucket, Key=name, Body=b"late")
    assert hold.arrived.is_set()
    assert not exists(s3, name)
    hold.release()
    assert exists(s3, name)


def test_the_proxy_stalls_until_released(s3: S3Server, proxy: Proxy) -> None:
    name, stall = key(), faults.Stall()
    proxy.next(stall, method="PUT")
    with pytest.raises(HTTPClientError):
        client(s3, proxy.url, seconds=0.2).put_object(Bucket=s3.bucket, Key=name, Body=b"slow")
    assert not exists(s3, name)
    stall.release()
    wait_until(lambda: exists(s3, name))


def test_the_proxy_cuts_a_body_in_half(s3: S3Server, proxy: Proxy) -> None:
    name = key()
    client(s3).put_object(Bucket=s3.bucket, Key=name, Body=b"0123456789")
    proxy.next(faults.cut_body, method="GET")
    with pytest.raises(HTTPClientError):
        client(s3, proxy.url).get_object(Bucket=s3.bucket, Key=name)["Body"].read()


def exists(server: S3Server, name: str) -> bool:
    return client(server).list_objects_v2(Bucket=server.bucket, Prefix=name)["KeyCount"] == 1


class hold:
    """A process of its own that holds servers, and the port that it printed."""

    def __init__(self, program: str, folder: Path) -> None:
        self._owner = subprocess.Popen(
            [sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path.cwd()
        )

    def __enter__(self) -> tuple[subprocess.Popen[bytes], int]:
        assert self._owner.stdout is not None
        return self._owner, int(self._owner.stdout.readline())

    def __exit__(self, *_: object) -> None:
        self._owner.kill()
        self._owner.communicate()


def processes_naming(folder: Path) -> list[str]:
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(folder) in line and "<defunct>" not in line]
