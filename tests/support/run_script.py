"""Run a rollback script in this process, and a log for it to roll back."""

from __future__ import annotations

import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

from registry.api import Registry
from registry.breakglass.write_script import Script
from registry.channels.record import Author, ChannelPosition, promoted
from registry.names import VersionName
from registry.versions.pointer import Pointer
from tests.support.registries import bind

TEST = Author("a test")


@dataclass(frozen=True)
class Ran:
    """What a script did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        (line,) = self.err.splitlines()
        return str(json.loads(line)["error"])


def run(script: Script, *words: object, **changed: object) -> Ran:
    """Run a script's text in this process; `changed` are constants of it."""
    scope: dict[str, Any] = {"__name__": "a_script"}
    exec(compile(script.text, script.name, "exec"), scope)
    scope.update(changed)
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = scope["main"]([str(word) for word in words])
    return Ran(code, out.getvalue(), err.getvalue())


def serve_three(registry: Registry) -> None:
    """Let production serve v1.0.0, v2.0.0, then v3.0.0."""
    registry.store.initialise()
    names = ("v1.0.0", "v2.0.0", "v3.0.0")
    bind(registry, *names)
    for name in names:
        serve(registry, name)


def serve(registry: Registry, name: str) -> None:
    """Make a version stable, without what a promotion looks at and leaves."""
    log = registry.channel("production")
    log.commit(
        promoted(ChannelPosition(registry.model, "production", log.head()), pointer_of(registry, name), TEST, None)
    )


def pointer_of(registry: Registry, name: str) -> Pointer:
    return registry.bindings.get(VersionName.parse(name)).pointer
