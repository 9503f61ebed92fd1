"""The use cases, each a short story told with the parts below it. Silent: printing is the command line's."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.channels.channel import RollbackOptions
from registry.channels.record import Author, ChannelPosition, Record, promoted
from registry.errors import (
    BadInput,
    ChannelMoved,
    GateRefused,
    IntegrityError,
    MissingBlob,
    NothingToRollBackTo,
    NotTrusted,
    UloraError,
)
from registry.machine import clock, identity
from registry.names import CHANNELS, VersionName, check_channel
from registry.parallel import in_parallel
from registry.progress import OpenProgress, Progress, Say, no_progress, open_no_progress, say_nothing
from registry.store import layout
from registry.store.blobs import Described
from registry.versions.pointer import Pointer
from registry.wiring import Parts

if TYPE_CHECKING:
    from registry.answers import (
        Change,
        Created,
        Listed,
        Mended,
        Reconciled,
        Signed,
        Status,
        Verification,
    )
    from registry.breakglass.write_script import Script
    from registry.catalog.reconciler import Reconciler
    from registry.evidence.gates import Verdict
    from registry.evidence.results import Evidence
    from registry.integrity.repair import FilesByDigest, Repairer
    from registry.integrity.verify import Sample, Verifier
    from registry.retention.copy import Copied
    from registry.retention.forget import Collected, RetentionRule
    from registry.serving.live import Live
    from registry.serving.loaders import Loaded
    from registry.tree.restore import Restored
    from registry.tree.snapshot import Project
    from registry.tree.switch import Switched
    from registry.trust.keys import SigningKey
    from registry.versions.backbones import AddedBackbone, Mirrored
    from registry.versions.bundle import Bundle, ReleaseNotes
    from registry.versions.importing import Importing
    from registry.versions.manifest import FileEntry, Manifest

VERDICT_TAG = "ulora.verdict"
MIRROR_SECONDS = 5.0
"""How long a promotion waits for MLflow to show it before it leaves that to `reconcile`."""
SCRIPT_SECONDS = 2.0
"""How long a promotion waits until the script that goes back is in the store."""
_SHOWN_REASONS = 3


class Registry(Parts):
    """The versions and channels of one model. Opens nothing until it is used; threads may share it."""

    # --- versions ----------------------------------------------------------------------------------------------------

    def create(
        self,
        version: str,
        source: Path | str | None = None,
        *,
        project: Project | Path | None = None,
        release_notes: ReleaseNotes | None = None,
        parent: str | None = None,
        target: str | None = None,
        backbone: str | None = None,
        if_changed: bool = False,
        git_tag: bool = False,
        allow_secrets: Sequence[str] = (),
        offline: bool = False,
        dry_run: bool = False,
        progress: Progress = no_progress,
        say: Say = say_nothing,
    ) -> Created:
        """Make a bundle a version: hash, upload the missing blobs, bind the name (the commit), log it in MLflow.

        What is no bundle yet is converted first, see `registry.versions.importing`. Running it again after a crash
        finishes and uploads nothing twice; it also brings back blobs that were lost.

        Args:
            source: a bundle; or adapters of another layout, an old version folder, `models:/NAME/7`.
            project: files that become the component `project`; without a source they are the version, a snapshot.
            target: of another layout: which target it is for, where its files do not tell.
            backbone: of another layout: a folder, a hub id or a name, instead of what it calls its backbone.
            if_changed: do nothing if the newest version of this flavor, of another name, has the same content.
            git_tag: then tag the commit of the project's repository with the version's name.
            allow_secrets: files of the project to take though they look like credentials, by their paths in it.
            say: told what was found in another layout and what becomes of it, a line at a time.

        Raises:
            BadVersionName, BadBundle, BadWeights, BackboneNotFound, BadInput: nothing was done.
            VersionExists: the name has other content, or git's tag of this name another commit.
            CatalogUnreachable: MLflow is down and `offline` was not asked for; nothing was done. If it went away after
                it was asked, the version stands and running it again logs it.
        """
        from registry.answers import Created
        from registry.tree.credentials import check_credentials
        from registry.tree.git_tag import planned_tag
        from registry.tree.snapshot import Project
        from registry.versions.bundle import DEFAULT_FLAVOR, ReleaseNotes, describe
        from registry.versions.importing import Importing

        name = VersionName.parse(version)
        project = Project.at(project) if isinstance(project, Path) else project
        place = project.folder if project else Path(source or "")
        tag = planned_tag(place if project else None, name, say) if git_tag else None
        importing = Importing(DEFAULT_FLAVOR, self.backbone_mirror, self._download, target, backbone, say)
        with _content(source, project, importing, progress) as (bundle, said):
            check_credentials(bundle.paths, allow_secrets)
            before = self.manifest(parent) if parent else None
            told = said(release_notes or ReleaseNotes())
            facts = {**(project.facts() if project else {}), **({"git_tag": str(name)} if tag else {})}
            manifest = describe(self.model, name, bundle, source=place, release_notes=told, parent=before, facts=facts)
            if if_changed and (same := self._newest_with(manifest)) and same.name != name:
                return Created.unchanged(same)
            created = self._create(manifest, bundle, offline=offline, dry_run=dry_run, progress=progress)
        if tag and not dry_run:
            tag.make(created.content_sha256)
        return created

    def compose(
        self,
        version: str,
        parent: str,
        components: Mapping[str, Path | str],
        *,
        release_notes: ReleaseNotes | None = None,
        allow_secrets: Sequence[str] = (),
        offline: bool = False,
        dry_run: bool = False,
        progress: Progress = no_progress,
    ) -> Created:
        """Make a version of another one, but for some components, which lie on this disk: only these are uploaded.

        Args:
            components: the folder of each one's own files by its name, e.g. `adapters/tomato`.

        Raises:
            As `create`.
            BadInput: a component does not fit the parent: it requires another backbone, say.
        """
        from registry.tree.credentials import check_credentials
        from registry.tree.snapshot import read_component
        from registry.versions.bundle import Bundle, ReleaseNotes, describe
        from registry.versions.compose import compose

        if not components:
            raise BadInput("no component is named", hint="for example adapters/tomato=DIR")
        name, base = VersionName.parse(version), self.manifest(parent)
        read = [read_component(each, Path(folder)) for each, folder in sorted(components.items())]
        whole = compose(base, [piece for piece, _ in read])
        paths = {path: file for _, files in read for path, file in files.items()}
        check_credentials(paths, allow_secrets)
        bundle = Bundle(base.backbone, dict(whole.components), whole.files, paths, base.flavor)
        manifest = describe(
            self.model, name, bundle, source=Path(components[min(components)]),
            release_notes=release_notes or ReleaseNotes(), parent=base, facts={"composed": whole.provenance},
        )  # fmt: skip
        return self._create(manifest, bundle, offline=offline, dry_run=dry_run, progress=progress)

    def _newest_with(self, manifest: Manifest) -> Manifest | None:
        """The newest version of a manifest's flavor, if it has its content; forgotten and damaged ones do not count."""
        forgotten = set(self.forgotten.versions())
        for name in reversed(self.bindings.names()):
            with _noted({}, str(name)):
                found = self.bindings.manifest(self.bindings.get(name).pointer)
                if found.flavor == manifest.flavor and found.version not in forgotten:
                    return found if found.content_sha256 == manifest.content_sha256 else None
        return None

    def _create(
        self, manifest: Manifest, bundle: Bundle, *, offline: bool, dry_run: bool, progress: Progress
    ) -> Created:
        from registry.answers import Created
        from registry.store.publishing import publish

        name = manifest.name
        bound = self.bindings.find(name)
        if bound:
            self.bindings.check_same(bound, manifest.content_sha256)
        if dry_run:
            return Created.of(manifest, is_new=bound is None)
        if not offline:
            self.catalog.ping()
        self._check_writable()
        is_forgotten = bound is not None and self.forgotten.find(str(name)) is not None

        def commit() -> bool:
            if is_forgotten:
                self.forgotten.take_back(str(name))
            return bound is None and self.bindings.bind(manifest, self.blobs.put(manifest.to_bytes()))

        sources = bundle.sources

        def local(file: Described) -> AbstractContextManager[Path]:
            return nullcontext(sources.get(file.sha256) or self.blobs.fetch([file])[file.sha256])

        done = publish(self.store, manifest.files, local, commit, progress)
        binding = self.bindings.get(name)
        number = None if offline else self._log_in_catalog(binding, bundle.paths if bundle.is_on_disk else None)
        kept = self.bindings.manifest(binding.pointer)
        created = Created.of(kept, is_new=done.value, uploaded=done.uploaded, catalog_number=number)
        return replace(created, brought_back=is_forgotten)

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
        forgotten = set(self.forgotten.versions())

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
                forgotten=str(name) in forgotten,
            )

        return in_parallel(describe, self.bindings.names())

    def manifest(self, version: str) -> Manifest:
        """What a version is, verified.

        Raises:
            VersionNotFound, MissingBlob, CorruptBlob.
        """
        return self.bindings.manifest(self.bindings.get(VersionName.parse(version)).pointer)

    def verify(
        self,
        version: str,
        *,
        read_data: bool = False,
        sample: Sample | None = None,
        progress: Progress = no_progress,
    ) -> Verification:
        """Check every file of a version in the store: by the server's checksums, or by reading all bytes or a sample.

        Raises:
            VersionNotFound: there is no such version.
            MissingBlob, CorruptBlob, BadManifest: its manifest itself is bad.
        """
        from registry.integrity.verify import ALL, NONE

        return self.verifier(ALL if read_data else sample or NONE).version(version, progress)

    def verifier(self, sample: Sample) -> Verifier:
        """What verifies versions of this model, one after the other, and looks at each blob once."""
        from registry.integrity.verify import Verifier
        from registry.retention.references import deletable_versions

        return Verifier(
            self.bindings, self.blobs, sample,
            check=self.check_trusted, deletable=lambda: deletable_versions(self.store, self.model),
            note=self.last_reads.note,
        )  # fmt: skip

    def repair(
        self,
        version: str,
        source: Path,
        *,
        read_data: bool = False,
        dry_run: bool = False,
        tell: Callable[[Mended], None] = lambda mended: None,
    ) -> tuple[Verification, tuple[Mended, ...]]:
        """Verify a version, and put good copies from anywhere in a folder where its blobs are bad or missing.

        A corrupt blob is replaced only once it was read and found bad, and while it is still the object that was read.

        Returns:
            The version as it is afterwards, and what was mended, or would be.

        Raises:
            VersionNotFound: there is no such version.
            BadInput: there is no such folder.
        """
        from registry.integrity.repair import FilesByDigest
        from registry.integrity.verify import ALL, NONE

        return self.repairer(FilesByDigest(source), ALL if read_data else NONE, dry_run=dry_run, tell=tell).version(
            version
        )

    def repairer(
        self, copies: FilesByDigest, sample: Sample, *, dry_run: bool = False, tell: Callable[[Mended], None]
    ) -> Repairer:
        """What verifies and repairs versions of this model, one after the other."""
        from registry.integrity.repair import BlobRepair, Repairer, only_plan

        if not dry_run:
            self._check_writable()
        mender = BlobRepair(self.store, self.blobs, copies)
        return Repairer(self.verifier(sample), mender, only_plan if dry_run else BlobRepair.apply, tell)

    # --- backbones ---------------------------------------------------------------------------------------------------

    def add_backbone(
        self,
        spec: Path | str,
        *,
        revision: str | None = None,
        name: str | None = None,
        dry_run: bool = False,
        bar: OpenProgress | None = None,
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
        from registry.versions.backbones import find_backbone
        from registry.versions.bundle import DEFAULT_FLAVOR

        local = find_backbone(spec, flavor=DEFAULT_FLAVOR, revision=revision, name=name)
        if dry_run:
            return self.backbone_mirror.plan(local, self.settings.who)
        self._check_writable()
        with (bar or open_no_progress)(local.size) as progress:
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
        from registry.catalog.views import evidence_result
        from registry.evidence.measuring import find_benchmarks, measure, open_data

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
            timestamp=clock.timestamp(),
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
            VersionForgotten: it was garbage-collected, or will be; nothing changed.
            NotTrusted: it is not signed by a trusted key; no force overrules that.
        """
        from registry.answers import Change
        from registry.retention.notes import check_remembered

        if force and not reason.strip():
            raise BadInput("a forced promotion needs a reason", hint="add --reason '…'")
        name, signature = VersionName.parse(version), Author(self.settings.who, reason)
        log = self.channel(channel)
        head = log.head()
        _check_expected(channel, head, expected)
        binding = self.bindings.get(name)
        if head and head.stable and head.stable.manifest_sha256 == binding.manifest_sha256:
            return Change.unneeded(head, f"{version} is stable in {channel} already")
        check_remembered(self.forgotten, version)
        manifest = self.bindings.manifest(binding.pointer)
        self._check_servable(manifest)
        verdict = self.judge(version, channel)
        verdict = verdict.force(reason) if force and not verdict.allows else verdict
        record = promoted(ChannelPosition(self.model, channel, head), binding.pointer, signature, verdict.sha256)
        if dry_run:
            _check_allowed(verdict)
            return Change.of(record, head, changed=False, verdict=verdict)
        self._check_writable()
        self.ledger.add_verdict(verdict)
        _check_allowed(verdict)
        if channel == "staging":
            self.ledger.add_pass(record, binding.content_sha256)
        log.commit(record)
        return Change.of(record, head, changed=True, verdict=verdict, notes=self._after_promotion(head, verdict))

    def rollback(
        self,
        channel: str = "production",
        *,
        reason: str = "",
        options: RollbackOptions | None = None,
        only: Sequence[str] = (),
        dry_run: bool = False,
    ) -> Change:
        """Go back to the version before, or end a trial: one conditional write, with nothing but S3.

        MLflow is not asked and not told: `mirror` or `reconcile` make it show the change.

        Args:
            only: components, e.g. `adapters/tomato`: the live version with these of the version before becomes stable.

        Raises:
            NothingToRollBackTo, NotNow, VersionNotFound: nothing changed.
            BadInput, MissingBlob, CorruptBlob, NotTrusted: with `only`; nothing changed.
            OutcomeUnknown: run it again, it is safe.
        """
        from registry.answers import Change

        if only:
            return self._roll_back_partly(
                channel, Author(self.settings.who, reason), options or RollbackOptions(), only, dry_run
            )
        log, signature = self.channel(channel), Author(self.settings.who, reason)
        if dry_run:
            return Change.of_rollback(log.plan_rollback(signature, options or RollbackOptions()), changed=False)
        done = log.rollback(signature, options or RollbackOptions())
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

    def _roll_back_partly(
        self, channel: str, signature: Author, options: RollbackOptions, only: Sequence[str], dry_run: bool
    ) -> Change:
        from registry.answers import Change
        from registry.channels.partial_rollback import PartialRollback

        back = PartialRollback(self.channel(channel), self.bindings, self.blobs, only, self._check_servable)
        if dry_run:
            plan = back.plan(options)
            planned = Change.of_rollback(back.preview(plan, signature), changed=False)
            return replace(planned, notes=(*planned.notes, plan.note))
        done, note = back.roll_back(signature, options)
        change = Change.of_rollback(done, changed=done.changed)
        return replace(change, notes=(*change.notes, note))

    def rollback_script(
        self, version: str, channel: str = "production", *, reason: str = "", dry_run: bool = False
    ) -> Script:
        """The script that takes a channel back to a version, with Python and boto3 only; the version is pinned.

        Garbage collection keeps a pinned version's files until `unpin`.

        Raises:
            VersionNotFound, VersionForgotten: there is no such version any more.
            MissingBlob, CorruptBlob, NotTrusted: it could not be served.
        """
        from registry.retention.notes import Pin, check_remembered

        manifest = self.manifest(version)
        check_remembered(self.forgotten, version)
        self._check_servable(manifest)
        script = self._script(manifest, check_channel(channel))
        if not dry_run:
            self._check_writable()
            pin = Pin(
                format=1, model=self.model, version=version, manifest_sha256=script.manifest_sha256, channel=channel,
                who=self.settings.who, when=clock.timestamp(), reason=reason,
            )  # fmt: skip
            self._pins.add(pin)
            self._check_whole(manifest)  # again: from here on garbage collection keeps it so
        return script

    def rollback_scripts(self, channel: str = "production") -> list[Script]:
        """The scripts of all versions that a rollback of a channel could go to, which the stack holds: none is pinned.

        Raises:
            NothingToRollBackTo: there is none.
            MissingBlob, CorruptBlob, NotTrusted: one of them could not be served.
        """
        head = self.channel(channel).head()
        targets = head.rollback_targets() if head else ()
        if not targets:
            raise NothingToRollBackTo(f"{self.model} {channel} has no earlier version to roll back to")
        manifests = in_parallel(self.bindings.manifest, targets)
        for manifest in manifests:
            self._check_servable(manifest)
        return [self._script(manifest, channel) for manifest in manifests]

    def unpin(self, version: str) -> bool:
        """Let garbage collection have a version again that a rollback script held; False if none did."""
        was_pinned = self.is_pinned(version)
        if was_pinned:
            self._pins.take_back(version)
        return was_pinned

    def is_pinned(self, version: str) -> bool:
        """Whether a rollback script holds a version."""
        return self._pins.find(str(VersionName.parse(version))) is not None

    def _script(self, manifest: Manifest, channel: str) -> Script:
        from registry.breakglass.write_script import StoreLocation, rollback_script

        settings = self.settings
        encryption = self._encryption.add_to({}) if self._encryption else {}
        return rollback_script(manifest, channel, StoreLocation(settings.store, settings.endpoint_url, encryption))

    def _after_promotion(self, before: Record | None, verdict: Verdict) -> tuple[str, ...]:
        """Leave the script that goes back, then make MLflow show the promotion: `MIRROR_SECONDS` for both. Notes."""
        began = time.monotonic()
        scripts: list[Script] = []
        notes: tuple[str, ...] = ()
        if before and before.stable and verdict.channel in CHANNELS:
            notes = self._leave_script(before.stable, verdict.channel, scripts)
        seconds = max(0.1, MIRROR_SECONDS - (time.monotonic() - began))
        return (*notes, *self.mirror(verdict, scripts, seconds=seconds), *self._forgotten_meanwhile(verdict.version))

    def _forgotten_meanwhile(self, version: str) -> tuple[str, ...]:
        """A note where a version was forgotten just while it became stable: its files stay, but people should know."""
        with suppress(UloraError):  # the log has moved
            if self.forgotten.find(version):
                return (f"{version} was forgotten meanwhile: `ulora store remember {version}` takes that back",)
        return ()

    def _leave_script(self, replaced: Pointer, channel: str, scripts: list[Script]) -> tuple[str, ...]:
        """Write the script that goes back to a version into the store, and add it to `scripts`."""
        from registry.catalog.deadline import within

        def leave() -> None:
            script = self._script(self.bindings.manifest(replaced), channel)
            self.store.create(layout.script(self.model, script.version, script.sha256), script.body)
            scripts.append(script)

        try:
            within(SCRIPT_SECONDS, leave)
        except Exception as error:  # the log has moved: no trouble with a convenience may look like a failure
            return (f"no rollback script was left ({error}); `ulora rollback-script {replaced.version}` writes one",)
        return ()

    # --- files on disk: restore, switch, snapshots -------------------------------------------------------------------

    def restore(
        self,
        version: str,
        target: Path = Path("current"),
        *,
        only: Sequence[str] = (),
        clean: bool = False,
        dry_run: bool = False,
        progress: OpenProgress | None = None,
    ) -> Restored:
        """Put a version's files into a folder; whatever interrupts it leaves the old tree or the new one.

        What the version does not have stays, but for what an earlier restore put there. Local edits that are replaced
        go into a stash beside the target: `registry.tree.restore.undo` puts all back, and needs no server.

        Args:
            only: files, folders or components to restore, by their places in the target; all when empty.
            clean: remove (into the stash) also what the version does not have.
            progress: opens what is told of the bytes as they are fetched.

        Raises:
            VersionNotFound, NotFound: there is no such version, or it has nothing that `only` names.
            UnsafePath: a link is in the way, or this must not be a target. Nothing was changed.
            NotNow: another restore is at work there.
            VersionForgotten, MissingBlob, CorruptBlob, NotTrusted, DiskFull, BadInput: the target is as it was.
        """
        from registry.tree.layout import tree_files
        from registry.tree.restore import RestoreRequest, restore

        manifest = self.manifest(version)
        self.check_trusted(manifest)
        order = RestoreRequest(version, tree_files(manifest), self._fetch_of(version, progress), tuple(only), clean)
        return restore(order, Path(target), dry_run=dry_run)

    def switch(
        self, version: str, root: Path, *, dry_run: bool = False, progress: OpenProgress | None = None
    ) -> Switched:
        """Put a version into `root/versions/`, verified, and make `root/current` a link to it, at no instant absent.

        Switching back to what it was before (`Switched.before`) undoes it. What is there is told by
        `registry.tree.switch.current`.

        Raises:
            VersionNotFound: there is no such version.
            UnsafePath, BadInput: something is in the way, e.g. `current` is a folder. Nothing was changed.
            NotNow: another switch is at work there.
            VersionForgotten, MissingBlob, CorruptBlob, NotTrusted, DiskFull: `current` is as it was.
        """
        from registry.tree.switch import switch

        manifest = self.manifest(version)
        self.check_trusted(manifest)
        return switch(manifest, Path(root), self._fetch_of(version, progress), dry_run=dry_run)

    def _fetch_of(
        self, version: str, progress: OpenProgress | None
    ) -> Callable[[Sequence[FileEntry]], Mapping[str, Path]]:
        """Files of a version from this machine's cache of verified blobs, those missing there from the store."""
        from registry.retention.notes import check_remembered

        def fetch(files: Sequence[FileEntry]) -> Mapping[str, Path]:
            try:
                with (progress or open_no_progress)(sum(file.size for file in files)) as told:
                    return self.blobs.fetch(files, told)
            except MissingBlob:
                check_remembered(self.forgotten, version)
                raise

        return fetch

    # --- signatures --------------------------------------------------------------------------------------------------

    def sign(
        self, version: str, key: SigningKey | Path, *, content_sha256: str | None = None, dry_run: bool = False
    ) -> Signed:
        """Sign a version's manifest, and store the signature beside it. A key signs once: again, it does nothing.

        Args:
            key: an elliptic-curve private key in a PEM file; `SigningKey` for one with a certificate or a password.
            content_sha256: what the version must hold, or the first 12 digits or more of it, as `create` said.

        Raises:
            VersionNotFound, MissingBlob, CorruptBlob: its manifest can't be had.
            NotTrusted: it holds something else than `content_sha256`.
            BadInput, BadSetting: the key can't be used.
            MissingDependency: the package `model-signing` is not installed.
        """
        from registry.answers import Signed
        from registry.trust.keys import SigningKey
        from registry.trust.signing import sign

        key = key if isinstance(key, SigningKey) else SigningKey(key)
        manifest, public = self.manifest(version), key.public_key()
        if content_sha256 is not None and not _starts(manifest.content_sha256, content_sha256):
            raise NotTrusted(
                f"{version} holds {manifest.content_sha256}, not {content_sha256}; it was not signed",
                hint=f"`ulora show {version}` says what it is and where it comes from",
            )
        if not dry_run:
            self._check_writable()
        signature, is_new = sign(self.signatures, version, manifest.to_bytes(), key, dry_run=dry_run)
        return Signed(self.model, version, manifest.sha256, public.fingerprint, signature, is_new)

    def trusted_manifest(self, version: str) -> Manifest:
        """What a version is, verified, and signed by a trusted key if any are set.

        Raises:
            VersionNotFound, MissingBlob, CorruptBlob.
            NotTrusted: see `check_trusted`.
        """
        manifest = self.manifest(version)
        self.check_trusted(manifest)
        return manifest

    def check_trusted(self, manifest: Manifest) -> None:
        """Check that a version may be used: signed by a trusted key, or composed of versions that are, if any are set.

        Asked are the very bytes that the manifest was read from.

        Raises:
            NotTrusted: it is neither; see `settings.trusted_keys`.
            BadSetting: a trusted key can't be read.
            MissingDependency: the package `model-signing` is not installed.
        """
        if self.settings.trusted_keys:
            self._admission().check(manifest)

    def _check_servable(self, manifest: Manifest) -> None:
        self.check_trusted(manifest)
        self._check_whole(manifest)

    # --- retention: forget, prune, copy ------------------------------------------------------------------------------

    def collect_garbage(
        self,
        rule: RetentionRule | None = None,
        *,
        grace: timedelta | None = None,
        reason: str = "",
        dry_run: bool = False,
        say: Say = say_nothing,
    ) -> Collected:
        """Forget old versions of this model, then prune the store: what is garbage is marked; what was marked a grace
        ago, and is garbage still, is deleted.

        Args:
            rule: what to forget; by default all but the newest 5 and those younger than 30 days.
            grace: between the two passes of a prune, 24 hours by default.
            say: told what is going on, a line at a time.

        Raises:
            NotNow: another garbage collection is deleting or was first. No file was deleted.
            IntegrityError: something can't be read, so nobody knows what it needs. No file was deleted.
        """
        from registry.retention.forget import GarbageCollection, RetentionRule
        from registry.retention.prune import GRACE

        keeper = GarbageCollection(self.store, self.blobs, self.model, Author(self.settings.who, reason), say)
        if dry_run:
            return keeper.plan(rule or RetentionRule(), GRACE if grace is None else grace)
        self._check_writable()
        return keeper.collect(rule or RetentionRule(), GRACE if grace is None else grace)

    def remember(self, version: str, *, dry_run: bool = False) -> bool:
        """Take back that a version was forgotten, while its files are still there. False if it was not forgotten.

        Raises:
            VersionNotFound: there is no such version.
            VersionForgotten: it is too late, some of its files are gone. Nothing changed.
            NotNow: a garbage collection is deleting. Nothing changed.
        """
        from registry.retention.forget import GarbageCollection

        keeper = GarbageCollection(self.store, self.blobs, self.model, Author(self.settings.who))
        if dry_run:
            return keeper.may_remember(version)
        self._check_writable()
        return keeper.remember(version)

    def copy_to(
        self,
        version: str,
        place: str,
        *,
        endpoint_url: str | None = None,
        profile: str | None = None,
        dry_run: bool = False,
        bar: OpenProgress | None = None,
    ) -> Copied:
        """Copy a version to another store or to a folder; what is there already does not travel.

        Args:
            place: `s3://BUCKET/PREFIX`, which must be a store already, or a folder's path.
            endpoint_url: the other store's S3 server; None for AWS's own choice.
            profile: the AWS profile whose credentials are for the other store.
            bar: opens what is told of the bytes as they are done.

        Raises:
            VersionNotFound, VersionExists: it is not here, or it is there with other content. Nothing changed.
            IntegrityError: something here is damaged. What was carried is whole; the name is not bound.
        """
        from registry.retention.copy import Copy, FromStore, open_place

        target = open_place(place, endpoint_url=endpoint_url, profile=profile, sse=self.settings.sse)
        local = FromStore(self.store, self.settings.cache / "copying")
        copy = Copy(self.store, target, local, self.model)
        return copy.plan(version) if dry_run else copy.run(version, bar or open_no_progress)

    def copy_from(
        self, version: str, source: Path, *, dry_run: bool = False, bar: OpenProgress | None = None
    ) -> Copied:
        """Copy a version from a folder that `copy_to` has filled into this store. The errors are those of `copy_to`."""
        from registry.retention.copy import Copy, FromFolder
        from registry.store.folder import Folder

        folder = Folder(source)
        folder.check_readable()
        copy = Copy(folder, self.store, FromFolder(folder), self.model)
        return copy.plan(version) if dry_run else copy.run(version, bar or open_no_progress)

    # --- MLflow ------------------------------------------------------------------------------------------------------

    def reconcile(self, *, adopt: bool = False, dry_run: bool = False) -> Reconciled:
        """Make MLflow hold every version and show what the channels serve; promote or refuse what people ask for there.

        What is damaged in the store is reported and stops nothing else.

        Raises:
            CatalogUnreachable: it does not answer.
        """
        reconciler = self.reconciler(adopt=adopt)
        return reconciler.preview() if dry_run else reconciler.reconcile()

    def reconciler(self, *, adopt: bool = False) -> Reconciler:
        """What puts MLflow right, once or again and again."""
        from registry.catalog.reconciler import Reconciler
        from registry.catalog.request_decisions import RequestDecider
        from registry.catalog.views import Views

        who = f"a request in MLflow, by way of {self.settings.who}"[: identity.MAX_WHO]
        return Reconciler(
            self.model, self.catalog, self.bindings, self.bindings.names, self.ledger, Views(self.channel),
            desk=RequestDecider(self.settings.who, self.channel, self.bindings, self.acting_as(who).promote),
            log=lambda binding: self._log_in_catalog(binding, None),
            script=lambda pointer: self._script(self.bindings.manifest(pointer), "production"),
            forgotten=lambda: set(self.forgotten.versions()),
            unmanaged="adopt" if adopt else "leave",
        )  # fmt: skip

    def acting_as(self, who: str) -> Registry:
        """The same registry, whose records say that somebody else changed the channels."""
        other = copy.copy(self)
        other.settings = replace(self.settings, who=who)
        return other

    def mirror(
        self, verdict: Verdict | None = None, scripts: Sequence[Script] = (), *, seconds: float = MIRROR_SECONDS
    ) -> tuple[str, ...]:
        """Make MLflow show what the channels serve, for at most so long; notes on what it could not do.

        Args:
            verdict: is shown as a tag of its version.
            scripts: rollback scripts, which become artifacts of theirs.
        """
        from registry.catalog import mirror
        from registry.catalog.deadline import within
        from registry.catalog.views import Views

        if self.settings.tracking_uri is None:
            return ()

        catalog = self.catalog.hasty()
        left: list[str] = []

        def show() -> None:
            left.extend(mirror.mirror(catalog, self.model, lambda: Views(self.channel).ends({})).skipped)
            if verdict:
                tags = {f"{VERDICT_TAG}.{verdict.channel}": f"{verdict.outcome} {verdict.sha256}"}
                catalog.set_tags(self.model, verdict.version, verdict.content_sha256, tags)
            for script in scripts:
                catalog.add_file(self.model, script.version, script.content_sha256, script.name, script.body)

        try:
            within(seconds, show)
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

        pointer, fetch = self.bindings.get(VersionName.parse(version)).pointer, self.backbone_mirror.fetch
        return load_version(
            self.bindings, self.blobs, pointer, device, runtime=runtime, fetch=fetch, check=self.check_trusted
        )

    def follow(self, channel: str = "production", **options: Any) -> Live:
        """What a channel serves: a new version is loaded beside the live one, then swapped in.

        Use it as a context manager. The options are those of `registry.serving.live.Live`.
        """
        from registry.serving.fleet import Heartbeats
        from registry.serving.live import Live

        heartbeats = Heartbeats(self.store, self.model, check_channel(channel))
        usual = {"fleet": heartbeats, "fetch": self.backbone_mirror.fetch, "check": self._check_followed}
        return Live(self.channel(channel), self.bindings, self.blobs, **{**usual, **options})


@contextmanager
def _content(
    source: Path | str | None, project: Project | None, importing: Importing, progress: Progress
) -> Iterator[tuple[Bundle, Callable[[ReleaseNotes], ReleaseNotes]]]:
    """What a version is to hold, and what its source says about it beside what people say."""
    from registry.tree.snapshot import read_project, with_project
    from registry.versions.bundle import read_bundle
    from registry.versions.importing import prepare_bundle, refuse_import_options

    files = read_project(project, progress) if project else None
    if source is None:
        if project is None or files is None:
            raise BadInput("nothing to create a version from", hint="--from BUNDLE, or --source DIR for a snapshot")
        refuse_import_options(importing, str(project.folder))
        yield files, lambda release_notes: release_notes
        return
    with prepare_bundle(source, importing) as found:
        bundle = read_bundle(found.folder)
        yield (with_project(bundle, files) if files else bundle), found.release_notes


@contextmanager
def _noted(damaged: dict[str, str], what: str) -> Iterator[None]:
    """Note what can't be read and go on without it."""
    try:
        yield
    except IntegrityError as error:
        damaged[what] = str(error)


def _starts(digest: str, beginning: str) -> bool:
    return len(beginning) >= 12 and digest.startswith(beginning)


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
