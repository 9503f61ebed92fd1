"""Steady load on a served channel: real requests over HTTP with images whose labels are known, every answer kept."""

from __future__ import annotations

import http.client
import itertools
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from registry.errors import UloraError
from registry.trials.receipts import OOD_LABEL

RATE = 24.0
"""Requests a second, over all clients."""
CLIENTS = 4
_TIMEOUT = 60.0
_MAX_BODY = 500
"""Bytes of a failed answer's body that are kept."""
# A server may close an idle connection; a client that then writes on it would count a failure of its own making.
_IDLE = 2.0
_DECISIONS = ("version", "target", "label", "outcome", "is_ood")


@dataclass(frozen=True)
class Question:
    """An image file's bytes, and what it shows; the label `_ood` without a target: nothing of what is known."""

    image: bytes
    target: str
    label: str


@dataclass(frozen=True)
class ClientReply:
    """What came back.

    Attributes:
        at: when it was complete, by `time.monotonic`.
        version: the version that answered, the empty string where none did.
        is_right: whether target and label are those of the image; or whether it was flagged, if it shows none of them.
        document: the answer's JSON.
        problem: why it counts as failed, the empty string where it does not.
        seconds: from the request to the whole answer.
    """

    at: float
    version: str
    is_right: bool
    document: dict[str, Any]
    problem: str = ""
    seconds: float = 0.0


class Client:
    """One client with one connection, kept open."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_TIMEOUT)
        self._used = time.monotonic()

    def close(self) -> None:
        """Close the connection; the next question opens it again."""
        self._connection.close()

    def ask(self, question: Question) -> ClientReply:
        """Ask once, without a second try. Never raises: anything but a whole answer of a version is a failed one."""
        began = time.monotonic()
        try:
            status, body = self._post("/predict", question.image, "image/png")
        except (OSError, http.client.HTTPException) as error:
            return ClientReply(time.monotonic(), "", False, {}, f"no answer: {type(error).__name__}: {error}")
        document = _object(body)
        version = document.get("version") or ""
        is_whole = status == http.client.OK and version
        problem = "" if is_whole else f"status {status}, body {body[:_MAX_BODY].decode('utf-8', 'replace')!r}"
        return ClientReply(self._used, version, _is_right(document, question), document, problem, self._used - began)

    def post(self, path: str, body: bytes, content_type: str) -> tuple[int, dict[str, Any]]:
        """Post once; status and JSON of the answer, 503 and nothing where none comes."""
        try:
            status, answer = self._post(path, body, content_type)
        except (OSError, http.client.HTTPException):
            return http.client.SERVICE_UNAVAILABLE, {}
        return status, _object(answer)

    def _post(self, path: str, body: bytes, content_type: str) -> tuple[int, bytes]:
        if time.monotonic() - self._used > _IDLE:
            self.close()
        try:
            self._connection.request("POST", path, body, {"Content-Type": content_type})
            reply = self._connection.getresponse()
            return reply.status, reply.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        finally:
            self._used = time.monotonic()


class SteadyLoad:
    """Clients that ask at a fixed rate, round and round through the questions. A context manager.

    A client that falls behind does not catch up: a slow answer lowers the rate, it never makes a burst.
    """

    def __init__(
        self, url: str, questions: Sequence[Question], rate: float = RATE, clients: int = CLIENTS,
        answered: Callable[[Question, ClientReply], None] = lambda question, reply: None,
    ) -> None:  # fmt: skip
        """`answered` is told of each answer, in the thread of its client."""
        self.url = url
        self._answered = answered
        self._questions = itertools.cycle(questions)
        self._pause = clients / rate
        self._answers: list[ClientReply] = []
        self._asked: set[int] = set()
        self._numbers = itertools.count()
        self._arrived = threading.Condition()
        self._stop = threading.Event()
        delays = [number / rate for number in range(clients)]
        self._threads = [threading.Thread(target=self._run, args=(delay,), daemon=True) for delay in delays]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask no more, and return when every question is answered. Doing it twice is fine."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def answers(self) -> list[ClientReply]:
        """All answers so far, in the order they came in."""
        with self._arrived:
            return list(self._answers)

    def failures(self) -> list[ClientReply]:
        """The failed ones."""
        return [answer for answer in self.answers if answer.problem]

    def check(self) -> None:
        """Check that no request has failed yet.

        Raises:
            UloraError: one has; the message says which, and why.
        """
        for answer in self.failures()[:1]:
            raise_if_failed(answer, f"request {self.answers.index(answer) + 1}")

    def versions(self) -> Counter[str]:
        """How many answers each version gave."""
        return Counter(answer.version for answer in self.answers if answer.version)

    def by(self, version: str, since: float = 0.0) -> list[ClientReply]:
        """A version's answers that came in after a moment of `time.monotonic`."""
        return [answer for answer in self.answers if answer.version == version and answer.at > since]

    def wait_for(self, version: str, since: float, count: int = 1, seconds: float = 180.0) -> list[ClientReply]:
        """A version's first `count` answers after a moment.

        Raises:
            UloraError: a request failed, or they did not come in time.
        """
        with self._arrived:
            came = self._arrived.wait_for(lambda: self.failures() or len(self.by(version, since)) >= count, seconds)
        self.check()
        if not came:
            raise UloraError(f"{version} gave {len(self.by(version, since))} of {count} answers in {seconds:g} s")
        return self.by(version, since)[:count]

    def wait_for_those_in_flight(self, seconds: float = 180.0) -> None:
        """Wait until whatever was asked by now is answered.

        Raises:
            UloraError: a request failed, or they are not answered in time.
        """
        with self._arrived:
            asked = set(self._asked)
            came = self._arrived.wait_for(lambda: not asked & self._asked, seconds)
        self.check()
        if not came:
            raise UloraError(f"what was asked {seconds:g} s ago is not answered")

    def rate(self, seconds: float = 3.0) -> float:
        """Answers a second lately."""
        now = time.monotonic()
        return sum(now - answer.at < seconds for answer in reversed(self.answers)) / seconds

    def percentile(self, share: float, seconds: float = 10.0) -> float:
        """The seconds in which this share of the answers lately came; 0 without any."""
        now = time.monotonic()
        recent = itertools.takewhile(lambda answer: now - answer.at < seconds, reversed(self.answers))
        took = sorted(answer.seconds for answer in recent if not answer.problem)
        return took[min(len(took) - 1, int(share * len(took)))] if took else 0.0

    def _run(self, delay: float) -> None:
        self._stop.wait(delay)
        with closing(Client(self.url)) as client:
            for due in self._schedule():
                number, question = self._next()
                answer = client.ask(question)
                self._answered(question, answer)
                with self._arrived:
                    self._asked.remove(number)
                    self._answers.append(answer)
                    self._arrived.notify_all()
                self._stop.wait(due - time.monotonic())

    def _schedule(self) -> Iterator[float]:
        """When the next question is due, until the load is stopped."""
        due = time.monotonic()
        while not self._stop.is_set():
            due = max(due + self._pause, time.monotonic())
            yield due

    def _next(self) -> tuple[int, Question]:
        """The next question, which is asked from now on, and its number."""
        with self._arrived:
            number = next(self._numbers)
            self._asked.add(number)
            return number, next(self._questions)


