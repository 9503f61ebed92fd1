"""A stack that is started again in its folder is where terminals and replicas look for it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.devstack.keeper import MAX_STARTS, Keeper
from registry.devstack.ports import Ports
from registry.devstack.s3_server import S3Server
from registry.devstack.stack import Stack
from registry.errors import UloraError
from registry.store.objects import ObjectStore


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    server = S3Server(tmp_path / "s3").start()
    yield server
    server.stop()


def saved(folder: Path, **settings: object) -> Path:
    (folder / "stack.json").write_text(json.dumps(settings))
    return folder


def test_keys_and_ports_of_an_earlier_stack_are_taken_over(tmp_path: Path) -> None:
    keys = {"access_key": "ulora0123456789", "secret_key": "s" * 40}
    stack = Stack(saved(tmp_path, **keys, s3_port=15_123, mlflow_port=15_321))
    assert (stack.s3.access_key, stack.s3.secret_key) == (keys["access_key"], keys["secret_key"])
    assert [server.wanted_port for server in stack.servers] == [15_123, 15_321]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"s3_port": "80", "mlflow_port": true}', '{"access_key": "x; rm", "secret_key": 7}', "\0"]
)
def test_damaged_settings_of_a_stack_are_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "stack.json").write_text(text)
    stack = Stack(tmp_path)
    assert [server.wanted_port for server in stack.servers] == [None, None]
    assert stack.s3.access_key.startswith("ulora")


def test_a_port_that_another_process_has_taken_is_replaced() -> None:
    taken = Ports()
    assert Ports(first=taken.first).first != taken.first


@pytest.mark.acceptance
def test_settings_and_exports_are_for_this_user_only(s3: S3Server, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    stack.s3, stack.mlflow._ports = s3, Ports()
    stack._write_settings()
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "stack.json", stack.exports_file)} == {
        "stack.json": 0o600, "env.sh": 0o600,
    }  # fmt: skip
    sourced = subprocess.run(
        ["sh", "-c", f". {stack.exports_file}; echo $ULORA_STORE $AWS_SECRET_ACCESS_KEY"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert sourced.stdout.split() == [stack.env["ULORA_STORE"], s3.secret_key]
    again = Stack(tmp_path)
    assert (again.s3.wanted_port, again.s3.secret_key) == (s3.port, s3.secret_key)


@pytest.mark.acceptance
def test_a_server_that_died_is_started_again_where_it_was(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    store, said, port = ObjectStore(f"s3://{s3.bucket}/x"), [], s3.port
    store.create("a", b"before")
    keeper = Keeper([s3], said.append)
    keeper.look()
    assert said == []
    os.kill(s3._process.pid, 9)  # type: ignore[union-attr]
    s3._process.wait()  # type: ignore[union-attr]
    keeper.look()
    assert (s3.running, s3.port, store.get("a").body) == (True, port, b"before")
    assert "ended with exit status -9" in said[0]


class Mortal(S3Server):
    """A server that ends at once, whenever it is started."""

    def why_ended(self, seconds: float = 0.0) -> str:
        return "the s3 server ended with exit status 1; its log ends:\nno"

    def start(self) -> Mortal:
        return self

    url = "http://127.0.0.1:1"


def test_a_server_that_dies_again_and_again_is_an_error(tmp_path: Path) -> None:
    keeper = Keeper([Mortal(tmp_path)], lambda line: None)
    for _ in range(MAX_STARTS):
        keeper.look()
    with pytest.raises(UloraError, match="within minutes"):
        keeper.look()
