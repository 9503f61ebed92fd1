"""Tell people and programs what happened: a line in the log, and webhooks of the settings.

Each notifier has a thread of its own, so that one that hangs holds up neither the guard nor the others. A message that
is not taken is sent again after growing pauses, until a deadline; then the log says so, and the next one is tried.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import Protocol, Self

from registry.errors import BadSetting, first_line
from registry.guard.guard_event import GuardEvent
from registry.guard.payloads import Payload, body, for_programs, for_slack, for_teams
from registry.guard.webhook import Attempt, Webhook, post
from registry.settings import Settings

_log = logging.getLogger(__name__)
_MAX_WAITING = 1000
"""Events that wait for one notifier."""
_MAX_REMEMBERED = 10_000
"""Events that are known as told."""
_PREFIX = "whsec_"
_MIN_SECRET = 16


@dataclass(frozen=True)
class Pauses:
    """When a message is sent again, in seconds.

    Attributes:
        first: the first pause; each is twice as long as the one before.
        longest: no pause is longer.
        total: after so long it is given up.
        attempt: how long one attempt may take.
    """

    first: float = 1.0
    longest: float = 60.0
    total: float = 600.0
    attempt: float = 10.0


class Notifier(Protocol):
    """Something that events are told to. `name` says which, without its secrets."""

    name: str

    def deliver(self, event: GuardEvent, seconds: float) -> Attempt:
        """Tell it once, within so many seconds."""
        ...


class LogNotifier:
    """Writes a line into the log."""

    name = "log"

    def deliver(self, event: GuardEvent, seconds: float) -> Attempt:
        """Write the line; it can't fail."""
        level = logging.WARNING if event.kind == "alert" else logging.INFO
        why = f" ({event.reason})" if event.reason else ""
        facts = {"event": event.kind, "id": event.id, **event.facts()}
        _log.log(level, "%s", f"{event.title}{why}", extra={"facts": facts})
        return Attempt()


class WebhookNotifier:
    """Posts a message, signed if there is a secret, as the Standard Webhooks do.

    The header `webhook-signature` is `v1,` and the base64 of HMAC-SHA256 over `ID.TIMESTAMP.BODY`; `webhook-id` is
    the event's, so that a receiver can leave out what it has already (https://www.standardwebhooks.com).
    """

    def __init__(self, hook: Webhook, payload: Payload, secret: bytes = b"") -> None:
        self.name = str(hook)
        self._hook, self._payload, self._secret = hook, payload, secret

    def deliver(self, event: GuardEvent, seconds: float) -> Attempt:
        """Post it once."""
        data = body(self._payload, event)
        headers = {"Content-Type": "application/json", "User-Agent": "ulora", **self._signed(event.id, data)}
        return post(self._hook, data, headers, seconds)

    def _signed(self, event: str, data: bytes) -> dict[str, str]:
        now = str(int(time.time()))
        headers = {"webhook-id": event, "webhook-timestamp": now}
        if self._secret:
            digest = hmac.new(self._secret, f"{event}.{now}.".encode() + data, hashlib.sha256).digest()
            headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
        return headers


