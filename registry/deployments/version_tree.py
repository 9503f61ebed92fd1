"""A version as a tree of files and folders, as it lies in a restored folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote

from registry.errors import NotFound
from registry.tree.version_folder import whole_version
from registry.versions.manifest import FileEntry, Manifest


@dataclass(frozen=True)
class VersionTree:
    """The files of a version, with its manifest.

    Attributes:
        files: by path.
        written: the bytes of those that are no blobs, by path.
        folders: by path the paths of what is right below; the whole tree is the empty path.
    """

    version: str
    files: Mapping[str, FileEntry]
    written: Mapping[str, bytes]
    folders: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Raises: UnsafePath: see `whole_version`."""
        content = whole_version(manifest)
        files = {file.path: file for file in content.files}
        below: dict[str, dict[str, None]] = {"": {}}
        for path in files:
            here = path
            while here:
                folder = here.rpartition("/")[0]
                below.setdefault(folder, {})[here] = None
                here = folder
        return cls(
            manifest.version, files, content.written, {path: tuple(sorted(found)) for path, found in below.items()}
        )

    def find(self, path: str) -> str:
        """The path of a file or folder as this tree has it: as it was given, else decoded as in an address.

        Nothing but the paths of the manifest can be found, so none leads out of the tree.

        Raises:
            NotFound: there is none.
        """
        for each in (path, unquote(path)):
            if each in self.files or each in self.folders:
                return each
        top = ", ".join(self.folders[""][:12])
        raise NotFound(f"{self.version} has no file or folder {path[:200]!r}", hint=f"it has: {top}")