def raise_if_failed(answer: ClientReply, name: str = "a request") -> None:
    """Raise the reason why an answer counts as failed, if it does.

    Raises:
        UloraError: it failed.
    """
    if answer.problem:
        raise UloraError(f"{name} failed: {answer.problem}")


def accuracy(answers: Sequence[ClientReply]) -> float:
    """The share that is right, 0 of none."""
    return sum(answer.is_right for answer in answers) / max(len(answers), 1)


def largest_difference(before: Sequence[ClientReply], after: Sequence[ClientReply]) -> float:
    """By how much answers to the same questions differ: 0 for equal ones, infinity if a decision changed.

    The decisions are version, target, label, outcome and the OOD flag; the numbers are probabilities and scores.
    """
    return max(_difference(one, other) for one, other in zip(before, after, strict=True))


def _difference(one: ClientReply, other: ClientReply) -> float:
    if one.problem or other.problem or any(one.document.get(name) != other.document.get(name) for name in _DECISIONS):
        return math.inf
    before, after = _numbers(one.document), _numbers(other.document)
    return max(abs(value - after.get(name, math.inf)) for name, value in before.items())


def _numbers(document: dict[str, Any]) -> dict[str, float]:
    """The numbers of an answer, its probabilities included."""
    numbers = {**document, **document.get("probabilities", {})}
    return {name: value for name, value in numbers.items() if isinstance(value, float)}


def _is_right(document: dict[str, Any], question: Question) -> bool:
    if question.label == OOD_LABEL:
        return document.get("is_ood") is True
    return (document.get("target"), document.get("label")) == (question.target, question.label)


def _object(body: bytes) -> dict[str, Any]:
    """A JSON object, empty for anything else."""
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