class Notifiers:
    """All notifiers, told at once. A context manager: at its end it waits for what is still to be told."""

    def __init__(self, notifiers: Iterable[Notifier], pauses: Pauses | None = None) -> None:
        """Start a thread for each."""
        self._told: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()
        self._workers = [_Worker(notifier, pauses or Pauses()) for notifier in notifiers]

    def tell(self, event: GuardEvent) -> bool:
        """Have everybody told, unless this event was told before; returns at once. True if it is a new one."""
        with self._lock:
            if event.id in self._told:
                self._told.move_to_end(event.id)
                return False
            self._told[event.id] = None
            if len(self._told) > _MAX_REMEMBERED:
                self._told.popitem(last=False)
        for worker in self._workers:
            worker.put(event)
        return True

    def close(self, seconds: float = 30.0) -> None:
        """Wait until all is told, so many seconds at most; the log says what was not."""
        end = time.monotonic() + seconds
        for worker in self._workers:
            worker.end_at(end)
        for worker in self._workers:
            worker.join(end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Worker:
    """Tells one notifier one event after the other."""

    def __init__(self, notifier: Notifier, pauses: Pauses) -> None:
        self._notifier, self._pauses = notifier, pauses
        self._waiting: Queue[GuardEvent | None] = Queue(_MAX_WAITING)
        self._end = float("inf")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"notify {notifier.name}", daemon=True)
        self._thread.start()

    def put(self, event: GuardEvent) -> None:
        try:
            self._waiting.put_nowait(event)
        except Full:
            _warn(self._notifier, event, f"{_MAX_WAITING} others wait")

    def end_at(self, end: float) -> None:
        self._end = end
        self._ending.set()
        with suppress(Full):  # else it does not wait for an event, and sees `_ending`
            self._waiting.put_nowait(None)

    def join(self, end: float) -> None:
        self._thread.join(max(0.0, end - time.monotonic()))

    def _run(self) -> None:
        while (event := self._next()) is not None:
            try:
                self._tell(event)
            except Exception as error:  # of a notifier of another package: the next event may be told
                _warn(self._notifier, event, first_line(error))

    def _next(self) -> GuardEvent | None:
        try:
            return self._waiting.get(block=not self._ending.is_set())
        except Empty:
            return None

    def _tell(self, event: GuardEvent) -> None:
        """Tell one event, again and again until it is taken, refused for good, or the time is over."""
        deadline, pause = time.monotonic() + self._pauses.total, self._pauses.first
        problem = "there was no time left"
        while (left := min(deadline, self._end) - time.monotonic()) > 0:
            done = self._notifier.deliver(event, min(self._pauses.attempt, left))
            if not done.problem:
                return
            if done.problem != problem:
                _warn(self._notifier, event, f"{done.problem}{'; it is tried again' if done.again else ''}")
            problem = done.problem
            if not done.again:
                return
            self._wait(min(max(pause, done.wait), self._pauses.longest))
            pause *= 2
        _warn(self._notifier, event, f"{problem}; it is not tried again")

    def _wait(self, seconds: float) -> None:
        """Wait so long; from the end on, no longer than there is time left."""
        if self._ending.wait(min(seconds, max(0.0, self._end - time.monotonic()))):
            time.sleep(max(0.0, min(seconds, self._end - time.monotonic())))


def _warn(notifier: Notifier, event: GuardEvent, problem: str) -> None:
    facts = {"event": "not told", "notifier": notifier.name, "id": event.id}
    _log.warning("%s", f"{notifier.name} was not told {event.title!r}: {problem}", extra={"facts": facts})


def notifiers(settings: Settings) -> list[Notifier]:
    """The log, and the webhooks of the settings.

    Raises:
        BadSetting: an address or the secret is invalid.
    """
    secret = _secret(settings.notify_secret)
    kinds: list[tuple[tuple[str, ...], Payload]] = [
        (settings.notify_json, for_programs),
        (settings.notify_slack, for_slack),
        (settings.notify_teams, for_teams),
    ]
    hooks = [WebhookNotifier(Webhook.parse(each), payload, secret) for named, payload in kinds for each in named]
    return [LogNotifier(), *hooks]


def _secret(text: str | None) -> bytes:
    """The bytes of a secret: text, or base64 after `whsec_` as the Standard Webhooks write it."""
    try:
        found = text or ""
        secret = base64.b64decode(found[len(_PREFIX) :], validate=True) if found.startswith(_PREFIX) else found.encode()
    except (binascii.Error, ValueError) as error:
        raise BadSetting(f"notify.secret begins with {_PREFIX}, and its rest is not base64") from error
    if text and len(secret) < _MIN_SECRET:
        raise BadSetting(
            f"notify.secret has fewer than {_MIN_SECRET} bytes", hint="`openssl rand -hex 32` makes a good one"
        )
    return secret
