"""What other packages offer: found by entry points, whose group says what it is and whose name is a flavor."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from registry.errors import MissingDependency

_EXTRA = "pip install 'ulora-registry[dino]'"


def plugin(group: str, flavor: str) -> Any:
    """What the one installed package offers for a flavor.

    Raises:
        MissingDependency: none offers it, several do, or it can't be imported.
    """
    found = {entry.value: entry for entry in entry_points(group=group, name=flavor)}
    if not found:
        raise MissingDependency(f"nothing is installed that offers {group} for the flavor {flavor}", hint=_EXTRA)
    if len(found) > 1:
        raise MissingDependency(
            f"several packages offer {group} for the flavor {flavor}: {', '.join(sorted(found))}", hint="uninstall one"
        )
    (entry,) = found.values()
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise MissingDependency(f"{entry.value} can't be imported: {error}", hint=_EXTRA) from error
