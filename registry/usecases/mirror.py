"""Show one change in MLflow: a version, or what the channels serve. `reconcile` shows everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from registry.breakglass.write_script import Script
from registry.catalog import tags as tag_names
from registry.catalog.mirror import mirror as mirror_channels
from registry.catalog.views import ChannelViews
from registry.evidence.verdict import Verdict
from registry.names import VersionName
from registry.parallel import within
from registry.versions.bindings import Binding
from registry.wiring import Wiring

MIRROR_SECONDS = 5.0
"""How long a promotion waits for MLflow; what is not shown by then is left to `reconcile`."""


def mirror(
    wiring: Wiring, verdict: Verdict | None = None, scripts: Sequence[Script] = (), *, seconds: float | None = None
) -> tuple[str, ...]:
    """Make MLflow show what the channels serve; see `Registry.mirror`."""
    if wiring.settings.tracking_uri is None:
        return ()
    catalog = wiring.catalog.hasty()
    views = ChannelViews(wiring.channel)
    left: list[str] = []

    def show() -> None:
        left.extend(mirror_channels(catalog, wiring.model, lambda: views.from_newest_records({})).skipped)
        if verdict:
            tags = {f"{tag_names.VERDICT}{verdict.channel}": f"{verdict.outcome} {verdict.sha256}"}
            catalog.set_tags(wiring.bindings.get(VersionName.parse(verdict.version)), tags)
        for script in scripts:
            catalog.add_file(script, script.name, script.body)

    try:
        within(MIRROR_SECONDS if seconds is None else seconds, show)
    except Exception as error:  # the channel has moved: MLflow only shows it, so this is not a failure
        return (f"MLflow does not show it yet ({error}); `ulora reconcile` does that later",)
    return tuple(f"MLflow does not show it: {skipped}" for skipped in left)


def log_version(wiring: Wiring, binding: Binding, paths: Mapping[str, Path] | None) -> int:
    """Log a version in MLflow, from files on disk or (None) from the store, and return its number there."""
    manifest = wiring.bindings.manifest(binding.pointer)
    if paths is None:
        files = wiring.blobs.fetch(manifest.files)
        paths = {file.path: files[file.sha256] for file in manifest.files}
    return wiring.catalog.log(manifest, binding.manifest_sha256, paths).number
