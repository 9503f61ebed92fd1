"""Reconcile MLflow with the store: versions, evidence, requests, stages, aliases, pages and rollback scripts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Protocol

from registry.answers import Reconciled
from registry.breakglass.write_script import Script
from registry.catalog import mirror, requests
from registry.catalog.artifact_names import REPORT
from registry.catalog.client import Catalog
from registry.catalog.denials import MAX_DENIED
from registry.catalog.entries import CatalogVersion, by_id
from registry.catalog.mirror_plan import MirrorPlan, Unmanaged
from registry.catalog.page_writer import is_shown
from registry.catalog.request_answers import AnsweredRequests, answer_all
from registry.catalog.request_decisions import RequestDecider
from registry.catalog.runs import EvidenceRun
from registry.catalog.version_id import VersionId
from registry.catalog.version_page import VersionPage
from registry.catalog.views import ChannelViews, note_nothing
from registry.errors import (
    CatalogDenied,
    CatalogRefused,
    CatalogUnreachable,
    IntegrityError,
    StoreDenied,
    UloraError,
    Unreachable,
    VersionNotFound,
)
from registry.evidence.results import newest
from registry.names import VersionName
from registry.parallel import in_parallel, time_limit
from registry.versions.bindings import Binding, Bindings
from registry.versions.pointer import Pointer

_LOOKING_SECONDS = 180.0
"""How long `reconcile` may look into LoggedModels, all together."""


class PageSource(Protocol):
    """Makes the pages of versions by what the channels' logs said when it was made."""

    def page(self, binding: Binding) -> VersionPage: ...
    def moved(self) -> list[VersionId]: ...


@dataclass
class _Troubles:
    """What went wrong with single versions or channels, by name: damaged in the store, not to be read there, or not
    taken by MLflow."""

    damaged: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def note(self, what: str, error: Exception) -> None:
        """Note why something can't be read from the store."""
        (self.refused if isinstance(error, StoreDenied) else self.damaged)[what] = str(error)

    def is_denied_all(self, error: Unreachable) -> bool:
        """Whether MLflow has denied so many the same right that it will deny it to the rest."""
        same = sum(problem == str(error) for problem in self.failed.values())
        return isinstance(error, CatalogDenied) and same >= MAX_DENIED

    @property
    def names(self) -> set[str]:
        """Of what."""
        return {*self.damaged, *self.refused, *self.failed}


