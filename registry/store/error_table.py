"""The table that turns botocore's errors into ours: what is wrong, where, and what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from json import JSONDecodeError
from typing import Any
from urllib.parse import urlsplit

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
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError as TransportError

from registry.errors import (
    BadManifest,
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
from registry.formats.addresses import without_passwords
from registry.parallel import NotStarted
from registry.store.bounded_replies import is_page
from registry.store.object_info import header_time

_TRANSIENT = frozenset({"RequestTimeout", "InternalError", "SlowDown", "ServiceUnavailable", "Throttling"})
"""Codes after which S3 says to try again, whatever their status."""
CONDITION_FAILED = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
"""Codes with which servers refuse a conditional write."""
_SKEWED = "RequestTimeTooSkewed"
_MAX_SKEW = 15 * 60
"""Seconds by which the clock of a request may differ, by S3's documentation of RequestTimeTooSkewed."""
_KEY_IS_AWAY = frozenset(
    f"KMS.{name}"
    for name in (
        "DisabledException", "NotFoundException", "KMSInvalidStateException", "InvalidStateException",
        "InvalidKeyUsageException",
    )
)  # fmt: skip
"""S3's codes for an object whose key of AWS KMS can't be used: it may be its writer's own."""
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_SETTINGS = "look at AWS's variables (AWS_PROFILE, AWS_ENDPOINT_URL, AWS_CA_BUNDLE, …) and ~/.aws/config"
_PAGE = "a page"
"""Stands for the code of a reply that is a web page: nothing in it is S3's."""
_IN_FRONT = "is there a proxy or a login page in front of it?"
_REASON = re.compile(r"\[Errno -?\d+\] ([^'\")]+)")
_QUERY = re.compile(r"\?[^\s'\"]*")


@dataclass(frozen=True)
class Asked:
    """What was asked of which store.

    Attributes:
        key: of the object, or words for what was asked.
        url, bucket: of the store.
        place: the store and its server, in words.
        profile: of AWS, if one is chosen.
        region: tells the region that is set.
        credentials: tells where the credentials come from, without a secret.
        buckets: asks the server for the names of similar buckets.
    """

    key: str
    url: str
    bucket: str
    place: str
    profile: str | None
    region: Callable[[], str]
    credentials: Callable[[], str]
    buckets: Callable[[], list[str]]


@dataclass(frozen=True)
class _Translation:
    """One line of the table: which errors become `kind`. Texts may name what `translated`
    puts in.

    Attributes:
        codes, statuses: of S3's error replies; one of the two must match.
        only_status: with these codes only where the reply has this status as well.
        exceptions: of botocore, where there was no reply.
        operation: of S3, if the line is about one only.
        detail: a pattern that the error's text must have, if the line is about some of these exceptions only.
    """

    kind: type[UloraError]
    message: str = ""
    hint: str = ""
    codes: frozenset[str] = frozenset()
    statuses: Container[int] = ()
    only_status: int | None = None
    exceptions: tuple[type[Exception], ...] = ()
    operation: str = ""
    detail: str = ""

    def matches(self, error: Exception, code: str, status: int) -> bool:
        """Whether this line is about an error; `code` and `status` are those of a `ClientError`."""
        if not isinstance(error, ClientError):
            return isinstance(error, self.exceptions) and re.search(self.detail, str(error)) is not None
        if self.operation not in ("", error.operation_name):
            return False
        return (code in self.codes and self.only_status in (None, status)) or status in self.statuses


