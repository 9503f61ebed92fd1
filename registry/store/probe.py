"""Is this prefix a store, does its server keep what we rely on, and what may the identity in use do here?"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from difflib import get_close_matches
from itertools import islice

from registry.errors import (
    BucketNotFound,
    KeyExists,
    NotFound,
    ObjectNotFound,
    Overwritten,
    StoreDenied,
    StoreUnfit,
    StoreUnreachable,
    UloraError,
    first_line,
)
from registry.formats import canonical
from registry.store import layout
from registry.store.conditional import ConditionalWriter
from registry.store.error_table import CONDITION_FAILED
from registry.store.object_info import Rights
from registry.store.reading import ObjectReader

_MAX_MODELS, _SHOWN_MODELS = 1000, 10
_ID = re.compile(r"[0-9a-f]{32}")
_DOCTOR = "`ulora doctor` says whether the store honours conditional writes; change nothing until it does"


class StoreProbe:
    """Checks one prefix. `ObjectStore` says what each method promises."""

    def __init__(
        self, url: str, reader: ObjectReader, writer: ConditionalWriter, delete: Callable[[str], None],
        tested: Callable[[bool], None],
    ) -> None:  # fmt: skip
        self._url = url
        self._reader = reader
        self._writer = writer
        self._delete = delete
        self._tested = tested
        self._id: str | None = None

    def is_initialised(self) -> bool:
        """Whether `format.json` is there."""
        return self._reader.first(layout.FORMAT_KEY) == layout.FORMAT_KEY

    def identity(self) -> str:
        """The store's id in `format.json`; see `ObjectStore.identity`."""
        if self._id is None:
            with suppress(ObjectNotFound):
                self.check_format()
        return self._id or ""

    def check_holds(self, model: str) -> None:
        """Check that this prefix is a store, and that it has the model, if any; passes where that may not be read."""
        with suppress(StoreDenied):
            self._check_holds(model)

    def _check_holds(self, model: str) -> None:
        if not self.is_initialised():
            raise NotFound(
                f"there is no store at {self._url}",
                hint="is the address right (ULORA_STORE, ULORA_S3_ENDPOINT)? `ulora store init` makes a new store",
            )
        models = sorted(islice(self._reader.folders(layout.MODELS_PREFIX), _MAX_MODELS))
        if models and model not in models:
            raise NotFound(
                f"{self._url} has no model {model!r}; there are: {', '.join(models[:_SHOWN_MODELS])}"
                + (f" and {len(models) - _SHOWN_MODELS} more" if len(models) > _SHOWN_MODELS else ""),
                hint=f"did you mean --model {near[0]}?"
                if (near := get_close_matches(model, models))
                else "choose one with --model or ULORA_MODEL",
            )

    def initialise(self) -> None:
        """Probe the server, then create `format.json`."""
        with suppress(ObjectNotFound):  # a read says clearly what is wrong with an address, a write can't
            self._reader.get(layout.FORMAT_KEY)
        self.check_server()
        try:
            found = {"format": layout.FORMAT, "id": secrets.token_hex(16)}
            self._writer.create(layout.FORMAT_KEY, canonical.encode(found))
        except KeyExists:
            self.check_writable()

    def check_writable(self) -> None:
        """Check the format, and that conditional writes work.

        Sends the very bytes that are there under `IfNoneMatch: *`, which must be refused: harmless where it is not.
        """
        self._expect_refusal(layout.FORMAT_KEY, self.check_format())

    def confirm(self, key: str, body: bytes) -> str:
        """Check that what was just created stands, and that the server honours conditions still.

        Both are needed: of two writers whose conditions were ignored, the later one finds its own bytes.
        """
        try:
            found = self._found(key, body)
            if found == body:
                self.check_writable()
                return ""
            if found and canonical.is_document(body) and not canonical.is_document(found):
                return f"what the store answers for {key} is none of its documents"
        except StoreUnfit as error:
            raise Overwritten(
                f"{key} was written, and may have replaced what another writer had created there: {error}", hint=_DOCTOR
            ) from error
        except UloraError as error:
            return first_line(error)
        raise Overwritten(
            f"{self._url} does not hold {key} as it was just created: it ignored the condition of another write, or it "
            "lost this one",
            hint=_DOCTOR,
        )

    def _found(self, key: str, body: bytes) -> bytes:
        """What is at a key; empty for nothing. Read again if it is not `body`, as a reply may be cut short."""
        try:
            found = self._reader.get(key).body
            return found if found == body else self._reader.get(key).body
        except ObjectNotFound:
            return b""

    def check_format(self) -> bytes:
        """Check that this prefix is a store of our format; return the bytes of its `format.json`."""
        try:
            body = self._reader.get(layout.FORMAT_KEY).body
        except ObjectNotFound as error:
            error.hint = f"`ulora store init` makes {self._url} a store"
            raise
        document = canonical.decode(body, layout.FORMAT_KEY)
        found, own = document.get("format"), document.get("id")
        if found != layout.FORMAT:
            raise StoreUnfit(
                f"{self._url} has format {found!r}, this release knows {layout.FORMAT}", hint="upgrade ulora-registry"
            )
        self._id = own if isinstance(own, str) and _ID.fullmatch(own) else ""
        return body

    def check_server(self) -> None:
        """Check, on keys made for it, that conditional writes work and that listings are ordered and up to date.

        Raises:
            StoreUnfit: one of them does not.
        """
        folder = f"{layout.PROBE_PREFIX}{secrets.token_hex(8)}/"
        keys = [f"{folder}{letter}" for letter in "bca"]
        try:
            for key in keys:
                self._writer.create(key, key.encode())
            self._expect_refusal(keys[0], keys[0].encode())
            listed = [info.key for info in self._reader.list(folder)]
            if listed != sorted(keys) or self._reader.first(folder) != min(keys):
                raise StoreUnfit(f"{self._url} does not list keys in order right after they were written")
        finally:
            for key in keys:
                with suppress(UloraError):
                    self._delete(key)

    def rights(self) -> Rights:
        """What this identity may do; the requests are made so that they change nothing."""
        found: list[bytes] = []
        may_read = _may(lambda: found.append(self._reader.get(layout.FORMAT_KEY).body))
        return Rights(
            read=may_read,
            list=_may(lambda: self._reader.first(layout.PROBE_PREFIX)),
            # A write that must be refused because the object is there: only once it is known to be.
            create=_may(lambda: self._expect_refusal(layout.FORMAT_KEY, found[0])) if found else None,
            delete=_may(lambda: self._delete(f"{layout.PROBE_PREFIX}{secrets.token_hex(8)}")),
        )

    def _expect_refusal(self, key: str, body: bytes) -> None:
        try:
            self._writer.put_once(key, body, etag=None)
        except StoreUnreachable as refused:
            if refused.code in CONDITION_FAILED:
                self._tested(True)
                return
            raise
        self._tested(False)
        raise StoreUnfit(
            f"{self._url} ignores `If-None-Match: *`: two writers could overwrite each other without noticing",
            hint="use AWS S3, MinIO, SeaweedFS or another server with conditional writes",
        )


def _may(act: Callable[[], object]) -> bool | None:
    """Whether something is allowed: False if it was refused, None where the answer does not tell."""
    try:
        act()
    except StoreDenied:
        return False
    except (StoreUnreachable, BucketNotFound):
        raise
    except (ObjectNotFound, StoreUnfit):
        return True
    except UloraError:
        return None
    return True
