"""Answers that are given again for the same image, target and version, in a bounded number of bytes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Set
from dataclasses import dataclass

from registry.serving.loaders import Prediction
from registry.serving.routing import Route

_ENTRY_BYTES, _BYTES_PER_LETTER = 200, 4
"""The memory of an entry, by the length of its JSON. Measured on predictions with 0, 10 and 100 probabilities: 1,000,
1,900 and 12,600 bytes, for which this gives 1,300, 2,600 and 14,900."""


@dataclass(frozen=True)
class AnswerKey:
    """What an answer is for."""

    manifest_sha256: str
    image_sha256: bytes
    target: str | None


class ResponseCache:
    """Answers, the longest unused of which go first. Any thread may call it.

    Only answers are kept, no errors; nor what could not be read, which costs little to find out again.
    """

    def __init__(self, size: int) -> None:
        """`size` in bytes; 0 keeps nothing."""
        self._size = size
        self._taken = 0
        self._kept: OrderedDict[AnswerKey, tuple[Prediction, int]] = OrderedDict()
        self._versions: Counter[str] = Counter()
        self._lock = threading.Lock()

    def question(self, image: bytes, target: str | None, route: Route) -> AnswerKey | None:
        """The key of an image; None if nothing is kept."""
        if not self._size:
            return None
        return AnswerKey(route.manifest_sha256, hashlib.sha256(image).digest(), target)

    def get(self, question: AnswerKey) -> Prediction | None:
        """The answer, if it is kept."""
        with self._lock:
            found = self._kept.get(question)
            if found is None:
                return None
            self._kept.move_to_end(question)
            return found[0]

    def put(self, question: AnswerKey, answer: Prediction, in_memory: Set[str]) -> None:
        """Keep an answer; `in_memory` are the digests of the versions there, and answers of all others are dropped."""
        size = _ENTRY_BYTES + _BYTES_PER_LETTER * len(json.dumps(answer.to_dict()))
        with self._lock:
            if not in_memory >= self._versions.keys():
                for other in [each for each in self._kept if each.manifest_sha256 not in in_memory]:
                    self._drop(other)
            is_answer = answer.outcome != "corrupt_image" and question.manifest_sha256 in in_memory
            if not is_answer or question in self._kept or size > self._size:
                return
            self._kept[question] = (answer, size)
            self._versions[question.manifest_sha256] += 1
            self._taken += size
            while self._taken > self._size:
                self._drop(next(iter(self._kept)))

    @property
    def taken(self) -> int:
        """Bytes that the answers take, by estimate."""
        return self._taken

    def __len__(self) -> int:
        return len(self._kept)

    def _drop(self, question: AnswerKey) -> None:
        _, size = self._kept.pop(question)
        self._taken -= size
        self._versions[question.manifest_sha256] -= 1
        if not self._versions[question.manifest_sha256]:
            del self._versions[question.manifest_sha256]
