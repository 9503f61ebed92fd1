"""All errors that this package raises, with the exit code of the command line.

* UloraError                    1  failed
  x BadInput                    2  usage: an invalid name, option, file or setting
    + BadVersionName
    + BadSetting
    + BadBundle
    + BadPolicy
    + BadImage
    + BadReceipt
    + MissingDependency
  x GateRefused                 3  a policy's rules were not met
  x Conflict                    4  another writer was first, or the change is refused now
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
  x IntegrityError              6  bytes or records do not match their name or digest
    + CorruptBlob
    + MissingBlob
    + BadManifest
    + BadWeights
    + BrokenChain
    + Overwritten
    + SelfTestFailed
    + ImageChanged
    + NotTrusted
    + UnsafePath
  x Unreachable                 7
    + StoreUnreachable
    + StoreDenied
    + NotAsListed
    + NotGiven
    + CatalogUnreachable
    + CatalogRefused
    + CatalogDenied
    + ReplicaUnreachable
    + ReplicaDenied
    + OciUnreachable
    + OciDenied
    + OutcomeUnknown
  x NotInMlflow                 8  it is done in the store, and MLflow does not show it
  x StoreUnfit                  6  a store that ignores conditional writes
  x DiskFull                    1
  x CheckFailed                 1  a version, or what is deployed, did not pass a test
  x LoadFailed                  1  a version's files are correct, but can't be loaded
  x ReplicaClosed               1
  x Overloaded                  1  a replica has more requests than it can answer in time
  x Expired                     1  a request's deadline passed before it was answered

The message says what happened and to what; `hint` says what to do next.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar


class UloraError(Exception):
    """The base class of all errors of this package.

    Attributes:
        exit_code: the exit code of the `ulora` command.
        hint: what to do next, in one line, or the empty string.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        if hint:
            self.add_note(f"hint: {hint}")  # a traceback shows it too


class BadInput(UloraError):
    """An invalid name, option, file or setting was given."""

    exit_code = 2


class BadVersionName(BadInput):
    """A version name that is not of the form `v[MAJOR].[MINOR].[PATCH]-[OPTIMIZATION]`."""


class BadSetting(BadInput):
    """A setting that is missing or can't be parsed."""


class BadBundle(BadInput):
    """A folder can't become a version: a file is missing, or a path is not allowed."""


class BadPolicy(BadInput):
    """A gate policy that can't be parsed."""


class BadImage(BadInput):
    """Bytes that are not an image, or an image that is too large or too small."""


class BadReceipt(BadInput):
    """A request id by which no label can be counted: it is no receipt, or none of this fleet's."""


class MissingDependency(BadInput):
    """An optional package is not installed, or another package has the name of one of this project's packages."""


class GateRefused(UloraError):
    """A policy's rules were not met. `verdict` says which; it was saved in the store."""

    exit_code = 3

    def __init__(self, message: str, *, hint: str = "", verdict: object = None) -> None:
        super().__init__(message, hint=hint)
        self.verdict = verdict


class Conflict(UloraError):
    """Another writer was first, or the change is refused now. Nothing changed."""

    exit_code = 4


class ChannelMoved(Conflict):
    """Another writer moved the channel first."""


class VersionExists(Conflict):
    """The version's name is bound to other content. A version never changes."""


class KeyExists(Conflict):
    """A create-only key exists with other bytes."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} already exists with other content")
        self.key = key


class NotNow(Conflict):
    """The change is refused now, for example because a canary runs or a rollback has just happened."""


class NotFound(UloraError):
    """Something that was named does not exist."""

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
    """The version's name exists, but garbage collection may delete its files or has deleted them."""


class ChannelEmpty(NotFound):
    """The channel serves no version yet."""


class NothingToRollBackTo(NotFound):
    """There is no version to roll back to. Nothing changed."""


class BackboneNotFound(NotFound):
    """The backbone's weights were not found in any of the searched places."""


class IntegrityError(UloraError):
    """Bytes or records do not match their name or digest. They were not used."""

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
    """A record is missing in a channel's log, or does not have the sha256 that the next record names."""


class Overwritten(IntegrityError):
    """An object that is created once was overwritten, or may have been: the store ignored the condition of a write, or
    somebody with more rights wrote it again."""


class SelfTestFailed(IntegrityError):
    """A loaded version did not reproduce its golden outputs."""


class ImageChanged(IntegrityError):
    """An image file no longer has the bytes that it had when its folder was read."""


class NotTrusted(IntegrityError):
    """A version is unsigned, not signed by a trusted key, or older than the oldest version that may be served."""


