"""The page *Versions*."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import streamlit as st

from registry.answers import Listed
from registry.dashboard import text
from registry.dashboard.figures.metrics import metric_figures, paired_figure
from registry.dashboard.kept import FOR_EVER
from registry.dashboard.pages.parts import chart, table
from registry.dashboard.session import Dashboard
from registry.dashboard.thumbnails import Thumbnail, thumbnails
from registry.dashboard.versions import (
    Metrics,
    VersionComparison,
    VersionFilter,
    measured,
    read_comparison,
    read_versions,
)
from registry.evidence.differences import Disagreement
from registry.evidence.number_text import number
from registry.names import CHANNELS, is_version_name

_SHOWN_METRICS = {"accuracy": "accuracy", "routing": "crop_routing_accuracy", "p95, ms": "latency_ms_p95"}
_MAX_IMAGES = 200
_THUMBNAILS = 24
_EXPENSIVE_SECONDS = 60.0


def draw(dashboard: Dashboard) -> None:
    """The table of versions, then two of them side by side."""
    found = dashboard.kept.get("versions", partial(read_versions, dashboard.registry))
    metrics = dashboard.kept.get("measured", partial(measured, dashboard.registry, found.versions), _EXPENSIVE_SECONDS)
    wanted = _filter(found.versions)
    shown = [each for each in found.versions if wanted.takes(each)]
    older = f"; {found.left_out} older ones are left out" if found.left_out else ""
    st.caption(f"{len(shown)} of {len(found.versions)} versions{older}")
    table([_row(each, metrics.get(each.version, {})) for each in shown], "versions")
    st.header("Compare two versions")
    served = next((each.version for each in found.versions[1:] if "production" in each.channels), "")
    names = [each.version for each in found.versions if is_version_name(each.version) and not each.problem]
    _compare(dashboard, names, served)


def _filter(versions: Sequence[Listed]) -> VersionFilter:
    words, channels, benchmarks, forgotten = st.columns([3, 2, 2, 1.4], vertical_alignment="bottom")
    known = sorted({name for each in versions for name in each.evidence})
    return VersionFilter(
        words.text_input("Name or description", max_chars=200, key="versions-words"),
        tuple(channels.multiselect("Served in", CHANNELS, key="versions-channels")),
        tuple(benchmarks.multiselect("Measured", known, key="versions-benchmarks")),
        forgotten.checkbox("Forgotten too", key="versions-forgotten"),
    )


def _row(each: Listed, metrics: Metrics) -> dict[str, object]:
    values = {title: metrics.get((name, None)) for title, name in _SHOWN_METRICS.items()}
    return {
        "version": text.plain(each.version, 120),
        "served in": ", ".join(each.channels),
        "withdrawn from": ", ".join(each.withdrawn_from),
        "created": text.when_text(each.timestamp)[:10] if each.timestamp else "",
        "size": text.megabytes(each.size),
        **{name: number(found.value) if found and found.value is not None else "" for name, found in values.items()},
        "measured": ", ".join(each.evidence),
        "description": text.plain(each.problem or each.description),
    }


def _compare(dashboard: Dashboard, names: Sequence[str], served: str) -> None:
    if len(names) < 2:
        st.caption("There are not two versions to compare yet.")
        return
    left, right = st.columns(2)
    older = left.selectbox("Older", names, index=names.index(served) if served in names[1:] else 1, key="compare-older")
    newer = right.selectbox("Newer", names, index=0, key="compare-newer")
    if older is None or newer is None or older == newer:
        st.caption("Choose two versions.")
        return
    found = dashboard.kept.get(
        ("compare", older, newer), partial(read_comparison, dashboard.registry, older, newer), _EXPENSIVE_SECONDS
    )
    _measurements(found)
    _files(found)
    _images(dashboard, found)


def _measurements(found: VersionComparison) -> None:
    st.subheader("Metrics with 95% intervals")
    if found.note:
        st.caption(text.markdown(found.note))
    figures = metric_figures(found)
    if not figures:
        st.caption("Neither was measured. `ulora measure VERSION --data DIR` does.")
    for unit, figure in figures.items():
        chart(figure, f"metrics-{unit}")
    st.subheader("Differences on the same images")
    chart(paired_figure(found), "paired", "It is not known what both answered for the same images.")


def _files(found: VersionComparison) -> None:
    changed = found.diff.manifest
    with st.expander(f"{len(changed.components)} components and {len(changed.files)} files differ"):
        table(
            [{"component": text.plain(each.name), "change": each.change} for each in changed.components[:200]],
            "components",
        )
        table([{"file": text.plain(each.path), "change": each.change} for each in changed.files[:200]], "files")


def _images(dashboard: Dashboard, found: VersionComparison) -> None:
    images = found.diff.images[:_MAX_IMAGES]
    if not found.diff.compared:
        return
    st.subheader("Images that they answer differently")
    more = f"; the first {len(images)} are shown" if len(found.diff.images) > len(images) else ""
    st.caption(f"{len(found.diff.images):,} of {found.diff.compared:,} images{more}")
    if not images:
        return
    if dashboard.options.data:
        _pictures(_thumbnails(dashboard, dashboard.options.data, images[:_THUMBNAILS]), images)
    else:
        st.caption("`ulora dashboard --data DIR` shows them as pictures.")
    rows = [
        {
            "right": each.right, "target": text.plain(each.target or "–"), "label": text.plain(each.label or "–"),
            found.diff.older: text.plain(each.older or "–"), found.diff.newer: text.plain(each.newer or "–"),
            "image": text.digest(each.image),
        }
        for each in images
    ]  # fmt: skip
    table(rows, "images")


def _thumbnails(dashboard: Dashboard, folder: Path, images: Sequence[Disagreement]) -> Mapping[str, Thumbnail]:
    wanted = tuple(sorted(each.image for each in images))
    return dashboard.kept.get(("thumbnails", wanted), partial(thumbnails, folder, wanted), FOR_EVER)


def _pictures(found: Mapping[str, Thumbnail], images: Sequence[Disagreement]) -> None:
    known = [each for each in images if each.image in found][:_THUMBNAILS]
    if known:
        st.caption("What each shows, and what the older version and the newer one answered.")
    if not known:
        st.caption("None of these images is in the folder that was given.")
    for begin in range(0, len(known), 6):
        for column, each in zip(st.columns(6), known[begin : begin + 6], strict=False):
            column.image(found[each.image].png, width=140)
            answers = [text.markdown(answer or "–", 30) for answer in (each.label, each.older, each.newer)]
            column.caption(f"{answers[0]}: {answers[1]} → {answers[2]}")
