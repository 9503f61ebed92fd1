"""Make MLflow hold every version and show what the channels serve, and answer what people ask for there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile

from registry.answers import Reconciled
from registry.breakglass.write_script import Script
from registry.catalog import mirror, requests
from registry.catalog.log import Catalog, CatalogVersion
from registry.catalog.request_decisions import RequestDecider
from registry.catalog.requests import Answers
from registry.catalog.views import Views, evidence_result
from registry.errors import IntegrityError, VersionNotFound
from registry.evidence.ledger import Ledger
from registry.evidence.results import newest
from registry.names import VersionName
from registry.versions.bindings import Binding, Bindings
from registry.versions.pointer import Pointer


@dataclass(frozen=True)
class Reconciler:
    """Puts MLflow right. What is damaged in the store is reported, and stops nothing else.

    Attributes:
        names: gives the versions that MLflow should hold.
        views: what the mirror needs to know of the channels.
        log: logs a version in MLflow from the store.
        script: writes the script that takes production back to a version.
        forgotten: the names of the versions whose files may be gone.
        unmanaged: what becomes of aliases and stages of versions that others registered.
    """

    model: str
    catalog: Catalog
    bindings: Bindings
    names: Callable[[], list[VersionName]]
    ledger: Ledger
    views: Views
    desk: RequestDecider
    log: Callable[[Binding], object]
    script: Callable[[Pointer], Script]
    forgotten: Callable[[], set[str]]
    unmanaged: mirror.Unmanaged

    def reconcile(self) -> Reconciled:
        """Versions, evidence, requests, stages, aliases, and rollback scripts.

        Raises:
            CatalogUnreachable, CatalogRefused: MLflow does not answer, or refuses.
        """
        self.catalog.ping()
        damaged: dict[str, str] = {}
        missing = self._missing(damaged)
        for binding in missing:
            with noted(damaged, binding.version):
                self.log(binding)
        for found in self.catalog.versions(self.model):
            if found.version:
                with noted(damaged, found.version):
                    self._show_evidence(found)
        answers = requests.answer_all(self.catalog, self.model, self.desk)
        plan = mirror.mirror(self.catalog, self.model, lambda: self.views.whole(damaged), self.unmanaged)
        logged = tuple(binding.version for binding in missing if binding.version not in damaged)
        added, left = self._add_scripts()
        done = _reconciled(plan, answers, damaged)
        return replace(done, logged=logged, changes=done.changes + added, skipped=done.skipped + left)

    def glance(self) -> Reconciled:
        """Requests, stages and aliases, by the ends of the logs: a cost that grows neither with them nor with the
        evidence.

        Raises:
            CatalogUnreachable, CatalogRefused: MLflow does not answer, or refuses.
        """
        damaged: dict[str, str] = {}
        answers = requests.answer_all(self.catalog, self.model, self.desk)
        plan = mirror.mirror(self.catalog, self.model, lambda: self.views.ends(damaged), self.unmanaged)
        return _reconciled(plan, answers, damaged)

    def preview(self) -> Reconciled:
        """What `reconcile` would do. Nothing is written.

        Raises:
            CatalogUnreachable, CatalogRefused: MLflow does not answer, or refuses.
        """
        self.catalog.ping()
        damaged: dict[str, str] = {}
        missing = tuple(binding.version for binding in self._missing(damaged))
        asked = requests.pending(self.catalog, self.model)
        answers = Answers(tuple(f"{request}: would be judged by the gates" for request in asked))
        plan = mirror.preview(self.catalog, self.model, self.views.whole(damaged), self.unmanaged)
        scripts = tuple(map(_told, self._missing_scripts()))
        planned = _reconciled(plan, answers, damaged)
        return replace(planned, logged=missing, changes=planned.changes + scripts)

    def _missing(self, damaged: dict[str, str]) -> list[Binding]:
        """The versions that MLflow does not hold; those that can't be read are noted in `damaged`."""
        known = {(found.version, found.content_sha256) for found in self.catalog.versions(self.model)}
        forgotten = self.forgotten()
        missing = []
        for name in self.names():
            with noted(damaged, str(name)):
                binding = self.bindings.get(name)
                if (binding.version, binding.content_sha256) not in known and binding.version not in forgotten:
                    missing.append(binding)
        return missing

    def _show_evidence(self, found: CatalogVersion) -> None:
        """Record in MLflow what was measured of a version while MLflow was away; plots were not kept."""
        for evidence in newest(self.ledger.evidence(VersionName.parse(found.version or ""))).values():
            result = evidence_result(evidence, None)
            if evidence.content_sha256 == found.content_sha256 and not found.shows(result):
                manifest = self.bindings.manifest(self.bindings.get(VersionName.parse(evidence.version)).pointer)
                self.catalog.record_evidence(manifest, result)

    def _missing_scripts(self) -> list[Script]:
        """The rollback scripts to what production would go back to, from the nearest on to the first that MLflow has.

        It lacks those of promotions made while it was away. Where it lacks none, it is asked once.
        """
        try:
            head = self.views.channel("production").head()
            scripts = map(self.script, head.rollback_targets() if head else ())
            return list(takewhile(self._is_missing, scripts))
        except IntegrityError:
            return []  # said of the channel, or of the version

    def _is_missing(self, script: Script) -> bool:
        return self.catalog.lacks_file(self.model, script.version, script.content_sha256, script.name)

    def _add_scripts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Add the scripts that are missing; what was added, and why not all were."""
        added: tuple[str, ...] = ()
        try:
            for script in self._missing_scripts():
                self.catalog.add_file(self.model, script.version, script.content_sha256, script.name, script.body)
                added += (_told(script),)
        except Exception as error:  # a convenience, after all else: what there is in the store will do
            return added, (f"rollback scripts: {error}",)
        return added, ()


def _reconciled(plan: mirror.MirrorPlan, answers: Answers, damaged: dict[str, str]) -> Reconciled:
    return Reconciled(
        logged=(),
        changes=tuple(str(change) for change in plan.changes),
        skipped=(*plan.skipped, *answers.left),
        damaged=tuple(f"{what}: {problem}" for what, problem in damaged.items()),
        requests=answers.told,
    )


def _told(script: Script) -> str:
    return f"script of {script.version}: none -> {script.name}"


@contextmanager
def noted(damaged: dict[str, str], what: str) -> Iterator[None]:
    """Note what can't be read and go on without it."""
    try:
        yield
    except (IntegrityError, VersionNotFound) as error:
        damaged[what] = str(error)
