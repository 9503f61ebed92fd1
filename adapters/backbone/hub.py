"""Files of a Hugging Face repository: from the cache on this machine, or downloaded into it."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

from registry.errors import DISK_FULL, BackboneNotFound, BadInput, DiskFull, first_line

OLD_NAMES = {
    "facebook/dinov3-base": "facebook/dinov3-vitb16-pretrain-lvd1689m",
    "facebook/dinov3-giant": "facebook/dinov3-vit7b16-pretrain-lvd1689m",
}
"""Names of repositories that older documents use but that do not exist, and the repositories to use instead."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
# A revision becomes a file name in the cache, so it must not lead out of the cache.
_TRUE = {"1", "true", "yes", "on"}


def modern_id(hub_id: str) -> str:
    """The current name of a repository; warns when an outdated name was given."""
    if hub_id not in OLD_NAMES:
        return hub_id
    warnings.warn(f"{hub_id} does not exist; {OLD_NAMES[hub_id]} is used instead", stacklevel=2)
    return OLD_NAMES[hub_id]


def check(hub_id: str, revision: str | None) -> None:
    """Check the syntax of a repository's name and of a revision.

    Raises:
        BadInput: when one is malformed.
    """
    if _ID.fullmatch(hub_id) is None:
        raise BadInput(
            f"{hub_id[:80]!r} is not the name of a repository on the hub", hint="for example facebook/dinov2-base"
        )
    if revision is not None and _REVISION.fullmatch(revision) is None:
        raise BadInput(f"{revision[:80]!r} is not a revision", hint="a revision is a commit, a branch or a tag")


def cached(hub_id: str, name: str, revision: str | None) -> Path | None:
    """A file of a repository in the cache, None if it is not there. Makes no request.

    Raises:
        BadInput: when the repository's name or the revision is malformed.
    """
    check(hub_id, revision)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def download(hub_id: str, name: str, revision: str | None) -> Path:
    """Download a file of a repository into the cache, unless its newest revision is there already.

    Raises:
        BackboneNotFound: when the repository is gated or missing, or lacks the revision or the file, or the hub does
            not answer, or `HF_HUB_OFFLINE` is set. The message says which, and how to add the backbone to the store.
        BadInput: when the repository's name or the revision is malformed.
        DiskFull: when the disk of the cache is full.
    """
    check(hub_id, revision)
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    if _is_offline():
        raise _refused(hub_id, revision, "HF_HUB_OFFLINE is set, so the hub is not asked")
    try:
        # The metadata is requested first: the download retries for half a minute and then hides the reason.
        commit = get_hf_file_metadata(hf_hub_url(hub_id, name, revision=revision)).commit_hash
        return Path(hf_hub_download(hub_id, name, revision=commit or revision))
    except Exception as error:  # also errors of its HTTP client, which differs between releases of huggingface_hub
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise DiskFull(
                f"no space left while downloading {hub_id}", hint="free some disk space, or set HF_HOME to another disk"
            ) from error
        raise _refused(hub_id, revision, _reason(error, name, revision), is_gated=_is_gated(error)) from error


def _reason(error: Exception, name: str, revision: str | None) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "it is gated, and this machine's user has no access"
    if _status(error) == 403:
        return "the hub answers 403: it is gated and access is not granted yet, or a proxy refuses the request"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no such repository, or it is private and this machine's user has no access"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the repository has no revision {revision}"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"the repository has no {name}"
    if isinstance(error, errors.HfHubHTTPError):
        return f"the hub answers {_status(error)}"
    return f"the hub does not answer: {first_line(error, 200)}"


def _is_gated(error: Exception) -> bool:
    """Whether access is missing. The hub answers a plain 403 while a request for access is waiting for approval."""
    from huggingface_hub import errors

    return isinstance(error, errors.GatedRepoError) or _status(error) == 403


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _refused(hub_id: str, revision: str | None, reason: str, *, is_gated: bool = False) -> BackboneNotFound:
    at = f" --revision {revision}" if revision else ""
    first = "accept the licence on the model's page and run `hf auth login`, then " if is_gated else ""
    return BackboneNotFound(
        f"{hub_id} is not available: {reason}",
        hint=f"{first}run `ulora backbone add {hub_id}{at}` once where the hub can be reached; or copy config.json and "
        "model.safetensors by hand and run `ulora backbone add DIR`",
    )


def _is_offline() -> bool:
    from huggingface_hub import constants

    # huggingface_hub reads the variable only when it is imported.
    return bool(constants.HF_HUB_OFFLINE) or os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE
