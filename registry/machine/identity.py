"""Who acts, for records and notes. This is a claim without proof; the proof is the store's own access log.

It is `ULORA_WHO`, else the identity that AWS last returned for these credentials, else user@host. Only commands that
are not urgent ask AWS; the answer is saved in the cache folder, so a rollback never waits for it.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from registry.errors import BadManifest
from registry.formats import canonical
from registry.formats.cache_files import CacheFile

MAX_WHO = 256
_MAX_FILE = 4096
_KEPT = 7 * 86400.0
_KEPT_NOTHING = 86400.0
"""Seconds after which AWS is asked again, after an answer and after no answer."""
_DEPENDS_ON = (
    "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_STS",
)  # fmt: skip


def claimed(cache: Path, endpoint_url: str | None) -> str:
    """Who acts with the credentials of this environment. Reads one small file and sends no request.

    It is shortened and cleaned to fit into a record: no value in the environment may prevent a rollback.
    """
    name = os.environ.get("ULORA_WHO") or _arn(_read(_file(cache, endpoint_url))) or f"{_user()}@{socket.gethostname()}"
    return name.encode("utf-8", "replace").decode("utf-8")[:MAX_WHO]


def is_due(cache: Path, endpoint_url: str | None) -> bool:
    """Whether AWS should be asked who acts: `ULORA_WHO` is not set, and the last answer is old."""
    answer = _read(_file(cache, endpoint_url))
    asked, kept = answer.get("asked"), _KEPT if _arn(answer) else _KEPT_NOTHING
    is_fresh = isinstance(asked, int | float) and 0 <= time.time() - asked < kept
    return not os.environ.get("ULORA_WHO") and not is_fresh


def save(cache: Path, endpoint_url: str | None, arn: str | None) -> None:
    """Save the answer of AWS, None for no answer. Errors are ignored: the command does not need it."""
    answer = {"format": 1, "arn": (arn or "")[:MAX_WHO], "asked": time.time()}
    with suppress(OSError):
        _file(cache, endpoint_url).write(canonical.encode(answer))


def _file(cache: Path, endpoint_url: str | None) -> CacheFile:
    """The file for this set of credentials; its name is a digest, so it does not reveal the key id."""
    words = [endpoint_url, *(os.environ.get(name) for name in _DEPENDS_ON)]
    return CacheFile(cache, ("identities", f"{canonical.digest(words)[:32]}.json"))


def _read(file: CacheFile) -> dict[str, object]:
    with suppress(OSError, BadManifest):
        return canonical.decode(file.read(_MAX_FILE), str(file.path), _MAX_FILE)
    return {}


def _arn(found: dict[str, object]) -> str:
    arn = found.get("arn")
    return arn if isinstance(arn, str) and arn.startswith("arn:") and len(arn) <= MAX_WHO else ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid{os.getuid()}"
