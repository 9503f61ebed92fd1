"""Settings: from options, then environment variables, then `ulora.toml`.

| setting | option | environment | ulora.toml |
|---|---|---|---|
| model | --model | ULORA_MODEL | model |
| store | --store | ULORA_STORE | store |
| S3 endpoint | | ULORA_S3_ENDPOINT, else AWS's own | endpoint_url |
| tracking server | --tracking-uri | MLFLOW_TRACKING_URI | tracking_uri |
| cache | | ULORA_CACHE | cache |
| policy | | ULORA_POLICY | policy |
| data | --data | ULORA_DATA | data |
| who | | ULORA_WHO, else the caller's ARN where it is known, else user@host | |
| keys whose signatures are trusted | | ULORA_TRUSTED_KEYS, separated by `:` | trusted_keys, a list |
| oldest version that a replica serves | | ULORA_MINIMUM_VERSION | minimum_version |
| encryption in the store: AES256 or aws:kms | | ULORA_SSE | sse |
| KMS key of aws:kms | | ULORA_SSE_KMS_KEY_ID | sse_kms_key_id |

Credentials are AWS's own: boto3's whole chain decides.
"""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.errors import BadSetting
from registry.machine import identity
from registry.names import CHANNELS, VersionName, check_model

_KNOWN = {
    "model", "store", "endpoint_url", "tracking_uri", "cache", "policy", "data", "aliases", "trusted_keys",
    "minimum_version", "sse", "sse_kms_key_id",
}  # fmt: skip
_MAX_FILE = 1024 * 1024


@dataclass(frozen=True)
class Settings:
    """What a `Registry` needs to know.

    Attributes:
        model: the MLflow registered model, e.g. `aads-ulora`.
        store: `s3://BUCKET/PREFIX`, one trust domain.
        endpoint_url: the S3 server, None for AWS's own choice.
        tracking_uri: the MLflow server, None when there is none.
        cache: folder of verified blobs, shared by all processes of this machine.
        policy: a gate policy file, None for the one that ships.
        data: the images that `measure` uses.
        aliases: the MLflow alias of each mirrored channel.
        who: who signs the records of a channel; a claim, not a proof.
        trusted_keys: PEM public keys or CA certificates. With any, an unsigned version is neither promoted, loaded,
            served nor restored; empty: signatures are not checked.
        minimum_version: replicas refuse versions before it in the order of names. Nothing else uses it.
        sse, sse_kms_key_id: how the store encrypts what is written, None for the bucket's own default.
    """

    model: str
    store: str
    endpoint_url: str | None = None
    tracking_uri: str | None = None
    cache: Path = Path()
    policy: Path | None = None
    data: Path | None = None
    aliases: Mapping[str, str] = field(default_factory=lambda: {"staging": "staging", "production": "production"})
    who: str = ""
    trusted_keys: tuple[Path, ...] = ()
    minimum_version: str | None = None
    sse: str | None = None
    sse_kms_key_id: str | None = None

    def __post_init__(self) -> None:
        """Raises: BadSetting, BadVersionName: a value is invalid."""
        if self.minimum_version is not None:
            VersionName.parse(self.minimum_version)
        if self.sse not in (None, "AES256", "aws:kms"):
            raise BadSetting(f"sse is {self.sse!r}", hint="AES256 or aws:kms; leave it out for the bucket's default")
        if self.sse_kms_key_id is not None and self.sse != "aws:kms":
            raise BadSetting("sse_kms_key_id names a key, but sse is not aws:kms")

    @classmethod
    def load(
        cls,
        *,
        model: str | None = None,
        store: str | None = None,
        tracking_uri: str | None = None,
        policy: Path | None = None,
        data: Path | None = None,
    ) -> Settings:
        """Fill what the caller left out from the environment, then from `ulora.toml` or the file `ULORA_CONFIG` names.

        Raises:
            BadSetting: the file does not parse or has an unknown key, or no store is set.
        """
        file = _read_file()
        env = os.environ
        found_store = store or env.get("ULORA_STORE") or file.get("store")
        if not found_store:
            raise BadSetting(
                "no store is set", hint="pass --store s3://BUCKET/PREFIX or set ULORA_STORE; `ulora dev` starts one"
            )
        endpoint_url = env.get("ULORA_S3_ENDPOINT") or file.get("endpoint_url")
        cache = _folder(env.get("ULORA_CACHE") or file.get("cache")) or _default_cache()
        return cls(
            model=check_model(model or env.get("ULORA_MODEL") or file.get("model") or "aads-ulora"),
            store=found_store,
            endpoint_url=endpoint_url,
            tracking_uri=tracking_uri or env.get("MLFLOW_TRACKING_URI") or file.get("tracking_uri"),
            cache=cache,
            policy=policy or _folder(env.get("ULORA_POLICY") or file.get("policy")),
            data=data or _folder(env.get("ULORA_DATA") or file.get("data")),
            aliases={"staging": "staging", "production": "production", **file.get("aliases", {})},
            who=identity.claimed(cache, endpoint_url),
            trusted_keys=_trusted_keys(env.get("ULORA_TRUSTED_KEYS"), file),
            minimum_version=env.get("ULORA_MINIMUM_VERSION") or file.get("minimum_version"),
            sse=env.get("ULORA_SSE") or file.get("sse"),
            sse_kms_key_id=env.get("ULORA_SSE_KMS_KEY_ID") or file.get("sse_kms_key_id"),
        )


