"""`ulora init`: write `ulora.toml` and a policy, look whether the store and MLflow answer, and say what to run next."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from registry.errors import (
    BadInput,
    BadSetting,
    BucketNotFound,
    MissingDependency,
    ObjectNotFound,
    UloraError,
    disk_errors,
    no_folder,
)
from registry.formats.addresses import without_password
from registry.names import check_model
from registry.settings import SOURCES, Settings, default_cache, file_path
from registry.store.objects import ObjectStore
from registry.wiring import Wiring

POLICIES = ("default", "aads", "none")
"""Names of the policies that ship; `none`: no file, so that the default one holds, also after an upgrade."""
_POLICY = Path("policy.yaml")
_WRITTEN = ("model", "store", "endpoint_url", "tracking_uri", "policy")
_HEAD = "# Settings of ulora: docs/settings.md. Credentials are not here: they are AWS's and MLflow's own variables.\n"


@dataclass(frozen=True)
class InitOptions:
    """What a person chose.

    Attributes:
        model: the MLflow registered model.
        store: `s3://BUCKET/PREFIX`.
        tracking_uri: the MLflow server, None for none.
        endpoint_url: the S3 server, None for AWS's own choice.
        policy: one of `POLICIES`.
        force: replace files that exist; the old ones are kept as `NAME~`.
    """

    model: str
    store: str
    tracking_uri: str | None = None
    endpoint_url: str | None = None
    policy: str = "default"
    force: bool = False


@dataclass(frozen=True)
class InitFiles:
    """Files that are ready to be written, and the settings that they make. Nothing was written yet."""

    options: InitOptions
    files: dict[Path, bytes]
    settings: Settings = field(repr=False)

    @property
    def hidden(self) -> tuple[str, ...]:
        """Variables that are set to something else than the file says, and count before it."""
        said = self.settings
        return tuple(
            SOURCES[name].variable
            for name in _WRITTEN
            if (value := os.environ.get(SOURCES[name].variable)) and value != str(getattr(said, name) or "")
        )


@dataclass(frozen=True)
class InitLook:
    """What answers.

    Attributes:
        store, mlflow: what was found there, in words.
        next: the commands to run next, at most three.
        problems: why something does not answer; the first one decides about the exit status.
    """

    store: str
    mlflow: str
    next: tuple[str, ...]
    problems: tuple[UloraError, ...] = ()


def prepare(options: InitOptions) -> InitFiles:
    """Check what was chosen, and make the files of it. No server is asked.

    Raises:
        BadInput, BadSetting: a name or an address is invalid, or a file exists and `force` is not given.
    """
    from registry.evidence.policy import policy_that_ships

    check_store(options.store, options.endpoint_url)
    if options.tracking_uri:
        check_mlflow(options.tracking_uri)
    policy = None if options.policy == "none" else file_path().with_name(_POLICY.name)
    settings = Settings(
        model=check_model(options.model),
        store=options.store,
        endpoint_url=options.endpoint_url,
        tracking_uri=options.tracking_uri,
        policy=policy,
        cache=default_cache(),
    )
    files = {policy: policy_that_ships(options.policy)} if policy else {}
    files[file_path()] = _text(settings).encode()
    _check_free(files, replace=options.force)
    return InitFiles(options, files, settings)


def check_store(url: str, endpoint_url: str | None = None) -> None:
    """Check the address of a store, and that of its S3 server. No server is asked.

    Raises:
        BadSetting: one is invalid, or has a password.
    """
    if endpoint_url:
        _check_without_password(endpoint_url)
    ObjectStore(url, endpoint_url=endpoint_url)


def check_mlflow(uri: str) -> None:
    """Check the address of an MLflow server, which is not asked.

    Raises:
        BadSetting: it is invalid, or has a password.
    """
    from registry.catalog.tracking_uri import check_tracking_uri

    check_tracking_uri(uri)
    _check_without_password(uri)


def _check_without_password(address: str) -> None:
    if without_password(address) != address:
        raise BadSetting(
            f"{without_password(address)} was given with a password, which is not written into a file",
            hint="leave it out: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or AWS's own variables",
        )


def write(prepared: InitFiles) -> None:
    """Write the files, each whole or not at all, `ulora.toml` last.

    Raises:
        BadInput: another process has made one meanwhile.
        BadSetting, DiskFull: one can't be written.
    """
    for path, data in prepared.files.items():
        with disk_errors(path, hint="run it in a folder that you may write to"):
            _write(path, data, replace=prepared.options.force)


def look(wiring: Wiring) -> InitLook:
    """Ask the store and MLflow, which changes neither. What does not answer is one of `problems`."""
    problems: list[UloraError] = []
    try:
        store, commands = _look_at_store(wiring)
    except UloraError as error:
        problems.append(error)
        store, commands = "does not answer as it should", ("ulora doctor",)
    try:
        mlflow = _look_at_mlflow(wiring)
    except UloraError as error:
        problems.append(error)
        mlflow = "does not answer as it should"
    return InitLook(store, mlflow, commands, tuple(problems))


def _look_at_store(wiring: Wiring) -> tuple[str, tuple[str, ...]]:
    """What is there, and what to run next."""
    release = 'ulora create v1.0.0 --from bundle/ --description "the first release"'
    try:
        wiring.store.check_target()
    except BucketNotFound:
        return "its bucket does not exist", ("ulora store init --create-bucket", "ulora doctor", release)
    except ObjectNotFound:
        return "answers; this prefix is not a store yet", ("ulora store init", "ulora doctor", release)
    names = wiring.bindings.names()
    if names:
        return f"a store with {len(names)} of this model's versions", ("ulora status", "ulora list", "ulora doctor")
    return "a store, without versions of this model", (
        "ulora doctor",
        "ulora backbone add facebook/dinov2-base",
        release,
    )


def _look_at_mlflow(wiring: Wiring) -> str:
    if wiring.settings.tracking_uri is None:
        return "none is set: commands that log there need --offline"
    try:
        wiring.catalog.ping()
    except MissingDependency as error:
        return f"not asked: {error}"
    return "answers"


def _text(settings: Settings) -> str:
    """The content of `ulora.toml`. Texts of JSON are texts of TOML."""
    values = ((name, getattr(settings, name)) for name in _WRITTEN)
    return _HEAD + "".join(f"{name} = {json.dumps(str(value))}\n" for name, value in values if value)


def _check_free(files: dict[Path, bytes], *, replace: bool) -> None:
    """Check that nothing would be overwritten. A file that has the same content already is none that is in the way."""
    for path, data in files.items():
        if not path.parent.is_dir():
            raise BadSetting(no_folder(path.parent), hint="make it first")
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise BadInput(f"{path} is not a file of its own", hint="move it away")
        with disk_errors(path):
            if not replace and path.exists() and not _is(path, data):
                raise _exists(path)


def _write(path: Path, data: bytes, *, replace: bool) -> None:
    if path.is_file() and _is(path, data):
        return
    with _part(path, data) as part:
        if replace:
            if path.exists():
                shutil.copy2(path, path.with_name(f"{path.name}~"))
            part.replace(path)
            return
        try:
            path.hardlink_to(part)  # unlike a rename it does not overwrite what another process made meanwhile
        except FileExistsError as error:
            raise _exists(path) from error


@contextmanager
def _part(path: Path, data: bytes) -> Iterator[Path]:
    """A new file beside `path` with these bytes, which is removed at the end if it is still there."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        yield part
    finally:
        part.unlink(missing_ok=True)


def _exists(path: Path) -> BadInput:
    return BadInput(f"{path} exists", hint=f"--force replaces it and keeps it as {path.name}~")


def _is(path: Path, data: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(data) + 1) == data
