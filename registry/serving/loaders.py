"""Load a version from its files, by the loader that the entry point group `ulora.loaders` has for its flavor.

The name of an entry point is a manifest's `flavor`, so another kind of model needs no change in this package.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, overload, runtime_checkable

from registry import plugins
from registry.errors import BadInput, LoadFailed, UloraError, first_line
from registry.serving.random_image import random_png
from registry.serving.steps import Steps
from registry.store.blobs import Blobs
from registry.store.cache import FetchWatch
from registry.versions.backbones import FetchBlob
from registry.versions.bindings import Bindings
from registry.versions.manifest import Manifest
from registry.versions.pointer import Pointer

_NOT_SERVED = "project/"
_SIDE = 16
"""Pixels of the image that a version is tried with: few, so that no limit of pixels keeps it from being computed."""

Images: TypeAlias = list[Any] | tuple[Any, ...]
"""Several images."""
Targets: TypeAlias = "str | Sequence[str | None] | None"
"""The target of all images, or a list with the target of each; None where the version chooses."""


class Prediction(Protocol):
    """What a version answers for one image. `adapters.answer.predictions.Prediction` says what each field is."""

    @property
    def version(self) -> str: ...
    @property
    def target(self) -> str | None: ...
    @property
    def label(self) -> str | None: ...
    @property
    def confidence(self) -> float: ...
    @property
    def ood_score(self) -> float | None: ...
    @property
    def is_ood(self) -> bool: ...
    @property
    def outcome(self) -> str: ...
    @property
    def target_confidence(self) -> float: ...
    @property
    def probabilities(self) -> Mapping[str, float]: ...
    @property
    def detail(self) -> str: ...
    @property
    def blocks_used(self) -> int: ...
    def to_dict(self) -> dict[str, Any]: ...


class Loaded(Protocol):
    """A version in memory. It is immutable, and threads may share it."""

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
    @overload
    def predict(self, images: Images, *, target: Targets = None) -> Sequence[Prediction]: ...
    @overload
    def predict(self, images: Any, *, target: str | None = None) -> Prediction:
        """Answer one image, or each of a list or tuple of images, in order.

        `target` is the crop (and part) if it is known, else the version chooses; of a list of images it may be a list
        with one for each.

        Raises:
            TypeError: something has a type that is not taken here.
            BadInput: the lists differ in length, or there is no file at a path.
        """

    def self_test(self) -> None:
        """Check what is in memory against what was recorded; nothing, if nothing was.

        Afterwards it is asked for one image of each target, in the same thread.
        """


class PreparedRow(Protocol):
    """One image of one request, read and resized, for the version that prepared it."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes while it waits."""

    @property
    def answer(self) -> Prediction | None:
        """Its answer, if nothing has to be computed, e.g. because the bytes are not an image."""


class LoadedForBatches(Loaded, Protocol):
    """A version whose rows can be computed together with those of other versions of its class.

    A flavor need not offer this. A replica asks a version that has only `predict` for one image at a time.
    """

    def prepare(self, image: Any, target: str | None = None) -> PreparedRow:
        """Read one image. Called in several threads.

        Raises:
            TypeError, BadInput: as `predict`.
        """

    def answer_rows(self, rows: Sequence[Any]) -> Sequence[Prediction]:
        """Answer rows that this version, and others of its class, have prepared; in order, each as if it were alone.

        Called in one thread only, with at most `max_batch` rows. If it raises, each row is tried alone.
        """

    def begin_computing(self) -> None:
        """Prepare the process for one thread that computes, which calls this before `answer_rows`."""


@runtime_checkable
class TellsWeights(Protocol):
    """What a version in memory may have beside `Loaded`: it tells which weights are there.

    `golden_sha256` is a fingerprint of the outputs that its self-test computed, empty if it computed none.
    """

    @property
    def golden_sha256(self) -> str: ...
    def weights_sha256(self) -> Mapping[str, str]:
        """The digests of the tensors in memory now, as the manifest has them: of each adapter and the router that has
        weights, by component. Called in other threads than those that answer, while they do."""


