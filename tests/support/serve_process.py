"""A replica in a process of its own, as `ulora serve` runs it.

serve_process.py STORE MODEL FOLDER DRAIN GRACE AHEAD
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

from tests.support.echo_releases import Shop


@contextmanager
def serving(
    shop: Shop, *, drain: float, grace: float = 600.0, ahead: float = 0.0, log: Path | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, which is killed at the end, and its URL. Its clock is so many seconds `ahead`.

    Args:
        log: where its log goes, if it has more to say than a pipe holds.
    """
    words = [os.environ["ULORA_STORE"], shop.model, str(shop.folder), str(drain), str(grace), str(ahead)]
    with log.open("w") if log else nullcontext(subprocess.PIPE) as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.serve_process", *words], stdout=subprocess.PIPE, stderr=stderr,
            text=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )  # fmt: skip
    assert process.stdout
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def main(store: str, model: str, folder: str, drain: str, grace: str, ahead: str) -> None:
    """Serve until a signal ends it, with heartbeats."""
    _put_clock(float(ahead))
    from registry.serving.fleet import Heartbeats
    from registry.serving.follow import Live, LiveOptions
    from registry.serving.http.options import HttpOptions
    from registry.serving.http.server import serve
    from registry.store.objects import ObjectStore
    from tests.support.echo_releases import find_echo

    shop = Shop(ObjectStore(store), model, Path(folder))
    fleet = Heartbeats(shop.store, model, "production")
    with Live(
        shop.channel(), shop.versions, shop.blobs, LiveOptions(find=find_echo, deadline=600), fleet=fleet
    ) as live:
        options = HttpOptions(
            port=0, drain=float(drain), grace=float(grace), header_seconds=600, body_seconds=600, idle_seconds=600
        )
        serve(live, options, lambda url: print(url, flush=True))  # noqa: T201
    print("closed", flush=True)  # noqa: T201


def _put_clock(ahead: float) -> None:
    """Put the clock of what the project imports from now on; requests are signed by the machine's own."""
    from registry.machine import clock

    right = time.time

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Wrong:
            return super().now(tz) + timedelta(seconds=ahead)

    time.time = lambda: right() + ahead
    clock.datetime = Wrong  # type: ignore[misc]


if __name__ == "__main__":
    main(*sys.argv[1:])
