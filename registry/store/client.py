"""The connection to one S3 prefix: session, credentials, endpoint; and the table that turns botocore's errors into
ours."""

from __future__ import annotations

import base64
import os
import re
import threading
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from json import JSONDecodeError
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from urllib3.exceptions import HTTPError as TransportError

from registry.errors import (
    BadSetting,
    BucketNotFound,
    CorruptBlob,
    ObjectNotFound,
    StoreDenied,
    StoreUnfit,
    StoreUnreachable,
    UloraError,
    first_line,
)
from registry.parallel import NotStarted, within
from registry.store.bounded_replies import bound_replies, check_replies
from registry.store.object_info import Encryption

_URL = re.compile(r"s3://([A-Za-z0-9][A-Za-z0-9._-]{2,62})/?((?<=/)[^/.][^/]*(?:/[^/.][^/]*)*)?/?")
"""No part of a prefix is empty or begins with a dot: some servers would take `..` for the folder above."""
_AWS = (".amazonaws.com", ".amazonaws.com.cn")
_WRITES = ("PutObject", "CreateMultipartUpload", "CopyObject")
_FALLBACK_REGION = "us-east-1"
_OPENING_SECONDS = 30.0
"""For finding credentials and making a client: boto3 is imported, and a program or server may be asked."""
_CALLER_SECONDS = 4.0
"""For asking AWS's STS who acts."""

Result = TypeVar("Result")

_SKEWED = "RequestTimeTooSkewed"
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_SETTINGS = "look at AWS's variables (AWS_PROFILE, AWS_ENDPOINT_URL, AWS_CA_BUNDLE, …) and ~/.aws/config"
_MAX_SKEW = 15 * 60
"""Seconds by which the clock of a request may differ, by S3's documentation of RequestTimeTooSkewed."""

CONDITION_FAILED = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
"""Codes with which servers refuse a conditional write."""


@dataclass(frozen=True)
class Deadlines:
    """How long to wait for the store, in seconds, until the last byte of an answer.

    Attributes:
        call: for one small call, with botocore's retries.
        attempt: for one attempt of a conditional write, and for the read that shows what became of it.
        write: after which an undecided conditional write is given up as `OutcomeUnknown`.
        stall: after which a transfer of a blob is given up that does not get on.
    """

    call: float = 10.0
    attempt: float = 5.0
    write: float = 15.0
    stall: float = 60.0


@dataclass(frozen=True)
class _Translation:
    """One line of the table: which errors become `kind`. Texts may name {url}, {place}, {bucket}, {key}, {code},
    {status} and {detail}.

    Attributes:
        codes, statuses: of S3's error replies; one of the two must match.
        only_status: with these codes only where the reply has this status as well.
        exceptions: of botocore, where there was no reply.
    """

    kind: type[UloraError]
    message: str = ""
    hint: str = ""
    codes: frozenset[str] = frozenset()
    statuses: Container[int] = ()
    only_status: int | None = None
    exceptions: tuple[type[Exception], ...] = ()

    def matches(self, error: Exception, code: str, status: int) -> bool:
        """Whether this line is about an error; `code` and `status` are those of a `ClientError`."""
        if not isinstance(error, ClientError):
            return isinstance(error, self.exceptions)
        return (code in self.codes and self.only_status in (None, status)) or status in self.statuses


