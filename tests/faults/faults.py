"""The faults of the matrix: what may go wrong at a call, as a table. Each is a function of an exchange and its case.

Those of the network and the servers happen in proxies between the command and real servers; the command's process is
really killed, and the S3 server too.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from tests.servers import proxy
from tests.servers.proxy import Exchange, Reply

_CODES = {
    500: ("InternalError", "INTERNAL_ERROR"),
    503: ("SlowDown", "TEMPORARILY_UNAVAILABLE"),
    409: ("ConditionalRequestConflict", "RESOURCE_CONFLICT"),
    412: ("PreconditionFailed", "INVALID_STATE"),
}


class Theatre(Protocol):
    """What a fault may act on besides the exchange."""

    def pid(self) -> int:
        """The process of the command."""

    def wait_until_gone(self) -> None:
        """Return when the command has ended, or does not wait for this reply any more."""

    def restart_s3(self) -> None:
        """Kill the S3 server and start it again."""

    def cut_off(self) -> None:
        """Refuse all that the command asks from now on, of both servers."""


Act = Callable[[Exchange, Theatre], None]


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong at one call.

    Attributes:
        act: what the proxies do, None for what happens in the command's own process.
        at: the servers at whose calls it happens; `disk` means at changes of files.
        hasty: whether it waits for time-outs, which are made short then.
        may_exit: exit codes that are honest answers to it, besides 0 and 7.
        slow: whether a case takes seconds.
    """

    name: str
    act: Act | None = None
    at: frozenset[str] = frozenset({"s3", "mlflow"})
    hasty: bool = False
    may_exit: tuple[int | None, ...] = ()
    slow: bool = False


def _kill_before(exchange: Exchange, theatre: Theatre) -> None:
    os.kill(theatre.pid(), signal.SIGKILL)
    exchange.reset()


def _kill_after(exchange: Exchange, theatre: Theatre) -> None:
    exchange.forward()
    os.kill(theatre.pid(), signal.SIGKILL)
    exchange.reset()


def _interrupt_before(exchange: Exchange, theatre: Theatre) -> None:
    os.kill(theatre.pid(), signal.SIGINT)
    exchange.send(exchange.forward())


def _interrupt_after(exchange: Exchange, theatre: Theatre) -> None:
    reply = exchange.forward()
    os.kill(theatre.pid(), signal.SIGINT)
    exchange.send(reply)


def _time_out_before(exchange: Exchange, theatre: Theatre) -> None:
    theatre.wait_until_gone()
    exchange.reset()


def _time_out_after(exchange: Exchange, theatre: Theatre) -> None:
    exchange.forward()
    theatre.wait_until_gone()
    exchange.reset()


def _answer(status: int) -> Act:
    """Told so without the request ever reaching the server."""

    def act(exchange: Exchange, theatre: Theatre) -> None:
        exchange.send(_refusal(exchange, status))

    return act


def _failed_after(exchange: Exchange, theatre: Theatre) -> None:
    exchange.forward()
    exchange.send(_refusal(exchange, 500))


def _short_reply(exchange: Exchange, theatre: Theatre) -> None:
    """Half of the body arrives, and looks whole."""
    reply = exchange.forward()
    exchange.send(Reply(reply.status, reply.headers, reply.body[: len(reply.body) // 2]))


def _truncated_reply(exchange: Exchange, theatre: Theatre) -> None:
    """Half of the announced body arrives, then the connection is closed in order."""
    reply = exchange.forward()
    exchange.send(reply, body_bytes=len(reply.body) // 2)
    exchange.close()


def _s3_dies_before(exchange: Exchange, theatre: Theatre) -> None:
    exchange.reset()
    theatre.restart_s3()


def _s3_dies_after(exchange: Exchange, theatre: Theatre) -> None:
    exchange.forward()
    exchange.reset()
    theatre.restart_s3()


def _outage_before(exchange: Exchange, theatre: Theatre) -> None:
    theatre.cut_off()
    exchange.reset()


def _outage_after(exchange: Exchange, theatre: Theatre) -> None:
    exchange.forward()
    theatre.cut_off()
    exchange.reset()


def _of_network(fault: proxy.Fault) -> Act:
    return lambda exchange, _: fault(exchange)


def _refusal(exchange: Exchange, status: int) -> Reply:
    for_s3, for_mlflow = _CODES[status]
    if exchange.path.startswith(("/api", "/ajax-api")):
        body = f'{{"error_code":"{for_mlflow}","message":"injected"}}'
        return Reply(status, [("Content-Type", "application/json")], body.encode())
    return Reply(
        status,
        [("Content-Type", "application/xml")],
        f"<?xml version='1.0'?><Error><Code>{for_s3}</Code><Message>injected</Message></Error>".encode(),
    )


_S3 = frozenset({"s3"})
_DISK = frozenset({"disk"})
_RAISED = (1, None)
"""What the command answers to an exception that is not its own."""
_GARBLED = (1, 6)
"""Bytes that are not whole may be found damaged."""

FAULTS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("raise_before", may_exit=_RAISED),
        Fault("raise_after", may_exit=_RAISED),
        Fault("kill_before", _kill_before),
        Fault("kill_after", _kill_after),
        Fault("interrupt_before", _interrupt_before, may_exit=(130,)),
        Fault("interrupt_after", _interrupt_after, may_exit=(130,)),
        Fault("time_out_before", _time_out_before, hasty=True),
        Fault("time_out_after", _time_out_after, hasty=True),
        Fault("500_before", _answer(500)),
        Fault("500_after", _failed_after),
        Fault("503_slow_down", _answer(503)),
        Fault("409", _answer(409)),
        Fault("412", _answer(412)),
        Fault("reset_before", _of_network(proxy.refuse)),
        Fault("reset_in_request", _of_network(proxy.cut_request)),
        Fault("reset_after", _of_network(proxy.swallow_reply)),
        Fault("reset_in_reply", _of_network(proxy.cut_body)),
        Fault("truncated_reply", _truncated_reply),
        Fault("short_reply", _short_reply, may_exit=_GARBLED),
        Fault("outage_before", _outage_before, slow=True),
        Fault("outage_after", _outage_after, slow=True),
        Fault("s3_dies_before", _s3_dies_before, at=_S3, slow=True),
        Fault("s3_dies_after", _s3_dies_after, at=_S3, slow=True),
        Fault("disk_kill", at=_DISK),
        Fault("disk_full", at=_DISK, may_exit=(1, 2)),
    )
}
