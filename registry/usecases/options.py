"""The options of `Registry`'s methods and of the commands. Those of promote and rollback are in `channels.channel`,
those of test in `version_test_options`, those of audit and checklist in `audit_options`.

Nothing heavy is imported here, as the command line reads this module to build its help.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import BadInput
from registry.evidence.metrics import MAX_ROUNDS, MIN_ROUNDS

if TYPE_CHECKING:
    from registry.channels.trial import StartTrial
    from registry.tree.snapshot import Project
    from registry.versions.bundle import ReleaseNotes


@dataclass(frozen=True)
class CreateOptions:
    """What a version is created from besides its source, and how.

    Attributes:
        project: files that become the component `project`; without a source they are the version, a snapshot.
        release_notes: what people say about the version.
        parent: the version that it was made from; the manifest lists what changed against it.
        components: the version is its parent with these components replaced: the folder of each one's own files by
            its name, e.g. `adapters/tomato`. Only these are uploaded.
        target: of another layout: which target it is for, where its files do not say.
        backbone: of another layout: a folder, a hub id or a name, instead of the backbone that it names.
        if_changed: do nothing if the newest version of this flavor, under another name, has the same content.
        git_tag: tag the commit of the project's repository with the version's name afterwards.
        allow_secrets: paths of files to take although they look like credentials.
    """

    project: Project | Path | None = None
    release_notes: ReleaseNotes | None = None
    parent: str | None = None
    components: Mapping[str, Path] = field(default_factory=dict)
    target: str | None = None
    backbone: str | None = None
    if_changed: bool = False
    git_tag: bool = False
    allow_secrets: tuple[str, ...] = ()

    def check_source(self, source: Path | str | None) -> None:
        """Check that a source and these options say, once, what to create a version from.

        Raises:
            BadInput: nothing says it, or components are to be replaced without a parent or beside another source.
            BadBundle: there is no such folder.
        """
        if not self.components:
            if not source and self.project is None:
                raise BadInput(
                    "say what to create it from: --from SRC, --source DIR, or --parent VERSION --set COMPONENT=DIR",
                    hint="`ulora create --help` shows how",
                )
        elif self.parent is None or any(
            (source, self.project, self.target, self.backbone, self.if_changed, self.git_tag)
        ):
            raise BadInput("--set goes with --parent VERSION, and with no other source", hint="see --help")
        if source:
            from registry.versions.importing import check_is_there

            check_is_there(source)


@dataclass(frozen=True)
class CanaryOptions:
    """How a trial begins.

    Attributes:
        percent: the share of the keys that the version answers; or, in a shadow trial, the share of the requests that
            both versions compute, by default all.
        shadow: stable goes on to answer everything, and the version computes beside it.
        plan: the plan of the policy by which the guard advances it.
        force: overrule the gates; needs a reason. The refused verdict is kept with it.
        expected: the generation that the caller saw; any other is `ChannelMoved`.
    """

    percent: float | None = None
    shadow: bool = False
    plan: str | None = None
    force: bool = False
    expected: int | None = None

    @property
    def start(self) -> StartTrial:
        """Kind and size of the trial.

        Raises:
            BadInput: a split trial has no share, or the share is out of its bounds.
        """
        from registry.channels.trial import StartTrial

        if self.shadow:
            return StartTrial("shadow", 100.0 if self.percent is None else self.percent, self.plan)
        if self.percent is None:
            raise BadInput("how many of the keys the version answers is not said", hint="--percent 10, or --shadow")
        return StartTrial("split", self.percent, self.plan)


@dataclass(frozen=True)
class AdvanceOptions:
    """How a trial advances.

    Attributes:
        force: also where the channel is frozen, or its log broken; needs a reason.
        expected: the generation that the caller saw; any other is `ChannelMoved`.
        decision: digest of the guard's decision to do so.
    """

    force: bool = False
    expected: int | None = None
    decision: str | None = None


@dataclass(frozen=True)
class AbortOptions:
    """How a trial ends.

    Attributes:
        expected: the generation that the caller saw; any other is `ChannelMoved`.
        baked: go back also from the version that the trial has made stable, if nothing has changed since.
        decision: digest of the guard's decision to do so.
    """

    expected: int | None = None
    baked: bool = False
    decision: str | None = None


@dataclass(frozen=True)
class ReportOptions:
    """Which trial is reported, and where.

    Attributes:
        trial: its id, or the beginning of it; by default the newest of the channel, running or ended.
        generation: one of its records, instead.
        log: show the report in MLflow too.
    """

    trial: str | None = None
    generation: int | None = None
    log: bool = True

    def __post_init__(self) -> None:
        """Raises: BadInput: two things say which trial."""
        if self.trial is not None and self.generation is not None:
            raise BadInput("a trial is named by its id or by a generation", hint="give one of --trial and --generation")


@dataclass(frozen=True)
class MeasureOptions:
    """What is measured, and on what.

    Attributes:
        only: names of benchmarks; all that are installed when empty.
        data: the folder of images; the setting `data` when left out.
        device: e.g. `cpu` or `cuda:0`.
        runtime: what computes it, e.g. `torch-fp32`; the flavor's own choice when left out.
        rename: a file that says what the folders of images show, as `ulora data check --rename` writes it.
        against: another version: times are measured in turns with it, and their ratios reported.
        rounds: of these turns, 50 to 20,000; as many as fit in a time when left out, see `benchmarks.latency`.
    """

    only: tuple[str, ...] = ()
    data: Path | None = None
    device: str = "cpu"
    runtime: str | None = None
    rename: Path | None = None
    against: str | None = None
    rounds: int | None = None

    def __post_init__(self) -> None:
        """Raises: BadInput: rounds are asked for without another version, or too few or too many."""
        if self.rounds is not None and not self.against:
            raise BadInput("--rounds is for two versions that are measured in turns", hint="add --against VERSION")
        if self.rounds is not None and not MIN_ROUNDS <= self.rounds <= MAX_ROUNDS:
            raise BadInput(f"{self.rounds} rounds are not {MIN_ROUNDS} to {MAX_ROUNDS:,}", hint="change --rounds")


@dataclass(frozen=True)
class VerifyOptions:
    """How versions are verified.

    Attributes:
        read_data: read every byte instead of asking the store for its checksums.
        share: read this share of the bytes, from 0 to 1, by whole files.
        seed: chooses the files of a share; random when left out.
        repair_from: a folder with good copies; bad blobs are repaired from it.
    """

    read_data: bool = False
    share: float | None = None
    seed: int | None = None
    repair_from: Path | None = None

    def __post_init__(self) -> None:
        """Raises: BadInput: both everything and a share are to be read."""
        if self.read_data and self.share is not None:
            raise BadInput("--read-data reads everything, --sample a part", hint="give one of them")


@dataclass(frozen=True)
class RestoreOptions:
    """Which files are restored.

    Attributes:
        only: files, folders or components, by their paths in the target; all when empty.
        clean: move into the stash also what the version does not have.
    """

    only: tuple[str, ...] = ()
    clean: bool = False


@dataclass(frozen=True)
class CopyOptions:
    """How the other store, or an OCI registry, is reached.

    Attributes:
        endpoint_url: its S3 server; None for AWS's own choice.
        profile: the AWS profile whose credentials are used there; None for the current ones.
        plain_http: an OCI registry is reached without TLS; None for one on this machine only.
    """

    endpoint_url: str | None = None
    profile: str | None = None
    plain_http: bool | None = None
