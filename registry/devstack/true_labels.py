"""The true labels of what the demo's traffic was answered, sent back to the replica by their receipts."""

from __future__ import annotations

import http.client
import json
import queue
import threading
from collections import Counter
from contextlib import closing
from typing import Self

from registry.devstack.traffic import Client, ClientReply, Question
from registry.errors import UloraError

_LATER = (http.client.TOO_MANY_REQUESTS, http.client.SERVICE_UNAVAILABLE)
"""With these a replica asks to send a label again."""
_PAUSE = 0.2


class TrueLabels:
    """Sends labels one after another, in its own thread. A context manager; what is left at its end is not sent."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._left: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._results: Counter[str] = Counter()
        self._problem = ""
        self._thread = threading.Thread(target=self._run, name="demo-labels", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._left.put(None)
        self._thread.join()

    @property
    def results(self) -> Counter[str]:
        """How many labels had which result: `taken`, `repeated`, `left_out`."""
        return self._results.copy()

    def answered(self, question: Question, reply: ClientReply) -> None:
        """Send the label of what was asked, if there was an answer."""
        if not reply.problem:
            self._left.put((str(reply.document.get("request_id")), question.label))

    def check(self) -> None:
        """Check that every label was taken so far.

        Raises:
            UloraError: one was refused.
        """
        if self._problem:
            raise UloraError(f"a true label was refused: {self._problem}")

    def _run(self) -> None:
        with closing(Client(self._url)) as client:
            while (label := self._left.get()) and not self._stop.is_set():
                self._send(client, *label)

    def _send(self, client: Client, request_id: str, label: str) -> None:
        body = json.dumps({"request_id": request_id, "label": label}).encode()
        while not self._stop.is_set():
            status, document = client.post("/feedback", body, "application/json")
            if status == http.client.OK:
                self._results[str(document.get("result"))] += 1
                return
            if status not in _LATER:
                self._problem = self._problem or f"status {status}, {json.dumps(document)[:500]}"
                return
            self._stop.wait(_PAUSE)