def policy_file() -> Path | None:
    """The setting `policy` alone, for what needs no store; None for the policy that ships.

    Raises:
        BadSetting: the settings file is invalid.
    """
    return _folder(os.environ.get("ULORA_POLICY") or _read_file().get("policy"))


def _read_file() -> dict[str, Any]:
    """The checked content of the settings file; empty if there is no `ulora.toml`."""
    path = Path(os.environ.get("ULORA_CONFIG", "ulora.toml"))
    try:
        text = _read_text(path)
    except FileNotFoundError as error:
        if "ULORA_CONFIG" in os.environ:
            raise BadSetting(f"ULORA_CONFIG names {path}, which does not exist") from error
        return {}
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSetting(f"{path} is not valid TOML: {error}") from error
    _check_document(path, document)
    return document


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
        if len(data) > _MAX_FILE:
            raise BadSetting(f"{path} is larger than {_MAX_FILE} bytes: it is not a settings file")
        return data.decode("utf-8")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting(f"{path} can't be read: {error}") from error


def _check_document(path: Path, document: Mapping[str, Any]) -> None:
    unknown = sorted(set(document) - _KNOWN)
    if unknown:
        raise BadSetting(
            f"{path} has unknown keys: {', '.join(unknown)}", hint=f"known are {', '.join(sorted(_KNOWN))}"
        )
    for key, value in document.items():
        if key not in ("aliases", "trusted_keys") and not isinstance(value, str):
            raise BadSetting(f"{path}: {key} must be a string")
    keys = document.get("trusted_keys", ["-"])
    if not (isinstance(keys, list) and keys and all(isinstance(key, str) and key for key in keys)):
        raise BadSetting(
            f"{path}: trusted_keys must be a list of files, at least one",
            hint="leave it out to trust unsigned versions",
        )
    aliases = document.get("aliases", {})
    if not (isinstance(aliases, dict) and all(_is_alias(name, value) for name, value in aliases.items())):
        raise BadSetting(
            f"{path}: [aliases] must map {' or '.join(CHANNELS)} to names that MLflow takes (letters, digits, - and _; "
            "not latest, not v1)",
            hint='for example production = "champion"',
        )


def _trusted_keys(text: str | None, file: Mapping[str, Any]) -> tuple[Path, ...]:
    """The files that are named. An empty variable counts as unset; one that holds only separators is an error."""
    if not text:
        return tuple(filter(None, map(_folder, file.get("trusted_keys", ()))))
    found = tuple(filter(None, map(_folder, text.split(os.pathsep))))
    if not found:
        raise BadSetting(f"ULORA_TRUSTED_KEYS is {text!r}, which names no file")
    return found


def _is_alias(channel: str, value: object) -> bool:
    """Whether a channel may be shown by this alias; MLflow keeps `latest` and `v<digits>` for itself."""
    return (
        channel in CHANNELS
        and isinstance(value, str)
        and re.fullmatch(r"[A-Za-z0-9_-]{1,100}", value) is not None
        and re.fullmatch(r"(?i)latest|v\d+", value) is None
    )


def _default_cache() -> Path:
    """The user's cache folder, or a temporary one in a container whose user has no home."""
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(given) if given else Path.home() / ".cache") / "ulora"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"ulora-{os.getuid()}"


def _folder(text: str | None) -> Path | None:
    try:
        return Path(text).expanduser() if text else None
    except RuntimeError as error:
        raise BadSetting(f"{text} names a home folder, which does not exist") from error
