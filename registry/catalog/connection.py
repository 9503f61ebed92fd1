"""Talking to an MLflow server: bounded in time, quiet, and with this package's errors.

MLflow takes its limits from environment variables at each request, retries for minutes by default, and prints. All
of that is process-wide, so one lock lets one conversation at a time change it and put it back.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from registry.errors import CatalogRefused, CatalogUnreachable, MissingDependency

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LOCK = threading.RLock()
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_NOISY = ("mlflow", "urllib3.connectionpool", "alembic")
_DOWN = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED"}
_DENIED = {"PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"}
_MESSAGE_LENGTH = 300
_REASONS = ("Connection refused", "Name or service not known", "timed out")
"""What people need of the long texts that contain them."""


@dataclass(frozen=True)
class Limits:
    """How long a conversation waits.

    Attributes:
        timeout: seconds that one request may take.
        retries: how often a failing one is sent again.
        turn: seconds to wait while another thread of this process talks to MLflow.
    """

    timeout: int
    retries: int
    turn: float


PATIENT = Limits(timeout=20, retries=2, turn=60)
PING = Limits(timeout=3, retries=0, turn=60)
HASTY = Limits(timeout=2, retries=0, turn=5)
"""For work that its caller may walk away from: what goes on behind our back ends within seconds."""


class Connection:
    """How to reach one MLflow server. Opens nothing until it is used.

    Attributes:
        uri: the tracking URI, None when there is no server.
        limits: how long each conversation waits.
    """

    def __init__(self, uri: str | None, limits: Limits = PATIENT) -> None:
        self.uri = uri
        self.limits = limits

    @property
    def name(self) -> str:
        """The address as messages may show it, without a password."""
        if self.uri is None:
            return "(none)"
        parts = urlsplit(self.uri)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    @contextmanager
    def open(self, limits: Limits | None = None) -> Iterator[MlflowClient]:
        """A client for one conversation, whose failures become this package's errors.

        Args:
            limits: other ones than the connection's.

        Raises:
            CatalogUnreachable: there is no server, it does not answer, or other threads talk to MLflow all the time.
            CatalogRefused: it answers, and refuses.
            MissingDependency: MLflow is not installed.
        """
        if self.uri is None:
            raise CatalogUnreachable(
                "no MLflow tracking server is set",
                hint="set MLFLOW_TRACKING_URI or --tracking-uri; `create` and `measure` run without it with --offline",
            )
        with _turn(limits or self.limits):
            client = _client(self.uri)
            with _silence(), self._errors():
                yield client

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException
        from requests import RequestException

        try:
            yield
        except MlflowException as error:
            raise self._translate(error.error_code, error) from error
        except RequestException as error:
            raise self._translate("INTERNAL_ERROR", error) from error

    def _translate(self, code: str, error: Exception) -> CatalogUnreachable | CatalogRefused:
        text = " ".join(str(error).split()).replace(self.uri or "", self.name)
        detail = next((reason for reason in _REASONS if reason in text), text[:_MESSAGE_LENGTH])
        if code in _DOWN:
            return CatalogUnreachable(
                f"the MLflow server {self.name} does not answer: {detail}",
                hint="start it or wait; --offline does without and `ulora reconcile` catches up later",
            )
        denied = "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        return CatalogRefused(
            f"the MLflow server {self.name} refuses: {detail}", hint=denied if code in _DENIED else ""
        )


def _give_a_home() -> None:
    """MLflow can't be imported by a user without a home folder, as containers have them."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.gettempdir()


def _client(uri: str) -> MlflowClient:
    _give_a_home()
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise MissingDependency(
            f"MLflow can't be imported: {error}", hint="pip install 'ulora-registry[mlflow]'"
        ) from error
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def _turn(limits: Limits) -> Iterator[None]:
    """Have MLflow's process-wide settings to ourselves.

    They never name the server: clients are told it, and whoever reads MLFLOW_TRACKING_URI meanwhile gets its own.
    """
    if not _LOCK.acquire(timeout=limits.turn):
        raise CatalogUnreachable(
            f"another thread of this process has talked to MLflow for more than {limits.turn:g} s",
            hint="try again; `ulora reconcile` catches up later",
        )
    try:
        with _environment(
            _QUIET
            | {
                "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(limits.retries),
                "MLFLOW_HTTP_REQUEST_TIMEOUT": str(limits.timeout),
                "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
            }
        ):
            yield
    finally:
        _LOCK.release()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _silence() -> Iterator[None]:
    # After MLflow's import, which sets levels and filters of its own. Some of its code lifts the filters again.
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.showwarning = _drop
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _drop(*_: Any, **__: Any) -> None:
    """Show a warning to nobody."""
