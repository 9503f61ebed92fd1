"""Import adapters of other layouts: find them in a folder, convert them once, and write a bundle.

`convert` is the entry point of the group `ulora.importers`. The files that it writes for one adapter:

    adapter_config.json, adapter_model.safetensors   the LoRA in transformers 5's names
    head.json, head.safetensors                      from classifier.pth, fusion.pth or a saved classifier
    ood.json, ood.safetensors                        from ood_components.pt or adapter_meta.json's statistics
    golden.safetensors                               a few images, and what the source's own code answers for them
    component.json
    source_meta.json, source.safetensors             fields and tensors that are in none of the files above
    README.md, licences, production_readiness.json … copied unchanged

The same source gives the same bytes: they contain no time and no path of this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `pickle_rehearsal` starts once for each file
    from registry.versions.manifest import BackboneRef

if TYPE_CHECKING:
    from adapters.backbone.locate import FetchWeights


@dataclass(frozen=True)
class ImportedAdapter:
    """One imported adapter. `head` and `detector` are their kinds, None if the source has none."""

    target: str
    folder: str
    head: str | None
    labels: int
    detector: str | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImportResult:
    """The result of an import.

    Attributes:
        layout: the layout that was found.
        backbone: the name of the backbone.
        adapters: by target.
        left_out: paths in the source that were not imported.
        assumed: what no file of the source states and was assumed, in words.
        version: the content of an old version folder's `version.json`, None without one.
    """

    layout: str
    backbone: str
    adapters: tuple[ImportedAdapter, ...]
    left_out: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    version: Mapping[str, Any] | None = None


def convert(
    source: Path,
    bundle: Path,
    *,
    target: str | None = None,
    backbone: str | None = None,
    known: Sequence[BackboneRef] = (),
    fetch: FetchWeights | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> ImportResult:
    """Convert a folder of another layout to a bundle.

    Args:
        source: the folder; it is only read.
        bundle: an empty folder to write into.
        target: the name of the only target in the source, if its files do not name it.
        backbone: a folder, a hub id or a name, instead of the backbone that the source names.
        known: the backbones in the store.
        fetch: fetches the weights of one of them.
        say: called with a line for what was found, and for each adapter that is converted.

    Raises:
        BadBundle: when no known layout is found (the message lists them), or files do not fit each other.
        BadInput: when a target's name is missing or not allowed, or no backbone is named.
        BadWeights: when a file is truncated, malformed or unsafe, or does not fit the backbone.
        BackboneNotFound, CorruptBlob: when the backbone is not available; the hint says how to add it to the store.
        SelfTestFailed: when the bundle would not answer as the source's own code does.
    """
    from adapters.importing.conversion import write
    from adapters.importing.layouts import LAYOUTS, find_adapters

    found = find_adapters(source, target)
    say(f"found {len(found.adapters)} × {found.layout} ({LAYOUTS[found.layout]})")
    return write(found, source, bundle, backbone=backbone, known=known, fetch=fetch, say=say)
