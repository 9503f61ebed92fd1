"""An installed package with a flavor, `hanging`, whose loader or predictions hang: for a real `ulora serve`.

What hangs is in a version's suffix, or in the image. No version needs a real model.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

FLAVOR = "hanging"
LOAD_WAITS, LOAD_HOLDS_THE_LOCK = "v9.0.0-load-waits", "v9.0.0-load-holds-the-lock"
WAIT, HOLD_THE_LOCK = b"wait", b"hold the lock"
"""Images that no prediction answers; any other is answered."""

_CODE = """
import ctypes, threading
from pathlib import Path
from tests.support.echo_releases import Echo, load_echo

def hang(how):
    # C code that keeps the interpreter's lock for ever, or a thread that waits for ever.
    print("hangs", flush=True)
    ctypes.PyDLL(None).sleep(10**6) if how == "hold the lock" else threading.Event().wait()

class Hanging(Echo):
    def predict(self, images, *, target=None):
        if images in (b"wait", b"hold the lock"):
            hang(images.decode())
        return super().predict(images, target=target)

def load(manifest, files, **how):
    if "-load-" in manifest.version:
        hang("hold the lock" if manifest.version.endswith("holds-the-lock") else "wait")
    echo = load_echo(manifest, files)
    return Hanging(echo.version, echo.content_sha256, echo.weights)
"""


@contextmanager
def serving(folder: Path, environment: Mapping[str, str], *options: str) -> Iterator[subprocess.Popen[str]]:
    """A real `ulora serve` with this flavor. It prints its address, and `hangs` before it does; it is killed at the
    end."""
    package, info = folder / "hangingflavor", folder / "hangingflavor-1.0.dist-info"
    for each in (package, info):
        each.mkdir(parents=True)
    (package / "__init__.py").write_text(_CODE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hangingflavor\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ulora.loaders]\n{FLAVOR} = hangingflavor:load\n")
    path = os.pathsep.join([str(folder), str(Path.cwd())])
    process = subprocess.Popen(
        [sys.executable, "-m", "registry", "serve", "--port", "0", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "ULORA_CACHE": str(folder / "cache"), "PYTHONPATH": path, **environment},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
