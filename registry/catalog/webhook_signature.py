"""Whether a message is a webhook of the MLflow server that shares a secret, sent just now, and not seen before.

MLflow signs `<delivery id>.<timestamp>.<body>` with HMAC-SHA256, and sends `v1,<base64>`: the conventions of
https://www.standardwebhooks.com under names of its own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import stat
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

from registry.errors import BadSetting

SIGNATURE, DELIVERY, TIMESTAMP = "x-mlflow-signature", "x-mlflow-delivery-id", "x-mlflow-timestamp"
TOLERANCE = 300
"""Seconds that a message's time may differ from the clock here. MLflow repeats one, unchanged, for a few seconds."""
MAX_SEEN = 10_000
"""Deliveries that are remembered. One that fell out could be sent again, and would wake once more."""
MAX_SECRETS = 10
_SECRET = re.compile(r"[!-~]{16,512}")
_DELIVERY = re.compile(r"[!-~]{1,100}")
_TIME = re.compile(r"[0-9]{1,12}")
_MAX_FILE = 64 * 1024
_HINT = "a line holds one secret of at least 16 characters; `openssl rand -hex 32` makes one"


class RefusedWebhook(ValueError):
    """A message that is not a webhook of this MLflow server; the text says why."""


class Deliveries:
    """Judges messages. Threads may share it."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """Args:
        secrets: any of them may have signed a message, so that one can take the place of another.
        """
        self._secrets = [secret.encode("ascii") for secret in secrets]
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def is_new(self, headers: Mapping[str, str], body: bytes, now: float) -> bool:
        """Whether a message is to be taken; False if the same delivery came before.

        Args:
            headers: by their names in lower case.
            now: seconds since 1970.

        Raises:
            RefusedWebhook: it is not signed with one of the secrets, or its time is not now.
        """
        delivery, timestamp = headers.get(DELIVERY, ""), headers.get(TIMESTAMP, "")
        if not _DELIVERY.fullmatch(delivery) or not _TIME.fullmatch(timestamp):
            raise RefusedWebhook("it has no delivery id or no timestamp of MLflow")
        self._check_signed(headers.get(SIGNATURE, ""), f"{delivery}.{timestamp}.".encode("ascii") + body)
        if abs(now - int(timestamp)) > TOLERANCE:
            raise RefusedWebhook(f"it is {now - int(timestamp):.0f} s old: is a clock wrong?")
        return self._note(delivery)

    def _check_signed(self, signature: str, content: bytes) -> None:
        if not signature:
            raise RefusedWebhook("it is not signed: the webhook in MLflow has no secret")
        version, _, text = signature.partition(",")
        try:
            given = base64.b64decode(text.encode("ascii"), validate=True)
        except (binascii.Error, ValueError) as error:
            raise RefusedWebhook("its signature is not v1,<base64>") from error
        # All of them, by a comparison whose time says nothing.
        matches = [hmac.compare_digest(hmac.digest(key, content, hashlib.sha256), given) for key in self._secrets]
        if version != "v1" or not any(matches):
            raise RefusedWebhook("its signature is not made with a secret that is known here")

    def _note(self, delivery: str) -> bool:
        with self._lock:
            if delivery in self._seen:
                return False
            self._seen[delivery] = None
            if len(self._seen) > MAX_SEEN:
                self._seen.popitem(last=False)
            return True


def read_secrets(path: Path) -> tuple[str, ...]:
    """The secrets in a file, one a line; `#` begins a comment line.

    Raises:
        BadSetting: it can't be read, a line is not a secret, there is no secret, or too many.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > _MAX_FILE:  # opening a pipe would wait
            raise BadSetting(f"{path} is no file of at most {_MAX_FILE} bytes", hint=_HINT)
        with path.open("rb") as file:
            lines = file.read(_MAX_FILE).decode("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not ASCII text"
        raise BadSetting(f"the secrets of webhooks can't be read from {path}: {reason}", hint=_HINT) from error
    found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not 0 < len(found) <= MAX_SECRETS or not all(map(_SECRET.fullmatch, found)):
        raise BadSetting(f"{path} has not 1 to {MAX_SECRETS} secrets of 16 to 512 characters, one a line", hint=_HINT)
    return tuple(found)