@dataclass(frozen=True)
class Reconciler:
    """Makes MLflow show what is in the store. What is damaged there, and what MLflow does not take, is reported and
    does not stop the rest.

    Attributes:
        to_log: returns the versions to log where MLflow does not have them.
        views: reads what MLflow is to show of the channels.
        log: logs a version in MLflow from the store.
        pages: reads the whole logs, or (True) their newest records, and makes the pages of versions.
        script: makes the script that rolls production back to a version.
        report: makes the files of a version's report, by name.
        forgotten: returns the names of the versions whose files may be deleted.
        unmanaged: what to do with aliases and stages of versions that are not of this store.
    """

    model: str
    catalog: Catalog
    bindings: Bindings
    to_log: Callable[[], list[VersionName]]
    views: ChannelViews
    decider: RequestDecider
    pages: Callable[[bool], PageSource]
    log: Callable[[Binding], object]
    script: Callable[[Pointer], Script]
    report: Callable[[Binding], Mapping[str, bytes]]
    forgotten: Callable[[], set[str]]
    unmanaged: Unmanaged

    def reconcile(self) -> Reconciled:
        """Reconcile everything.

        Raises:
            CatalogUnreachable: MLflow does not answer.
            CatalogRefused: MLflow refuses.
        """
        self.catalog.ping()
        self.catalog.look_again()
        troubles = _Troubles()
        bound = self._bound(troubles)
        found = self.catalog.versions(self.model)
        false = self._false(bound, found, troubles)
        for each in false:
            with self._its_own(troubles, str(each.version)):
                self.catalog.refuse(each)
        known = self._without(found, false)
        missing = self._missing(bound, known)
        for binding in missing:
            with self._its_own(troubles, binding.version):
                self.log(binding)
        adopted = self._adoptions(bound, known)
        described = self._describe_model(troubles)
        answers = answer_all(self.catalog, self.model, self.decider)
        options, views = self._mirror_options(bound), self.views
        plan = mirror.mirror(self.catalog, self.model, lambda: views.from_logs(troubles.note), options)
        shown = self._show_pages(bound, self.pages(False), troubles)
        reports = self._add_reports(troubles)
        added, left = self._add_scripts()
        done = _reconciled(plan, answers, troubles)
        logged = tuple(each.version for each in missing if each.version not in troubles.names)
        refused = tuple(map(_refusal, false))
        changes = (*refused, *adopted, *done.changes, *described, *shown, *reports, *added)
        return replace(done, logged=logged, changes=changes, skipped=done.skipped + left)

    def reconcile_quickly(self) -> Reconciled:
        """Reconcile requests, stages and aliases by the newest records: the cost grows neither with the logs nor with
        the evidence.

        Raises:
            CatalogUnreachable: MLflow does not answer.
            CatalogRefused: MLflow refuses.
        """
        troubles = _Troubles()
        answers = answer_all(self.catalog, self.model, self.decider)
        options, views = self._mirror_options(), self.views
        plan = mirror.mirror(self.catalog, self.model, lambda: views.from_newest_records(troubles.note), options)
        done = _reconciled(plan, answers, troubles)
        if not (plan.changes or answers.answers):
            return done
        source = self.pages(True)
        moved = [self.bindings.get(VersionName.parse(each.version)) for each in source.moved()]
        return replace(done, changes=done.changes + self._show_pages(moved, source, troubles))

    def preview(self) -> Reconciled:
        """What `reconcile` would do. Nothing is written.

        Raises:
            CatalogUnreachable: MLflow does not answer.
            CatalogRefused: MLflow refuses.
        """
        self.catalog.ping()
        self.catalog.look_again()
        troubles = _Troubles()
        bound = self._bound(troubles)
        found = self.catalog.versions(self.model)
        false = self._false(bound, found, troubles)
        known = self._without(found, false)
        missing = tuple(binding.version for binding in self._missing(bound, known))
        asked = requests.pending(self.catalog, self.model)
        answers = AnsweredRequests(tuple(f"{request}: would be judged by the gates" for request in asked))
        views = self.views.from_logs(troubles.note)
        plan = mirror.preview(self.catalog, self.model, views, self._mirror_options(bound))
        stale = self._stale_pages(bound, self.pages(False), troubles)
        pages = tuple(f"page of {binding.version}" for binding, _, found in stale if found.store)
        reports = tuple(_of_report(binding) for binding in self._without_report(troubles))
        scripts = tuple(map(_in_words, self._missing_scripts()))
        planned = _reconciled(plan, answers, troubles)
        changes = (*map(_refusal, false), *self._adoptions(bound, known), *planned.changes, *pages, *reports, *scripts)
        return replace(planned, logged=missing, changes=changes)

    def _describe_model(self, troubles: _Troubles) -> tuple[str, ...]:
        what = "description of the model"
        with self._its_own(troubles, what):
            return (what,) if self.catalog.describe_model(self.model) else ()
        return ()

    def _mirror_options(self, bound: Sequence[Binding] = ()) -> mirror.MirrorOptions:
        return mirror.MirrorOptions(self.unmanaged, frozenset(map(VersionId.of, bound)))

    def _bound(self, troubles: _Troubles) -> list[Binding]:
        """The versions of the store, without those that can't be read.

        Raises:
            NotFound: there is no store, or no such model in it.
        """
        bound = []
        for name in self.bindings.existing_names():
            with self._its_own(troubles, str(name)):
                bound.append(self.bindings.get(name))
        return bound

    def _false(
        self, bound: Sequence[Binding], registered: Sequence[CatalogVersion], troubles: _Troubles
    ) -> list[CatalogVersion]:
        """The registered versions that say that they are what a channel serves or can go back to, and are not."""
        named = frozenset[VersionId]().union(*(view.named for view in self.views.from_newest_records(note_nothing)))
        pointers = {VersionId.of(each): each.pointer for each in bound if VersionId.of(each) in named}
        ends, false = time.monotonic() + _LOOKING_SECONDS, []
        for each in registered:
            if each.id in pointers and each.store in (self.catalog.store, ""):
                with self._its_own(troubles, each.id.version):
                    manifest = self.bindings.manifest(pointers[each.id])
                    with time_limit(ends - time.monotonic()):
                        if not self.catalog.holds(each, manifest):
                            false.append(each)
        return false

    def _without(
        self, registered: Sequence[CatalogVersion], false: Sequence[CatalogVersion]
    ) -> dict[VersionId, CatalogVersion]:
        """The registered versions of this store that are not false."""
        numbers = {each.number for each in false}
        return by_id([each for each in registered if each.number not in numbers], self.catalog.store)

    def _missing(self, bound: Sequence[Binding], known: Mapping[VersionId, CatalogVersion]) -> list[Binding]:
        """The versions to log, which MLflow does not have. Those that are forgotten may stay so."""
        wanted = set(map(str, self.to_log())) - self.forgotten()
        return [each for each in bound if VersionId.of(each) not in known and each.version in wanted]

    def _adoptions(self, bound: Sequence[Binding], known: Mapping[VersionId, CatalogVersion]) -> tuple[str, ...]:
        """The versions of early releases, which name no store in MLflow: their pages will."""
        unsaid = [each for each in bound if (found := known.get(VersionId.of(each))) and not found.store]
        return tuple(f"store of {each.version}: none -> {self.catalog.store}" for each in unsaid)

    def _show_pages(self, bound: Sequence[Binding], source: PageSource, troubles: _Troubles) -> tuple[str, ...]:
        """Make the pages of versions say what is so, and show their evidence; returns what was changed."""
        changed = []
        for binding, page, found in self._stale_pages(bound, source, troubles):
            with self._its_own(troubles, binding.version):
                self._show_evidence(binding, page)
                if self.catalog.show(binding, page) and found.store:
                    changed.append(f"page of {binding.version}")
        return tuple(changed)

    def _stale_pages(
        self, bound: Sequence[Binding], source: PageSource, troubles: _Troubles
    ) -> list[tuple[Binding, VersionPage, CatalogVersion]]:
        """The pages that do not say what is so, and what MLflow has of these versions."""
        registered = self.catalog.registered(self.model)
        shown = [(each, registered[VersionId.of(each)]) for each in bound if VersionId.of(each) in registered]

        def made(pair: tuple[Binding, CatalogVersion]) -> tuple[Binding, VersionPage, CatalogVersion] | None:
            binding, found = pair
            with self._its_own(troubles, binding.version):
                page = source.page(binding)
                return None if is_shown(found, page) else (binding, page, found)
            return None

        return [each for each in in_parallel(made, shown) if each]

    def _show_evidence(self, binding: Binding, page: VersionPage) -> None:
        """Record evidence that was measured without MLflow. There are no plots: the store does not keep them."""
        of_each = {each.sha256: each for each in newest(page.evidence).values()}
        for sha256 in sorted(self.catalog.lacks_evidence(binding, of_each)) if of_each else ():
            self.catalog.record_evidence(binding, EvidenceRun.of(of_each[sha256]))

    @contextmanager
    def _its_own(self, troubles: _Troubles, what: str) -> Iterator[None]:
        """Note what goes wrong with one version, and go on with the others, unless MLflow or the store is away.

        Raises:
            Unreachable: a server does not answer at all, or MLflow denied the same to many.
        """
        try:
            yield
        except (IntegrityError, VersionNotFound, StoreDenied) as error:
            troubles.note(what, error)
        except Unreachable as error:
            if not isinstance(error, (CatalogRefused, CatalogUnreachable)) or troubles.is_denied_all(error):
                raise
            self.catalog.ping()  # it is this version only, if this passes
            troubles.failed[what] = str(error)
        except UloraError as error:
            troubles.failed[what] = str(error)

    def _without_report(self, troubles: _Troubles) -> list[Binding]:
        """The versions that channels serve or try, and whose report MLflow lacks: they were promoted without it."""
        views = self.views.from_newest_records(note_nothing)
        served = dict.fromkeys(each for view in views for each in (view.stable, view.canary) if each)
        found = []
        for each in served:
            with self._its_own(troubles, each.version):
                binding = self.bindings.get(VersionName.parse(each.version))
                if VersionId.of(binding) == each and self.catalog.lacks_file(binding, REPORT):
                    found.append(binding)
        return found

    def _add_reports(self, troubles: _Troubles) -> tuple[str, ...]:
        """Add the missing reports; returns what was added."""
        added = []
        for binding in self._without_report(troubles):
            with self._its_own(troubles, binding.version):
                self.catalog.add_files(binding, self.report(binding))
                added.append(_of_report(binding))
        return tuple(added)

    def _missing_scripts(self) -> list[Script]:
        """The scripts of production's rollback targets that MLflow lacks, from the nearest to the first that it has.

        It lacks those of promotions that were made without it. Where it lacks none, one request shows that.
        """
        try:
            head = self.views.channel("production").head()
            scripts = map(self.script, head.rollback_targets() if head else ())
            return list(takewhile(self._is_missing, scripts))
        except (IntegrityError, StoreDenied):
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


def _reconciled(plan: MirrorPlan, requests: AnsweredRequests, troubles: _Troubles) -> Reconciled:
    return Reconciled(
        logged=(),
        changes=tuple(str(change) for change in plan.changes),
        skipped=(*plan.skipped, *requests.failures, *plan.to_delete),
        damaged=tuple(f"{what}: {problem}" for what, problem in troubles.damaged.items()),
        refused=tuple(f"{what}: {problem}" for what, problem in troubles.refused.items()),
        failed=(*(f"{what}: {problem}" for what, problem in troubles.failed.items()), *plan.denied),
        requests=requests.answers,
    )


def _refusal(false: CatalogVersion) -> str:
    return f"#{false.number}: no longer counts as {false.version}, whose files it does not have"


def _of_report(binding: Binding) -> str:
    return f"report of {binding.version}: none -> {REPORT}"


def _in_words(script: Script) -> str:
    return f"script of {script.version}: none -> {script.name}"
