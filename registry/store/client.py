"""The connection to one S3 prefix: session, credentials, endpoint."""

from __future__ import annotations

import base64
import os
import re
import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError as TransportError

from registry.errors import BadSetting, StoreUnreachable, UloraError, first_line
from registry.formats.addresses import without_password
from registry.parallel import NotStarted, time_left, within, within_or_ended
from registry.store.bounded_replies import bound_replies, check_replies
from registry.store.endpoint import check_endpoint, check_sent_credentials
from registry.store.error_table import Asked, translated
from registry.store.object_info import Encryption

_URL = re.compile(r"s3://([A-Za-z0-9][A-Za-z0-9._-]{2,62})/?((?<=/)[^/.][^/]*(?:/[^/.][^/]*)*)?/?")
"""No part of a prefix is empty or begins with a dot: some servers would take `..` for the folder above."""
_NO_TEXT = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories that no prefix has: control characters, bytes that are not valid text, and line ends."""
_AWS = (".amazonaws.com", ".amazonaws.com.cn")
_WRITES = ("PutObject", "CreateMultipartUpload", "CopyObject")
_FALLBACK_REGION = "us-east-1"
_OPENING_SECONDS = 30.0
"""For finding credentials and making a client: boto3 is imported, and a program or server may be asked."""
_CALLER_SECONDS = 4.0
"""For asking AWS's STS who acts."""
_HINT_SECONDS = 2.0
"""For asking which buckets there are."""
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}")

Result = TypeVar("Result")


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
            BadSetting: the URL is not an S3 URL, or the endpoint not the address of a server.
        """
        match = _URL.fullmatch(url)
        if match is None or any(unicodedata.category(letter) in _NO_TEXT for letter in url):
            raise BadSetting(
                f"{without_password(url)[:200]!r} is not a store",
                hint="a store reads s3://BUCKET/PREFIX; a bucket's name has 3 to 63 letters, digits, dots or dashes, "
                "a prefix no control characters",
            )
        bucket, prefix = match.groups()
        self.url: str = url.rstrip("/")
        self.bucket: str = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self._endpoint_url = check_endpoint(endpoint_url, bucket) if endpoint_url else None
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
            return within_or_ended(self.deadlines.call if seconds is None else seconds, act, "ulora-store")

    @contextmanager
    def errors(self, key: str) -> Iterator[None]:
        """Turn botocore's errors into ours; `key` says what was asked for."""
        try:
            yield
        # A server that redirects the questions after the region too lets botocore call itself without end.
        except (
            ClientError, BotoCoreError, ResponseParserError, TransportError, OSError, ValueError, KeyError,
            RecursionError,
        ) as error:  # fmt: skip
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
        if self._profile is None:
            check_sent_credentials()
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
            except (UloraError, ClientError, BotoCoreError, OSError, ValueError):
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
        check_endpoint(client.meta.endpoint_url, self.bucket)
        bound_replies(client)
        check_replies(client)
        client.meta.events.register("before-send.s3", _refuse_late)
        if self._encryption:
            # By an event, so that a write that is added later can't be forgotten.
            for operation in _WRITES:
                client.meta.events.register(f"provide-client-params.s3.{operation}", self._encryption.add_to)
        return client

    def _translated(self, error: Exception, key: str) -> UloraError:
        profile = self._profile or os.environ.get("AWS_PROFILE")
        return translated(
            error,
            Asked(
                key, self.url, self.bucket, self._place, profile, lambda: self._region, self._credentials_in_use,
                self._buckets,
            ),
        )  # fmt: skip

    def _buckets(self) -> list[str]:
        """The buckets with similar names; empty where this identity may not list them, or it takes too long."""
        with suppress(Exception):  # it is a hint only
            found = within(_HINT_SECONDS, self.unretried.list_buckets, "ulora-store")["Buckets"]
            names = {name for each in found if _BUCKET.fullmatch(name := str(each["Name"]))} - {self.bucket}
            return get_close_matches(self.bucket, sorted(names))
        return []

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
        return f"{self.url} at {without_password(self._endpoint_url)}" if self._endpoint_url else self.url


def _refuse_late(request: Any, **_: Any) -> None:
    """Send nothing once more after the caller has given up: botocore tries again by itself.

    Raises:
        NotStarted: nothing was sent.
        TimeoutError: an earlier try was.
    """
    if not time_left():
        is_first = request.context.get("retries", {}).get("attempt", 1) == 1
        raise (NotStarted if is_first else TimeoutError)("the time for it is over")


def base64_text(raw: bytes) -> str:
    """Bytes as S3's checksum headers spell them."""
    return base64.b64encode(raw).decode()
