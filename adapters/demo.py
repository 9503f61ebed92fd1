"""The fits of the demo, each in its own process; the entry point group `ulora.trainers` names this module.

    python -m adapters.demo fit DATA dinov2-tiny OUT --name N [--depth D] [--false-alarm-rate P] [--runtimes R …]
                                                           a bundle for all targets
    python -m adapters.demo spoil DATA BUNDLE TARGET       one target fitted again, with random labels
    python -m adapters.demo peft BUNDLE TARGET OUT         one target as a plain PEFT folder, with its classifier

Progress is printed as lines on standard output: the step, how much of it is done, and the total. The process exits when
its standard input is closed, which happens when the demo exits.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.backbone.locate import TINY, WEIGHTS
from adapters.backbone.resolve import ref_of_folder
from adapters.fitting.image_folder import ImageFolder, LabelledImage
from registry.errors import UloraError
from registry.formats import canonical

BACKBONES = ("dinov2-tiny", "dinov3-tiny")


def fit_bundle(data: Path, backbone: str, out: Path, *, name: str, settings: Mapping[str, Any]) -> None:
    """Fit all targets on one of the tiny backbones of this package.

    Args:
        name: the backbone's name in the bundle.
        settings: of the fit, as in `adapters.fitting.recipe.Recipe`.

    Raises:
        UloraError: when the fit fails; see `adapters.fitting.fit.fit`.
    """
    from adapters.fitting.fit import prepare

    known = [ref_of_folder(TINY / backbone, name=name)]
    weights = TINY / backbone / WEIGHTS
    prepare(data, name, out, settings, known=known, fetch=lambda sha256: weights).run(_tell)


def write_peft_folder(bundle: Path, target: str, out: Path) -> None:
    """Write a target's LoRA and classifier as PEFT saves an image classifier with `modules_to_save=["classifier"]`."""
    from safetensors.numpy import load_file

    from adapters.bundle import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_folder, write_document, write_tensors

    inner = bundle / adapter_folder(target)
    head = load_file(inner / "head.safetensors")
    classifier = {f"base_model.model.classifier.{name}": array for name, array in head.items()}
    write_tensors(out / ADAPTER_WEIGHTS, load_file(inner / ADAPTER_WEIGHTS) | classifier)
    config = canonical.decode((inner / ADAPTER_CONFIG).read_bytes(), ADAPTER_CONFIG)
    write_document(out / ADAPTER_CONFIG, config | {"modules_to_save": ["classifier"]})
    labels = canonical.decode((inner / "head.json").read_bytes(), "head.json")["labels"]
    write_document(out / "config.json", {"label2id": {label: number for number, label in enumerate(labels)}})


def spoil(data: Path, bundle: Path, target: str) -> None:
    """Fit one target of a bundle again on random labels, to simulate a mistake in the data.

    Raises:
        UloraError: when the fit fails; see `adapters.fitting.refit.fit_target`.
    """
    from adapters.fitting.refit import fit_target

    images = ImageFolder(data)
    labels = images.labels(target)

    def shuffled(image: LabelledImage) -> str:
        return labels[int(image.sha256[:8], 16) % len(labels)]

    folders = [TINY / name for name in BACKBONES]
    fit_target(images.relabelled(shuffled), target, bundle, folders=folders, progress=_tell)


def main() -> None:
    """Run one fit; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    fitting = what.add_parser("fit")
    fitting.add_argument("data", type=Path)
    fitting.add_argument("backbone", choices=BACKBONES)
    fitting.add_argument("out", type=Path)
    fitting.add_argument("--name", required=True)
    fitting.add_argument("--depth", default="full")
    fitting.add_argument("--false-alarm-rate", type=float)
    fitting.add_argument("--runtimes", nargs="*", default=[])
    spoiling = what.add_parser("spoil")
    spoiling.add_argument("data", type=Path)
    spoiling.add_argument("bundle", type=Path)
    spoiling.add_argument("target")
    saving = what.add_parser("peft")
    saving.add_argument("bundle", type=Path)
    saving.add_argument("target")
    saving.add_argument("out", type=Path)
    chosen = parser.parse_args()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if chosen.what == "fit":
            given = {name: getattr(chosen, name) for name in ("depth", "false_alarm_rate", "runtimes")}
            settings = {name: value for name, value in given.items() if value is not None}
            fit_bundle(chosen.data, chosen.backbone, chosen.out, name=chosen.name, settings=settings)
        elif chosen.what == "peft":
            write_peft_folder(chosen.bundle, chosen.target, chosen.out)
        else:
            spoil(chosen.data, chosen.bundle, chosen.target)
    except UloraError as error:
        sys.exit(f"{error}. {error.hint}" if error.hint else str(error))


def _tell(stage: str, done: int, total: int) -> None:
    sys.stdout.write(f"{stage} {done} {total}\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
