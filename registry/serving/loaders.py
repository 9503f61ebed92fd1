"""From a version's files to something that predicts, through the entry point group `ulora.loaders`.

The name of an entry point is a manifest's `flavor`, so another kind of model needs no change in this package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from registry.errors import LoadFailed, MissingDependency, UloraError, first_line
from registry.store.blobs import Blobs
from registry.versions.backbones import FetchBlob
from registry.versions.bindings import Bindings
from registry.versions.manifest import Manifest
from registry.versions.pointer import Pointer

GROUP = "ulora.loaders"
_OURS = {"dino-lora": "adapters"}
"""The flavors of this distribution, and the top-level package that holds their code."""
_DISTRIBUTION = "ulora-registry"
_EXTRA = "pip install 'ulora-registry[dino]'"
_NOT_SERVED = "project/"


class Prediction(Protocol):
    """What a version answers for one image."""

    @property
    def version(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    def to_dict(self) -> dict[str, Any]: ...


class Loaded(Protocol):
    """A version in memory. It never changes, and threads may share it."""

    @property
    def version(self) -> str: ...
    @property
    def content_sha256(self) -> str: ...
    @property
    def targets(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]: ...
    @property
    def runtime(self) -> str: ...
    def predict(self, images: Sequence[Any], targets: Sequence[str | None] | None = None) -> Sequence[Prediction]: ...
    def self_test(self) -> None: ...


class Loader(Protocol):
    """What an entry point names: builds a version from its verified files (manifest path -> file).

    `runtime` is what is to compute it, None for the flavor's own choice; `fetch` gives the weights of its backbone, if
    this machine lacks them and the store has them.
    """

    def __call__(
        self, manifest: Manifest, files: Mapping[str, Path], *, device: str, runtime: str | None, fetch: FetchBlob
    ) -> Loaded: ...


Check = Callable[[Manifest], None]
"""Raises unless a version may be used here, by what its verified manifest says."""
FindLoader = Callable[[str], Loader]
"""Gives the loader of a flavor; `find_loader` unless somebody has a reason."""


def no_mirror(sha256: str) -> None:
    """What gives no backbone: those of this machine are enough."""


def allow_all(manifest: Manifest) -> None:
    """What lets every version be used."""


@dataclass(frozen=True)
class LoadOptions:
    """How versions are loaded.

    Attributes:
        device, runtime, fetch: see `Loader`.
        check: is called with the verified manifest before any file is fetched, and raises what speaks against it.
        find: gives the loader of a flavor; the installed one by default.
    """

    device: str = "cpu"
    runtime: str | None = None
    fetch: FetchBlob = no_mirror
    check: Check = allow_all
    find: FindLoader | None = None


def load_version(versions: Bindings, blobs: Blobs, pointer: Pointer, options: LoadOptions | None = None) -> Loaded:
    """Bring a version into memory: its manifest, its files (all verified), its loader, its self-test.

    The team's source tree (`project/…`) stays in the store: no loader needs it to predict.

    Raises:
        MissingBlob, CorruptBlob, BadManifest, DiskFull, StoreUnreachable, StoreDenied: its files can't be had.
        NotTrusted: `check` says so.
        MissingDependency: what loads it is not installed.
        LoadFailed: its loader fails.
        SelfTestFailed: it does not answer as it did when it was made.
    """
    options = options or LoadOptions()
    manifest = versions.manifest(pointer)
    options.check(manifest)
    load = (options.find or find_loader)(manifest.flavor)
    wanted = [file for file in manifest.files if not file.path.startswith(_NOT_SERVED)]
    local = blobs.fetch(wanted)
    with _loader_errors(manifest):
        files = {file.path: local[file.sha256] for file in wanted}
        loaded = load(manifest, files, device=options.device, runtime=options.runtime, fetch=options.fetch)
        if loaded.version != manifest.version:
            raise LoadFailed(f"the loader of flavor {manifest.flavor} gave {loaded.version} for {manifest.version}")
        loaded.self_test()
    return loaded


def find_loader(flavor: str) -> Loader:
    """The loader of a flavor, imported now.

    Raises:
        MissingDependency: it is not installed, lacks a package, or another package shadows it.
        LoadFailed: several packages claim the flavor.
    """
    entry = _entry_point(flavor)
    if flavor in _OURS:
        _check_ours(flavor, _OURS[flavor])
    try:
        loader: Loader = entry.load()
    except ModuleNotFoundError as error:
        raise _missing(flavor, error) from error
    except (ImportError, AttributeError) as error:
        raise MissingDependency(f"the loader {entry.value} of flavor {flavor} can't be imported: {error}") from error
    return loader


def _entry_point(flavor: str) -> EntryPoint:
    found = {entry.value: entry for entry in entry_points(group=GROUP, name=flavor)}
    if not found:
        hint = _EXTRA if flavor in _OURS else f"install the package that offers the entry point {GROUP}: {flavor}"
        raise MissingDependency(f"nothing is installed that loads versions of flavor {flavor}", hint=hint)
    if len(found) > 1:
        raise LoadFailed(
            f"several packages load versions of flavor {flavor}: {', '.join(sorted(found))}", hint="uninstall one"
        )
    return found.popitem()[1]


def _check_ours(flavor: str, package: str) -> None:
    """Check that `import adapters` finds ours: PyPI has another package that is imported by this name."""
    try:
        module = import_module(package)
    except ImportError:
        module = None
    if getattr(module, "DISTRIBUTION", None) != _DISTRIBUTION:
        spec = find_spec(package) if module is None else module.__spec__
        raise MissingDependency(
            f"flavor {flavor} needs the package {package!r} of {_DISTRIBUTION}, but {_file_of(spec)} shadows it",
            hint=f"uninstall or rename the other {package!r}, or put {_DISTRIBUTION} before it on the path",
        )


def _file_of(spec: Any) -> str:
    places = list(getattr(spec, "submodule_search_locations", None) or [])
    return str(getattr(spec, "origin", None) or (places[0] if places else "nothing"))


@contextmanager
def _loader_errors(manifest: Manifest) -> Iterator[None]:
    """Turn whatever a loader raises into errors of ours."""
    try:
        yield
    except UloraError:
        raise
    except ModuleNotFoundError as error:
        raise _missing(manifest.flavor, error) from error
    except Exception as error:
        raise LoadFailed(
            f"{manifest.version} can't be loaded: {type(error).__name__}: {first_line(error)}",
            hint="its files are whole: look at its code and at what is installed here",
        ) from error


def _missing(flavor: str, error: ModuleNotFoundError) -> MissingDependency:
    return MissingDependency(
        f"flavor {flavor} needs {error.name}, which is not installed", hint=_EXTRA if flavor in _OURS else ""
    )
