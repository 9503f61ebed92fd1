"""Settings: from options, then environment variables, then `ulora.toml`; the table of all of them is `SOURCES`.

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

DEFAULT_MODEL = "aads-ulora"


@dataclass(frozen=True)
class Source:
    """Where a setting may come from: an option, else an environment variable, else a key of `ulora.toml`.

    Attributes:
        meaning: what it sets.
        default: in words, if nothing sets it.
        secret: its values are never shown.
    """

    meaning: str
    option: str = ""
    variable: str = ""
    key: str = ""
    default: str = ""
    secret: bool = False


SOURCES = {
    "model": Source("the MLflow registered model", "--model", "ULORA_MODEL", "model", DEFAULT_MODEL),
    "store": Source("the store, s3://BUCKET/PREFIX", "--store", "ULORA_STORE", "store"),
    "endpoint_url": Source(
        "the S3 server", "", "ULORA_S3_ENDPOINT", "endpoint_url", "AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, or AWS's own"
    ),
    "tracking_uri": Source("the MLflow server", "--tracking-uri", "MLFLOW_TRACKING_URI", "tracking_uri", "none"),
    "cache": Source("the folder of verified files", "", "ULORA_CACHE", "cache", "ulora in the user's cache folder"),
    "mlflow_artifacts": Source(
        "what MLflow holds of a version's files: copy or reference",
        "",
        "ULORA_MLFLOW_ARTIFACTS",
        "mlflow_artifacts",
        "copy",
    ),
    "policy": Source("the gate policy", "", "ULORA_POLICY", "policy", "the one that ships"),
    "data": Source("the images that `measure` uses", "--data", "ULORA_DATA", "data", "none"),
    "who": Source("who is named in records", "", "ULORA_WHO", "", "AWS's name for the caller, or user@host"),
    "aliases": Source("MLflow's aliases of the channels", "", "", "aliases", "staging and production"),
    "trusted_keys": Source(
        "public keys whose signatures are trusted", "", "ULORA_TRUSTED_KEYS", "trusted_keys", "unsigned versions, too"
    ),
    "minimum_version": Source(
        "the oldest version that a replica serves", "", "ULORA_MINIMUM_VERSION", "minimum_version", "any"
    ),
    "sse": Source("encryption in the store: AES256 or aws:kms", "", "ULORA_SSE", "sse", "the bucket's own"),
    "sse_kms_key_id": Source("the KMS key of aws:kms", "", "ULORA_SSE_KMS_KEY_ID", "sse_kms_key_id", "AWS's own"),
    "operations_log": Source(
        "whether commands note in the store how they ended: on or off",
        "",
        "ULORA_OPERATIONS_LOG",
        "operations_log",
        "on",
    ),
    # Whoever knows the address of a webhook can write there.
    "notify_json": Source("webhooks for programs", "", "ULORA_NOTIFY_JSON", "notify.json", "none", True),
    "notify_slack": Source("webhooks of Slack", "", "ULORA_NOTIFY_SLACK", "notify.slack", "none", True),
    "notify_teams": Source("webhooks of Teams", "", "ULORA_NOTIFY_TEAMS", "notify.teams", "none", True),
    "notify_secret": Source("what messages are signed with", "", "ULORA_NOTIFY_SECRET", "notify.secret", "none", True),
}
"""Every field of `Settings`, and where it may come from."""
_MAX_FILE = 1024 * 1024
_STACK = Path("ulora-data/env.sh")
"""What `ulora dev` writes, where no other folder is named."""


@dataclass(frozen=True)
class Settings:
    """What a `Registry` needs to know.

    Attributes:
        model: the MLflow registered model, e.g. `aads-ulora`.
        store: `s3://BUCKET/PREFIX`, one trust domain.
        endpoint_url: the S3 server, None for AWS's own choice.
        tracking_uri: the MLflow server, None when there is none.
        cache: folder of verified blobs, shared by all processes of this machine.
        mlflow_artifacts: `copy`: MLflow gets the files of a version; `reference`: only a model that fetches them from
            the store.
        policy: a gate policy file, None for the one that ships.
        data: the images that `measure` uses.
        aliases: the MLflow alias of each mirrored channel.
        who: who signs the records of a channel; a claim, not a proof.
        trusted_keys: PEM public keys or CA certificates. With any, an unsigned version is neither promoted, loaded,
            served nor restored; empty: signatures are not checked.
        minimum_version: replicas refuse versions before it in the order of names. Nothing else uses it.
        sse, sse_kms_key_id: how the store encrypts what is written, None for the bucket's own default.
        operations_log: `on`: commands note in the store how they ended; `off`: they do not.
        notify_json, notify_slack, notify_teams: addresses that the guard tells what happened, see
            `registry.guard.notifiers`.
        notify_secret: what these messages are signed with, None for no signature.
    """

    model: str
    store: str
    endpoint_url: str | None = None
    tracking_uri: str | None = None
    cache: Path = Path()
    mlflow_artifacts: str = "copy"
    policy: Path | None = None
    data: Path | None = None
    aliases: Mapping[str, str] = field(default_factory=lambda: {"staging": "staging", "production": "production"})
    who: str = ""
    trusted_keys: tuple[Path, ...] = ()
    minimum_version: str | None = None
    sse: str | None = None
    sse_kms_key_id: str | None = None
    operations_log: str = "on"
    notify_json: tuple[str, ...] = field(default=(), repr=False)
    notify_slack: tuple[str, ...] = field(default=(), repr=False)
    notify_teams: tuple[str, ...] = field(default=(), repr=False)
    notify_secret: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raises: BadSetting, BadVersionName: a value is invalid."""
        if self.minimum_version is not None:
            VersionName.parse(self.minimum_version)
        if self.mlflow_artifacts not in ("copy", "reference"):
            raise BadSetting(f"mlflow_artifacts is {self.mlflow_artifacts!r}", hint="copy or reference")
        if self.operations_log not in ("on", "off"):
            raise BadSetting(f"operations_log is {self.operations_log!r}", hint="on or off")
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
        given = {"model": model, "store": store, "tracking_uri": tracking_uri, "policy": policy, "data": data}
        file = read_file()
        found = {name: find(name, given.get(name), file)[0] for name in SOURCES}
        if not found["store"]:
            raise BadSetting("no store is set", hint=_no_store_hint())
        cache = _cache(found["cache"])
        return cls(
            model=check_model(found["model"] or DEFAULT_MODEL),
            store=found["store"],
            endpoint_url=found["endpoint_url"],
            tracking_uri=found["tracking_uri"],
            cache=cache,
            mlflow_artifacts=found["mlflow_artifacts"] or "copy",
            policy=_folder(found["policy"]),
            data=_folder(found["data"]),
            aliases={"staging": "staging", "production": "production", **(found["aliases"] or {})},
            who=identity.claimed(cache, found["endpoint_url"]),
            trusted_keys=_trusted_keys(found["trusted_keys"]),
            minimum_version=found["minimum_version"],
            sse=found["sse"],
            sse_kms_key_id=found["sse_kms_key_id"],
            operations_log=found["operations_log"] or "on",
            notify_json=_addresses(found["notify_json"]),
            notify_slack=_addresses(found["notify_slack"]),
            notify_teams=_addresses(found["notify_teams"]),
            notify_secret=found["notify_secret"],
        )

    def environment(self) -> dict[str, str]:
        """The variables by which another process loads these settings. What has no variable is left out (`aliases`)."""
        found: dict[str, str] = {}
        for name, source in SOURCES.items():
            value = getattr(self, name)
            if source.variable and value:
                found[source.variable] = os.pathsep.join(map(str, value)) if isinstance(value, tuple) else str(value)
        return found