_TABLE = (
    _Translation(
        BucketNotFound,
        "there is no bucket {bucket!r}",
        "create it, or `ulora store init --create-bucket`",
        codes=frozenset({"NoSuchBucket"}),
    ),
    _Translation(
        BadSetting,
        "{bucket!r} is not a bucket's name",
        "3 to 63 lower-case letters, digits, dots or dashes",
        codes=frozenset({"InvalidBucketName"}),
    ),
    _Translation(ObjectNotFound, codes=frozenset({"NoSuchKey", "404", "NotFound", "NoSuchUpload"})),
    _Translation(
        StoreDenied,
        "{url} refuses access to {key}: the clocks differ too much; here it is {here}, at the server {there} ({code})",
        "set the clock of this machine (or of the server), then run the same command again",
        codes=frozenset({_SKEWED}),
    ),
    _Translation(
        StoreDenied,
        "{url} refuses access to {key}: the temporary credentials {credentials} have expired ({code})",
        "get new ones (`aws sso login`, or set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN again)",
        codes=_EXPIRED,
    ),
    _Translation(
        StoreDenied,
        "{url} refuses access to {key} ({code})",
        "check the AWS credentials in use and their rights",
        codes=frozenset({
            "AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken",
            "AuthorizationHeaderMalformed",
        }),
        statuses=(401, 403),
    ),
    _Translation(
        CorruptBlob,
        "the store refused {key}: the bytes it received are not the ones announced ({code})",
        "run the same command again",
        codes=frozenset({"BadDigest", "XAmzContentChecksumMismatch", "InvalidDigest", "XAmzContentSHA256Mismatch"}),
        only_status=400,
    ),
    _Translation(
        BadSetting,
        "the store {place} redirects to {elsewhere} ({status} {code})",
        "set the endpoint that serves this bucket (ULORA_S3_ENDPOINT or AWS_ENDPOINT_URL; https instead of http?), or "
        "its region (AWS_REGION)",
        codes=frozenset({"PermanentRedirect", "TemporaryRedirect", "Redirect"}),
        statuses=range(300, 400),
        exceptions=(RecursionError,),
    ),
    _Translation(
        StoreUnfit,
        "the store {place} does not implement what is needed for {key} ({status} {code})",
        "ulora needs a server with conditional writes (If-None-Match and If-Match of PUT); see `ulora store init`",
        codes=frozenset({"NotImplemented"}),
        statuses=(501,),
    ),
    _Translation(
        StoreUnreachable,
        "the store {place} answered {status} {code} for {key}",
        "try again",
        codes=CONDITION_FAILED,
        statuses=(408, 409, 412, 429, *range(500, 600)),
    ),
    _Translation(
        StoreDenied,
        "no credentials for {url}: {detail}",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; `aws sts get-caller-identity` tests them",
        exceptions=(
            NoCredentialsError, PartialCredentialsError, NoRegionError, CredentialRetrievalError, SSOError,
            TokenRetrievalError, JSONDecodeError, UnicodeDecodeError,
        ),
    ),
    _Translation(
        BadSetting,
        "the store {url} can't be used: {detail}",
        _SETTINGS,
        exceptions=(FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError),
    ),
    _Translation(
        StoreUnreachable,
        "no safe connection to the store {place}: {detail}; AWS_CA_BUNDLE is {certificates}",
        "does it (or ca_bundle in ~/.aws/config) name the certificates of who signed the server's?",
        exceptions=(SSLError,),
    ),
    _Translation(
        StoreUnreachable,
        "the store {place} does not answer: {detail}",
        "is the server up, and is its address right? (ULORA_S3_ENDPOINT or AWS_ENDPOINT_URL)",
        # urllib3's own error arrives as it is where the body of an error reply breaks off.
        exceptions=(HTTPClientError, ConnectionError, IncompleteReadError, TransportError, OSError),
    ),
    _Translation(
        StoreUnreachable,
        "what {place} answered for {key} is not an answer of S3: it lacks {detail}",
        "is there a proxy or a login page in front of it?",
        exceptions=(KeyError,),
    ),
    _Translation(
        BadSetting, "the store {url} can't be used: {detail}", _SETTINGS, exceptions=(BotoCoreError, ValueError)
    ),
    _Translation(UloraError, "the store {place} answered {status} {code} for {key}: {detail}", statuses=range(1000)),
)  # fmt: skip
"""The first line that matches counts."""


