"""Bearer tokens: who may ask a replica for what.

A line is `NAME SCOPES TOKEN`, where the token may be `sha256:` and its digest in hex; `#` begins a comment. In memory
there are digests only, and no message and no log line has a token.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from registry.errors import BadSetting
from registry.serving.http.rights import SCOPES
from registry.serving.http.watched_files import WatchedFiles

VARIABLE = "ULORA_TOKENS"
"""Has the lines of a file, also separated by `;`."""
MAX_TOKENS = 1000
"""Each is compared with what a request brings."""
_MAX_FILE = 1024 * 1024
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,512}=*")
"""RFC 6750; at least 16 characters, so that nobody finds one by trying."""
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_HINT = f"a line is NAME SCOPES TOKEN; scopes are {', '.join(SCOPES)}, separated by commas"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Token:
    """Who brings a token, and what it is good for.

    Attributes:
        name: several tokens of one name are one caller, while one replaces the other.
        digest: SHA-256 of the token.
    """

    name: str
    scopes: frozenset[str]
    digest: bytes


class BearerTokens:
    """The tokens of a file, which is read again when it changes, or those of the environment."""

    def __init__(self, tokens: tuple[Token, ...], path: Path | None = None) -> None:
        self._tokens = tokens
        self._path = path
        self._watched = WatchedFiles([path] if path else [])

    def caller(self, headers: Iterable[tuple[bytes, bytes]]) -> Token | None:
        """Whose token a request brings; None if it brings none, or no valid one."""
        if self._path and self._watched.have_changed():
            self._read_again(self._path)
        values = [value for name, value in headers if name == b"authorization"]
        if len(values) != 1:
            return None
        scheme, _, given = values[0].partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        digest = hashlib.sha256(given.strip()).digest()
        found = None
        for token in self._tokens:  # all of them: the time says nothing
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found

    def look_soon(self) -> None:
        """Look at the file with the next request."""
        self._watched.look_soon()

    def _read_again(self, path: Path) -> None:
        """Read the file. One that can't be used changes nothing."""
        try:
            self._tokens = _read_file(path)
        except BadSetting as error:
            _log.error("the tokens stay as they were: %s", error, extra={"facts": {"event": "tokens unusable"}})
        else:
            _log.info("%d tokens read again", len(self._tokens), extra={"facts": {"event": "tokens"}})


def read_tokens(path: Path | None, environment: Mapping[str, str] = os.environ) -> BearerTokens | None:
    """The tokens of a file, else those of `ULORA_TOKENS`; None if there is neither.

    Raises:
        BadSetting: the file can't be read, or a line is invalid, or there is no token.
    """
    if path is not None:
        return BearerTokens(_read_file(path), path)
    text = environment.get(VARIABLE)
    return BearerTokens(parse_tokens(text.replace(";", "\n"), VARIABLE)) if text else None


def parse_tokens(text: str, source: str) -> tuple[Token, ...]:
    """The tokens of lines.

    Args:
        source: what errors call it.

    Raises:
        BadSetting: a line is invalid, or there is none, or there are too many.
    """
    tokens = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words:
            tokens.append(_token(words, f"line {number} of {source}"))
    if not tokens or len(tokens) > MAX_TOKENS:
        raise BadSetting(f"{source} has {len(tokens)} tokens, and not 1 to {MAX_TOKENS}", hint=_HINT)
    return tuple(tokens)


def _token(words: list[str], where: str) -> Token:
    if len(words) != 3:
        raise BadSetting(f"{where} has {len(words)} words, and not 3", hint=_HINT)
    name, listed, token = words
    if not _NAME.fullmatch(name):
        raise BadSetting(f"{where}: the name has other characters than letters, digits and . _ @ -", hint=_HINT)
    scopes = frozenset(listed.split(","))
    if not scopes <= set(SCOPES):
        raise BadSetting(f"{where}: there is an unknown scope", hint=_HINT)
    if digest := _DIGEST.fullmatch(token):
        return Token(name, scopes, bytes.fromhex(digest[1]))
    if not _TOKEN.fullmatch(token):
        raise BadSetting(
            f"{where}: the token is too short or has other characters than letters, digits and - . _ ~ + / =",
            hint="make one with `openssl rand -hex 32`",
        )
    return Token(name, scopes, hashlib.sha256(token.encode("ascii")).digest())


def _read_file(path: Path) -> tuple[Token, ...]:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > _MAX_FILE:  # opening a pipe would wait
            raise BadSetting(f"{path} is no file of at most {_MAX_FILE} bytes", hint=_HINT)
        with path.open("rb") as file:
            text = file.read(_MAX_FILE).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise BadSetting(f"the tokens can't be read from {path}: {reason}", hint=_HINT) from error
    if about.st_mode & stat.S_IRWXO:
        _log.warning("others on this machine can read %s, which has tokens: chmod o= %s", path, path)
    return parse_tokens(text, str(path))
