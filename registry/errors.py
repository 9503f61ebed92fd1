"""Every error that this package raises, and the exit code that the command line gives it.

* UloraError                    1  failed
  x BadInput                    2  usage: what was asked for can't be meant
    + BadVersionName
    + BadSetting
    + BadBundle
    + BadPolicy
    + BadImage
    + MissingDependency
  x GateRefused                 3  a policy's rules were not met
  x Conflict                    4  somebody else was first, or it may not be done now
    + ChannelMoved
    + VersionExists
    + KeyExists
    + NotNow
  x NotFound                    5
    + ObjectNotFound
    + BucketNotFound
    + VersionNotFound
    + VersionForgotten
    + ChannelEmpty
    + NothingToRollBackTo
    + BackboneNotFound
  x IntegrityError              6  bytes or records are not what their name or digest says
    + CorruptBlob
    + MissingBlob
    + BadManifest
    + BadWeights
    + BrokenChain
    + SelfTestFailed
    + NotTrusted
    + UnsafePath
  x Unreachable                 7
    + StoreUnreachable
    + StoreDenied
    + CatalogUnreachable
    + CatalogRefused
    + OutcomeUnknown
  x StoreUnfit                  1  a store that ignores conditional writes, and the like
  x DiskFull                    1
  x LoadFailed                  1  a version's files are whole but its code can't load them
  x ReplicaClosed               1

An error says what happened, to what, and what to do next: the message is the first two, `hint` the third.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar


class UloraError(Exception):
    """The root of all errors raised on purpose.

    Attributes:
        exit_code: what the `ulora` command exits with.
        hint: what to do next, one line, or the empty string.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class BadInput(UloraError):
    """What was asked for can't be meant: a bad name, option, file or setting."""

    exit_code = 2


class BadVersionName(BadInput):
    """A version name that does not read `v[MAJOR].[MINOR].[PATCH]-[OPTIMIZATION]`."""


class BadSetting(BadInput):
    """A setting that is missing or does not parse."""


class BadBundle(BadInput):
    """A folder that can't become a version: a file is missing, or a path is not allowed."""


class BadPolicy(BadInput):
    """A gate policy that does not parse."""


class BadImage(BadInput):
    """Bytes that are no image, or an image outside the accepted bounds."""


class MissingDependency(BadInput):
    """An optional package is not installed, or another package shadows ours."""


class GateRefused(UloraError):
    """A policy's rules were not met. `verdict` says which; it was kept in the store."""

    exit_code = 3

    def __init__(self, message: str, *, hint: str = "", verdict: object = None) -> None:
        super().__init__(message, hint=hint)
        self.verdict = verdict


class Conflict(UloraError):
    """Somebody else was first, or it may not be done now. Nothing changed."""

    exit_code = 4


class ChannelMoved(Conflict):
    """Another writer moved the channel first."""


class VersionExists(Conflict):
    """The name is bound to other content. A version never changes."""


class KeyExists(Conflict):
    """A create-only key is taken by other bytes."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} exists already with other content")
        self.key = key


class NotNow(Conflict):
    """The change is sound but refused at this moment: a canary runs, or a rollback has only just happened."""


class NotFound(UloraError):
    """What was named does not exist."""

    exit_code = 5


class ObjectNotFound(NotFound):
    """No object has this key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} is not in the store")
        self.key = key


class BucketNotFound(NotFound):
    """The store's bucket does not exist."""


class VersionNotFound(NotFound):
    """No version has this name."""


class VersionForgotten(NotFound):
    """The version's name stands, but garbage collection may drop its files, or has."""


class ChannelEmpty(NotFound):
    """The channel serves no version yet."""


class NothingToRollBackTo(NotFound):
    """The stack of versions to roll back to is empty. Nothing changed."""


class BackboneNotFound(NotFound):
    """The backbone's weights are in none of the places that were searched."""


class IntegrityError(UloraError):
    """Bytes or records are not what their name or digest says. They were not used."""

    exit_code = 6


class CorruptBlob(IntegrityError):
    """A blob's bytes do not hash to its name."""


class MissingBlob(IntegrityError):
    """A blob that a version needs is not in the store."""


class BadManifest(IntegrityError):
    """A stored document does not follow its format, or is larger than its bound."""


class BadWeights(IntegrityError):
    """A safetensors file is truncated, malformed, or does not fit the model."""


class BrokenChain(IntegrityError):
    """A channel's log has a gap, or a record does not hash to what its successor says."""


class SelfTestFailed(IntegrityError):
    """A loaded version did not reproduce its golden outputs."""


class NotTrusted(IntegrityError):
    """A manifest is unsigned, signed by none of the trusted keys, or older than what may be served here."""


class UnsafePath(IntegrityError):
    """Writing here would follow a link, or leave the folder that was named. Nothing was written."""


class Unreachable(UloraError):
    """A server can't be reached, refuses us, or left the outcome unknown."""

    exit_code = 7


class StoreUnreachable(Unreachable):
    """The S3 server does not answer, or its answer does not say whether a request was applied.

    Attributes:
        code: S3's error code, or the empty string.
        was_sent: False where the request never left this machine, so it was not applied.
    """

    def __init__(self, message: str, *, hint: str = "", code: str = "", was_sent: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.was_sent = was_sent


class StoreDenied(Unreachable):
    """The S3 server refuses our credentials or permissions."""


class CatalogUnreachable(Unreachable):
    """The MLflow tracking server does not answer."""


class CatalogRefused(Unreachable):
    """The MLflow tracking server answers, and refuses: our credentials, or the request."""


class OutcomeUnknown(Unreachable):
    """A write was sent, and whether the server applied it could not be learned before the deadline."""


class StoreUnfit(UloraError):
    """The store ignores conditional writes or lists without order: promises could not be kept on it."""


class DiskFull(UloraError):
    """The local disk is full. Nothing was left half written."""


class LoadFailed(UloraError):
    """A version's files are whole, but its code can't load them here."""


class ReplicaClosed(UloraError):
    """A followed channel was used after it was closed, or in a forked process."""


def first_line(error: BaseException, limit: int = 400) -> str:
    """The first line of an error's message, cut to `limit` characters; the name of its type if it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip()[:limit] if lines else type(error).__name__


DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNWRITABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.ENOENT,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)


@contextmanager
def disk_errors(
    path: Path | str, hint: str = "choose a folder that can be; that of the cache is ULORA_CACHE"
) -> Iterator[None]:
    """Turn what the local disk refuses while writing `path` into `DiskFull` and `BadSetting`."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise DiskFull(
                f"no space left while writing {path}", hint="free some disk space and run it again"
            ) from error
        if error.errno in _UNWRITABLE:
            raise BadSetting(f"{path} can't be written: {error.strerror}", hint=hint) from error
        raise
