"""Find versions whose bytes are right, but that no release which knows better would load.

What a flavor refuses by its documents alone is said by the entry point group `ulora.checks`: the name is the flavor,
the object a `DocumentCheck`. It is cheap: no model is loaded, and each small document is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from typing import Protocol

from registry.errors import StoreDenied
from registry.plugins import CHECKS, installed, plugin
from registry.store.blobs import Blobs
from registry.versions.manifest import Manifest


class DocumentCheck(Protocol):
    """The type of an entry point: the documents that loading would refuse, path -> why. `read` gives a file's bytes."""

    def __call__(self, paths: Iterable[str], read: Callable[[str], bytes]) -> Mapping[str, str]: ...


class DocumentDenied(StoreDenied):
    """A document of a version may not be read; `path` is that in the version."""

    def __init__(self, path: str, error: StoreDenied) -> None:
        super().__init__(f"{path}: {error}", hint=error.hint)
        self.path = path


class LoadableChecks:
    """Looks at the documents of versions; a document that many versions share is read once."""

    def __init__(self, blobs: Blobs) -> None:
        self._read = cache(blobs.read)

    def refused(self, manifest: Manifest, without: Collection[str] = ()) -> dict[str, str]:
        """The documents of a version that loading would refuse: path -> why.

        Args:
            without: paths to leave out, because their blobs are known to be bad.

        Raises:
            MissingBlob, CorruptBlob: a document can't be read.
            DocumentDenied: the store refuses to give one.
            MissingDependency: what the flavor's check needs is not installed.
        """
        if manifest.flavor not in installed(CHECKS):
            return {}
        digests = {file.path: file.sha256 for file in manifest.files if file.path not in without}
        check: DocumentCheck = plugin(CHECKS, manifest.flavor)

        def read(path: str) -> bytes:
            try:
                return self._read(digests[path])
            except StoreDenied as error:
                raise DocumentDenied(path, error) from error

        return dict(check(digests, read))