def policy_file() -> Path | None:
    """The setting `policy` alone, for what needs no store; None for the policy that ships.

    Raises:
        BadSetting: the settings file is invalid.
    """
    return _folder(os.environ.get("ULORA_POLICY") or read_file().get("policy"))


def cache_folder() -> Path:
    """The setting `cache` alone, for what needs no other.

    Raises:
        BadSetting: the settings file is invalid.
    """
    return _cache(find("cache", None, read_file())[0])


def _no_store_hint() -> str:
    if _STACK.is_file():
        return f"`source {_STACK}`: `ulora dev` wrote it here; or pass --store s3://BUCKET/PREFIX, or set ULORA_STORE"
    return "pass --store s3://BUCKET/PREFIX or set ULORA_STORE; `ulora dev` starts one"


def find(name: str, given: Any, file: Mapping[str, Any]) -> tuple[Any, str]:
    """The value of a setting, and which of its source's fields says it; None and the empty string if none does.

    Empty options and variables count as unset.

    Args:
        name: a field of `Settings`.
        given: the option's value.
        file: what `read_file` returned.
    """
    source = SOURCES[name]
    found = {"option": given, "variable": os.environ.get(source.variable), "key": _at(file, source.key)}
    return next(((value, where) for where, value in found.items() if value), (None, ""))


