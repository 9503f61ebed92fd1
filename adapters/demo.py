"""The demo's fits, each in a process of its own; the entry point group `ulora.trainers` names this module.

    python -m adapters.demo fit DATA dinov2-tiny OUT           a bundle for all targets of DATA
    python -m adapters.demo spoil DATA BUNDLE TARGET           one target fitted again, with shuffled labels

Each step is told as a line on standard output: what, how much of it is done, of how much. A process whose standard
input ends, as it does when the demo dies, ends too.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path

from adapters.backbones import TINY
from adapters.data import ImageFolder, LabelledImage
from registry.errors import UloraError

BACKBONES = ("dinov2-tiny", "dinov3-tiny")


def fit_bundle(data: Path, backbone: str, out: Path) -> None:
    """Fit all targets on one of the tiny backbones that ship with this package.

    Raises:
        As `adapters.training.fit`.
    """
    from adapters.training import fit

    fit(ImageFolder(data), TINY / backbone, out, progress=_tell)


def spoil(data: Path, bundle: Path, target: str) -> None:
    """Fit one target of a bundle again on labels that have nothing to do with the images, as a mixed-up table would.

    Raises:
        As `adapters.training.fit_target`.
    """
    from adapters.training import fit_target

    images = ImageFolder(data)
    labels = images.labels(target)

    def shuffled(image: LabelledImage) -> str:
        return labels[int(image.sha256[:8], 16) % len(labels)]

    fit_target(images, target, bundle, labels_of=shuffled, progress=_tell)


def main() -> None:
    """Run one fit, as the module's docstring says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    fitting = what.add_parser("fit")
    fitting.add_argument("data", type=Path)
    fitting.add_argument("backbone", choices=BACKBONES)
    fitting.add_argument("out", type=Path)
    spoiling = what.add_parser("spoil")
    spoiling.add_argument("data", type=Path)
    spoiling.add_argument("bundle", type=Path)
    spoiling.add_argument("target")
    chosen = parser.parse_args()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if chosen.what == "fit":
            fit_bundle(chosen.data, chosen.backbone, chosen.out)
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
