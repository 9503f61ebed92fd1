"""Reconcile MLflow with the store: versions, evidence, requests, stages, aliases and rollback scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile

from registry.answers import Reconciled
from registry.breakglass.write_script import Script
from registry.catalog import mirror, requests
from registry.catalog.client import Catalog
from registry.catalog.entries import CatalogVersion
from registry.catalog.mirror_plan import MirrorPlan, Unmanaged
from registry.catalog.request_answers import AnsweredRequests, answer_all
from registry.catalog.request_decisions import RequestDecider
from registry.catalog.runs import EvidenceRun
from registry.catalog.version_id import VersionId
from registry.catalog.views import ChannelViews
from registry.errors import IntegrityError, VersionNotFound
from registry.evidence.ledger import Ledger
from registry.evidence.results import newest
from registry.names import VersionName
from registry.versions.bindings import Binding, Bindings
from registry.versions.pointer import Pointer


@dataclass(frozen=True)
class Reconciler:
    """Makes MLflow show what is in the store. What is damaged there is reported, and does not stop the rest.

    Attributes:
        names: returns the versions that MLflow should have.
        views: reads what MLflow is to show of the channels.
        log: logs a version in MLflow from the store.
        script: makes the script that rolls production back to a version.
        forgotten: returns the names of the versions whose files may be deleted.
        unmanaged: what to do with aliases and stages of versions that are not of this store.
    """

    model: str
    catalog: Catalog
    bindings: Bindings
    names: Callable[[], list[VersionName]]
    ledger: Ledger
    views: ChannelViews
    decider: RequestDecider
    log: Callable[[Binding], object]
    script: Callable[[Pointer], Script]
    forgotten: Callable[[], set[str]]
    unmanaged: Unmanaged

    def reconcile(self) -> Reconciled:
        """Reconcile everything.

        Raises:
            CatalogUnreachable: MLflow does not answer.
            CatalogRefused: MLflow refuses.
        """
        self.catalog.ping()
        damaged: dict[str, str] = {}
        bound = self._bound(damaged)
        missing = self._missing(bound)
        for binding in missing:
            with _noted(damaged, binding.version):
                self.log(binding)
        adopted = self._show_versions(bound, damaged)
        answers = answer_all(self.catalog, self.model, self.decider)
        plan = mirror.mirror(
            self.catalog, self.model, lambda: self.views.from_logs(damaged), self._mirror_options(bound)
        )
        logged = tuple(binding.version for binding in missing if binding.version not in damaged)
        added, left = self._add_scripts()
        done = _reconciled(plan, answers, damaged)
        return replace(done, logged=logged, changes=adopted + done.changes + added, skipped=done.skipped + left)

    def reconcile_quickly(self) -> Reconciled:
        """Reconcile requests, stages and aliases by the newest records: the cost grows neither with the logs nor with
        the evidence.

        Raises:
            CatalogUnreachable: MLflow does not answer.
            CatalogRefused: MLflow refuses.
        """
        damaged: dict[str, str] = {}
        answers = answer_all(self.catalog, self.model, self.decider)
        options = self._mirror_options()
        plan = mirror.mirror(self.catalog, self.model, lambda: self.views.from_newest_records(damaged), options)
        return _reconciled(plan, answers, damaged)

    def preview(self) -> Reconciled:
        """What `reconcile` would do. Nothing is written.

        Raises:
            CatalogUnreachable: MLflow does not answer.
            CatalogRefused: MLflow refuses.
        """
        self.catalog.ping()
        damaged: dict[str, str] = {}
        bound = self._bound(damaged)
        missing = tuple(binding.version for binding in self._missing(bound))
        registered = self.catalog.registered(self.model)
        unsaid = [each for each in bound if (found := registered.get(VersionId.of(each))) and not found.store]
        adopted = tuple(map(self._adoption, unsaid))
        asked = requests.pending(self.catalog, self.model)
        answers = AnsweredRequests(tuple(f"{request}: would be judged by the gates" for request in asked))
        plan = mirror.preview(self.catalog, self.model, self.views.from_logs(damaged), self._mirror_options(bound))
        scripts = tuple(map(_in_words, self._missing_scripts()))
        planned = _reconciled(plan, answers, damaged)
        return replace(planned, logged=missing, changes=adopted + planned.changes + scripts)

    def _mirror_options(self, bound: Sequence[Binding] = ()) -> mirror.MirrorOptions:
        return mirror.MirrorOptions(self.unmanaged, frozenset(map(VersionId.of, bound)))

    def _bound(self, damaged: dict[str, str]) -> list[Binding]:
        """The versions that MLflow should have; those that can't be read are added to `damaged`."""
        bound = []
        for name in self.names():
            with _noted(damaged, str(name)):
                bound.append(self.bindings.get(name))
        return bound

    def _missing(self, bound: Sequence[Binding]) -> list[Binding]:
        """The versions that MLflow does not have. Those that are forgotten may stay so."""
        known, forgotten = self.catalog.registered(self.model), self.forgotten()
        return [each for each in bound if VersionId.of(each) not in known and each.version not in forgotten]

    def _show_versions(self, bound: Sequence[Binding], damaged: dict[str, str]) -> tuple[str, ...]:
        """Note the store on versions that name none, and show evidence; returns what was noted."""
        registered, adopted = self.catalog.registered(self.model), []
        for binding in bound:
            found = registered.get(VersionId.of(binding))
            if found is None:
                continue
            with _noted(damaged, binding.version):
                if not found.store and self.catalog.adopt(binding):
                    adopted.append(self._adoption(binding))
                self._show_evidence(binding, found)
        return tuple(adopted)

    def _adoption(self, binding: Binding) -> str:
        return f"store of {binding.version}: none -> {self.catalog.store}"

    def _show_evidence(self, binding: Binding, found: CatalogVersion) -> None:
        """Record evidence that was measured without MLflow. There are no plots: the store does not keep them."""
        for evidence in newest(self.ledger.evidence(VersionName.parse(binding.version))).values():
            run = EvidenceRun.of(evidence)
            if evidence.content_sha256 == binding.content_sha256 and not found.shows(run.metrics):
                self.catalog.record_evidence(binding, run)

    def _missing_scripts(self) -> list[Script]:
        """The scripts of production's rollback targets that MLflow lacks, from the nearest to the first that it has.

        It lacks those of promotions that were made without it. Where it lacks none, one request shows that.
        """
        try:
            head = self.views.channel("production").head()
            scripts = map(self.script, head.rollback_targets() if head else ())
            return list(takewhile(self._is_missing, scripts))
        except IntegrityError:
            return []  # reported for the channel, or for the version

    def _is_missing(self, script: Script) -> bool:
        return self.catalog.lacks_file(script, script.name)

    def _add_scripts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Add the missing scripts; returns what was added, and why the rest was not."""
        added: tuple[str, ...] = ()
        try:
            for script in self._missing_scripts():
                self.catalog.add_file(script, script.name, script.body)
                added += (_in_words(script),)
        except Exception as error:  # the last step, and optional: the store has the scripts too
            return added, (f"rollback scripts: {error}",)
        return added, ()


def _reconciled(plan: MirrorPlan, requests: AnsweredRequests, damaged: dict[str, str]) -> Reconciled:
    return Reconciled(
        logged=(),
        changes=tuple(str(change) for change in plan.changes),
        skipped=(*plan.skipped, *requests.failures),
        damaged=tuple(f"{what}: {problem}" for what, problem in damaged.items()),
        requests=requests.answers,
    )


def _in_words(script: Script) -> str:
    return f"script of {script.version}: none -> {script.name}"


@contextmanager
def _noted(damaged: dict[str, str], what: str) -> Iterator[None]:
    """Add what can't be read to `damaged`, and continue without it."""
    try:
        yield
    except (IntegrityError, VersionNotFound) as error:
        damaged[what] = str(error)
