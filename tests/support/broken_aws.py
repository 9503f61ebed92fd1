"""Broken configurations of AWS, as people have them: a profile that is not there, a file that can't be parsed, …"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

Broken = tuple[str, Mapping[str, str], str]
"""The text of `~/.aws/config`, variables of the environment (an empty one is removed), and what an error must say."""

_NO_KEYS = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_PROFILE": "p"}

BROKEN: Mapping[str, Broken] = {
    "no such profile": ("", {"AWS_PROFILE": "missing"}, "missing"),
    "no config": ("[profile p\nregion", {}, "config"),
    "no keys": ("", {**_NO_KEYS, "AWS_PROFILE": ""}, "credentials"),
    "half a key": ("", {"AWS_SECRET_ACCESS_KEY": ""}, "credentials"),
    "a program that hangs": ("[profile p]\ncredential_process = sleep 600", _NO_KEYS, "not found within"),
    "a program that prints garbage": ("[profile p]\ncredential_process = echo garbage", _NO_KEYS, "credentials"),
    "a program that prints a list": ("[profile p]\ncredential_process = echo []", _NO_KEYS, "can't be used"),
    "a program that fails": ("[profile p]\ncredential_process = false", _NO_KEYS, "credentials"),
    "no such program": ("[profile p]\ncredential_process = /no/such", _NO_KEYS, "/no/such"),
    "an expired sign-on": (
        "[profile p]\nsso_start_url = https://x\nsso_region = x\nsso_account_id = 1\nsso_role_name = x",
        _NO_KEYS,
        "SSO",
    ),
    "a circle of roles": ("[profile p]\nrole_arn = x\nsource_profile = q", _NO_KEYS, "can't be used"),
    "no address": ("", {"AWS_ENDPOINT_URL_S3": "garbage"}, "garbage"),
    "an odd region": ("", {"AWS_DEFAULT_REGION": "no such/region"}, "region"),
    "a token that ends with a line break": ("", {"AWS_SESSION_TOKEN": "a-token\n"}, "AWS_SESSION_TOKEN ends with"),
    "no proxy there": ("", {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "", "no_proxy": ""}, "127.0.0.1:9"),
}  # fmt: skip


def apply(monkeypatch: pytest.MonkeyPatch, folder: Path, config: str, variables: Mapping[str, str]) -> None:
    """Make the environment so."""
    (folder / "aws.ini").write_text(config)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "aws.ini"))
    for name, value in variables.items():
        if value:
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv(name, raising=False)
