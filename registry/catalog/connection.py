"""Conversations with an MLflow server, with time limits, without output, and with this package's errors.

MLflow reads its time limits from environment variables at each request, retries for minutes by default, and prints.
All of that is process-wide, so a lock lets only one conversation at a time change these settings and restore them.

MLflow's own time limits are for one read: a server that sends a byte now and then, or that asks for a pause before each
retry, holds a caller for ever. So each call is made in a thread of its own (`calls`), and a conversation ends when its
total time is over, whatever that thread does. It holds nothing that the next conversation needs.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from registry.catalog.bounded_answers import bounded_answers
from registry.catalog.calls import BadAnswer, BoundedClient, Deadline
from registry.catalog.denials import CREDENTIALS, denial
from registry.catalog.tracking_uri import check_tracking_uri
from registry.errors import CatalogRefused, CatalogUnreachable, MissingDependency, install_hint, without_header_value
from registry.formats.addresses import secrets_of, without_password, without_password_of, without_secrets
from registry.formats.header_values import check_header

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
_MAX_READ, _MESSAGE_LENGTH = 20_000, 300
"""Characters of an error's text, which may be of any length: in which its meaning is looked for, and that are shown."""
_REASONS = ("Connection refused", "Name or service not known", "timed out")
"""The part of a long error text that is shown, if it contains one of these."""


_SENT = {"MLFLOW_TRACKING_TOKEN": "ascii", "MLFLOW_TRACKING_USERNAME": "utf-8", "MLFLOW_TRACKING_PASSWORD": "utf-8"}
"""The variables that MLflow sends as headers, and how it encodes them."""
_DRIVERS = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""What pip calls a module that SQLAlchemy imports for a database."""


@dataclass(frozen=True)
class _Mistake:
    """What a text of MLflow's errors that matches a pattern means."""

    pattern: str
    kind: type[CatalogRefused] | type[CatalogUnreachable]
    message: str
    hint: str


_MISTAKES = (
    _Mistake(
        r"(?i)not in a valid JSON format|Expecting value: line|Please sign in|<form|/oauth|/login",
        CatalogRefused,
        "answers with a web page, such as a sign-in page, and not as MLflow does",
        f"is the address right, and does something in front of it ask for a login? {CREDENTIALS}",
    ),
    _Mistake(
        r"error code 4\d\d != 200.*<Error>",
        CatalogRefused,
        "answers in XML, as an S3 server does, and not as MLflow does",
        "is MLFLOW_TRACKING_URI (or --tracking-uri) the address of the store? It must be that of MLflow's pages",
    ),
    _Mistake(
        r"error code 40[45] != 200.*<",
        CatalogRefused,
        "answers 404 or 405 with a web page: this is not the address of MLflow's API",
        "is the path in MLFLOW_TRACKING_URI (or --tracking-uri) right? It is the address of MLflow's pages up to the #",
    ),
    _Mistake(
        r"error code 413|413 Client Error|Request Entity Too Large|Payload Too Large",
        CatalogRefused,
        "refuses a file as too large (413)",
        "raise the limit of the proxy in front of it (nginx: client_max_body_size), then run `ulora reconcile`",
    ),
    _Mistake(
        r"WRONG_VERSION_NUMBER|wrong version number|record layer failure",
        CatalogUnreachable,
        "does not speak TLS",
        "http:// instead of https:// in MLFLOW_TRACKING_URI (or --tracking-uri)?",
    ),
    _Mistake(
        r"CERTIFICATE_VERIFY_FAILED",
        CatalogUnreachable,
        "has a certificate that is not trusted here",
        "name the certificates of who signed it: MLFLOW_TRACKING_SERVER_CERT_PATH or REQUESTS_CA_BUNDLE",
    ),
)
"""Connection mistakes; the first line that matches counts."""


@dataclass(frozen=True)
class Limits:
    """The time limits of a conversation.

    Attributes:
        timeout: seconds that one request may take.
        retries: how often a failed request is sent again.
        turn: seconds to wait for another thread of this process that is using MLflow.
        total: seconds that the whole conversation may take, from its turn on.
    """

    timeout: int
    retries: int
    turn: float
    total: float = 60

    def for_bytes(self, size: int) -> Limits:
        """The limits of a conversation that also carries so many bytes."""
        return replace(self, total=self.total + size / _SLOWEST)


PATIENT = Limits(timeout=20, retries=2, turn=60)
PING = Limits(timeout=3, retries=0, turn=60, total=5)
HASTY = Limits(timeout=2, retries=0, turn=5, total=4)
"""For work whose caller may stop waiting for it: it ends within seconds."""
_SLOWEST = 256 * 1024
"""Bytes a second: a slower transfer of a version's files is given up. A guess: DSL lines upload as much."""


