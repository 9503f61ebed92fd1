"""Answers of an MLflow server, bounded in size: MLflow reads a whole answer into memory, whatever it is, and parses it.
And its requests, bounded in time.

A server that sends without end, or that sends a few megabytes which unpack to gigabytes, would have a promotion killed
for its memory before anybody is told that the channel has moved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from registry.formats.bounded import joined
from registry.parallel import time_left

MAX_ANSWER = 32 * 1024 * 1024
"""Bytes, unpacked, of a success that is read as a whole: 1,000 versions with 32 KB of tags and description each. Parsed
it may take twenty times as much."""
MAX_REFUSAL = 1024 * 1024
"""Bytes of any other answer. Up to 30 redirects are kept until the last answer has come."""
_PIECE = 64 * 1024


@contextmanager
def bounded_answers() -> Iterator[None]:
    """Bound what is answered to MLflow's client inside. Process-wide, as the caller's lock is.

    MLflow offers no way to say so. The bound is a hook of the sessions that it makes, which `requests` calls before it
    reads a body. Sessions with other numbers of retries than ours, those of the program around, do not get it.
    """
    from mlflow.utils import request_utils

    make = request_utils._get_request_session

    def make_bounded(*args: Any, **options: Any) -> Any:
        session = make(*args, **options)
        if _read_bounded not in session.hooks["response"]:
            session.hooks["response"].append(_read_bounded)
            for adapter in session.adapters.values():
                adapter.max_retries.__class__ = _in_time(type(adapter.max_retries))  # type: ignore[arg-type]
        return session

    request_utils._get_request_session = make_bounded
    try:
        yield
    finally:
        request_utils._get_request_session = make


@cache
def _in_time(retries: Any) -> Any:
    """Retries that end with the call: what is sent again after its caller gave up would come after later changes."""

    class RetriesInTime(retries):  # type: ignore[misc]
        def increment(self, *args: Any, **options: Any) -> Any:
            if not time_left():
                raise TimeoutError("the time for it is over")
            return super().increment(*args, **options)

    return RetriesInTime


def _read_bounded(answer: Any, *, stream: bool = False, **_: Any) -> None:
    """Read the body of an answer, so that nobody else does. Files that are downloaded are left to their reader.

    Raises:
        RequestException: it is too long.
    """
    from requests import RequestException

    is_success = answer.status_code < 300
    if stream and is_success:
        return
    limit = MAX_ANSWER if is_success else MAX_REFUSAL
    body = joined(answer.iter_content(_PIECE), limit)
    if body is None:
        answer.close()
        raise RequestException(f"an answer is longer than {limit} bytes")
    answer._content = body
