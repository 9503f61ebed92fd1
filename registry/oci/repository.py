"""One repository of an OCI registry: blobs, manifests and referrers, by the distribution specification 1.1.

Whatever has a digest is checked against it when it is read. A registry without the referrers API (before 1.1) gets a
tag with an index in its place, as that specification says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlencode, urljoin

from registry.errors import (
    BadManifest,
    CorruptBlob,
    MissingBlob,
    MissingDependency,
    OciUnreachable,
    Overwritten,
    install_hint,
)
from registry.formats import canonical
from registry.formats.bounded import joined
from registry.oci.credentials import OciCredentials
from registry.oci.documents import (
    INDEX_TYPE,
    MANIFEST_TYPE,
    MAX_LISTED,
    MAX_MANIFEST,
    OciDescriptor,
    OciIndex,
)
from registry.oci.reference import OciReference
from registry.progress import Progress, no_progress

if TYPE_CHECKING:
    from registry.oci.session import OciAnswer, OciSession

_SUBJECT = "oci-subject"
"""The header by which a registry says that it lists a manifest among the referrers of its subject."""
_DIGEST = "docker-content-digest"
_UPLOADS = 3
"""Times that an upload of a blob is begun."""
_NEXT = re.compile(r"<([^<>]{1,2000})>\s*;\s*rel=\"?next\"?")
_ROUNDS = 5
"""Times that the list of referrers is written, where others write it too."""


def open_repository(reference: OciReference) -> OciRepository:
    """A repository, with credentials from the environment or docker's configuration. Nothing is asked yet.

    Raises:
        MissingDependency: the package oras is not installed.
        BadSetting: the credentials can't be read.
    """
    credentials = OciCredentials.from_environment()
    try:
        from registry.oci.session import OciSession
    except ImportError as error:
        raise MissingDependency(
            f"OCI registries need the package oras ({error.name} is not installed)",
            hint=install_hint("oci"),
        ) from error
    return OciRepository(reference, OciSession(reference, credentials))


@dataclass(frozen=True)
class FetchedManifest:
    """The bytes of a manifest or an index."""

    body: bytes

    @property
    def digest(self) -> str:
        """`sha256:…` of the bytes."""
        return f"sha256:{canonical.sha256(self.body)}"


class OciRepository:
    """Threads may share it."""

    def __init__(self, reference: OciReference, session: OciSession) -> None:
        self._session = session
        self._base = f"/v2/{reference.repository}"
        self.reference = reference

    # --- blobs -------------------------------------------------------------------------------------------------------

    def has_blob(self, sha256: str, size: int) -> bool:
        """Whether the registry says that it has a blob of this size."""
        answer = self._session.ask("HEAD", self._blob(sha256))
        if answer.status == 404:
            return False
        self._expect(answer, "HEAD a blob", 200)
        return answer.headers.get("content-length", str(size)) == str(size)

    def read_blob(self, sha256: str, size: int) -> bytes:
        """A small blob, verified.

        Raises:
            MissingBlob: the registry does not have it.
            CorruptBlob: it has other bytes.
        """
        body = joined(self.stream_blob(sha256, size), size)
        if body is None or canonical.sha256(body) != sha256:
            raise CorruptBlob(f"corrupt: SHA-256 mismatch (blob {sha256} in {self.reference})")
        return body

    def stream_blob(self, sha256: str, size: int) -> Iterator[bytes]:
        """The bytes that the registry gives for a blob, in pieces, at most `size` of them. The caller checks them.

        Raises:
            MissingBlob: the registry does not have it.
        """
        try:
            yield from self._session.stream(self._blob(sha256), size)
        except MissingBlob as error:
            raise MissingBlob(f"blob {sha256} is not in {self.reference}") from error

    def send_blob(
        self, sha256: str, size: int, open_file: Callable[[], BinaryIO], progress: Progress = no_progress
    ) -> None:
        """Send a blob; the registry checks its digest.

        Raises:
            OciUnreachable: the registry does not take it.
        """
        said = _Farthest(progress)
        for attempt in range(1, _UPLOADS + 1):
            try:
                return self._send_once(sha256, size, open_file, said)
            except OciUnreachable:
                if attempt == _UPLOADS:
                    raise
        return None

    def _send_once(self, sha256: str, size: int, open_file: Callable[[], BinaryIO], said: _Farthest) -> None:
        answer = self._session.ask("POST", f"{self._base}/blobs/uploads/")
        self._expect(answer, "POST an upload", 202)
        place = answer.headers.get("location", "")
        if not place:
            raise OciUnreachable(f"{self.reference} does not say where a blob is to be sent to")
        put = f"{place}{'&' if '?' in place else '?'}{urlencode({'digest': f'sha256:{sha256}'})}"
        with open_file() as file:
            sent = self._session.upload(put, lambda: _Sending(file, size, said) if size else b"", size)
        self._expect(sent, f"PUT blob {sha256}", 201)

    # --- manifests ---------------------------------------------------------------------------------------------------

    def find(self, wanted: str, media_type: str = MANIFEST_TYPE) -> FetchedManifest | None:
        """What a tag or a digest names, None if there is none.

        Raises:
            CorruptBlob: it does not have the digest that was asked for.
            OciUnreachable: it is too large, or can't be had.
        """
        headers = {"Accept": f"{media_type}, {MANIFEST_TYPE}, {INDEX_TYPE}, */*;q=0.1"}
        answer = self._session.ask("GET", self._manifest(wanted), headers=headers, limit=MAX_MANIFEST)
        if answer.status == 404:
            return None
        self._expect(answer, f"GET manifest {wanted}", 200)
        found = FetchedManifest(answer.body)
        if wanted.startswith("sha256:") and found.digest != wanted:
            raise CorruptBlob(f"corrupt: SHA-256 mismatch (manifest {wanted} in {self.reference})")
        return found

    def put(self, wanted: str, body: bytes, media_type: str = MANIFEST_TYPE) -> bool:
        """Write a manifest under a tag or its digest; whether the registry lists it among the referrers of its subject.

        Raises:
            OciUnreachable: the registry does not take it.
            Overwritten: it says that it has stored other bytes.
        """
        answer = self._session.ask(
            "PUT", self._manifest(wanted), headers={"Content-Type": media_type}, body=lambda: body, size=len(body)
        )
        self._expect(answer, f"PUT manifest {wanted}", 201)
        digest = FetchedManifest(body).digest
        if answer.headers.get(_DIGEST, digest) != digest:
            raise Overwritten(f"{self.reference} says that it has stored {answer.headers[_DIGEST][:80]}, not {digest}")
        return _SUBJECT in answer.headers

    # --- referrers ---------------------------------------------------------------------------------------------------

    def referrers(self, digest: str) -> list[OciDescriptor]:
        """What says that a manifest is its subject: by the registry's API, or the tag in its place.

        Raises:
            BadManifest: the list does not follow its format, or lists more than MAX_LISTED.
        """
        page, listed, has_api = f"{self._base}/referrers/{digest}", list[OciDescriptor](), False
        while page and len(listed) < MAX_LISTED:
            answer = self._session.ask("GET", page, limit=MAX_MANIFEST)
            if answer.status != 200 or not answer.headers.get("content-type", "").startswith(INDEX_TYPE):
                break
            has_api = True
            more = OciIndex.parse(answer.body, f"the referrers of {digest}").manifests
            listed += more
            following = _NEXT.search(answer.headers.get("link", ""))
            page = urljoin(page, following[1]) if following and more else ""
        if has_api:
            return listed
        found = self.find(fallback_tag(digest), INDEX_TYPE)
        return list(OciIndex.parse(found.body, self._index_of(digest)).manifests) if found else []

    def list_in_tag(self, digest: str, referrers: Iterable[OciDescriptor]) -> None:
        """Add referrers to the tag that stands for the referrers API, and read back that they are in it.

        A tag can't be written under a condition. So of two writers one may undo the other; that is noticed here, and
        done again.

        Raises:
            BadManifest: the tag has something else, or would list more than MAX_LISTED.
            Overwritten: others undo it again and again.
        """
        wanted = {each.digest: each.model_dump(mode="json", exclude_none=True) for each in referrers}
        for _ in range(_ROUNDS):
            listed = self._listed(digest)
            missing = [entry for name, entry in wanted.items() if name not in {each.get("digest") for each in listed}]
            if not missing:
                return
            if len(listed) + len(missing) > MAX_LISTED:
                raise BadManifest(f"{self._index_of(digest)} would list more than {MAX_LISTED} manifests")
            index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [*listed, *missing]}
            self.put(fallback_tag(digest), canonical.encode(index), INDEX_TYPE)
        raise Overwritten(f"{self._index_of(digest)} is overwritten by others", hint="run the same command again")

    def _listed(self, digest: str) -> list[dict[str, Any]]:
        """The entries of that tag as they are: others may have fields that we do not know."""
        found = self.find(fallback_tag(digest), INDEX_TYPE)
        if found is None:
            return []
        OciIndex.parse(found.body, self._index_of(digest))
        entries: list[dict[str, Any]] = canonical.decode(found.body, self._index_of(digest), MAX_MANIFEST)["manifests"]
        return entries

    def _index_of(self, digest: str) -> str:
        return f"tag {fallback_tag(digest)} of {self.reference}, the list of its referrers,"

    def _blob(self, sha256: str) -> str:
        return f"{self._base}/blobs/sha256:{sha256}"

    def _manifest(self, wanted: str) -> str:
        return f"{self._base}/manifests/{wanted}"

    def _expect(self, answer: OciAnswer, what: str, status: int) -> None:
        if answer.status != status:
            raise OciUnreachable(
                f"{self.reference} answers {answer.status} to {what}{_complaint(answer.body)}",
                hint="does the registry take OCI artifacts, and this repository's name?",
            )


def fallback_tag(digest: str) -> str:
    """The tag that stands for the referrers API: the digest with `-` for `:`."""
    return digest.replace(":", "-")


def _complaint(body: bytes) -> str:
    """The first error that a registry names, in a few printable words."""
    try:
        first = json.loads(body)["errors"][0]
        said = f"{first['code']}: {first.get('message', '')}"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""
    return ": " + "".join(letter if letter.isprintable() else " " for letter in said[:200])


class _Farthest:
    """Says how many bytes of a file were sent; not twice where they are sent again."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._most = progress, 0

    def reached(self, position: int) -> None:
        """So many bytes from the beginning were sent."""
        if position > self._most:
            self._progress(position - self._most)
            self._most = position


class _Sending:
    """The body of a request: a file from its beginning."""

    def __init__(self, file: BinaryIO, size: int, said: _Farthest) -> None:
        file.seek(0)
        self._file, self._size, self._said, self._position = file, size, said, 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read(64 * 1024):
            yield piece

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        piece = self._file.read(size)
        self._position += len(piece)
        self._said.reached(self._position)
        return piece