_TABLE = (
    _Translation(
        BucketNotFound,
        "there is no bucket {bucket!r}{buckets}",
        "is it spelled right (ULORA_STORE or --store)? `ulora store init --create-bucket` makes a new one",
        codes=frozenset({"NoSuchBucket"}),
    ),
    _Translation(
        BadSetting,
        "{bucket!r} is not a bucket's name",
        "3 to 63 lower-case letters, digits, dots or dashes",
        codes=frozenset({"InvalidBucketName"}),
    ),
    _Translation(
        StoreUnreachable,
        "what {place} answered for a listing is not an answer of S3 ({answer})",
        "is this the S3 server's own address, without a bucket? (ULORA_S3_ENDPOINT or AWS_ENDPOINT_URL)",
        statuses=(404, 405),
        operation="ListObjectsV2",
    ),
    _Translation(
        StoreUnreachable,
        "what {place} answered for {key} is not an answer of S3 ({answer})",
        _IN_FRONT,
        codes=frozenset({_PAGE}),
    ),
    _Translation(ObjectNotFound, codes=frozenset({"NoSuchKey", "NotFound", "NoSuchUpload"})),
    _Translation(ObjectNotFound, codes=frozenset({"404"}), operation="HeadObject"),  # whose replies have no body
    _Translation(
        StoreUnreachable,
        "what {place} answered for {key} is not an answer of S3 ({answer})",
        _IN_FRONT,
        statuses=(404,),
    ),
    _Translation(
        StoreUnreachable, "the store {place} answered {answer} for {key}", "try again", codes=_TRANSIENT
    ),
    _Translation(
        StoreDenied,
        "{url} refuses access to {key}: {clocks}; here it is {here}, at the server {there} ({code})",
        "set the clock of this machine (or of the server, or of a proxy before it), then run the same command again",
        codes=frozenset({_SKEWED}),
    ),
    _Translation(
        StoreDenied,
        "{url} refuses access to {key}: the temporary credentials {credentials} have expired ({code})",
        "get new ones (`aws sso login`, or set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN again)",
        codes=_EXPIRED,
    ),
    _Translation(
        BadSetting,
        "the store {place} is in another region than {region}, which is set here{elsewhere} ({code})",
        "set AWS_REGION (or the profile's region) to the bucket's",
        codes=frozenset({"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "InvalidRegion"}),
    ),
    _Translation(
        BadManifest,
        "{key} can't be read as it was stored: {detail}",
        "was it archived, or encrypted with a key of its writer's own? Who may delete can remove it",
        codes=frozenset({"InvalidObjectState", "InvalidRequest"}) | _KEY_IS_AWAY,
        operation="GetObject",
    ),
    _Translation(
        StoreDenied,
        "{url} refuses access to {key} ({code})",
        "check the AWS credentials in use and their rights",
        codes=frozenset({
            "AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken",
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
        "the store {place} redirects to another region or address{elsewhere} ({answer}); the region set here is "
        "{region}",
        "set the region of this bucket (AWS_REGION), or the endpoint that serves it (ULORA_S3_ENDPOINT or "
        "AWS_ENDPOINT_URL; https instead of http?)",
        codes=frozenset({"PermanentRedirect", "TemporaryRedirect", "Redirect"}),
        statuses=range(300, 400),
    ),
    _Translation(
        BadSetting,
        "the store {place} redirects every request to another region or address, and does not say which; the region "
        "set here is {region}",
        "set the region of this bucket (AWS_REGION), or the endpoint that serves it (ULORA_S3_ENDPOINT or "
        "AWS_ENDPOINT_URL; https instead of http?)",
        exceptions=(RecursionError,),
    ),
    _Translation(
        StoreUnfit,
        "the store {place} does not implement what ulora needs: {operation} of {key} ({answer})",
        "use AWS S3, MinIO, SeaweedFS or another server with conditional writes (If-None-Match and If-Match of PUT)",
        codes=frozenset({"NotImplemented"}),
        statuses=(501,),
    ),
    _Translation(
        StoreUnreachable,
        "the store {place} answered {answer} for {key}",
        "try again",
        codes=CONDITION_FAILED,
        statuses=(408, 409, 412, 429, *range(500, 600)),
    ),
    _Translation(
        StoreDenied,
        "the AWS SSO session{of_profile} has ended or was never begun: {detail}",
        "run `aws sso login{profile_option}`, then the same command again",
        exceptions=(SSOError, TokenRetrievalError),
    ),
    _Translation(
        StoreDenied,
        "no credentials for {url}: {detail}",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; `aws sts get-caller-identity` tests them",
        exceptions=(
            NoCredentialsError, PartialCredentialsError, NoRegionError, CredentialRetrievalError, JSONDecodeError,
            UnicodeDecodeError,
        ),
    ),
    _Translation(
        BadSetting,
        "the store {url} can't be used: {detail}",
        _SETTINGS,
        exceptions=(FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError),
    ),
    _Translation(
        BadSetting,
        "the store {place} does not speak TLS",
        "http:// instead of https:// in ULORA_S3_ENDPOINT or AWS_ENDPOINT_URL?",
        exceptions=(SSLError,),
        detail="WRONG_VERSION_NUMBER|wrong version number|record layer failure",
    ),
    _Translation(
        StoreUnreachable,
        "no safe connection to the store {place}: {detail}; AWS_CA_BUNDLE is {certificates}",
        "does it (or ca_bundle in ~/.aws/config) name the certificates of who signed the server's?",
        exceptions=(SSLError,),
    ),
    _Translation(
        BadSetting,
        "the store {place} can't be asked: a header of the request has a line break in it",
        "is there one in the AWS credentials (`aws configure list` says where they are) or in ULORA_SSE_KMS_KEY_ID?",
        exceptions=(HTTPClientError, ValueError),
        detail="Invalid header value",
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
        _IN_FRONT,
        exceptions=(KeyError,),
    ),
    _Translation(
        StoreUnreachable,
        "what {place} answered for {key} is not an answer of S3: {detail}",
        _IN_FRONT,
        exceptions=(ResponseParserError,),
    ),
    _Translation(
        StoreUnreachable,
        "what {place} answered for {key} is not an answer of S3: {detail}",
        _IN_FRONT,
        exceptions=(ValueError,),
        detail="^Invalid timestamp ",
    ),
    _Translation(
        BadSetting, "the store {url} can't be used: {detail}", _SETTINGS, exceptions=(BotoCoreError, ValueError)
    ),
    *(
        _Translation(
            StoreUnreachable, "the store {place} answered {answer} for {key}: {detail}", "try again",
            statuses=range(1000), operation=read,
        )
        for read in ("GetObject", "HeadObject")
    ),
    _Translation(UloraError, "the store {place} answered {answer} for {key}: {detail}", statuses=range(1000)),
)  # fmt: skip
"""The first line that matches counts."""


def translated(error: Exception, asked: Asked) -> UloraError:
    """Our error for one of botocore's."""
    reply = error.response if isinstance(error, ClientError) else {}
    code = str(reply.get("Error", {}).get("Code", ""))
    status = int(reply.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    here, there = datetime.now(UTC), _server_time(reply)
    clocks = "it says that the clocks differ too much"
    answer = f"{status} {code}" if code not in ("", str(status)) else str(status)
    if status == 404 and is_page(reply.get("ResponseMetadata", {}).get("HTTPHeaders", {})):
        code = _PAGE
    if status in (401, 403) and there and abs((here - there).total_seconds()) > _MAX_SKEW:
        code, clocks = _SKEWED, "the clocks differ too much"  # servers may have another code for it, HEAD has none
    found = next(line for line in _TABLE if line.matches(error, code, status))
    if found.kind is ObjectNotFound:
        return ObjectNotFound(asked.key)
    message = found.message.format(
        url=asked.url, place=asked.place, bucket=asked.bucket, key=asked.key, code=code,
        answer=answer,
        detail=_detail(error), clocks=clocks,
        here=f"{here:%F %T} UTC", there=f"{there:%F %T} UTC" if there else "another time",
        elsewhere=_redirect(reply), certificates=os.environ.get("AWS_CA_BUNDLE", "not set"),
        credentials=asked.credentials() if code in _EXPIRED else "",
        buckets=_near(asked.buckets()) if "{buckets}" in found.message else "",
        region=asked.region() if "{region}" in found.message else "",
        operation=error.operation_name if isinstance(error, ClientError) else "",
        of_profile=f" of the profile {asked.profile}" if asked.profile else "",
    )  # fmt: skip
    hint = found.hint.replace("{profile_option}", f" --profile {asked.profile}" if asked.profile else "")
    if found.kind is StoreUnreachable:
        was_sent = not isinstance(error, EndpointConnectionError | ConnectTimeoutError | NotStarted)
        return StoreUnreachable(message, hint=hint, code=code, was_sent=was_sent)
    return found.kind(message, hint=hint)


def _near(names: list[str]) -> str:
    return f"; is it {' or '.join(names)}?" if names else ""


def _detail(error: Exception) -> str:
    """What an error says, without the address of the request, which nobody can read."""
    if isinstance(error, EndpointConnectionError) and (reason := _REASON.search(str(error.kwargs.get("error", "")))):
        return reason[1].strip()
    return without_passwords(_QUERY.sub("", first_line(error)))


def _redirect(reply: Any) -> str:
    """Where a reply sends its reader: the region, and the host alone, as an address may hold a signature."""
    said, headers = reply.get("Error", {}), reply.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    address = urlsplit(headers.get("location") or "")
    host = address.netloc.rpartition("@")[2]
    place = f"{address.scheme}://{host}" if host else str(said.get("Endpoint") or "")
    region = str(headers.get("x-amz-bucket-region") or said.get("Region") or "")
    found = [*([f"the region {region}"] if region else []), *([place] if place else [])]
    return f": {', '.join(found)}" if found else ""


def _server_time(reply: Any) -> datetime | None:
    """The server's clock, by the error reply or its header; None if neither says it."""
    told = reply.get("Error", {}).get("ServerTime") or ""
    with suppress(ValueError):
        return datetime.fromisoformat(told).astimezone(UTC)
    return header_time(reply.get("ResponseMetadata", {}).get("HTTPHeaders", {}))