def _at(file: Mapping[str, Any], key: str) -> Any:
    """The value of a key, or of `table.key`."""
    table, _, inner = key.partition(".")
    return file.get(table, {}).get(inner) if inner else file.get(key)


def file_path() -> Path:
    """The settings file, which may not exist."""
    return Path(os.environ.get("ULORA_CONFIG", "ulora.toml"))


def read_file() -> dict[str, Any]:
    """The checked content of the settings file; empty if there is no `ulora.toml`.

    Raises:
        BadSetting: it can't be read, does not parse, or has an unknown key.
    """
    path = file_path()
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
    known = {source.key.partition(".")[0] for source in SOURCES.values()} - {""}
    unknown = sorted(set(document) - known)
    if unknown:
        raise BadSetting(f"{path} has unknown keys: {', '.join(unknown)}", hint=f"known are {', '.join(sorted(known))}")
    for key, value in document.items():
        if key not in ("aliases", "trusted_keys", "notify") and not isinstance(value, str):
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
    _check_notify(path, document.get("notify", {}))


def _check_notify(path: Path, table: object) -> None:
    known = {source.key.removeprefix("notify.") for source in SOURCES.values() if source.key.startswith("notify.")}
    if not isinstance(table, dict) or not known.issuperset(table):
        raise BadSetting(f"{path}: [notify] may have {', '.join(sorted(known))}, and nothing else")
    for key, value in table.items():
        each = [value] if isinstance(value, str) or key == "secret" else value
        if not (isinstance(each, list) and each and all(isinstance(one, str) and one for one in each)):
            raise BadSetting(f"{path}: [notify] {key} must be " + ("a string" if key == "secret" else "addresses"))


def _trusted_keys(named: str | list[str] | None) -> tuple[Path, ...]:
    """The files that a variable or the file names. A variable that holds only separators is an error."""
    found = tuple(filter(None, map(_folder, named.split(os.pathsep) if isinstance(named, str) else named or ())))
    if isinstance(named, str) and not found:
        raise BadSetting(f"ULORA_TRUSTED_KEYS is {named!r}, which names no file")
    return found


def _addresses(named: str | list[str] | None) -> tuple[str, ...]:
    """The addresses that a variable, with spaces between them, or the file names."""
    return tuple(named.split() if isinstance(named, str) else named or ())


def _is_alias(channel: str, value: object) -> bool:
    """Whether a channel may be shown by this alias; MLflow keeps `latest` and `v<digits>` for itself."""
    return (
        channel in CHANNELS
        and isinstance(value, str)
        and re.fullmatch(r"[A-Za-z0-9_-]{1,100}", value) is not None
        and re.fullmatch(r"(?i)latest|v\d+", value) is None
    )


def default_cache() -> Path:
    """The user's cache folder, or a temporary one in a container whose user has no home."""
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(given) if given else Path.home() / ".cache") / "ulora"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"ulora-{os.getuid()}"


def _cache(text: Path | str | None) -> Path:
    return _folder(text) or default_cache()


def _folder(text: Path | str | None) -> Path | None:
    try:
        return Path(text).expanduser() if text else None
    except RuntimeError as error:
        raise BadSetting(f"{text} names a home folder, which does not exist") from error
