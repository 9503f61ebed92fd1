"""Answer many files with one version; see `Registry.predict_files`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from registry.errors import BadInput, ChannelEmpty
from registry.names import VersionName, check_channel, check_target
from registry.progress import OpenProgress, ignore, open_no_progress
from registry.serving.batch.folder import BatchFolder
from registry.serving.batch.inputs import open_input
from registry.serving.batch.options import PredictOptions
from registry.serving.batch.parts import part_writer
from registry.serving.batch.plan import BatchPlan
from registry.serving.batch.run import WrittenPart
from registry.serving.batch.shard import Predicted, ShardJob, plan_shard, run_shard
from registry.serving.loaders import Loaded, load_version, no_mirror
from registry.store.objects import ObjectStore
from registry.usecases.checks import check_followed, check_trusted
from registry.versions.manifest import Manifest
from registry.versions.pointer import Pointer
from registry.wiring import Wiring


def predict_files(
    wiring: Wiring, text: str, out: Path, options: PredictOptions | None, *, dry_run: bool = False,
    tell: Callable[[WrittenPart], None] = ignore, progress: OpenProgress | None = None,
) -> Predicted:  # fmt: skip
    """Answer the files of an input, a row each, in parts; see `registry.serving.batch`.

    A file that can't be read or computed has a row that says so. What was written stays whatever happens, and the same
    call goes on.

    Args:
        text: a folder, a `.csv` or `.parquet` file with a column `path`, or `s3://BUCKET/PREFIX`.
        out: a new folder for a new run. Shards of one run may share it.
        tell: is called with each part that was written now.
        progress: is told of images.

    Raises:
        BadInput: there are no images, or a table is refused; the version has no such target; `out` has another run, or
            the files changed since then.
        NotNow: another process writes this shard.
        VersionNotFound, ChannelEmpty: there is no version to answer with.
        LoadFailed: the version can't be loaded, or nothing of a part could be computed; or as `Registry.load`.
        DiskFull, BadSetting: a part can't be written.
        BadManifest: a plan or a list in `out` is damaged.
        MissingDependency: Parquet is wanted without pyarrow.
        Unreachable, BucketNotFound, UloraError: files can't be read, and that is not the fault of single ones.
    """
    options = options or PredictOptions()
    if options.target is not None:
        check_target(options.target)
    text = text.rstrip("/") if text.startswith("s3://") else str(Path(text).absolute())
    part_writer(options.format)  # before a plan fixes the format
    open_store = partial(_open_store, wiring)
    find, load = partial(_pointer, wiring, options), partial(_load, wiring, options)
    folder = BatchFolder(out, options.shard)
    job = ShardJob(wiring.model, text, open_input(text, open_store), folder, options, find, load)
    return plan_shard(job) if dry_run else run_shard(job, tell, progress or open_no_progress)


def _pointer(wiring: Wiring, options: PredictOptions, known: BatchPlan | None) -> Pointer:
    """The version that is named; without a name that of the run which began, and for a new run that of the channel.

    Raises:
        ChannelEmpty: it serves no version yet.
        BadInput: the run that began asked another channel.
    """
    if options.version is not None:
        return wiring.bindings.get(VersionName.parse(options.version)).pointer
    channel = check_channel(options.channel)
    if known is not None:
        if known.channel not in ("", channel):
            raise BadInput(
                f"the run in this folder has the version of {known.channel}, not of {channel}",
                hint="give another folder as --out for another run",
            )
        return known.pointer
    head = wiring.channel(channel).head()
    if head is None or head.stable is None:
        wiring.store.check_holds(wiring.model)
        raise ChannelEmpty(
            f"{wiring.model} {channel} serves no version yet", hint="name one with --version, or promote one"
        )
    return head.stable


def _load(wiring: Wiring, options: PredictOptions, plan: BatchPlan) -> Loaded:
    """The version of a plan. One that was named may be older than `minimum_version`, as for `Registry.load`."""
    admit = check_followed if plan.channel else check_trusted

    def check(manifest: Manifest) -> None:
        admit(wiring, manifest)
        options.check(manifest)

    fetch = wiring.backbone_mirror.fetch if options.fetch is no_mirror else options.fetch
    loaded = load_version(wiring.bindings, wiring.blobs, plan.pointer, replace(options, check=check, fetch=fetch))
    if plan.target is not None and plan.target not in loaded.targets:
        raise BadInput(
            f"{loaded.version} has no target {plan.target}", hint=f"it has {', '.join(loaded.targets) or 'none'}"
        )
    return loaded


def _open_store(wiring: Wiring, url: str) -> ObjectStore:
    return ObjectStore(url, endpoint_url=wiring.settings.endpoint_url)
