"""Rollback scripts: one file that takes a channel back to a version with nothing at hand but Python and boto3.

A script is `rollback_script.py`, which reads, is checked and runs as any module of this package, with its data filled
in: where the store is and which files the version has. No credentials are in it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
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
"""Of the source: by these a script is known again."""
_PURPOSE = ("'model': ", "'channel': ", "'bucket': ", "'prefix': ", "'endpoint': ")
"""How the lines begin that say which channel of which store a script moves."""
_BEGINNING = 64 * 1024
"""Bytes of a script that hold all of these."""
_ELSEWHERE = "give another place: --out PATH"


@dataclass(frozen=True)
class StorePlace:
    """Where a store is. `encryption` is what each PUT says besides, in boto3's words.

    Where no `endpoint` is given, a script holds the one that boto3 would take from the environment now: the machine
    that the script runs on may have none.
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
        version: what the channel serves after it ran.
        manifest_sha256, content_sha256: the version's.
        text: of the file.
    """

    model: str
    version: str
    channel: str
    manifest_sha256: str
    content_sha256: str
    text: str = field(repr=False)

    @property
    def name(self) -> str:
        """What the file is called."""
        return f"rollback_to_{self.version}.py"

    @property
    def body(self) -> bytes:
        """The file's bytes."""
        return self.text.encode()

    @property
    def sha256(self) -> str:
        """The digest of the file's bytes."""
        return canonical.sha256(self.body)

    def check_place(self, path: Path) -> None:
        """Check that nothing is lost by writing the file there.

        Raises:
            BadInput: something else is there than an older rollback script for the same channel.
            BadSetting: it can't be read.
        """
        with disk_errors(path, hint=_ELSEWHERE):
            if not (path.exists() or path.is_symlink()):
                return
            theirs = [] if path.is_symlink() else _beginning(path)
            ours = self.text.splitlines()
            if theirs[:_FIRST_LINES] != ours[:_FIRST_LINES]:
                raise BadInput(f"{path} is there, and is no rollback script", hint=_ELSEWHERE)
            if _purpose(theirs) != _purpose(ours):
                raise BadInput(
                    f"{path} is there, and is a rollback script for another channel, model or store", hint=_ELSEWHERE
                )

    def write(self, path: Path) -> Path:
        """Write the file, executable; an older rollback script for the same channel there is replaced as a whole.

        Raises:
            BadInput, BadSetting: as `check_place`; or it can't be written.
            DiskFull: no space is left.
        """
        self.check_place(path)
        beside = path.with_name(f".{path.name}.part")
        with disk_errors(path, hint=_ELSEWHERE):
            try:
                beside.write_bytes(self.body)
                beside.chmod(0o755)
                beside.replace(path)
            finally:
                beside.unlink(missing_ok=True)
        return path


def rollback_script(manifest: Manifest, channel: str, place: StorePlace) -> Script:
    """The script that takes a channel back to a version. It is made now: no two are the same bytes."""
    made = clock.timestamp("seconds")
    version = {
        "model": manifest.model, "channel": channel, "version": manifest.version, "flavor": manifest.flavor,
        "manifest_sha256": manifest.sha256, "manifest_size": len(manifest.to_bytes()), "made": made,
    }  # fmt: skip
    bucket, _, prefix = place.url.removeprefix("s3://").rstrip("/").partition("/")
    store = {
        "bucket": bucket, "prefix": prefix, "endpoint": place.known_endpoint,
        "encryption": dict(place.encryption),
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
