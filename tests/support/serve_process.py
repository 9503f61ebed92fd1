"""A replica in a process of its own, as `ulora serve` runs it: `serve_process.py STORE MODEL FOLDER DRAIN GRACE`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.echo_releases import Shop


@contextmanager
def serving(shop: Shop, *, drain: float, grace: float = 600.0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, which is killed at the end, and its URL."""
    words = [os.environ["ULORA_STORE"], shop.model, str(shop.folder), str(drain), str(grace)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.serve_process", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert process.stdout
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def main(store: str, model: str, folder: str, drain: str, grace: str) -> None:
    """Serve until a signal ends it, with heartbeats."""
    from registry.serving.fleet import Heartbeats
    from registry.serving.follow import Live, LiveOptions
    from registry.serving.http.options import HttpOptions
    from registry.serving.http.server import serve
    from registry.store.objects import ObjectStore
    from tests.support.echo_releases import find_echo

    shop = Shop(ObjectStore(store), model, Path(folder))
    fleet = Heartbeats(shop.store, model, "production")
    with Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(find=find_echo), fleet=fleet) as live:
        options = HttpOptions(
            port=0, drain=float(drain), grace=float(grace), header_seconds=600, body_seconds=600, idle_seconds=600
        )
        serve(live, options, lambda url: print(url, flush=True))  # noqa: T201
    print("closed", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