class UnsafePath(IntegrityError):
    """Writing would follow a link, or leave the given folder. Nothing was written."""


class Unreachable(UloraError):
    """A server can't be reached or refuses the request, or the outcome of a write is unknown."""

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
    """The S3 server refuses the credentials, or they lack a permission."""


class NotAsListed(StoreDenied):
    """The S3 server lists an object, and says that it is not there when it is asked for it."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"{key} is listed, but the store says that it is not there",
            hint="try again: a listing may be out of date; is there a cache or a replica in front of the store?",
        )
        self.key = key


class NotGiven(StoreDenied):
    """The S3 server fails where it is asked for this object, and answers where it is asked for another one."""


class CatalogUnreachable(Unreachable):
    """The MLflow tracking server does not answer."""


class CatalogRefused(Unreachable):
    """The MLflow tracking server refuses the credentials or the request."""


class CatalogDenied(CatalogRefused):
    """The MLflow tracking server does not take the login, or its user lacks a right there."""


class ReplicaUnreachable(Unreachable):
    """A replica does not answer."""


class ReplicaDenied(Unreachable):
    """A replica asks for a token, or refuses the one that it gets."""


class OciUnreachable(Unreachable):
    """An OCI registry does not answer, or not as the distribution specification says."""


class OciDenied(Unreachable):
    """An OCI registry refuses the credentials, or wants some."""


class OutcomeUnknown(Unreachable):
    """A write was sent, but before the deadline it was not known whether the server applied it."""


class NotInMlflow(UloraError):
    """The store holds what was asked for, and serving can use it, but MLflow lacks it. `ulora reconcile` tries again.

    Attributes:
        answer: what was done in the store.
    """

    exit_code = 8

    def __init__(self, message: str, *, hint: str = "run `ulora reconcile` later", answer: object = None) -> None:
        super().__init__(message, hint=hint)
        self.answer = answer


class StoreUnfit(UloraError):
    """The store ignores conditional writes or lists keys without order, so it can't be used."""

    exit_code = 6


class DiskFull(UloraError):
    """The local disk is full. No partly written file was left."""


class CheckFailed(UloraError):
    """A version, or what is deployed, did not pass a test.

    Attributes:
        lines: what was found, in detail.
    """

    def __init__(self, message: str, *, hint: str = "", lines: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.lines = lines


class LoadFailed(UloraError):
    """A version's files are correct, but can't be loaded here."""


class ReplicaClosed(UloraError):
    """A followed channel was used after it was closed, or in a forked process."""


class Overloaded(UloraError):
    """A replica can't answer the request within its deadline, or lacks the memory for it. It was not computed.

    Attributes:
        retry_after: whole seconds after which it may be answered, 1 or more.
    """

    def __init__(self, message: str, *, retry_after: int = 1, hint: str = "send it again later") -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class Expired(UloraError):
    """The deadline of a request passed before it was answered."""


_HEADER_VALUE = re.compile(r"(?i)((?:invalid|illegal) header value|in header value|header part)\b.*")
_LETTER = re.compile(r"('(?:ascii|latin-1)' codec can't encode character) '[^']*'")


def without_header_value(text: str) -> str:
    """What an HTTP library says of a header that it refuses, without the header's value, which may be a credential.

    A line ends where the value began. Of one that can't be encoded, as headers are, the letter is left out.
    """
    return _LETTER.sub(r"\1", _HEADER_VALUE.sub(r"\1 (not shown)", text))


def first_line(error: BaseException, limit: int = 400) -> str:
    """The first line of an error's message, cut to `limit` characters; the name of its type if it has no message.

    The value of a header that an HTTP library refused is left out.
    """
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # the code of a class of another package
        lines = []
    return without_header_value(lines[0]).rstrip()[:limit] if lines else type(error).__name__


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


def install_hint(extra: str) -> str:
    """How to install what `[extra]` of this package stands for."""
    return f"pip install 'ulora-registry[{extra}]' (in a clone of the repository, add -c constraints.txt)"


def no_folder(path: Path | str) -> str:
    """What to say of a path where a folder is needed and there is none."""
    return f"{path} is not a folder" if Path(path).exists() else f"no such folder: {path}"


@contextmanager
def disk_errors(
    path: Path | str, hint: str = "choose a writable folder; ULORA_CACHE is the cache folder"
) -> Iterator[None]:
    """Convert an OSError while `path` is written.

    Raises:
        DiskFull: no space is left.
        BadSetting: the path can't be written.
    """
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
