"""What a record leaves out of the one before it, so that it can be read and a rollback always fits after it.

A record takes over the state of the one before it, and the fields that a newer release wrote. Whoever may write records
may fill them up to what readers take at most; that must stop no rollback. The rollback script does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

from registry.formats import canonical

ROLLBACK_ROOM, ROLLBACK_NAMES = 64 * 1024, 1_000
"""Bytes, and withdrawn names, that a promotion leaves free. A rollback adds a reason and an author, of 6 bytes a
character at most, and turns versions of the stack into names, which are shorter."""


@dataclass(frozen=True)
class RecordFitter:
    """Makes new records fit.

    Attributes:
        fields, version_fields: the names that this release knows, of a record's fields and of those of its versions.
    """

    fields: Collection[str]
    version_fields: Collection[str]

    def fit(self, document: dict[str, Any], limit: int, names: int) -> tuple[str, ...]:
        """Leave out of a record, in place, until it has at most so many bytes and withdrawn names; return what, in
        words.

        Unknown fields go first, the largest before others, then those of its versions, then the names that were
        withdrawn first, then the versions that rollbacks would come to last.
        """
        steps: dict[str, Callable[[dict[str, Any], int], int]] = {
            "unknown fields": self._drop_fields,
            "unknown fields of its versions": self._drop_version_fields,
            "the names that were withdrawn first": partial(_drop_names, most=names),
            "the versions at the end of the stack": _drop_versions,
        }
        dropped = {what: drop(document, _size(document) - limit) for what, drop in steps.items()}
        return tuple(f"{what} ({number})" for what, number in dropped.items() if number)

    def _drop_fields(self, document: dict[str, Any], excess: int) -> int:
        sizes = {name: _size({name: value}) - 1 for name, value in document.items() if name not in self.fields}
        dropped = 0
        for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
            if excess <= 0:
                break
            del document[name]
            excess -= sizes[name]
            dropped += 1
        return dropped

    def _drop_version_fields(self, document: dict[str, Any], excess: int) -> int:
        dropped = 0
        versions = filter(None, (document["stable"], document.get("canary"), *document.get("stack", ())))
        for version in versions if excess > 0 else ():
            for name in [name for name in version if name not in self.version_fields]:
                del version[name]
                dropped += 1
        return dropped


def _drop_names(document: dict[str, Any], excess: int, most: int) -> int:
    names = list(document.get("withdrawn", ()))
    dropped = 0
    while dropped < len(names) and (excess > 0 or len(names) - dropped > most):
        excess -= _size(names[dropped]) + 1
        dropped += 1
    if dropped:
        forgotten = set(names[:dropped])
        document["withdrawn"] = names[dropped:]
        # A rollback must not go to a withdrawn version, and without its name nobody knows that it is one.
        document["stack"] = [each for each in document.get("stack", ()) if each["version"] not in forgotten]
    return dropped


def _drop_versions(document: dict[str, Any], excess: int) -> int:
    stack = list(document.get("stack", ()))
    kept = len(stack)
    while kept and excess > 0:
        kept -= 1
        excess -= _size(stack[kept]) + 1
    if kept < len(stack):
        document["stack"] = stack[:kept]
    return len(stack) - kept


def _size(value: Any) -> int:
    return len(canonical.encode(value))
