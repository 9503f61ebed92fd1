"""The true labels of the demo's traffic: what is sent back, what is sent again, what ends the demo."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from registry.devstack.traffic import ClientReply, Question
from registry.devstack.true_labels import TrueLabels
from registry.errors import UloraError
from tests.servers.loopback import Loopback

QUESTION = Question(b"image", "tomato", "rust")
ANSWER = ClientReply(1.0, "v1.0.0", True, {"request_id": "receipt"})


class Replica(BaseHTTPRequestHandler):
    """Takes labels, after it has refused as many as it was told."""

    refusals: list[int]
    taken: list[dict[str, str]]
    came: threading.Condition

    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.came:
            status = self.refusals.pop(0) if self.refusals else 200
            if status == 200:
                self.taken.append(told)
            self.came.notify_all()
        body = json.dumps({"result": "taken"} if status == 200 else {"message": "no receipt"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def replica() -> Iterator[tuple[type[Replica], str]]:
    class Fresh(Replica):
        refusals: list[int] = []  # noqa: RUF012  of this class alone
        taken: list[dict[str, str]] = []  # noqa: RUF012
        came = threading.Condition()

    with Loopback(Fresh) as server:
        yield Fresh, server.url


def wait_for(replica: type[Replica], count: int) -> None:
    with replica.came:
        assert replica.came.wait_for(lambda: len(replica.taken) >= count, 180)


def test_each_answer_gets_its_label_by_its_receipt(replica: tuple[type[Replica], str]) -> None:
    server, url = replica
    with TrueLabels(url) as labels:
        labels.answered(QUESTION, ANSWER)
        labels.answered(QUESTION, ClientReply(1.0, "", False, {}, "no answer"))
        labels.answered(Question(b"image", "", "_ood"), ANSWER)
        wait_for(server, 2)
    assert [each["label"] for each in server.taken] == ["rust", "_ood"]
    assert {each["request_id"] for each in server.taken} == {"receipt"}


def test_a_label_is_sent_again_when_there_is_too_much_to_do(replica: tuple[type[Replica], str]) -> None:
    server, url = replica
    server.refusals.extend([429, 503])
    with TrueLabels(url) as labels:
        labels.answered(QUESTION, ANSWER)
        wait_for(server, 1)
    labels.check()
    assert labels.results == {"taken": 1}


def test_a_refused_label_is_named(replica: tuple[type[Replica], str]) -> None:
    server, url = replica
    server.refusals.append(400)
    with TrueLabels(url) as labels:
        labels.answered(QUESTION, ANSWER)
        labels.answered(QUESTION, ANSWER)
        wait_for(server, 1)
    with pytest.raises(UloraError, match=r"a true label was refused: status 400, .*no receipt"):
        labels.check()
