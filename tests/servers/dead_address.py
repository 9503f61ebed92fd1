"""An address at which nobody listens and nobody else can."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def dead_address() -> Iterator[str]:
    """`http://127.0.0.1:PORT`; every connection is refused, because the port is bound here and not listened on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
