"""Write rollback scripts: one file that rolls a channel back to a version and needs only Python and boto3.

A script is the module `rollback_script.py` with its data filled in: the store's location and the version's files. It
contains no credentials.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from registry.errors import BadInput, disk_errors
from registry.formats import canonical
from registry.machine import clock
from registry.versions.manifest import Manifest

_SOURCE = Path(__file__).with_name("rollback_script.py")
_BEGIN = "# --- what this file is for: written by `ulora` ---\n"
_END = "# --- end of what was written by `ulora` ---\n"
_FIRST_LINES = 2
"""The lines by which a rollback script is recognized; so they must not change in `rollback_script.py`."""
_PURPOSE = ("'model': ", "'channel': ", "'bucket': ", "'prefix': ", "'endpoint': ")
"""The beginnings of the lines that name the channel and the store of a script."""
_BEGINNING = 64 * 1024
"""The number of bytes at the start of a script that contain all of these lines."""
_ELSEWHERE = "choose another path: --out PATH"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class StoreLocation:
    """Where a store is. `encryption` are additional arguments of each PUT, as boto3 names them.

    If no `endpoint` is given, a script gets the one that boto3 would use in this environment, because the environment
    in which the script runs may have none.
    """

    url: str
    endpoint: str | None = None
    encryption: Mapping[str, str] = field(default_factory=dict)

    @property
    def known_endpoint(self) -> str | None:
        """The server's address, without a password; None for AWS."""
        found = self.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if not found:
            return None
        parts = urlsplit(found)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


@dataclass(frozen=True)
class Script:
    """A rollback script.

    Attributes:
        version: the version that the channel serves afterwards.
        manifest_sha256, content_sha256: those of the version.
        text: the text of the file.
    """

    model: str
    version: str
    channel: str
    manifest_sha256: str
    content_sha256: str
    text: str = field(repr=False)

    @property
    def name(self) -> str:
        """The name of the file."""
        return f"rollback_to_{self.version}.py"

    @property
    def body(self) -> bytes:
        """The file's bytes."""
        return self.text.encode()

    @property
    def sha256(self) -> str:
        """The sha256 of the file's bytes."""
        return canonical.sha256(self.body)

    def check_path(self, path: Path) -> None:
        """Check that writing the file there overwrites nothing but an older rollback script for the same channel.

        Raises:
            BadInput: the path exists and is not such a script.
            BadSetting: it can't be read.
        """
        with disk_errors(path, hint=_ELSEWHERE):
            if not (path.exists() or path.is_symlink()):
                return
            existing = [] if path.is_symlink() else _beginning(path)
            own = self.text.splitlines()
            if existing[:_FIRST_LINES] != own[:_FIRST_LINES]:
                raise BadInput(f"{path} exists and is not a rollback script", hint=_ELSEWHERE)
            if _purpose(existing) != _purpose(own):
                raise BadInput(
                    f"{path} exists and is a rollback script for another channel, model or store", hint=_ELSEWHERE
                )

    def write(self, path: Path) -> Path:
        """Write the file and make it executable; an older rollback script for the same channel is replaced atomically.

        The errors are those of `being_written`.
        """
        with self.being_written(path):
            return path

    @contextmanager
    def being_written(self, path: Path) -> Iterator[None]:
        """Write the file beside its path; at the end of the block it gets its name, after an error it is removed.

        Others may write to its folder too, so it is made under a name that nobody can guess.

        Raises:
            BadInput: the path exists and is not such a script.
            BadSetting: it can't be read or written.
            DiskFull: no space is left.
        """
        self.check_path(path)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        try:
            with disk_errors(path, hint=_ELSEWHERE), os.fdopen(os.open(temporary, _NEW, 0o600), "wb") as out:
                out.write(self.body)
                os.fchmod(out.fileno(), 0o755)
            yield
            with disk_errors(path, hint=_ELSEWHERE):
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def rollback_script(manifest: Manifest, channel: str, location: StoreLocation) -> Script:
    """The script that rolls a channel back to a version. It contains the current time, so its bytes are unique."""
    made = clock.timestamp("seconds")
    version = {
        "model": manifest.model, "channel": channel, "version": manifest.version, "flavor": manifest.flavor,
        "manifest_sha256": manifest.sha256, "manifest_size": len(manifest.to_bytes()), "made": made,
    }  # fmt: skip
    bucket, _, prefix = location.url.removeprefix("s3://").rstrip("/").partition("/")
    store = {
        "bucket": bucket, "prefix": prefix, "endpoint": location.known_endpoint,
        "encryption": dict(location.encryption),
    }  # fmt: skip
    files = [(file.path, file.size, file.mode, file.sha256) for file in manifest.files]
    data = (
        _assignment("VERSION: dict[str, Any]", "{", [f"{name!r}: {value!r}" for name, value in version.items()], "}")
        + _assignment("STORE: dict[str, Any]", "{", [f"{name!r}: {value!r}" for name, value in store.items()], "}")
        + _assignment("FILES: list[tuple[str, int, str, str]]", "[", [repr(file) for file in files], "]")
    )
    before, _, rest = _SOURCE.read_text("utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    text = before.replace("VERSION.py", f"{manifest.version}.py") + _BEGIN + data + _END + after
    return Script(manifest.model, manifest.version, channel, manifest.sha256, manifest.content_sha256, text)


def _assignment(name: str, opening: str, items: list[str], closing: str) -> str:
    lines = "".join(f"    {item},\n" for item in items)
    return f"{name} = {opening}\n{lines}{closing}\n" if items else f"{name} = {opening}{closing}\n"


def _beginning(path: Path) -> list[str]:
    with path.open("rb") as file:
        return file.read(_BEGINNING).decode("utf-8", "replace").splitlines()


def _purpose(lines: list[str]) -> list[str]:
    return [line for line in lines if line.lstrip().startswith(_PURPOSE)]