@runtime_checkable
class SharesPasses(Protocol):
    """What a version in memory may have beside `LoadedForBatches`: it tells which versions share a pass with it."""

    @property
    def runs_on(self) -> Hashable:
        """Rows of two versions of one class go through one pass if this is equal."""


@runtime_checkable
class AdoptsRows(Protocol):
    """What a version in memory may have beside `LoadedForBatches`: an image need not be read again for it."""

    def adopt(self, row: Any) -> PreparedRow | None:
        """A row that another version of its class has prepared, as its own; None if it reads images otherwise."""


@runtime_checkable
class TellsMemory(Protocol):
    """What a version in memory may have beside `Loaded`: it tells what its targets take."""

    @property
    def memory(self) -> Mapping[str, int]:
        """Bytes of each target, without what targets share."""


@runtime_checkable
class LimitsPixels(Protocol):
    """What a version in memory may have beside `Loaded`: it refuses images by their size before it decodes them."""

    def limit_pixels(self, max_pixels: int) -> None:
        """Answer no image of more pixels. Called once, before the self-test."""


@runtime_checkable
class TellsComponents(Protocol):
    """What a version in memory may have beside `Loaded`: it tells which components it has."""

    @property
    def has_router(self) -> bool:
        """Whether a router can choose the target."""

    @property
    def targets_with_ood(self) -> Set[str]:
        """The targets that have an OOD detector."""


class Loader(Protocol):
    """What an entry point names: makes a loaded version from verified files (manifest path -> file).

    `runtime` is the one that computes the answers, None for the flavor's own choice; `fetch` gets the weights of the
    backbone from the store if this machine does not have them.
    """

    def __call__(
        self, manifest: Manifest, files: Mapping[str, Path], *, device: str, runtime: str | None, fetch: FetchBlob
    ) -> Loaded: ...


CheckManifest = Callable[[Manifest], None]
"""Raises an error unless the version with this verified manifest may be used here."""
FindLoader = Callable[[str], Loader]
"""Returns the loader of a flavor; by default `find_loader`."""


def no_mirror(sha256: str) -> None:
    """A `fetch` without a store: only the backbones on this machine are used."""


def allow_all(manifest: Manifest) -> None:
    """A `check` that accepts every version."""


@dataclass(frozen=True)
class LoadOptions:
    """How versions are loaded.

    Attributes:
        device, runtime, fetch: see `Loader`.
        check: is called with the verified manifest before any file is fetched; raises an error for a version that must
            not be loaded.
        find: returns the loader of a flavor; the installed one by default.
        manifest_seconds, check_seconds: for reading the manifest, and for `check`.
        lock_seconds: how long another process may hold the cache's lock on a file without a sign of life. After that
            the file is downloaded without the cache.
        stall_seconds: for 1 MiB of a download to arrive, or to be hashed; not for the whole download.
        backbone_seconds: for `fetch`, which may download gigabytes.
        max_pixels: of an image to be answered, for flavors that can refuse one by its header; None for their own limit.
        loader_seconds, self_test_seconds: for the loader without `fetch`, and for the self-test.
        image_seconds: for each image that is tried before the version may answer: one of each target, and one for the
            router. To be less than the seconds after which a batch counts as hanging.

    A replica gives up a load after these seconds. Here nothing is interrupted: `steps` says when it is time.
    """

    device: str = "cpu"
    runtime: str | None = None
    fetch: FetchBlob = no_mirror
    check: CheckManifest = allow_all
    find: FindLoader | None = None
    manifest_seconds: float = 60.0
    check_seconds: float = 60.0
    lock_seconds: float = 30.0
    stall_seconds: float = 60.0
    backbone_seconds: float = 3600.0
    loader_seconds: float = 600.0
    self_test_seconds: float = 300.0
    image_seconds: float = 60.0
    max_pixels: int | None = None