class Connection:
    """The connection to one MLflow server. Opens nothing until it is used.

    Attributes:
        uri: the tracking URI, None if there is no server.
        limits: the time limits of each conversation.
    """

    def __init__(self, uri: str | None, limits: Limits = PATIENT) -> None:
        self.uri = uri
        self.limits = limits

    @property
    def name(self) -> str:
        """The address without the password, for messages."""
        return "(none)" if self.uri is None else without_password(self.uri)

    def checked_uri(self) -> str:
        """The address of the server, which is not asked.

        Raises:
            CatalogUnreachable: there is no server.
            BadSetting: the address can't be one of an MLflow server, or the credentials for it can't be sent.
        """
        if self.uri is None:
            raise CatalogUnreachable(
                "no MLflow tracking server is set",
                hint="set MLFLOW_TRACKING_URI or --tracking-uri; with --offline `create` and `measure` do not need it",
            )
        if self.uri.startswith(("http://", "https://")):
            for name, encoding in _SENT.items():
                check_header(name, os.environ.get(name, ""), encoding)
        return check_tracking_uri(self.uri)

    @contextmanager
    def open(self, limits: Limits | None = None) -> Iterator[MlflowClient]:
        """A client for one conversation, whose exceptions become errors of this package.

        Args:
            limits: those of the connection by default.

        Raises:
            CatalogUnreachable: there is no server, it does not answer, or another thread uses MLflow for too long.
            CatalogRefused: it answers, and refuses; CatalogDenied if that is for want of a login or a right.
            BadSetting: the address can't be one of an MLflow server, or the credentials for it can't be sent.
            MissingDependency: MLflow is not installed, or the driver of its database is not.
        """
        uri = self.checked_uri()
        limits = limits or self.limits
        make = _client_class()
        with _turn(limits), bounded_answers(), _silence(), self._errors():
            deadline = Deadline(limits.total)
            client = deadline.call(lambda: make(tracking_uri=uri, registry_uri=uri))
            yield cast("MlflowClient", BoundedClient(client, deadline))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException
        from requests import RequestException

        try:
            yield
        except MlflowException as error:
            raise self._translate(error.error_code, error) from error
        except (RequestException, TimeoutError) as error:
            raise self._translate("INTERNAL_ERROR", error) from error
        except BadAnswer as error:
            raise CatalogRefused(
                f"the MLflow server {self.name} does not answer as MLflow does: {self._said(error)[:_MESSAGE_LENGTH]}",
                hint="is the address right, and is it a server of MLflow 3.17 or later?",
            ) from error
        except ModuleNotFoundError as error:
            package = _DRIVERS.get(str(error.name), error.name)
            raise MissingDependency(
                f"MLflow needs {error.name} for {self.name}, which is not installed",
                hint=f"pip install '{package}', or set the address of an MLflow server",
            ) from error

    def _translate(self, code: str, error: Exception) -> CatalogUnreachable | CatalogRefused:
        text = self._said(error)
        found = next((line for line in _MISTAKES if re.search(line.pattern, text)), None)
        if found:
            return found.kind(f"the MLflow server {self.name} {found.message}", hint=found.hint)
        if denied := denial(self.name, self.uri or "", code, text):
            return denied
        detail = next((reason for reason in _REASONS if reason in text), text[:_MESSAGE_LENGTH])
        if code in _DOWN:
            return CatalogUnreachable(
                f"the MLflow server {self.name} does not answer: {detail}",
                hint="start it or wait; or use --offline, and run `ulora reconcile` later",
            )
        return CatalogRefused(f"the MLflow server {self.name} refuses: {detail}")

    def _said(self, error: Exception) -> str:
        """An error's text on one line, without what was sent to prove who asks: a server may repeat that in it."""
        uri = self.uri or ""
        text = without_header_value(" ".join(str(error)[:_MAX_READ].split())).replace(uri, self.name)
        return without_secrets(_sent_secrets(), without_password_of(uri, text))


def _sent_secrets() -> set[str]:
    """What MLflow sends besides the password in the address: of the environment, or of its file of credentials."""
    from mlflow.environment_variables import MLFLOW_TRACKING_TOKEN
    from mlflow.utils.credentials import read_mlflow_creds

    secrets = {MLFLOW_TRACKING_TOKEN.get() or ""}
    with suppress(Exception):  # its file can't be read: that is MLflow's to say, at each call
        found = read_mlflow_creds()
        secrets |= secrets_of(found.username or "", found.password or "")
    return secrets


def _ensure_home() -> None:
    """Set HOME for users without a home folder, as in some containers: MLflow can't be imported without it."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.gettempdir()


def _client_class() -> type[MlflowClient]:
    """MLflow's client. The import takes seconds, which do not count for any conversation."""
    _ensure_home()
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise MissingDependency(f"MLflow can't be imported: {error}", hint=install_hint("mlflow")) from error
    return cast("type[MlflowClient]", MlflowClient)


@contextmanager
def _turn(limits: Limits) -> Iterator[None]:
    """Lock MLflow's process-wide settings, and change them for one conversation.

    MLFLOW_TRACKING_URI is not among them: the client gets the server's address as an argument.
    """
    if not _LOCK.acquire(timeout=limits.turn):
        raise CatalogUnreachable(
            f"another thread of this process has been using MLflow for more than {limits.turn:g} s",
            hint="try again, or run `ulora reconcile` later",
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
    # Only after MLflow's import, which sets its own levels and filters. Some of its code resets the filters.
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
    """Ignore a warning."""
