"""Notes in the operations log how a command ended. It changes neither what the command does nor its exit status."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from registry.errors import UloraError
from registry.parallel import time_limit, within

if TYPE_CHECKING:
    from registry.api import Registry

_KEPT = frozenset(
    (
        "create", "measure", "promote", "rollback", "verify", "restore", "switch", "apply",
        "canary start", "canary advance", "canary abort", "store gc",
    )
)  # fmt: skip
_USAGE, _UNREACHABLE = 2, 7
_SECONDS = 2.0
"""For the note: the command is done, and somebody waits for its end."""


def run_and_note(command: Callable[[], None], opened: Sequence[Registry]) -> None:
    """Run a command; note how it ended in the store of the registry that it opened.

    Nothing is noted of what only asked (`--dry-run`), was called wrongly or interrupted, or had no store that answers.
    """
    started, began = datetime.now(UTC), time.perf_counter()

    def note(exit_code: int = 0, error: str = "") -> None:
        context = click.get_current_context()
        name = context.command_path.partition(" ")[2]
        if not opened or name not in _KEPT or context.params.get("dry_run") or exit_code in (_USAGE, _UNREACHABLE):
            return
        about = {
            "command": name, "version": _version(context.params), "channel": str(context.params.get("channel") or ""),
            "started": started.isoformat(), "seconds": round(time.perf_counter() - began, 3),
            "exit_code": exit_code, "error": error,
        }  # fmt: skip
        with suppress(Exception), time_limit(_SECONDS):
            within(_SECONDS, lambda: _add(opened[0], about))

    try:
        command()
    except UloraError as error:
        note(error.exit_code, type(error).__name__)
        raise
    note()


def _version(parameters: Mapping[str, Any]) -> str:
    """The versions that the parameters of a command name, cut to what a note takes."""
    named = parameters.get("versions") or (parameters.get("version") or "",)
    return " ".join(map(str, named))[:1000]


def _add(registry: Registry, about: Mapping[str, Any]) -> None:
    from registry.integrity.operations import Operation

    settings = registry.settings
    if settings.operations_log == "on":
        operation = Operation(format=1, model=registry.model, who=settings.who[:500], **about)
        registry.wiring.operations.add(operation)