class S3Client:
    """Clients of boto3 for the objects below one `s3://BUCKET/PREFIX`. Threads may share it."""

    def __init__(
        self,
        url: str,
        *,
        endpoint_url: str | None = None,
        profile: str | None = None,
        encryption: Encryption | None = None,
        deadlines: Deadlines | None = None,
    ) -> None:
        """The arguments are those of `registry.store.objects.ObjectStore`.

        Raises:
            BadSetting: the URL is not an S3 URL.
        """
        match = _URL.fullmatch(url)
        if match is None:
            raise BadSetting(
                f"{url[:200]!r} is not a store",
                hint="a store reads s3://BUCKET/PREFIX; a bucket's name has 3 to 63 letters, digits, dots or dashes",
            )
        bucket, prefix = match.groups()
        self.url: str = url.rstrip("/")
        self.bucket: str = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self._endpoint_url = endpoint_url
        self._profile = profile
        self._encryption = encryption
        self.deadlines = deadlines or Deadlines()
        self._creating_clients = threading.RLock()

    @property
    def address(self) -> str:
        """Equal for any two that lead to the same objects, whatever they were opened with."""
        return f"{self.reads.meta.endpoint_url}/{self.bucket}/{self.prefix}"

    def at(self, key: str) -> dict[str, str]:
        """The parameters that name an object."""
        return {"Bucket": self.bucket, "Key": self.prefix + key}

    @cached_property
    def transfers(self) -> Any:
        """For the bytes of blobs, which may be many and may be sent again: their name is their digest."""
        return self._make_client(Config(retries={"mode": "standard", "total_max_attempts": 4}, read_timeout=30))

    @cached_property
    def reads(self) -> Any:
        """For small reads. A person waits for them, so a server that hangs is given up within seconds."""
        return self._make_client(Config(retries={"mode": "standard", "total_max_attempts": 3}, read_timeout=5))

    @cached_property
    def unretried(self) -> Any:
        """For conditional writes: botocore's own retry would report a race that was won as lost."""
        return self._make_client(Config(retries={"mode": "standard", "total_max_attempts": 1}, read_timeout=5))

    def caller(self) -> str | None:
        """The ARN of the identity in use; None where AWS's STS does not say within about two seconds.

        Asked of AWS only, or of what AWS_ENDPOINT_URL_STS names: AWS must not see the keys of other servers. Never
        called during a rollback.
        """
        host = urlsplit(self.reads.meta.endpoint_url).hostname or ""
        if not (host.endswith(_AWS) or "AWS_ENDPOINT_URL_STS" in os.environ):
            return None
        config = Config(connect_timeout=1, read_timeout=2, retries={"mode": "standard", "total_max_attempts": 1})

        def ask() -> str:
            with self._creating_clients:
                sts = self._session.client("sts", config=config, region_name=self._region)
            return str(sts.get_caller_identity()["Arn"])

        with suppress(BotoCoreError, ClientError, ValueError, TimeoutError):
            return within(_CALLER_SECONDS, ask, "ulora-store")
        return None

    def call(self, key: str, act: Callable[[], Result], seconds: float | None = None) -> Result:
        """Send one small request and read its whole answer, within `seconds` (`deadlines.call` by default).

        The limit is on the wall clock, in a thread of its own: the time-outs of botocore are for each read, so a server
        that sends a byte now and then never reaches them; looking up a name has none; and its retries multiply them.

        Raises:
            StoreUnreachable: there was no whole answer in time; `was_sent` says whether the request may have been sent.
        """
        with self.errors(key):
            return within(self.deadlines.call if seconds is None else seconds, act, "ulora-store")

    @contextmanager
    def errors(self, key: str) -> Iterator[None]:
        """Turn botocore's errors into ours; `key` says what was asked for."""
        try:
            yield
        # A server that redirects the questions after the region too lets botocore call itself without end.
        except (ClientError, BotoCoreError, TransportError, OSError, ValueError, KeyError, RecursionError) as error:
            raise self._translated(error, key) from error

    @cached_property
    def _session(self) -> boto3.session.Session:
        return boto3.session.Session(profile_name=self._profile)

    @property
    def _region(self) -> str:
        return self._session.region_name or _FALLBACK_REGION

    def _make_client(self, config: Config) -> Any:
        """A client, in time, whatever AWS's settings say.

        Raises:
            StoreUnreachable: what is asked for credentials (a program, a server) does not answer.
            StoreDenied: there are no credentials.
            BadSetting: the settings can't be used.
        """
        with self.errors("client"):
            try:
                return within(_OPENING_SECONDS, lambda: self._open(config), "ulora-store")
            except NotStarted:
                raise
            except TimeoutError as error:
                raise StoreUnreachable(
                    f"credentials for {self.url} were not found within {_OPENING_SECONDS:g} s",
                    hint="does a credential_process, AWS SSO or a metadata service hang? "
                    "`aws sts get-caller-identity` tests them",
                    was_sent=False,
                ) from error
            except (ClientError, BotoCoreError, OSError, ValueError):
                raise
            except Exception as error:  # what a damaged configuration may cause: it belongs to botocore
                raise ValueError(f"{type(error).__name__}: {first_line(error)}") from error

    def _open(self, config: Config) -> Any:
        common = Config(
            signature_version="s3v4", connect_timeout=3, max_pool_connections=32,
            request_checksum_calculation="when_required", response_checksum_validation="when_required",
        )  # fmt: skip
        with self._creating_clients:
            client = self._session.client(
                "s3", endpoint_url=self._endpoint_url, config=common.merge(config), region_name=self._region
            )
        bound_replies(client)
        check_replies(client)
        if self._encryption:
            # By an event, so that a write that is added later can't be forgotten.
            for operation in _WRITES:
                client.meta.events.register(f"provide-client-params.s3.{operation}", self._encryption.add_to)
        return client

    def _translated(self, error: Exception, key: str) -> UloraError:
        reply = error.response if isinstance(error, ClientError) else {}
        code = str(reply.get("Error", {}).get("Code", ""))
        status = int(reply.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        here, there = datetime.now(UTC), _server_time(reply)
        if status in (401, 403) and there and abs((here - there).total_seconds()) > _MAX_SKEW:
            code = _SKEWED  # servers may have another code for it, and a reply to HEAD has none
        found = next(line for line in _TABLE if line.matches(error, code, status))
        message = found.message.format(
            url=self.url, place=self._place, bucket=self.bucket, key=key, code=code, status=status,
            detail=first_line(error), here=f"{here:%F %T} UTC", there=f"{there:%F %T} UTC" if there else "another time",
            elsewhere=_redirect(reply), certificates=os.environ.get("AWS_CA_BUNDLE", "not set"),
            credentials=self._credentials_in_use() if code in _EXPIRED else "",
        )  # fmt: skip
        if found.kind is ObjectNotFound:
            return ObjectNotFound(key)
        if found.kind is StoreUnreachable:
            was_sent = not isinstance(error, EndpointConnectionError | ConnectTimeoutError | NotStarted)
            return StoreUnreachable(message, hint=found.hint, code=code, was_sent=was_sent)
        return found.kind(message, hint=found.hint)

    def _credentials_in_use(self) -> str:
        """Where the credentials come from, and their key's id if it is at hand; no secret."""
        found = self._session.get_credentials()
        # Others would be renewed by the question.
        key = f" {found.access_key}" if type(found) is Credentials else ""
        profile = self._profile or os.environ.get("AWS_PROFILE")
        return f"of this environment{key} (found by boto3 in: {found.method}" + (
            f", profile {profile})" if profile else ")"
        )

    @property
    def _place(self) -> str:
        return f"{self.url} at {self._endpoint_url}" if self._endpoint_url else self.url


def _redirect(reply: Any) -> str:
    """Where a reply sends its reader; the host alone, as an address may hold a signature."""
    address = reply.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("location") or ""
    endpoint = str(reply.get("Error", {}).get("Endpoint") or "")
    host = urlsplit(address).netloc.rpartition("@")[2]
    return f"{urlsplit(address).scheme}://{host}" if host else endpoint or "another address"


def _server_time(reply: Any) -> datetime | None:
    """The server's clock, by the error reply or its header; None if neither says it."""
    told = reply.get("Error", {}).get("ServerTime") or ""
    header = reply.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    with suppress(ValueError):
        return datetime.fromisoformat(told).astimezone(UTC)
    with suppress(ValueError, TypeError):
        return parsedate_to_datetime(header).astimezone(UTC)
    return None


def base64_text(raw: bytes) -> str:
    """Bytes as S3's checksum headers spell them."""
    return base64.b64encode(raw).decode()
