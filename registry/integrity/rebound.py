"""Rebinding: do the names of versions still stand for the manifests that channels and documents have named with them?

A binding is created once. One that was overwritten, by a store that ignored a condition or by somebody with more rights
than the roles have, contradicts what was written of the version before.
"""

from __future__ import annotations

from collections.abc import Iterable

from registry.channels.channel import Channel, channel_names
from registry.channels.record import Record
from registry.errors import BadInput, IntegrityError, Overwritten, StoreDenied, VersionNotFound
from registry.names import VersionName
from registry.parallel import in_parallel
from registry.store.objects import ObjectStore
from registry.versions.bindings import Binding, Bindings
from registry.versions.pointer import Pointer

HINT = "one of the two was overwritten: bring the true one back from the bucket's own versions, or from a copy of it"


def newest_records(store: ObjectStore, model: str, channels: Iterable[str] | None = None) -> list[Record]:
    """The newest records of some channels; of all, scratch channels too, where none are named.

    A channel that is empty or can't be read is left out: others report it.
    """

    def read(name: str) -> Record | None:
        try:
            return Channel(store, model, name).head()
        except (BadInput, IntegrityError, StoreDenied):
            return None

    names = channel_names(store, model) if channels is None else channels
    return [record for record in in_parallel(read, names) if record]


def contradictions(binding: Binding, records: Iterable[Record]) -> list[str]:
    """Where records name a bound version with another manifest than its binding: each such manifest once."""
    named = [(pointer, record) for pointer, record in _named(records).items() if pointer.version == binding.version]
    return [found for pointer, record in named if (found := _contradiction(record, pointer, binding))]


def check_never_rebound(binding: Binding, records: Iterable[Record]) -> None:
    """Check that no record names a version with another manifest than its binding.

    Raises:
        Overwritten: one does.
    """
    if found := contradictions(binding, records):
        raise Overwritten("; ".join(found), hint=HINT)


class BoundNames:
    """What a model's names are bound to, each read once. Threads may share it."""

    def __init__(self, bindings: Bindings) -> None:
        self._bindings = bindings
        self._known: dict[str, Binding | str | None] = {}

    def contradictions(self, records: Iterable[Record]) -> list[str]:
        """Where records name a version with another manifest than its name is bound to: each such manifest once."""
        named = _named(records)
        in_parallel(self._find, {pointer.version for pointer in named})
        found = [_contradiction(record, pointer, self._find(pointer.version)) for pointer, record in named.items()]
        return [each for each in found if each]

    def contradicts(self, version: str, manifest_sha256: str, content_sha256: str) -> str:
        """Why a name is not bound to this manifest or content, of which either may be empty; empty if it may be.

        A name that is free or can't be read says nothing: the check of the version does.
        """
        bound = self._find(version)
        if not isinstance(bound, Binding):
            return ""
        for what, said, now in (
            ("manifest", manifest_sha256, bound.manifest_sha256),
            ("content", content_sha256, bound.content_sha256),
        ):
            if said and said != now:
                return f"it is about the {what} {said[:12]} of {version}, whose name is bound to {now[:12]} now"
        return ""

    def _find(self, version: str) -> Binding | str | None:
        """The binding of a name, or why there is none; None if it may not be read, which says nothing."""
        if version not in self._known:
            self._known[version] = self._read(version)
        return self._known[version]

    def _read(self, version: str) -> Binding | str | None:
        try:
            return self._bindings.get(VersionName.parse(version))
        except (BadInput, VersionNotFound):
            return "no version has this name now"
        except IntegrityError as error:
            return str(error)
        except StoreDenied:
            return None


def _named(records: Iterable[Record]) -> dict[Pointer, Record]:
    """Each version and manifest that records name, with the first record that does."""
    named: dict[Pointer, Record] = {}
    for record in records:
        for pointer in filter(None, (record.stable, record.canary, *record.stack)):
            bare = Pointer(version=pointer.version, manifest_sha256=pointer.manifest_sha256)
            named.setdefault(bare, record)
    return named


def _contradiction(record: Record, pointer: Pointer, bound: Binding | str | None) -> str:
    """How a record contradicts what a name is bound to; empty if it does not, or nobody can say."""
    if bound is None:
        return ""
    if not isinstance(bound, str):
        if bound.manifest_sha256 == pointer.manifest_sha256:
            return ""
        bound = f"its name is bound to {bound.manifest_sha256[:12]} now"
    return (
        f"generation {record.generation} of {record.channel} names {pointer.version} with the manifest "
        f"{pointer.manifest_sha256[:12]}, but {bound}"
    )
