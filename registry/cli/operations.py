"""Notes in the operations log how a command ended. It changes neither what the command does nor its exit status."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from registry.errors import BadInput, NotInMlflow, StoreUnfit, UloraError, Unreachable
from registry.parallel import time_limit, within

if TYPE_CHECKING:
    from registry.api import Registry

_KEPT = frozenset(
    (
        "create", "measure", "promote", "rollback", "verify", "restore", "switch", "apply",
        "canary start", "canary advance", "canary abort", "store gc",
    )
)  # fmt: skip
_SECONDS = 2.0
"""For the note: the command is done, and somebody waits for its end."""


def run_and_note(command: Callable[[], None], opened: Sequence[Registry]) -> None:
    """Run a command; note how it ended in the store of the registry that it opened.

    Nothing is noted of what only asked (`--dry-run`), was called wrongly or interrupted, nor of a failed `create`: it
    leaves nothing behind. The store must answer, keep its promises, and have a version of this model.
    """
    started, began = datetime.now(UTC), time.perf_counter()

    def note(error: UloraError | None = None) -> None:
        context = click.get_current_context()
        name = context.command_path.partition(" ")[2]
        if not opened or name not in _KEPT or context.params.get("dry_run") or _leaves_none(name, error):
            return
        about = {
            "command": name, "version": _version(context.params), "channel": str(context.params.get("channel") or ""),
            "started": started.isoformat(), "seconds": round(time.perf_counter() - began, 3),
            "exit_code": error.exit_code if error else 0, "error": type(error).__name__ if error else "",
        }  # fmt: skip
        with suppress(Exception), time_limit(_SECONDS):
            within(_SECONDS, lambda: _add(opened[0], about))

    try:
        command()
    except UloraError as error:
        note(error)
        raise
    note()


def _leaves_none(command: str, error: UloraError | None) -> bool:
    if isinstance(error, NotInMlflow):  # it is done in the store
        return False
    return isinstance(error, BadInput | Unreachable | StoreUnfit) or (error is not None and command == "create")


def _version(parameters: Mapping[str, Any]) -> str:
    """The versions that the parameters of a command name, cut to what a note takes."""
    named = parameters.get("versions") or (parameters.get("version") or "",)
    return " ".join(map(str, named))[:1000]


def _add(registry: Registry, about: Mapping[str, Any]) -> None:
    from registry.integrity.operations import Operation
    from registry.store import layout

    settings, versions = registry.settings, layout.versions(registry.model)
    if settings.operations_log == "on" and registry.wiring.store.first(versions):
        operation = Operation(format=1, model=registry.model, who=settings.who[:500], **about)
        registry.wiring.operations.add(operation)