def load_version(
    versions: Bindings, blobs: Blobs, pointer: Pointer, options: LoadOptions | None = None, steps: Steps | None = None
) -> Loaded:
    """Load a version into memory: read its manifest, fetch and verify its files, call its loader, run its self-test,
    and let it answer an image of each target.

    The team's source tree (`project/…`) is not fetched: no loader needs it to predict. `steps` is told what it does,
    for other threads that watch it.

    Raises:
        MissingBlob, CorruptBlob, BadManifest, DiskFull, StoreUnreachable, StoreDenied: its files can't be fetched.
        NotTrusted: `check` refused it.
        MissingDependency: its loader, or a package that the loader needs, is not installed.
        LoadFailed: its loader failed, or it could answer no image.
        SelfTestFailed: its answers differ from those that were recorded when it was made.
    """
    options, steps = options or LoadOptions(), steps or Steps()
    with steps.step("manifest", options.manifest_seconds):
        manifest = versions.manifest(pointer)
    with steps.step("trust check", options.check_seconds):
        options.check(manifest)
    with steps.step("loader", options.loader_seconds):
        load = (options.find or find_loader)(manifest.flavor)
    wanted = [file for file in manifest.files if not file.path.startswith(_NOT_SERVED)]
    with steps.step("download", options.stall_seconds):
        watch = FetchWatch(steps.arrived, steps.waits, steps.note, options.lock_seconds)
        local = blobs.fetch(wanted, watch=watch, of=manifest.version)
    files = {file.path: local[file.sha256] for file in wanted}
    with _loader_errors(manifest):
        with steps.step("loader", options.loader_seconds):
            loaded = _call_loader(load, manifest, files, options, steps)
            if options.max_pixels is not None and isinstance(loaded, LimitsPixels):
                loaded.limit_pixels(options.max_pixels)
        with steps.step("self-test", options.self_test_seconds):
            loaded.self_test()
        with steps.step("one image of each target", options.image_seconds):
            _try_images(loaded, steps)
    return loaded


def _try_images(loaded: Loaded, steps: Steps) -> None:
    """Let a version answer one image on each way that a request can take. One that hangs here hangs where it can be
    left behind, and not in the thread that computes everybody's answers.

    Raises:
        LoadFailed: it could answer none.
    """
    by_router = isinstance(loaded, TellsComponents) and loaded.has_router
    targets: list[str | None] = [*loaded.targets, *([None] if by_router or not loaded.targets else [])]
    failed: dict[str, Exception] = {}
    seconds = list[float]()
    for target in targets:
        began = time.monotonic()
        try:
            loaded.predict(random_png(0, _SIDE), target=target)
            seconds.append(time.monotonic() - began)
        except (TypeError, ValueError, BadInput):
            pass  # a flavor may take other inputs than images: then it has said so at once
        except Exception as error:  # a request for this target would get it; others may have answers
            failed[target or "the router"] = error
        steps.arrived(0)
    steps.image_seconds = min(seconds, default=0.0)
    for target, cause in failed.items():
        problem = f"{loaded.version} can't answer an image of {target}: {type(cause).__name__}: {first_line(cause)}"
        if len(failed) == len(targets):
            raise LoadFailed(problem, hint="no target has answers") from cause
        steps.note(problem)


def _call_loader(
    load: Loader, manifest: Manifest, files: Mapping[str, Path], options: LoadOptions, steps: Steps
) -> Loaded:
    def fetch(sha256: str) -> Path | None:
        with steps.step("download of the backbone", options.backbone_seconds):
            return options.fetch(sha256)

    loaded = load(manifest, files, device=options.device, runtime=options.runtime, fetch=fetch)
    if loaded.version != manifest.version:
        raise LoadFailed(f"the loader of flavor {manifest.flavor} returned {loaded.version} for {manifest.version}")
    return loaded


def find_loader(flavor: str) -> Loader:
    """The loader of a flavor, imported now.

    Raises:
        MissingDependency: it is not installed, several packages have one, or a package that it needs is missing.
    """
    loader: Loader = plugins.plugin(plugins.LOADERS, flavor)
    return loader


@contextmanager
def _loader_errors(manifest: Manifest) -> Iterator[None]:
    """Turn every exception of a loader into an error of this package."""
    try:
        yield
    except UloraError:
        raise
    except ModuleNotFoundError as error:
        raise plugins.not_installed(plugins.LOADERS, manifest.flavor, error) from error
    except Exception as error:
        raise LoadFailed(
            f"{manifest.version} can't be loaded: {type(error).__name__}: {first_line(error)}",
            hint="its files are verified: check the loader's code and the installed packages",
        ) from error
