"""The embedded S3 server, where no process is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.devstack import s3_server
from registry.devstack.s3_server import S3Server
from registry.errors import MissingDependency


def test_a_program_that_is_not_installed_says_what_to_install() -> None:
    with pytest.raises(MissingDependency, match="no-such-program") as missing:
        s3_server._program("no-such-program", hint="pip install it")
    assert missing.value.hint == "pip install it"


def test_every_s3_server_has_keys_of_its_own(tmp_path: Path) -> None:
    first, second = S3Server(tmp_path), S3Server(tmp_path)
    assert {first.access_key, first.secret_key}.isdisjoint({second.access_key, second.secret_key})
