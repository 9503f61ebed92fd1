"""Find the objects that installed packages offer through entry points, and the names of all groups.

In most groups the name of an entry point is a manifest's `flavor`, so another kind of model needs no change here.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any, Final

from registry.errors import MissingDependency

LOADERS: Final = "ulora.loaders"
"""Flavor -> what loads a version; see `registry.serving.loaders.Loader`."""
MODELS: Final = "ulora.models"
"""Flavor -> the module that says how MLflow logs a version; see `registry.catalog.logged_model`."""
BACKBONES: Final = "ulora.backbones"
"""Flavor -> what resolves a backbone; see `registry.versions.backbones`."""
IMPORTERS: Final = "ulora.importers"
"""Flavor -> what converts adapters of other layouts; see `registry.versions.importing`."""
BUNDLES: Final = "ulora.bundles"
"""Flavor -> what replaces documents of a bundle before they are stored; see `registry.versions.importing`."""
CHECKS: Final = "ulora.checks"
"""Flavor -> what names documents of a version that loading would refuse; see `registry.integrity.loadable`."""
FIT: Final = "ulora.fit"
"""Flavor -> what prepares a fit: `(data, backbone, out, settings, *, targets, fetch, known) -> fit`.

`fit.plan` is a document of what would be done, `fit.data` a `registry.evidence.data_check.DataReport`;
`fit.run(progress)` does it and returns an object with `folder`, `document` and `notes`. The settings are those of
`ulora fit`, by name."""
TRAINERS: Final = "ulora.trainers"
"""Flavor -> the module that fits the demo's versions; see `registry.devstack.processes`."""
BENCHMARKS: Final = "ulora.benchmarks"
"""The name of a benchmark -> the benchmark; see `registry.evidence.measure`."""
ASKED: Final = "ulora.asked"
"""The same for benchmarks that run only when they are asked for by name."""
DATA: Final = "ulora.data"
"""Flavor -> what opens test data; see `registry.evidence.measure`."""
DATA_CHECKS: Final = "ulora.datachecks"
"""Flavor -> the module that reports on a folder of images and makes what it lacks; see `registry.cli.data`."""
REGISTRY: Final = "ulora.registry"
"""`settings` -> `registry.api.Registry`, for what lies below it and is started by another program; see
`registry.serving.ray.opening`."""

DISTRIBUTION: Final = "ulora-registry"
_SHADOWED = "adapters"
"""PyPI has another package that is imported by this name; the constant `DISTRIBUTION` tells them apart."""
_OUR_FLAVOR = "dino-lora"
_EXTRAS = {TRAINERS: "demo"}


def installed(group: str) -> tuple[str, ...]:
    """The sorted names of all entry points in a group. Imports nothing."""
    return tuple(sorted({entry.name for entry in entry_points(group=group)}))


def entry_point(group: str, name: str) -> EntryPoint:
    """The one entry point with this name in a group. Imports nothing.

    Raises:
        MissingDependency: there is none, or several packages have one.
    """
    found = {entry.value: entry for entry in entry_points(group=group, name=name)}
    if not found:
        raise MissingDependency(
            f"no installed package has the entry point {group}: {name}", hint=_install_hint(group, name)
        )
    if len(found) > 1:
        raise MissingDependency(
            f"several packages have the entry point {group}: {name}: {', '.join(sorted(found))}",
            hint="uninstall all but one",
        )
    return found.popitem()[1]


def plugin(group: str, name: str) -> Any:
    """The object that an entry point names, imported now.

    Raises:
        MissingDependency: no package has the entry point, several have it, or the object can't be imported.
    """
    entry = entry_point(group, name)
    if entry.module.partition(".")[0] == _SHADOWED and entry.dist is not None and entry.dist.name == DISTRIBUTION:
        _check_not_shadowed()
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        raise not_installed(group, name, error) from error
    except (ImportError, AttributeError) as error:
        raise MissingDependency(
            f"{entry.value} ({group}: {name}) can't be imported: {error}", hint=_install_hint(group, name)
        ) from error


def not_installed(group: str, name: str, error: ModuleNotFoundError) -> MissingDependency:
    """The error for a module that a plugin needs and that is not installed."""
    return MissingDependency(
        f"{name} ({group}) needs {error.name}, which is not installed",
        hint=_pip_install(group) if _is_ours(group, name) else f"pip install {error.name}",
    )


def _install_hint(group: str, name: str) -> str:
    return (
        _pip_install(group) if _is_ours(group, name) else f"install a package that has the entry point {group}: {name}"
    )


def _pip_install(group: str) -> str:
    return f"pip install '{DISTRIBUTION}[{_EXTRAS.get(group, 'dino')}]'"


def _is_ours(group: str, name: str) -> bool:
    return name == _OUR_FLAVOR or group in (BENCHMARKS, ASKED)


def _check_not_shadowed() -> None:
    """Check that `adapters` is imported from this distribution."""
    try:
        module = import_module(_SHADOWED)
    except ImportError:
        module = None
    if getattr(module, "DISTRIBUTION", None) != DISTRIBUTION:
        spec = find_spec(_SHADOWED) if module is None else module.__spec__
        raise MissingDependency(
            f"another package is imported as {_SHADOWED!r} instead of the one of {DISTRIBUTION}: {_location(spec)}",
            hint=f"pip uninstall {_SHADOWED}, then pip install --force-reinstall --no-deps {DISTRIBUTION}",
        )


def _location(spec: Any) -> str:
    folders = list(getattr(spec, "submodule_search_locations", None) or [])
    return str(getattr(spec, "origin", None) or (folders[0] if folders else "not found"))
