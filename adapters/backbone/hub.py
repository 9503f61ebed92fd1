"""Files of a Hugging Face repository: from this machine's cache, or downloaded into it; and why one can't be had."""

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
"""Names in older documents of repositories that never were, and what is meant by them."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
# A revision becomes a file's name in the cache, so one from a manifest must not lead out of it.
_TRUE = {"1", "true", "yes", "on"}


def modern_id(hub_id: str) -> str:
    """What a repository is called today; warns when an older document's name was given."""
    if hub_id not in OLD_NAMES:
        return hub_id
    warnings.warn(f"{hub_id} does not exist; {OLD_NAMES[hub_id]} is meant and used", stacklevel=2)
    return OLD_NAMES[hub_id]


def check(hub_id: str, revision: str | None) -> None:
    """Check that a repository and a revision are spelled as such.

    Raises:
        BadInput: one is not.
    """
    if _ID.fullmatch(hub_id) is None:
        raise BadInput(
            f"{hub_id[:80]!r} is not the name of a repository on the hub", hint="for example facebook/dinov2-base"
        )
    if revision is not None and _REVISION.fullmatch(revision) is None:
        raise BadInput(f"{revision[:80]!r} is not a revision", hint="a revision is a commit, a branch or a tag")


def cached(hub_id: str, name: str, revision: str | None) -> Path | None:
    """A file of a repository in the cache, None if it is not there; asks nobody.

    Raises:
        BadInput: as `check`.
    """
    check(hub_id, revision)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def download(hub_id: str, name: str, revision: str | None) -> Path:
    """A file of a repository, downloaded into the cache unless its newest state is there already.

    Raises:
        BackboneNotFound: the repository is gated or missing, or lacks the revision or the file, or the hub does not
            answer, or `HF_HUB_OFFLINE` forbids to ask it. Says which, and how to put the backbone into the store.
        BadInput: as `check`.
        DiskFull: the cache's disk is.
    """
    check(hub_id, revision)
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    if _is_offline():
        raise _refused(hub_id, revision, "HF_HUB_OFFLINE forbids to ask the hub for it")
    try:
        # Asked by itself first, as the library tries a hub that fails for half a minute and then hides why.
        commit = get_hf_file_metadata(hf_hub_url(hub_id, name, revision=revision)).commit_hash
        return Path(hf_hub_download(hub_id, name, revision=commit or revision))
    except Exception as error:  # the errors of its HTTP client, which differs between its releases, come through too
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise DiskFull(
                f"no space left while downloading {hub_id}", hint="free some disk space, or set HF_HOME to another disk"
            ) from error
        raise _refused(hub_id, revision, _reason(error, name, revision), is_gated=_is_gated(error)) from error


def _reason(error: Exception, name: str, revision: str | None) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "it is gated, and the hub has not given this machine's user access"
    if _status(error) == 403:
        return "the hub answers 403: it is gated and access is not given yet, or a proxy in between refuses it"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no such repository, or it is private and this machine's user may not see it"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the repository has no revision {revision}"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"the repository has no {name}"
    if isinstance(error, errors.HfHubHTTPError):
        return f"the hub answers {_status(error)}"
    return f"the hub does not answer: {first_line(error, 200)}"


def _is_gated(error: Exception) -> bool:
    """Also when the hub says no more than 403, as it does where a licence still waits for its owner's consent."""
    from huggingface_hub import errors

    return isinstance(error, errors.GatedRepoError) or _status(error) == 403


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _refused(hub_id: str, revision: str | None, reason: str, *, is_gated: bool = False) -> BackboneNotFound:
    at = f" --revision {revision}" if revision else ""
    first = "accept the licence on the model's page and run `hf auth login`, then " if is_gated else ""
    return BackboneNotFound(
        f"{hub_id} can't be had: {reason}",
        hint=f"{first}run `ulora backbone add {hub_id}{at}` once where the hub can be reached; or copy config.json and "
        "model.safetensors by hand and run `ulora backbone add DIR`",
    )


def _is_offline() -> bool:
    from huggingface_hub import constants

    # The hub's library reads the variable once, at its import, which may be long ago.
    return bool(constants.HF_HUB_OFFLINE) or os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE
