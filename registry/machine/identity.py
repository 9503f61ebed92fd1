"""Who acts, as records and notes say it: a claim, never a proof. The store's own access log is the proof.

`ULORA_WHO` says it, else what AWS last answered for these credentials, else user@host. AWS is asked only by commands
that have the time; the answer is kept in the cache folder, so that a rollback never waits for it.
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

MAX_WHO = 256
_MAX_FILE = 4096
_KEPT = 7 * 86400.0
_KEPT_NOTHING = 86400.0
"""Seconds after which AWS is asked again: after an answer, and after none."""
_DEPENDS_ON = (
    "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_STS",
)  # fmt: skip


def claimed(cache: Path, endpoint_url: str | None) -> str:
    """Who acts with the credentials of this environment. Reads one small file, asks nobody.

    What a record can't hold is cut: whatever the environment says must not stop a rollback.
    """
    name = (
        os.environ.get("ULORA_WHO") or _arn(_read(_place(cache, endpoint_url))) or f"{_user()}@{socket.gethostname()}"
    )
    return name.encode("utf-8", "replace").decode("utf-8")[:MAX_WHO]


def is_due(cache: Path, endpoint_url: str | None) -> bool:
    """Whether AWS should be asked who acts: nothing else says it, and the last answer is old."""
    note = _read(_place(cache, endpoint_url))
    asked, kept = note.get("asked"), _KEPT if _arn(note) else _KEPT_NOTHING
    is_fresh = isinstance(asked, int | float) and 0 <= time.time() - asked < kept
    return not os.environ.get("ULORA_WHO") and not is_fresh


def note(cache: Path, endpoint_url: str | None, arn: str | None) -> None:
    """Keep what AWS answered, None for nothing. Best effort: a cache that can't be written is no reason to fail."""
    place = _place(cache, endpoint_url)
    beside = place.with_suffix(f".{os.getpid()}.part")
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(canonical.encode({"format": 1, "arn": (arn or "")[:MAX_WHO], "asked": time.time()}))
        beside.replace(place)


def _place(cache: Path, endpoint_url: str | None) -> Path:
    """A file for each set of credentials; its name is a digest, which gives no key id away."""
    words = [endpoint_url, *(os.environ.get(name) for name in _DEPENDS_ON)]
    return cache / "identities" / f"{canonical.digest(words)[:32]}.json"


def _read(place: Path) -> dict[str, object]:
    with suppress(OSError, BadManifest), place.open("rb") as file:
        return canonical.decode(file.read(_MAX_FILE), str(place))
    return {}


def _arn(found: dict[str, object]) -> str:
    arn = found.get("arn")
    return arn if isinstance(arn, str) and arn.startswith("arn:") and len(arn) <= MAX_WHO else ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid{os.getuid()}"
