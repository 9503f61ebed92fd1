"""The API: `Registry`, whose methods hand on to the functions in `registry.usecases`. It prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from registry import usecases
from registry.channels.channel import PromoteOptions, RollbackOptions
from registry.parts import RegistryParts
from registry.progress import OpenProgress, Progress, Say, ignore, no_progress, say_nothing

if TYPE_CHECKING:
    from registry.answers import Change, Created, Listed, Reconciled, Signed, Status
    from registry.breakglass.write_script import Script
    from registry.catalog.reconciler import Reconciler
    from registry.catalog.standing import Standing
    from registry.channels.record import Record
    from registry.evidence.results import Evidence
    from registry.evidence.verdict import Verdict
    from registry.integrity.operations import Operation
    from registry.integrity.report import Verification, VerificationReport
    from registry.retention.copy import Copied
    from registry.retention.forget import Collected, RetentionRule
    from registry.serving.batch.options import PredictOptions
    from registry.serving.batch.run import WrittenPart
    from registry.serving.batch.shard import Predicted
    from registry.serving.follow import Live
    from registry.serving.loaders import Loaded
    from registry.serving.options import LiveOptions
    from registry.serving.sidecar import Sidecar
    from registry.serving.sidecar_round import SidecarOptions
    from registry.tree.restore import Restored
    from registry.tree.switch import Switched
    from registry.trust.keys import SigningKey
    from registry.usecases.apply import WantedState
    from registry.usecases.approve import Approved
    from registry.usecases.audit import Audited
    from registry.usecases.audit_options import AuditOptions, ChecklistOptions
    from registry.usecases.canary import Canaries
    from registry.usecases.check_results import VersionTest
    from registry.usecases.checklist import Checklist
    from registry.usecases.diff import VersionDiff
    from registry.usecases.options import CopyOptions, CreateOptions, MeasureOptions, RestoreOptions, VerifyOptions
    from registry.usecases.verify import Checked
    from registry.usecases.version_report import VersionReport
    from registry.usecases.version_test_options import TestOptions
    from registry.versions.backbones import AddedBackbone, Mirrored
    from registry.versions.manifest import Manifest


class Registry(RegistryParts):
    """The versions and channels of one model. Opens nothing until it is used. Threads may share it.

    In all methods, `dry_run` writes nothing and returns what would be done; `reason` is kept on the record; `offline`
    leaves MLflow out; `progress` is told of bytes as they are done, and `say` what happens, a line at a time.

    Any method may raise `StoreUnreachable` or `StoreDenied`; one that writes `OutcomeUnknown`: the same call again is
    safe. One that takes the name of a version may raise `BadVersionName`, `VersionNotFound`, and `MissingBlob`,
    `CorruptBlob` or `BadManifest` if its manifest is damaged. One that finds nothing of the model raises `NotFound`
    where there is no store, or no such model in it.
    """

    # --- versions and evidence ---------------------------------------------------------------------------------------

    def create(
        self, version: str, source: Path | str | None = None, options: CreateOptions | None = None, *,
        offline: bool = False, dry_run: bool = False, progress: Progress = no_progress, say: Say = say_nothing,
    ) -> Created:  # fmt: skip
        """Create a version: hash its files, upload the missing blobs, bind the name (the commit), log it in MLflow.

        A source that is not a bundle is converted first, see `registry.versions.importing`. After an interruption the
        same call finishes, and uploads nothing twice. It also brings back blobs that were lost.

        Args:
            source: a bundle, adapters of another layout, an old version folder, or `models:/NAME/7`; None where the
                options say it: a project (a snapshot), or a parent with replaced components.

        Raises:
            BadBundle, BadWeights, BackboneNotFound, BadInput: the source or an option is invalid; nothing was done.
            VersionExists: the name has other content, or git's tag of this name is on another commit.
            Overwritten: the store has not kept or protected the new name: it ignores the conditions of writes.
            CatalogUnreachable: MLflow does not answer. If it stopped answering in between, the same call finishes.
        """
        act = usecases.create.plan if dry_run else usecases.create.create
        return act(self.wiring, version, source, options, offline=offline, progress=progress, say=say)

    def versions(self, *, mlflow: bool = True, say: Say = say_nothing) -> list[Listed]:
        """All versions in the order of their names, with their numbers in MLflow where that answers.

        `mlflow=False` leaves the numbers out, and MLflow's import, which takes seconds; `say` is told what is left out.
        """
        return usecases.status.versions(self.wiring, mlflow=mlflow, say=say)

    def manifest(self, version: str) -> Manifest:
        """The verified manifest of a version: what it is and which files it has."""
        return self.wiring.manifest(version)

    def trusted_manifest(self, version: str) -> Manifest:
        """The verified manifest of a version that is trusted, if any keys are.

        Raises: NotTrusted, BadSetting, MissingDependency: it is not trusted, or that can't be checked here.
        """
        return usecases.sign.trusted_manifest(self.wiring, version)

    def verify(self, version: str, *, read_data: bool = False, progress: Progress = no_progress) -> Verification:
        """Check every file of a version in the store: by the server's checksums, or by reading all bytes."""
        return usecases.verify.verify(self.wiring, version, read_data=read_data, progress=progress)

    def verify_all(
        self, versions: Sequence[str] | None = None, options: VerifyOptions | None = None, *, dry_run: bool = False,
        tell: Callable[[Checked], None] = ignore, progress: OpenProgress | None = None,
    ) -> VerificationReport:  # fmt: skip
        """Verify several versions, and repair them if `options` say so. What is bad is reported, and not raised.

        A corrupt blob is replaced only after it was read and found bad, and only while it is still that object.

        Args:
            versions: None for everything: all versions, the chains of all channels, the documents of the model, the
                backbones, and whether garbage collection can tell what is needed.
            tell: is called with each result as soon as it is known.

        Raises:
            BadInput, NotFound: no such folder with copies, an invalid share; no such store or model.
        """
        return usecases.verify.verify_all(self.wiring, versions, options, dry_run=dry_run, tell=tell, progress=progress)

    def sign(
        self, version: str, key: SigningKey | Path, *, content_sha256: str | None = None, dry_run: bool = False
    ) -> Signed:
        """Sign a version's manifest, and store the signature beside it. Signing twice with one key does nothing.

        `key` is an elliptic-curve private key in a PEM file, or a `SigningKey` with a certificate or a password;
        `content_sha256` the content that the version must have, or at least the first 12 digits of it.

        Raises:
            NotTrusted: the version has other content than `content_sha256`.
            BadInput, BadSetting, MissingDependency: the key is unusable, or `model-signing` is not installed.
        """
        return usecases.sign.sign(self.wiring, version, key, content_sha256=content_sha256, dry_run=dry_run)

    def approve(
        self, version: str, channel: str = "production", *, reason: str = "", dry_run: bool = False
    ) -> Approved:
        """Say yes to a version in a channel whose policy asks several people. Raises: NotNow: you have done so."""
        return usecases.approve.approve(self.wiring, version, channel, reason=reason, dry_run=dry_run)

    def report(self, version: str) -> VersionReport:
        """Everything that the store says of a version: what it is, changed, measured, and by whom it was approved.
        `registry.usecases.version_report_page` makes HTML and Markdown of it. What can't be read is named in it."""
        return usecases.version_report.report(self.wiring, version)

    def audit(self, out: Path, options: AuditOptions, *, dry_run: bool = False, say: Say = say_nothing) -> Audited:
        """Write an archive that proves what a version or channel was. What is missing or damaged is named in it, and
        not raised. Raises: BadInput, NotFound: there is too much, or nothing; BadSetting, DiskFull."""
        return usecases.audit.audit(self.wiring, Path(out), options, dry_run=dry_run, say=say)

    def checklist(
        self, version: str, options: ChecklistOptions | None = None, *, reason: str = "", dry_run: bool = False
    ) -> Checklist:
        """Go through the checklists of a release, or tick lines. What is open is told, and not raised."""
        return usecases.checklist.checklist(self.wiring, version, options, reason=reason, dry_run=dry_run)

    def add_backbone(
        self, spec: Path | str, *, revision: str | None = None, name: str | None = None, dry_run: bool = False,
        progress: OpenProgress | None = None,
    ) -> AddedBackbone:  # fmt: skip
        """Put a backbone's weights into the store, once for all machines and versions. Again, it does nothing.

        Args:
            spec: a folder with `config.json` and `model.safetensors`, or a repository on the hub: from its cache on
                this machine, else downloaded.
            revision: a commit, branch or tag of the repository.
            name: what to call it instead of its own name.

        Raises:
            BackboneNotFound: it is gated, missing or unreachable; the hint says what to do.
            BadInput: it is not a backbone of a known family.
        """
        add = usecases.backbones.add_backbone
        return add(self.wiring, spec, revision=revision, name=name, dry_run=dry_run, progress=progress)

    def backbones(self) -> Mirrored:
        """The backbones that the store holds, by name.

        Raises:
            ObjectNotFound: this prefix is not a store.
        """
        return usecases.backbones.backbones(self.wiring)

    def measure(
        self, version: str, options: MeasureOptions | None = None, *, offline: bool = False,
        on_done: Callable[[Evidence], None] = ignore, say: Say = say_nothing,
    ) -> list[Evidence]:  # fmt: skip
        """Run benchmarks on a version; keep the evidence in the store, then show it in MLflow.

        `say` is told first what is odd about the images, and of which ones the gates will ask for more; `on_done` is
        called with each evidence once it is kept.

        Raises:
            BadInput, ImageChanged: no images are set or usable, a benchmark is unknown; an image changes meanwhile.
            CatalogUnreachable: MLflow does not answer.
            BackboneNotFound, LoadFailed, SelfTestFailed, MissingDependency, NotTrusted: see `load`.
        """
        return usecases.measure.measure(self.wiring, version, options, offline=offline, on_done=on_done, say=say)

    def test(
        self, version: str, options: TestOptions | None = None, *, dry_run: bool = False, say: Say = say_nothing
    ) -> VersionTest:
        """Test a version, or with `options.deployed` what is deployed; keep the result as evidence. What fails is
        reported, and not raised. Raises: BadInput, MissingDependency: the options can't be followed."""
        return usecases.version_test.test(self.wiring, version, options, dry_run=dry_run, say=say)

    def evidence(self, version: str) -> list[Evidence]:
        """All evidence of a version, oldest first."""
        return self.wiring.ledger.evidence(self.manifest(version).name)

    def judge(self, version: str, channel: str) -> Verdict:
        """Judge by the policy whether a channel may take a version. Writes nothing. Raises: BadPolicy."""
        return usecases.judge.judge(self.wiring, version, channel)

    # --- channels ----------------------------------------------------------------------------------------------------

    def promote(
        self, version: str, channel: str = "staging", options: PromoteOptions | None = None, *, reason: str = "",
        dry_run: bool = False,
    ) -> Change:  # fmt: skip
        """Make a version stable in a channel, if every blob is there and the gates pass. On other errors than
        `Overwritten` nothing changed.

        Raises:
            GateRefused: a rule was not met; the verdict is kept in the store.
            ChannelMoved: another writer was first.
            MissingBlob, CorruptBlob, VersionForgotten: files are missing or damaged, or will be deleted.
            BadWeights, NotTrusted: no replica would load it, or no trusted key signed it; `force` overrules neither.
            Overwritten: the name was bound again; or, after the commit, the store has not kept or protected the record.
            BrokenChain: the newest record does not continue the log, and it is not forced.
            BadInput: it is forced without a reason.
        """
        return usecases.promote.promote(self.wiring, version, channel, options, reason=reason, dry_run=dry_run)

    def rollback(
        self, channel: str = "production", options: RollbackOptions | None = None, *, reason: str = "",
        only: Sequence[str] = (), dry_run: bool = False,
    ) -> Change:  # fmt: skip
        """Go back to the version before, or end a trial: one conditional write to S3. On an error nothing changed.

        With `only`, the live version becomes stable with these components (`adapters/tomato`) of the version before.
        MLflow is not asked; `mirror` or `reconcile` make it show the change.

        Raises:
            NothingToRollBackTo, VersionNotFound: there is no earlier version, or `options.to` was never served.
            NotNow: another rollback happened less than a minute ago.
            ChannelMoved: the channel is not where the options say.
            BadInput, MissingBlob, CorruptBlob, NotTrusted: the components of `only` can't be combined.
        """
        return usecases.rollback.rollback(self.wiring, channel, options, reason=reason, only=only, dry_run=dry_run)

    @property
    def canary(self) -> Canaries:
        """Trials of versions beside stable: `start`, `advance`, `abort`; `feedback` takes labels of answers."""
        return usecases.canary.Canaries(self.wiring)

    def wanted(self, file: Path) -> WantedState:
        """What a YAML file wants of the channels: `plan()`, `apply()`. Raises BadInput: it can't be read."""
        return usecases.apply.wanted_state(self.wiring, file)

    def status(self) -> Status:
        """What every channel serves, and its replicas."""
        return usecases.status.status(self.wiring)

    def diff(self, older: str, newer: str) -> VersionDiff:
        """What differs between two versions: files, metrics, and the images for which they answer different labels."""
        return usecases.diff.diff(self.wiring, older, newer)

    def history(self, channel: str = "production", limit: int | None = None) -> list[Record]:
        """The records of a channel, newest first; without a limit the whole chain is verified, else `BrokenChain`."""
        return usecases.status.history(self.wiring, channel, limit)

    def operations(self, since: datetime | None = None) -> list[Operation]:
        """How the commands of the command line ended, oldest first. See `registry.integrity.operations`."""
        return self.wiring.operations.since(since)

    def standings(self, version: str) -> tuple[Standing, ...]:
        """What a version is in each channel whose log names it, since when, by whom and why."""
        return usecases.pages.standings(self.wiring, version)

    def rollback_script(
        self, version: str, channel: str = "production", *, reason: str = "", dry_run: bool = False
    ) -> Script:
        """The script that rolls a channel back to a version with Python and boto3 only. Pins the version.

        Garbage collection keeps the files of a pinned version until `unpin`.

        Raises:
            VersionForgotten, MissingBlob, CorruptBlob, NotTrusted: the version could not be served.
        """
        return usecases.scripts.rollback_script(self.wiring, version, channel, reason=reason, dry_run=dry_run)

    def rollback_scripts(self, channel: str = "production") -> list[Script]:
        """The scripts of all versions that a rollback of a channel could go to now. Pins nothing.

        Raises:
            NothingToRollBackTo, NotFound, MissingBlob, CorruptBlob, NotTrusted: there is none, or it can't be served.
        """
        return usecases.scripts.rollback_scripts(self.wiring, channel)

    def unpin(self, version: str) -> bool:
        """Let garbage collection delete a version that a script pinned; False if none did. Raises: NotFound."""
        return usecases.scripts.unpin(self.wiring, version)

    def is_pinned(self, version: str) -> bool:
        """Whether a rollback script pins a version."""
        return usecases.scripts.is_pinned(self.wiring, version)

    # --- files on disk, retention, copies ----------------------------------------------------------------------------

    def restore(
        self, version: str, target: Path = Path("current"), options: RestoreOptions | None = None, *,
        dry_run: bool = False, progress: OpenProgress | None = None,
    ) -> Restored:  # fmt: skip
        """Put a version's files into a folder. Whatever interrupts it, the folder is the old one or the new one.

        Files that the version does not have stay, except those that an earlier restore put there. Local edits that are
        replaced go into a stash beside the target: `registry.tree.restore.undo` puts all back, and needs no server.

        Raises:
            NotFound: the version has nothing that `options.only` names.
            UnsafePath, NotNow: a link is in the way, or the target is not allowed; another restore is at work there.
            VersionForgotten, MissingBlob, CorruptBlob, NotTrusted, DiskFull, BadInput: the target is as it was.
        """
        return usecases.restore.restore(self.wiring, version, Path(target), options, dry_run=dry_run, progress=progress)

    def switch(
        self, version: str, root: Path, *, dry_run: bool = False, progress: OpenProgress | None = None
    ) -> Switched:
        """Put a version into `root/versions/`, verified, and replace the link `root/current` at one instant.

        To undo it, switch to what it was before (`Switched.before`). `registry.tree.switch.current` says what is there.

        Raises:
            UnsafePath, BadInput, NotNow: something is in the way, or another switch is at work there.
            VersionForgotten, MissingBlob, CorruptBlob, NotTrusted, DiskFull: `current` is as it was.
        """
        return usecases.restore.switch(self.wiring, version, Path(root), dry_run=dry_run, progress=progress)

    def collect_garbage(
        self, rule: RetentionRule | None = None, *, grace: timedelta | None = None, reason: str = "",
        dry_run: bool = False, say: Say = say_nothing,
    ) -> Collected:  # fmt: skip
        """Forget old versions of this model, then prune the store: mark what is garbage, delete what was marked before.

        By default the newest 5 versions and those younger than 30 days are kept, and `grace`, the time between marking
        and deleting, is 24 hours.

        Raises:
            NotNow, NotFound, IntegrityError: nothing was deleted: another one is at it, or it can't all be read.
        """
        collect = usecases.retention.collect_garbage
        return collect(self.wiring, rule, grace=grace, reason=reason, dry_run=dry_run, say=say)

    def remember(self, version: str, *, dry_run: bool = False) -> bool:
        """Take back that a version was forgotten, while its files are still there. False if it was not forgotten.

        Raises:
            VersionForgotten, NotNow: some of its files are gone, or a garbage collection is deleting.
        """
        return usecases.retention.remember(self.wiring, version, dry_run=dry_run)

    def copy_to(
        self, version: str, place: str, options: CopyOptions | None = None, *, dry_run: bool = False,
        progress: OpenProgress | None = None,
    ) -> Copied:  # fmt: skip
        """Copy a version to `s3://BUCKET/PREFIX`, a folder or `oci://REGISTRY/REPO[:TAG]`; files that are there stay.

        Raises:
            VersionExists, IntegrityError: it has other content there, or is damaged here. Nothing is bound.
        """
        return usecases.retention.copy_to(self.wiring, version, place, options, dry_run=dry_run, progress=progress)

    def copy_from(
        self, version: str, source: Path | str, options: CopyOptions | None = None, *, dry_run: bool = False,
        progress: OpenProgress | None = None,
    ) -> Copied:  # fmt: skip
        """Copy a version from a folder or OCI registry that `copy_to` has filled; the errors are those of `copy_to`."""
        return usecases.retention.copy_from(self.wiring, version, source, options, dry_run=dry_run, progress=progress)

    # --- MLflow ------------------------------------------------------------------------------------------------------

    def mirror(self, scripts: Sequence[Script] = (), *, seconds: float | None = None) -> tuple[str, ...]:
        """Make MLflow show what the channels serve; return notes on what could not be done. Raises nothing. The scripts
        become artifacts of their versions. Waits for 5 seconds by default.
        """
        return usecases.mirror.mirror(self.wiring, scripts, seconds=seconds)

    def reconcile(self, *, adopt: bool = False, dry_run: bool = False) -> Reconciled:
        """Make MLflow hold every version and show what the channels serve; promote or refuse what is requested there.

        What is damaged in the store is reported, and the rest goes on. Raises: CatalogUnreachable, NotFound.
        """
        reconciler = self.reconciler(adopt=adopt)
        return reconciler.preview() if dry_run else reconciler.reconcile()

    def reconciler(self, *, adopt: bool = False) -> Reconciler:
        """What `reconcile` uses, for callers that do it again and again."""
        return usecases.reconcile.reconciler(self.wiring, adopt=adopt)

    # --- serving -----------------------------------------------------------------------------------------------------

    def load(self, version: str, *, device: str = "cpu", runtime: str | None = None) -> Loaded:
        """One version, verified, loaded and self-tested: for notebooks and batches. Starts no thread.

        Raises:
            BackboneNotFound, BadInput: the backbone, device or runtime is not available here.
            NotTrusted, CorruptBlob, BadWeights, SelfTestFailed, LoadFailed, MissingDependency: it can't be loaded.
        """
        return usecases.serve.load(self.wiring, version, device=device, runtime=runtime)

    def follow(self, channel: str = "production", options: LiveOptions | None = None) -> Live:
        """Serve what a channel names: a new version is loaded beside the live one, then swapped in.

        Use it as a context manager. `options.check` is asked after the check of trusted keys and `minimum_version`. The
        errors are those of `registry.serving.follow.Live.start`.
        """
        return usecases.serve.follow(self.wiring, channel, options)

    def pinned(self, version: str, options: LiveOptions | None = None) -> Live:
        """Serve one version, as `follow` does, and follow no channel: for versions behind a balancer of your own."""
        return usecases.serve.pinned(self.wiring, version, options)

    def predict_files(
        self, source: Path | str, out: Path, options: PredictOptions | None = None, *, dry_run: bool = False,
        tell: Callable[[WrittenPart], None] = ignore, progress: OpenProgress | None = None,
    ) -> Predicted:  # fmt: skip
        """Answer all images of a folder, a table of paths or `s3://BUCKET/PREFIX` into parts in `out`, and `tell` of
        each. The same call goes on after an interruption or an error. See `registry.usecases.predict`."""
        predict = usecases.predict.predict_files
        return predict(self.wiring, str(source), Path(out), options, dry_run=dry_run, tell=tell, progress=progress)

    def sidecar(self, channel: str, folder: Path, options: SidecarOptions | None = None) -> Sidecar:
        """What keeps `folder` at what a channel serves, for a server of another make: `once()`, `run()`, or `plan()`.

        A version gets a folder of its own, verified; `folder/current` is a link that is moved by a rename, and then a
        hook runs. The errors are those of `registry.serving.sidecar.Sidecar.once`.
        """
        return usecases.serve.sidecar(self.wiring, channel, Path(folder), options)
