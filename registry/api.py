"""The use cases, each a short story told with the parts below it. Silent: printing is the command line's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.channel import Channel, Wish
from registry.errors import (
    BadInput,
    BrokenChain,
    ChannelMoved,
    GateRefused,
    IntegrityError,
    MissingBlob,
    MissingDependency,
    StoreDenied,
    Unreachable,
)
from registry.names import CHANNELS, VersionName, check_channel
from registry.record import Place, Record, Signature, promoted
from registry.settings import Settings
from registry.store.blobs import Blobs, Progress, in_parallel
from registry.store.objects import ObjectStore
from registry.versions import Binding, Versions

if TYPE_CHECKING:
    from registry.answers import (
        Change,
        ChannelStatus,
        Created,
        Listed,
        Reconciled,
        ReplicaStatus,
        Status,
        Verification,
    )
    from registry.backbones import AddedBackbone, BackboneMirror, Mirrored, OpenBar
    from registry.bundles import Bundle, Story
    from registry.catalog.log import Catalog, CatalogVersion
    from registry.catalog.mirror import ChannelView
    from registry.evidence.gates import Candidate, Verdict
    from registry.evidence.ledger import Ledger
    from registry.evidence.results import Evidence
    from registry.manifest import Manifest
    from registry.serving.live import Live
    from registry.serving.loaders import Loaded

VERDICT_TAG = "ulora.verdict"
MIRROR_SECONDS = 5.0
"""How long a promotion waits for MLflow to show it before it leaves that to `reconcile`."""
_SHOWN_REASONS = 3


class Registry:
    """The versions and channels of one model. Opens nothing until it is used; threads may share it."""

    def __init__(
        self,
        model: str | None = None,
        *,
        store: str | None = None,
        tracking_uri: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        """What is left out comes from the environment or `ulora.toml`; see `registry.settings`.

        Raises:
            BadSetting: a setting is missing or wrong.
        """
        self.settings = settings or Settings.load(model=model, store=store, tracking_uri=tracking_uri)
        self.model = self.settings.model
        self._is_checked = False

    def __repr__(self) -> str:
        return f"Registry({self.model!r}, store={self.settings.store!r})"

    # --- the parts ---------------------------------------------------------------------------------------------------

    @cached_property
    def store(self) -> ObjectStore:
        """The objects of the store."""
        return ObjectStore(self.settings.store, endpoint_url=self.settings.endpoint_url)

    @cached_property
    def blobs(self) -> Blobs:
        """The blobs of the store, through this machine's cache."""
        return Blobs(self.store, self.settings.cache)

    @cached_property
    def bindings(self) -> Versions:
        """The names of the model."""
        return Versions(self.store, self.blobs, self.model)

    @cached_property
    def backbone_mirror(self) -> BackboneMirror:
        """The backbones of the store, which all its models share."""
        from registry.backbones import BackboneMirror

        return BackboneMirror(self.store, self.blobs)

    @cached_property
    def ledger(self) -> Ledger:
        """The evidence, verdicts and passes of the model."""
        from registry.evidence.ledger import Ledger

        return Ledger(self.store, self.model)

    @cached_property
    def catalog(self) -> Catalog:
        """The MLflow server. Every use of it may raise `CatalogUnreachable`."""
        from registry.catalog.log import Catalog

        return Catalog(self.settings.tracking_uri, self.settings.aliases)

    def channel(self, name: str) -> Channel:
        """The log of a channel."""
        return Channel(self.store, self.model, check_channel(name))

    # --- versions ----------------------------------------------------------------------------------------------------

    def create(
        self,
        version: str,
        source: Path | str,
        *,
        story: Story | None = None,
        parent: str | None = None,
        target: str | None = None,
        backbone: str | None = None,
        offline: bool = False,
        dry_run: bool = False,
        progress: Progress = lambda done: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> Created:
        """Make a bundle a version: hash, upload the missing blobs, bind the name (the commit), log it in MLflow.

        What is no bundle yet is converted first, see `registry.importing`. Running it again after a crash finishes and
        uploads nothing twice; it also brings back blobs that were lost.

        Args:
            source: a bundle; or adapters of another layout, an old version folder, `models:/NAME/7`.
            target: of another layout: which target it is for, where its files do not tell.
            backbone: of another layout: a folder, a hub id or a name, instead of what it calls its backbone.
            say: told what was found in another layout and what becomes of it, a line at a time.

        Raises:
            BadVersionName, BadBundle, BadWeights, BackboneNotFound: nothing was done.
            VersionExists: the name has other content.
            CatalogUnreachable: MLflow is down and `offline` was not asked for; nothing was done.
        """
        from registry.bundles import DEFAULT_FLAVOR, Story, describe, read_bundle
        from registry.importing import Importing, opened

        name = VersionName.parse(version)
        importing = Importing(DEFAULT_FLAVOR, self.backbone_mirror, self._download, target, backbone, say)
        with opened(source, importing) as found:
            bundle = read_bundle(found.folder)
            before = self.manifest(parent) if parent else None
            told = found.story(story or Story())
            manifest = describe(self.model, name, bundle, source=Path(source), story=told, parent=before)
            return self._create(manifest, bundle, offline=offline, dry_run=dry_run, progress=progress)

    def _create(
        self, manifest: Manifest, bundle: Bundle, *, offline: bool, dry_run: bool, progress: Progress
    ) -> Created:
        from registry.answers import Created

        name = manifest.name
        bound = self.bindings.find(name)
        if bound:
            self.bindings.check_same(bound, manifest.content_sha256)
        if dry_run:
            return Created.of(manifest, is_new=bound is None)
        if not offline:
            self.catalog.ping()
        self._check_writable()
        uploaded = self.blobs.upload(bundle.sources, progress)
        is_new = bound is None and self.bindings.bind(manifest, self.blobs.put(manifest.to_bytes()))
        binding = self.bindings.get(name)
        number = None if offline else self._log_in_catalog(binding, bundle.paths)
        kept = self.bindings.manifest(binding.pointer)
        return Created.of(kept, is_new=is_new, uploaded=uploaded, catalog_number=number)

    def _download(self, uri: str, folder: Path) -> Path:
        return self.catalog.download(uri, folder)

    def versions(self) -> list[Listed]:
        """All versions in the order of their names. MLflow's numbers are left out when it does not answer."""
        from registry.answers import Listed

        heads: dict[str, Record] = {}
        for channel in CHANNELS:
            with _noted({}, channel):  # a list of versions is worth having without a channel that can't be read
                if head := self.channel(channel).head():
                    heads[channel] = head
        numbers = self._catalog_numbers()

        def describe(name: VersionName) -> Listed:
            try:
                manifest = self.bindings.manifest(self.bindings.get(name).pointer)
            except IntegrityError as error:
                return Listed.unreadable(str(name), str(error))
            return Listed(
                version=str(name),
                description=manifest.description,
                timestamp=manifest.timestamp,
                files=len(manifest.files),
                size=manifest.size,
                channels=tuple(channel for channel, head in heads.items() if str(name) in head.live()),
                withdrawn_from=tuple(channel for channel, head in heads.items() if str(name) in head.withdrawn),
                catalog_number=numbers.get((manifest.version, manifest.content_sha256)),
                evidence=self.ledger.benchmarks(name),
            )

        return in_parallel(describe, self.bindings.names())

    def manifest(self, version: str) -> Manifest:
        """What a version is, verified.

        Raises:
            VersionNotFound, MissingBlob, CorruptBlob.
        """
        return self.bindings.manifest(self.bindings.get(VersionName.parse(version)).pointer)

    def verify(self, version: str, *, read_data: bool = False, progress: Progress = lambda done: None) -> Verification:
        """Check every file of a version in the store: by the server's checksums, or by reading all bytes.

        Raises:
            VersionNotFound: there is no such version.
            MissingBlob, CorruptBlob, BadManifest: its manifest itself is bad.
        """
        from registry.answers import BadFile, Verification

        manifest = self.manifest(version)
        found = self.blobs.check(manifest.files, progress) if read_data else self.blobs.absent(manifest.files)
        problems = {bad.sha256: bad.problem for bad in found}
        bad = tuple(
            BadFile(file.path, file.sha256, problems[file.sha256]) for file in manifest.files if file.sha256 in problems
        )
        return Verification(version, len(manifest.files), manifest.size, read_data, bad)

    # --- backbones ---------------------------------------------------------------------------------------------------

    def add_backbone(
        self,
        spec: Path | str,
        *,
        revision: str | None = None,
        name: str | None = None,
        dry_run: bool = False,
        bar: OpenBar | None = None,
    ) -> AddedBackbone:
        """Put a backbone's weights into the store, once for all machines and versions. Again, it does nothing.

        Args:
            spec: a folder with `config.json` and `model.safetensors`, or a repository on the hub: from its cache on
                this machine, else downloaded.
            revision: of the repository: a commit, a branch or a tag.
            name: what to call it instead of the folder's or the repository's name.
            bar: opens what is told of the bytes as they are uploaded.

        Raises:
            BackboneNotFound: it is gated, missing or out of reach; the hint says what to do.
            BadInput: it is no backbone of a known family.
        """
        from registry.backbones import find_backbone, no_bar
        from registry.bundles import DEFAULT_FLAVOR

        local = find_backbone(spec, flavor=DEFAULT_FLAVOR, revision=revision, name=name)
        if dry_run:
            return self.backbone_mirror.plan(local, self.settings.who)
        self._check_writable()
        with (bar or no_bar)(local.size) as progress:
            return self.backbone_mirror.add(local, self.settings.who, progress)

    def backbones(self) -> Mirrored:
        """The backbones that the store holds, by name."""
        return self.backbone_mirror.all()

    # --- evidence ----------------------------------------------------------------------------------------------------

    def measure(
        self,
        version: str,
        *,
        only: Sequence[str] = (),
        data: Path | None = None,
        device: str = "cpu",
        runtime: str | None = None,
        offline: bool = False,
        on_done: Callable[[Evidence], None] = lambda evidence: None,
    ) -> list[Evidence]:
        """Run benchmarks on a version; keep the evidence in the store, then show it in MLflow.

        Args:
            only: names of benchmarks; all that are installed when empty.
            data: the images; the setting `data` when left out.
            runtime: what computes it, e.g. `torch-fp32`; the flavor's own choice when left out.
            on_done: told of each evidence once it is kept.

        Raises:
            BadInput: no data, or no such benchmark.
        """
        from registry.evidence.measuring import find_benchmarks, measure, open_data
        from registry.showing import evidence_result

        benchmarks = find_benchmarks(only)
        manifest = self.manifest(version)
        images = open_data(manifest.flavor, data or self.settings.data)
        if not offline:
            self.catalog.ping()
        loaded = self.load(version, device=device, runtime=runtime)
        kept = []
        for name, benchmark in benchmarks.items():
            evidence, plot = measure(name, benchmark, manifest, loaded, images, who=self.settings.who)
            self.ledger.add(evidence)
            if not offline:
                self.catalog.record_evidence(manifest, evidence_result(evidence, plot))
            kept.append(evidence)
            on_done(evidence)
        return kept

    def evidence(self, version: str) -> list[Evidence]:
        """All evidence of a version, oldest first."""
        return self.ledger.evidence(self.manifest(version).name)

    def judge(self, version: str, channel: str) -> Verdict:
        """Judge by the policy whether a channel may take a version. Nothing is written."""
        from registry.evidence.gates import Candidate, judge
        from registry.evidence.policy import load_policy

        policy = load_policy(self.settings.policy)
        candidate = Candidate.of(self.manifest(version))
        head = self.channel(channel).head()
        is_relative = any(rule.is_relative for rule in policy.rules_for(channel, candidate.version))
        compared = self._stable_beside(candidate, head) if is_relative else None
        required = policy.required_channel(channel)
        return judge(
            policy,
            channel,
            candidate,
            self.ledger.evidence(candidate.version),
            past=self.ledger.past(self.channel(required), candidate.version) if required else None,
            withdrawn=head is not None and version in head.withdrawn,
            stable=compared,
            stable_evidence=self.ledger.evidence(compared.version) if compared else (),
            timestamp=datetime.now(UTC).isoformat(timespec="milliseconds"),
            who=self.settings.who,
        )

    # --- channels ----------------------------------------------------------------------------------------------------

    def promote(
        self,
        version: str,
        channel: str = "staging",
        *,
        reason: str = "",
        force: bool = False,
        expected: int | None = None,
        dry_run: bool = False,
    ) -> Change:
        """Make a version stable in a channel, if every blob is there and the gates let it.

        Args:
            force: overrule the gates; needs a reason. The refused verdict is kept with it.
            expected: the generation that the caller saw; another one is `ChannelMoved`.

        Raises:
            GateRefused: a rule was not met; the verdict is kept in the store.
            ChannelMoved: another writer was first; nothing changed.
            MissingBlob, CorruptBlob: the version is not whole; nothing changed.
        """
        from registry.answers import Change

        if force and not reason.strip():
            raise BadInput("a forced promotion needs a reason", hint="add --reason '…'")
        name, signature = VersionName.parse(version), Signature(self.settings.who, reason)
        log = self.channel(channel)
        head = log.head()
        _check_expected(channel, head, expected)
        binding = self.bindings.get(name)
        if head and head.stable and head.stable.manifest_sha256 == binding.manifest_sha256:
            return Change.unneeded(head, f"{version} is stable in {channel} already")
        self._check_whole(self.bindings.manifest(binding.pointer))
        verdict = self.judge(version, channel)
        verdict = verdict.force(reason) if force and not verdict.allows else verdict
        record = promoted(Place(self.model, channel, head), binding.pointer, signature, verdict.sha256)
        if dry_run:
            _check_allowed(verdict)
            return Change.of(record, head, changed=False, verdict=verdict)
        self._check_writable()
        self.ledger.add_verdict(verdict)
        _check_allowed(verdict)
        if channel == "staging":
            self.ledger.add_pass(record, binding.content_sha256)
        log.commit(record)
        return Change.of(record, head, changed=True, verdict=verdict, notes=self.mirror(verdict))

    def rollback(
        self,
        channel: str = "production",
        *,
        reason: str = "",
        wish: Wish | None = None,
        dry_run: bool = False,
    ) -> Change:
        """Go back to the version before, or end a trial: one conditional write, with nothing but S3.

        MLflow is not asked and not told: `mirror` or `reconcile` make it show the change.

        Raises:
            NothingToRollBackTo, NotNow, VersionNotFound: nothing changed.
            OutcomeUnknown: run it again, it is safe.
        """
        from registry.answers import Change

        log, signature = self.channel(channel), Signature(self.settings.who, reason)
        if dry_run:
            return Change.of_rollback(log.plan_rollback(signature, wish or Wish()), changed=False)
        done = log.rollback(signature, wish or Wish())
        return Change.of_rollback(done, changed=done.changed)

    def status(self) -> Status:
        """What every channel serves, and its replicas."""
        from registry.answers import Status

        channels = tuple(in_parallel(self._channel_status, CHANNELS))
        return Status(self.model, self.settings.store, channels)

    def history(self, channel: str = "production", limit: int | None = None) -> list[Record]:
        """The records of a channel, newest first; without a limit the whole chain is verified.

        Raises:
            BrokenChain: a record was changed or removed.
        """
        return self.channel(channel).history(limit)

    # --- rollback of a part, rollback scripts ------------------------------------------------------------------------

    # --- files on disk: restore, switch, snapshots -------------------------------------------------------------------

    # --- signatures --------------------------------------------------------------------------------------------------

    # --- retention: forget, prune, copy ------------------------------------------------------------------------------

    # --- MLflow ------------------------------------------------------------------------------------------------------

    def reconcile(self, *, adopt: bool = False, dry_run: bool = False) -> Reconciled:
        """Make MLflow hold every version and show what the channels serve. A damaged version stops no other.

        Raises:
            CatalogUnreachable: it does not answer.
            BadManifest: the end of a channel's log can't be read.
        """
        from registry.answers import Reconciled
        from registry.catalog import mirror

        self.catalog.ping()
        damaged: dict[str, str] = {}
        missing = self._missing_in_catalog(damaged)
        unmanaged: mirror.Unmanaged = "adopt" if adopt else "leave"
        if dry_run:
            plan = mirror.preview(self.catalog, self.model, self._channel_views(), unmanaged)
        else:
            for binding in missing:
                with _noted(damaged, binding.version):
                    self._log_in_catalog(binding, None)
            for found in self.catalog.versions(self.model):
                if found.version:
                    with _noted(damaged, found.version):
                        self._show_evidence(found)
            plan = mirror.mirror(self.catalog, self.model, self._channel_views, unmanaged)
        return Reconciled(
            logged=tuple(binding.version for binding in missing if binding.version not in damaged),
            changes=tuple(str(change) for change in plan.changes),
            skipped=plan.skipped,
            damaged=tuple(f"{version}: {problem}" for version, problem in damaged.items()),
        )

    def mirror(self, verdict: Verdict | None = None) -> tuple[str, ...]:
        """Make MLflow show what the channels serve, for at most `MIRROR_SECONDS`; notes on what it could not do."""
        from registry.catalog import mirror
        from registry.catalog.deadline import within

        if self.settings.tracking_uri is None:
            return ()

        catalog = self.catalog.hasty()
        left: list[str] = []

        def show() -> None:
            left.extend(mirror.mirror(catalog, self.model, self._channel_ends).skipped)
            if verdict:
                tags = {f"{VERDICT_TAG}.{verdict.channel}": f"{verdict.outcome} {verdict.sha256}"}
                catalog.set_tags(self.model, verdict.version, verdict.content_sha256, tags)

        try:
            within(MIRROR_SECONDS, show)
        except Exception as error:  # the log has moved: no trouble with a view of it may look like a failure
            return (f"MLflow does not show it yet ({error}); `ulora reconcile` does that later",)
        return tuple(f"MLflow does not show it: {skipped}" for skipped in left)

    # --- serving -----------------------------------------------------------------------------------------------------

    def load(self, version: str, *, device: str = "cpu", runtime: str | None = None) -> Loaded:
        """One version, verified, loaded and self-tested: for notebooks and batches. Starts no thread.

        Args:
            runtime: what computes it, e.g. `torch-fp32`; the flavor's own choice when left out.

        Raises:
            BackboneNotFound, BadInput: no such backbone, device or runtime is to be had here.
            VersionNotFound, MissingBlob, CorruptBlob, BadWeights, SelfTestFailed, LoadFailed, MissingDependency.
        """
        from registry.serving.loaders import load_version

        binding, fetch = self.bindings.get(VersionName.parse(version)), self.backbone_mirror.fetch
        return load_version(self.bindings, self.blobs, binding.pointer, device, runtime=runtime, fetch=fetch)

    def follow(self, channel: str = "production", **options: Any) -> Live:
        """What a channel serves: a new version is loaded beside the live one, then swapped in.

        Use it as a context manager. The options are those of `registry.serving.live.Live`.
        """
        from registry.serving.fleet import Heartbeats
        from registry.serving.live import Live

        heartbeats = Heartbeats(self.store, self.model, check_channel(channel))
        usual = {"fleet": heartbeats, "fetch": self.backbone_mirror.fetch}
        return Live(self.channel(channel), self.bindings, self.blobs, **{**usual, **options})

    # --- parts -------------------------------------------------------------------------------------------------------

    def _check_writable(self) -> None:
        """Before the first write of this object: is this a store, and does it honour conditional writes?"""
        if not self._is_checked:
            self.store.check_writable()
            self._is_checked = True

    def _check_whole(self, manifest: Manifest) -> None:
        absent = {bad.sha256 for bad in self.blobs.absent(manifest.files)}
        paths = [file.path for file in manifest.files if file.sha256 in absent]
        if paths:
            raise MissingBlob(
                f"{manifest.version} is not whole in the store: {', '.join(paths[:3])}{' …' * (len(paths) > 3)}",
                hint=f"`ulora verify {manifest.version}` names every file",
            )

    def _stable_beside(self, candidate: Candidate, head: Record | None) -> Candidate | None:
        """The stable version that a candidate is compared with. Of one that can't be read, nothing was measured."""
        from registry.evidence.gates import Candidate

        if head is None or head.stable is None or head.stable.version == str(candidate.version):
            return None
        try:
            return Candidate.of(self.bindings.manifest(head.stable))
        except IntegrityError:
            name = VersionName.parse(head.stable.version)
            return Candidate(self.model, name, content_sha256="", targets=candidate.targets)

    def _log_in_catalog(self, binding: Binding, paths: Mapping[str, Path] | None) -> int:
        """Log a version in MLflow from files on disk, or from the store."""
        manifest = self.bindings.manifest(binding.pointer)
        if paths is None:
            files = self.blobs.fetch(manifest.files)
            paths = {file.path: files[file.sha256] for file in manifest.files}
        return self.catalog.log(manifest, binding.manifest_sha256, paths).number

    def _missing_in_catalog(self, damaged: dict[str, str]) -> list[Binding]:
        """The versions that MLflow does not hold; those that can't be read are noted in `damaged`."""
        known = {(found.version, found.content_sha256) for found in self.catalog.versions(self.model)}
        missing = []
        for name in self.bindings.names():
            with _noted(damaged, str(name)):
                binding = self.bindings.get(name)
                if (binding.version, binding.content_sha256) not in known:
                    missing.append(binding)
        return missing

    def _show_evidence(self, found: CatalogVersion) -> None:
        """Record in MLflow what was measured of a version while MLflow was away; plots were not kept."""
        from registry.evidence.results import newest
        from registry.showing import evidence_result

        for evidence in newest(self.ledger.evidence(VersionName.parse(found.version or ""))).values():
            result = evidence_result(evidence, None)
            if evidence.content_sha256 == found.content_sha256 and not found.shows(result):
                self.catalog.record_evidence(self.manifest(evidence.version), result)

    def _catalog_numbers(self) -> dict[tuple[str | None, str | None], int]:
        """MLflow's numbers by name and content, empty when it does not answer."""
        if self.settings.tracking_uri is None:
            return {}
        try:
            self.catalog.ping()
            versions = self.catalog.versions(self.model)
            return {(found.version, found.content_sha256): found.number for found in versions}
        except (Unreachable, MissingDependency):
            return {}

    def _heads(self) -> dict[str, Record]:
        """The newest record of each channel that has one."""
        heads = {name: self.channel(name).head() for name in CHANNELS}
        return {name: head for name, head in heads.items() if head}

    def _channel_views(self) -> list[ChannelView]:
        """The channels as the mirror needs them, from their whole logs; from its end where a log is broken."""
        from registry.showing import channel_view

        def view(name: str) -> ChannelView:
            try:
                return channel_view(name, self.channel(name).history())
            except BrokenChain:
                head = self.channel(name).head()
                return replace(channel_view(name, [head] if head else []), formerly=None)

        return [view(name) for name in CHANNELS]

    def _channel_ends(self) -> list[ChannelView]:
        """The same from their newest records only, whose cost does not grow with the logs."""
        from registry.showing import channel_view

        heads = self._heads()
        views = [channel_view(name, [heads[name]] if name in heads else []) for name in CHANNELS]
        return [replace(view, formerly=None) for view in views]

    def _channel_status(self, name: str) -> ChannelStatus:
        from registry.answers import ChannelStatus

        try:
            return ChannelStatus.of(name, self.channel(name).head(), self._replicas(name))
        except IntegrityError as error:
            return ChannelStatus.of(name, None, (), problem=str(error))

    def _replicas(self, channel: str) -> tuple[ReplicaStatus, ...]:
        """What the replicas last said; nothing where we may not ask: following never depends on it."""
        from registry.answers import ReplicaStatus
        from registry.serving.fleet import replicas

        try:
            fleet = replicas(self.store, self.model, channel)
        except StoreDenied:
            return ()
        return tuple(ReplicaStatus.of(replica) for replica in fleet)


@contextmanager
def _noted(damaged: dict[str, str], what: str) -> Iterator[None]:
    """Note what can't be read and go on without it."""
    try:
        yield
    except IntegrityError as error:
        damaged[what] = str(error)


def _check_expected(channel: str, head: Record | None, expected: int | None) -> None:
    generation = head.generation if head else 0
    if expected is not None and generation != expected:
        who = f"{head.who} ({head.action}, {head.when})" if head else "nobody"
        raise ChannelMoved(
            f"{channel} is at generation {generation}, not {expected}: last moved by {who}; nothing changed",
            hint=f"look with `ulora history --channel {channel}`, then decide again",
        )


def _check_allowed(verdict: Verdict) -> None:
    if verdict.allows:
        return
    refused = verdict.refusals
    raise GateRefused(
        f"{verdict.channel} refuses {verdict.version} ({verdict.outcome}): "
        + "; ".join(check.reason for check in refused[:_SHOWN_REASONS])
        + (f"; and {len(refused) - _SHOWN_REASONS} more" if len(refused) > _SHOWN_REASONS else ""),
        hint="`--force --reason …` overrules the gates; it stays on the record",
        verdict=verdict,
    )
