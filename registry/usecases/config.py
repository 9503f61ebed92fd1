"""Every setting with its value and where that comes from, for `ulora config show`. No server is asked."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry.answers import SettingValue
from registry.errors import BadSetting
from registry.formats.addresses import without_password
from registry.settings import SOURCES, default_cache, file_path, find, read_file

_HIDDEN = "(hidden)"
VARIABLES = {
    "ULORA_CONFIG": "the settings file, in place of ulora.toml in the current folder",
    "ULORA_BACKBONES": "folders with backbones, separated by `:`",
    "ULORA_KEY_PASSWORD": "the password of an encrypted signing key",
    "ULORA_DEBUG": "1 shows the traceback of an unexpected error",
    "ULORA_INSTANCE": "what every answer of `ulora serve` repeats as X-Ulora-Instance",
    "ULORA_FLEET_KEY": "the keys that sign the receipts of answers",
    "ULORA_TOKEN": "the bearer token that is sent to a replica",
    "ULORA_VERSION": "the version that MLflow's new runs are tagged with",
    "ULORA_OCI_USERNAME": "the user of an OCI registry, for `ulora store copy`",
    "ULORA_OCI_PASSWORD": "that user's password or token",
    "ULORA_TOKENS": "the bearer tokens of `ulora serve` without --tokens",
    "FORWARDED_ALLOW_IPS": "uvicorn: proxies whose X-Forwarded-For says the client's address",
    "XDG_CACHE_HOME": "the user's cache folder",
    "AWS_PROFILE": "AWS: the profile",
    "AWS_ACCESS_KEY_ID": "AWS: the key's id",
    "AWS_SECRET_ACCESS_KEY": "AWS: the key",
    "AWS_SESSION_TOKEN": "AWS: the token of temporary credentials",
    "AWS_REGION": "AWS: the region",
    "AWS_DEFAULT_REGION": "AWS: the region, for boto3",
    "AWS_ENDPOINT_URL": "AWS: the server, if it is not AWS",
    "AWS_ENDPOINT_URL_S3": "AWS: the S3 server",
    "AWS_ENDPOINT_URL_STS": "AWS: the server that says who acts",
    "AWS_CA_BUNDLE": "AWS: certificates that are trusted",
    "AWS_CONFIG_FILE": "AWS: its configuration",
    "AWS_SHARED_CREDENTIALS_FILE": "AWS: its credentials",
    "MLFLOW_TRACKING_USERNAME": "MLflow: the user",
    "MLFLOW_TRACKING_PASSWORD": "MLflow: the password",
    "MLFLOW_TRACKING_TOKEN": "MLflow: the token",
    "MLFLOW_ALLOW_FILE_STORE": "MLflow: true lets a folder be the server",
    "HF_HOME": "Hugging Face: the folder of downloaded backbones",
    "HF_HUB_OFFLINE": "Hugging Face: 1 downloads nothing",
    "OMP_NUM_THREADS": "OpenMP: how many threads a replica computes with",
    "OMP_WAIT_POLICY": "OpenMP: how they wait for each other",
}
"""Variables that have no other form."""
_AWS_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""AWS's own variables of the S3 server's address, in the order in which they count."""
_SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|FLEET_KEY|ACCESS_KEY_ID|USERNAME")


def show(given: Mapping[str, Any]) -> list[SettingValue]:
    """All settings, then those of `VARIABLES` that are set; passwords are hidden.

    Args:
        given: the values of options, by the names of the settings; None for one that was not given.

    Raises:
        BadSetting: the settings file can't be read, does not parse, or has an unknown key.
    """
    file = read_file()
    lines = file_path().read_text("utf-8").splitlines() if file else []
    settings = [_setting(name, given.get(name), file, lines) for name in SOURCES]
    return settings + [
        SettingValue(name, _HIDDEN if _SECRET.search(name) else without_password(value), "environment", meaning)
        for name, meaning in VARIABLES.items()
        if (value := os.environ.get(name))
    ]


def _setting(name: str, given: Any, file: Mapping[str, Any], lines: list[str]) -> SettingValue:
    source = SOURCES[name]
    value, where = find(name, given, file)
    if not where:
        aws = next((each for each in _AWS_ENDPOINTS if name == "endpoint_url" and os.environ.get(each)), "")
        value = without_password(os.environ[aws]) if aws else _default(name)
        return SettingValue(name, value, aws or "default", source.meaning)
    said = {
        "option": source.option,
        "variable": source.variable,
        "key": f"{file_path()}:{_line_of(source.key.partition('.')[0], lines)}",
    }[where]
    return SettingValue(name, _HIDDEN if source.secret else _text(value), said, source.meaning)


def _default(name: str) -> str:
    if name != "cache":
        return SOURCES[name].default or "(not set)"
    try:
        return str(default_cache())
    except OSError as error:
        raise BadSetting(f"the user's cache folder can't be found: {error}") from error


def _line_of(key: str, lines: list[str]) -> int:
    """The number of the line that sets a key, from 1; 1 where it is spelled in an unusual way."""
    spelled = re.compile(rf"""\s*\[?\s*["']?{re.escape(key)}["']?\s*[\]=.]""")
    return next((number for number, line in enumerate(lines, 1) if spelled.match(line)), 1)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {each}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value) if isinstance(value, Path) else without_password(str(value))
