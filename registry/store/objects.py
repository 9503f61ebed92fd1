"""The objects of one store in S3. This class says what each call promises; the modules beside it do the work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from registry.errors import StoreUnreachable, UloraError
from registry.formats import canonical
from registry.formats.local_file import LocalFile
from registry.progress import Progress, ignore, no_progress
from registry.store import layout
from registry.store.bucket import Bucket
from registry.store.client import Deadlines, S3Client
from registry.store.conditional import ConditionalWriter
from registry.store.object_info import Contents, Encryption, LifecycleRule, ObjectInfo, Rights, StoredObject
from registry.store.probe import StoreProbe
from registry.store.reading import ObjectReader
from registry.store.refusals import by_itself
from registry.store.uploads import Uploader


class ObjectStore:
    """The objects below one `s3://BUCKET/PREFIX`. Threads may share it.

    Every method may raise `StoreDenied`, `StoreUnreachable` or `BucketNotFound`. Each call ends by its deadline, also
    if the server sends a byte now and then; inside `registry.parallel.time_limit` by that of the caller.
    """

    def __init__(
        self,
        url: str,
        *,
        endpoint_url: str | None = None,
        profile: str | None = None,
        encryption: Encryption | None = None,
        deadlines: Deadlines | None = None,
        tested: Callable[[bool], None] = ignore,
    ) -> None:
        """Args:
            url: `s3://BUCKET/PREFIX`.
            endpoint_url: the S3 server; None for boto3's own choice.
            profile: whose credentials in AWS's own files to use; None for boto3's own choice.
            encryption: asked for with every write; None for the bucket's own default.
            deadlines: how long to wait for the server; None for the defaults.
            tested: is called with whether conditional writes are honoured, each time that this is tested.

        Raises:
            BadSetting: the URL is not an S3 URL.
        """
        self._client = S3Client(
            url, endpoint_url=endpoint_url, profile=profile, encryption=encryption, deadlines=deadlines
        )
        self._reader = ObjectReader(self._client)
        self._writer = ConditionalWriter(self._client, self._reader)
        self._uploader = Uploader(self._client, self._reader)
        self._probe = StoreProbe(self._client.url, self._reader, self._writer, self.delete, tested)
        self._bucket = Bucket(self._client)

    @property
    def url(self) -> str:
        """`s3://BUCKET/PREFIX`."""
        return self._client.url

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self._client.bucket

    @property
    def address(self) -> str:
        """Equal for any two stores that hold the same objects, whatever they were opened with."""
        return self._client.address

    def caller(self) -> str | None:
        """The ARN of the identity in use; None where AWS's STS does not say within about two seconds."""
        return self._client.caller()

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, key: str, limit: int = canonical.MAX_DOCUMENT) -> StoredObject:
        """Read a whole object of at most `limit` bytes.

        Raises:
            ObjectNotFound: no object has this key.
            BadManifest: it is larger than `limit`.
        """
        with by_itself(self._answers):
            return self._reader.get(key, limit)

    def stream(self, key: str, size: int) -> Iterator[bytes]:
        """An object's bytes in chunks. The caller checks what it reads.

        Where a connection breaks in the middle, the rest is asked for, a few times in all.

        Raises:
            ObjectNotFound: no object has this key.
            CorruptBlob: it is not `size` bytes long, by what the server announces or by what arrives.
        """
        with by_itself(self._answers):
            yield from self._reader.stream(key, size)

    def contents(self, key: str, progress: Progress = no_progress) -> Contents:
        """Read all bytes of an object, whatever they are, and return their digest and size.

        Raises:
            ObjectNotFound: no object has this key.
        """
        with by_itself(self._answers):
            return self._reader.contents(key, progress)

    def head(self, key: str) -> ObjectInfo | None:
        """What the server says of an object, None when no object has this key."""
        with by_itself(self._answers):
            return self._reader.head(key)

    def holds(self, key: str, digest: str, size: int) -> bool:
        """Whether an object has so many bytes and this sha256, by what the server says of it."""
        info = self.head(key)
        return info is not None and (info.size, info.sha256) == (size, digest)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix`, in the order of their keys."""
        return self._reader.list(prefix)

    def first(self, prefix: str) -> str | None:
        """The first key that starts with `prefix`, None if no key does. One round trip."""
        return self._reader.first(prefix)

    def folders(self, prefix: str) -> Iterator[str]:
        """The names of the folders directly below a prefix that ends with a slash."""
        return self._reader.folders(prefix)

    def now(self) -> datetime:
        """The server's own clock, to the second below."""
        return self._reader.now()

    def _answers(self) -> bool:
        """Whether the server answers where it is asked for a small object that every store has."""
        try:
            self._reader.get(layout.FORMAT_KEY, canonical.MAX_DOCUMENT)
        except StoreUnreachable:
            return False
        except UloraError:  # it is not there, or refused
            return True
        return True

    # --- writing -----------------------------------------------------------------------------------------------------

    def create(self, key: str, body: bytes) -> None:
        """Create an object that does not exist yet.

        `body` must be unique to this caller (it holds a nonce), or mean the same whoever wrote it: a lost reply is
        settled by reading back, see `registry.store.conditional`.

        Raises:
            KeyExists: other bytes are there. Nothing changed.
            OutcomeUnknown: the deadline passed without a clear answer.
        """
        self._writer.create(key, body)

    def confirm(self, key: str, body: bytes) -> str:
        """Check that an object which this caller has just created is there with these bytes, and that the server still
        refuses a second create: three round trips. Return why that could not be found out, or the empty string.

        Raises:
            Overwritten: other bytes are there, or none; or the server ignores conditions now, so that this write may
                have replaced another's.
        """
        return self._probe.confirm(key, body)

    def swap(self, key: str, body: bytes, etag: str | None) -> None:
        """Put other bytes in place of the object of which `etag` was read; None: of nothing. Only for `gc.json`.

        `body` must be unique to this caller. A lost reply is settled as in `create`.

        Raises:
            KeyExists: another writer was first. Nothing changed.
            OutcomeUnknown: the deadline passed without a clear answer.
        """
        if etag is None:
            self._writer.create(key, body)
        else:
            self._writer.swap(key, body, etag)

    def overwrite(self, key: str, body: bytes) -> None:
        """Write an object whatever was there: only for a replica's own heartbeat."""
        s3 = self._client.unretried
        self._client.call(key, lambda: s3.put_object(**self._client.at(key), Body=body))

    def upload(self, key: str, file: LocalFile, digest: str, size: int, progress: Progress = no_progress) -> bool:
        """Create an object from a file whose sha256 is `digest`. It may be there already with this digest: then False.

        `progress` is called with the bytes of each part that has arrived.

        Raises:
            CorruptBlob: the file does not have this digest (it changed meanwhile), or the store holds other bytes.
            BadBundle: the file can't be read any more.
        """
        return self._uploader.upload(key, file, digest, size, progress)

    def replace(self, key: str, file: LocalFile, digest: str, size: int, etag: str) -> None:
        """Put a file whose sha256 is `digest` in place of an object that was found damaged: only for `verify --repair`.

        Nothing is written unless the object is still the one of which `etag` was read.

        Raises:
            KeyExists: it is another object by now, and not this file's bytes either. Nothing changed.
            CorruptBlob: the file does not have this digest (it changed meanwhile).
        """
        self._uploader.replace(key, file, digest, size, etag)

    def delete(self, key: str) -> None:
        """Delete an object; it need not exist."""
        # Sent once, and given up within seconds: a prune relies on no deletion taking long, nor being sent again after
        # this machine was asleep.
        s3 = self._client.unretried
        self._client.call(key, lambda: s3.delete_object(**self._client.at(key)))

    # --- the store itself --------------------------------------------------------------------------------------------

    def is_initialised(self) -> bool:
        """Whether this prefix is a store."""
        return self._probe.is_initialised()

    def identity(self) -> str:
        """The store's own id, made once by `initialise`, and by which it is told from another one with the same URL on
        another server. Empty for a store of an earlier release. Read once.

        Raises:
            StoreUnfit: another format.
        """
        return self._probe.identity()

    def check_holds(self, model: str) -> None:
        """Check that finding nothing of a model is no sign of a wrong setting. Passes for a store without any model.

        Raises:
            NotFound: this prefix is not a store, or it has other models, but not this one.
        """
        self._probe.check_holds(model)

    def initialise(self) -> None:
        """Make this prefix a store: probe the server, then create `format.json` with an id of its own. Doing it twice
        changes nothing.

        Raises:
            StoreUnfit: the server does not honour conditional writes or does not list in order; or another format.
        """
        self._probe.initialise()

    def probe(self) -> None:
        """Check, on keys made for it, that conditional writes work and that listings are ordered and up to date.

        Raises:
            StoreUnfit: one of them does not.
        """
        self._probe.check_server()

    def check_writable(self) -> None:
        """Check that this prefix is a store of a format we write, on a server that honours conditional writes.

        Raises:
            ObjectNotFound: this prefix is not a store; the hint names `ulora store init`.
            StoreUnfit: another format, or a server that ignores the condition.
        """
        self._probe.check_writable()

    def check_target(self) -> None:
        """Check that this prefix is a store of a format we write. Nothing is sent.

        Raises:
            ObjectNotFound: this prefix is not a store; the hint names `ulora store init`.
            StoreUnfit: another format.
        """
        self._probe.check_format()

    def rights(self) -> Rights:
        """What the identity in use may do, found out without leaving anything behind."""
        return self._probe.rights()

    # --- its bucket --------------------------------------------------------------------------------------------------

    def create_bucket(self) -> None:
        """Create the bucket; it may exist already."""
        self._bucket.create()

    def versioning(self) -> str:
        """Whether the bucket keeps what is overwritten or deleted: `Enabled`, `Suspended` or `off`.

        Raises:
            UloraError: the server, or a policy, does not say.
        """
        return self._bucket.versioning()

    def lifecycle(self) -> tuple[LifecycleRule, ...]:
        """The bucket's rules that may expire or move away objects of this store, by their prefix. Our objects have no
        tags, so rules that ask for one are left out.

        Raises:
            UloraError: the server, or a policy, does not say.
        """
        return self._bucket.lifecycle()

    def unfinished_uploads(self) -> tuple[float, ...]:
        """The ages, in seconds, of up to 1,000 uploads in parts that were never completed.

        Raises:
            UloraError: the server, or a policy, does not say.
        """
        return self._bucket.unfinished_uploads()

    def abort_uploads(self, prefix: str, before: datetime) -> int:
        """Abort the uploads in parts below a prefix that were begun before a time; return how many. Only for prune."""
        return self._bucket.abort_uploads(prefix, before)
