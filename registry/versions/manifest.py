"""The manifest, `version.json`: what a version is, file by file.

A manifest is immutable and guarantees:

* its paths stay below the folder that they are restored into (`check_path`) and are unique after casefold;
* `content_sha256` is the digest of {model, flavor, backbone, components, files} and of nothing else: versions with
  equal content have equal digests, independent of who created them and when;
* unknown fields are kept, so that a manifest of a newer release is stored unchanged.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from registry.errors import BadManifest
from registry.formats import canonical
from registry.formats.document import Document, DocumentPart, Sha256
from registry.formats.document import first_problem as first_problem  # noqa: PLC0414  adapters/ may import this module only
from registry.names import VersionName, check_model

CONTENT = ("model", "flavor", "backbone", "components", "files")
"""The fields that `content_sha256` covers."""
MAX_FILES = 100_000
MAX_FILE = 64 * 1024**3
"""Bytes of the largest file of a new version. A sparse file may say any size, and hashing reads all of it."""
MAX_PATH = 1024
MAX_PART = 255
RENAMED = "renamed"
_SAFE = re.compile(r"[\w ()+,.=@-]+(/[\w ()+,.=@-]+)*")
"""Letters of any script, digits and a few signs, which every artifact store takes as they are."""
_UNSAFE_SIGNS = re.compile(r"[^\w.=-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NOT_ON_WINDOWS = re.compile(r'[<>:"|?*]')
_DEVICE = re.compile(r"(CON|PRN|AUX|NUL|CLOCK\$|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³]) *(\..*)?", re.IGNORECASE)


def check_path(path: str) -> str:
    """Return a manifest path unchanged if it stays below the folder that it is written into, on any system.

    Raises:
        ValueError: it is not NFC, not relative, or has `..`, `.git`, a backslash, a control character or an empty part.
    """
    parts = path.split("/")
    problem = (
        "is empty or too long" if not 0 < len(path.encode("utf-8", "surrogatepass")) <= MAX_PATH
        else "is not valid Unicode" if not canonical.is_text(path)
        else "is not NFC-normalised" if unicodedata.normalize("NFC", path) != path
        else "has a backslash or a control character" if "\\" in path or _CONTROL.search(path)
        else "is not relative" if path.startswith("/") or re.match(r"[A-Za-z]:", path)
        else "has an empty, '.' or '..' part" if any(part in ("", ".", "..") for part in parts)
        else "has a part that ends in a dot or a space" if any(part[-1] in ". " for part in parts)
        else "has an invisible character" if any(unicodedata.category(letter) == "Cf" for letter in path)
        else "goes into .git" if any(re.fullmatch(r"\.git|git~\d+", part.casefold()) for part in parts)
        else ""
    )  # fmt: skip
    if problem:
        raise ValueError(f"path {path[:120]!r} {problem}")
    return path


def check_new_path(path: str) -> str:
    """Return the path of a file of a new version unchanged if every system can hold it: Linux, macOS and Windows.

    Only new versions are held to this. Those of earlier releases may have such names, and are read as ever.

    Raises:
        ValueError: see `check_path`; or a part is longer than 255 bytes, has a character or is a name that Windows does
            not allow (https://learn.microsoft.com/windows/win32/fileio/naming-a-file).
    """
    parts = check_path(path).split("/")
    problem = (
        "has one of the characters < > : \" | ? *" if _NOT_ON_WINDOWS.search(path)
        else "has a part that is a device on Windows" if any(_DEVICE.fullmatch(part) for part in parts)
        else f"has a part of more than {MAX_PART} bytes" if any(len(part.encode()) > MAX_PART for part in parts)
        else ""
    )  # fmt: skip
    if problem:
        raise ValueError(f"path {path[:120]!r} {problem}: not every system can hold it")
    return path


def check_new_size(path: str, size: int) -> None:
    """Check that a file of a new version is not too large to be hashed and stored.

    Only new versions are held to this.

    Raises:
        ValueError: it has more than MAX_FILE bytes.
    """
    if size > MAX_FILE:
        raise ValueError(f"{path[:120]!r} has {size} bytes, more than the {MAX_FILE} that a file may have")


class FileEntry(DocumentPart):
    """One file of a version. `size` is in bytes."""

    path: Annotated[str, AfterValidator(check_path)]
    size: int = Field(ge=0, le=5 * 1024**4)
    mode: Literal["0644", "0755"] = "0644"
    sha256: Sha256

    @property
    def artifact_path(self) -> str:
        """Where the file is among a model's artifacts in MLflow, which refuses some paths and decodes others: then
        below `renamed/`, by its digest and the part of its name that is safe. This is a format."""
        if _SAFE.fullmatch(self.path) and not self.path.startswith(f"{RENAMED}/"):
            return self.path
        readable = _UNSAFE_SIGNS.sub("_", self.path.rpartition("/")[2])[-80:]
        return f"{RENAMED}/{self.sha256[:16]}-{readable}"


class BackboneRef(DocumentPart):
    """The frozen backbone that a version runs on. Versions name it by digest and never contain its weights.

    Attributes:
        family: `dinov2` or `dinov3`; a row of `adapters.backbone.families`.
        sha256: digest of the weights file (`model.safetensors`).
        name: for people, e.g. `dinov2-base` or `tiny-dinov3`.
        hub_id: the Hugging Face repository, e.g. `facebook/dinov2-base`; None for a local folder.
        revision: commit of that repository.
        config: the transformers configuration that was saved with the weights.
    """

    family: str = Field(pattern=r"^[a-z0-9_]{1,40}$")
    sha256: Sha256
    name: str = Field(min_length=1, max_length=200)
    hub_id: str | None = Field(default=None, max_length=200)
    revision: str | None = Field(default=None, max_length=100)
    config: dict[str, Any] = Field(default_factory=dict)


class Component(DocumentPart):
    """A part of a version with requirements of its own: `adapters/<target>`, `router`, `config`, `project`, `backbone`.

    Attributes:
        weights_sha256: digest of its tensors (`registry.versions.weights`), None if it has none.
        requires: digests that the version must offer, e.g. `backbone`, `labels`, `preprocessing`.
    """

    weights_sha256: Sha256 | None = None
    requires: dict[str, str] = Field(default_factory=dict)


class Parent(DocumentPart):
    """The version that a version was made from."""

    version: str
    content_sha256: Sha256


class Manifest(Document):
    """What a version is. The module's docstring lists what a manifest guarantees."""

    format: Literal[1]
    model: Annotated[str, AfterValidator(check_model)]
    version: str
    flavor: str = Field(pattern=r"^[a-z0-9-]{1,40}$")
    content_sha256: Sha256
    backbone: BackboneRef | None
    components: dict[str, Component]
    files: tuple[FileEntry, ...] = Field(max_length=MAX_FILES)

    timestamp: str = Field(max_length=40)
    source: str = Field(default="", max_length=4096)
    description: str = Field(default="", max_length=65536)
    changes: dict[str, Any] = Field(default_factory=dict)
    parent: Parent | None = None
    files_added: tuple[str, ...] = ()
    files_modified: tuple[str, ...] = ()
    files_removed: tuple[str, ...] = ()
    breaking_changes: tuple[str, ...] = ()
    backward_compatibility: str = Field(default="", max_length=65536)
    testing_instructions: str = Field(default="", max_length=65536)
    provenance: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def make(cls, **fields: Any) -> Self:
        """A new manifest from its fields, without `format` and `content_sha256`.

        Raises:
            BadManifest: a field exceeds its limits, or has a value that JSON can't represent.
        """
        document = {"format": cls.FORMAT, **fields}
        try:
            plain = {name: _plain(value) for name, value in document.items()}
            data = canonical.encode({**plain, "content_sha256": content_sha256(plain)})
        except (ValueError, TypeError, RecursionError) as error:
            raise BadManifest(f"the new manifest has a value that JSON can't represent: {error}") from error
        return cls.parse(data, "the new manifest")

    @classmethod
    def parse(cls, data: bytes, what: str = "version.json") -> Self:
        """Read a manifest's bytes.

        Raises:
            BadManifest: it does not follow the format, or its `content_sha256` is not that of its content.
        """
        manifest = super().parse(data, what)
        actual = content_sha256(canonical.decode(data, what))
        if actual != manifest.content_sha256:
            raise BadManifest(f"{what} says content_sha256 {manifest.content_sha256}, but its content has {actual}")
        return manifest

    @property
    def name(self) -> VersionName:
        """The version's name, parsed."""
        return VersionName.parse(self.version)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def is_composed(self) -> bool:
        """Whether it was composed of other versions; then no evidence was measured on exactly this version."""
        return "composed" in self.provenance

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        VersionName.parse(self.version)
        paths = [file.path for file in self.files]
        if paths != sorted(paths):
            raise ValueError("files are not sorted by path")
        check_unique(paths)
        return self


def check_unique(paths: list[str]) -> None:
    """Check that no path is a parent folder of another, or equal to it on a file system that ignores case.

    Raises:
        ValueError: two paths collide.
    """
    seen: dict[str, str] = {}
    for path in paths:
        folded = unicodedata.normalize("NFC", path.casefold())
        if folded in seen:
            raise ValueError(f"paths {seen[folded]!r} and {path!r} are the same on a file system that ignores case")
        seen[folded] = path
    for folded, path in seen.items():
        parts = folded.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            if folder in seen:
                raise ValueError(f"path {seen[folder]!r} is a file and also the folder of {path!r}")


def content_sha256(document: Mapping[str, Any]) -> str:
    """The digest of a version's content, without timestamps and provenance, from its manifest as plain JSON."""
    return canonical.digest({name: document[name] for name in CONTENT})


def _plain(value: Any) -> Any:
    """A field's value as plain JSON."""
    if isinstance(value, DocumentPart):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
