"""Take in adapters of other layouts: find out what a folder holds, convert it once, write a bundle.

`convert` is what the entry point group `ulora.importers` names. What becomes of the files of one adapter:

    adapter_config.json, adapter_model.safetensors   the LoRA in transformers 5's names
    head.json, head.safetensors                      from classifier.pth, fusion.pth or a saved classifier
    ood.json, ood.safetensors                        from ood_components.pt or adapter_meta.json's statistics
    component.json
    source_meta.json, source.safetensors             every field and tensor of the files that none of these holds
    README.md, licences, production_readiness.json … as they were

The same source gives the same bytes: no time and no path of this machine gets in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.versions.manifest import BackboneRef


@dataclass(frozen=True)
class ImportedAdapter:
    """One adapter of an import. `head` and `detector` are their kinds, None where the source has none."""

    target: str
    folder: str
    head: str | None
    labels: int
    detector: str | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Attributes:
        layout: the layout that was found.
        backbone: the name of the backbone.
        adapters: by target.
        left_out: paths in the source that were not taken.
        version: the content of an old version folder's `version.json`, None without one.
    """

    layout: str
    backbone: str
    adapters: tuple[ImportedAdapter, ...]
    left_out: tuple[str, ...] = ()
    version: Mapping[str, Any] | None = None


def convert(
    source: Path,
    bundle: Path,
    *,
    target: str | None = None,
    backbone: str | None = None,
    known: Sequence[BackboneRef] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Imported:
    """Write what a folder of another layout holds as a bundle.

    Args:
        source: the folder; read only.
        bundle: an empty folder to write into.
        target: the name of the one target in the source, where its files do not tell it.
        backbone: a folder, a hub id or a name, instead of what the source calls its backbone.
        known: the backbones in the store.
        say: told what was found, and of each adapter that is converted.

    Raises:
        BadBundle: the folder holds nothing that is understood; the message lists what is. Or files do not fit.
        BadInput: a target's name is missing or not allowed, or no backbone is named.
        BadWeights: a file is truncated, malformed, hostile, or does not fit the backbone.
        BackboneNotFound: the backbone is not to be had; the hint says how to mirror it.
    """
    from adapters.importing.conversion import write
    from adapters.importing.layouts import LAYOUTS, look

    found = look(source, target)
    say(f"found {len(found.leaves)} × {found.layout} ({LAYOUTS[found.layout]})")
    return write(found, source, bundle, backbone=backbone, known=known, say=say)


def understood() -> str:
    """The layouts that `convert` takes, for people."""
    from adapters.importing.layouts import UNDERSTOOD

    return UNDERSTOOD
