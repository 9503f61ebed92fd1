#!/usr/bin/env python3
"""Rolls a channel back to one version, when nothing else is at hand: all it needs is Python 3.9, boto3 and this file.

It asks S3 only. It moves the channel as `ulora rollback --to VERSION` does, by one conditional write of a record to the
channel's log, and `ulora` takes the record for its own. Credentials are found as boto3 finds them; none are in here.

  python rollback_to_VERSION.py --dry-run          look: what is live, what would become live, is every file there
  python rollback_to_VERSION.py --reason "…"       do it, after asking
  python rollback_to_VERSION.py --yes --json       do it from another program
  python rollback_to_VERSION.py --restore DIR      write the version's files into a new folder; no channel is touched
                                                   (--dry-run: only see whether all of them are in the store)

Exit status:
  0 done; 1 failed; 2 usage; 4 channel moved or not now; 5 not found; 6 integrity; 7 unreachable or outcome unknown;
  130 interrupted
"""

from __future__ import annotations

import argparse
import base64
import errno
import getpass
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

try:
    import boto3
    import botocore.exceptions as faults
    from botocore.config import Config
except ImportError as absent:
    print(f"error: {absent}\nhint: pip install 'boto3>=1.36'", file=sys.stderr)
    sys.exit(2)
except KeyboardInterrupt:
    print("error: interrupted", file=sys.stderr)
    sys.exit(130)

# --- what this file is for: written by `ulora` ---
VERSION: dict[str, Any] = {}
STORE: dict[str, Any] = {}
FILES: list[tuple[str, int, str, str]] = []
# --- end of what was written by `ulora` ---

WRITER = 1
"""The records that this file writes. It adds nothing to a log that asks for a later writer."""
NEWEST_FIRST = 10**12
ENDPOINTS = ("ULORA_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
DEADLINE = 15.0
"""Seconds after which a write of which nothing is heard is given up."""
WORKERS = 16
TRIES = 3
"""How often a file is asked for when the connection breaks while it arrives."""
MAX_RECORD = 1024 * 1024
MAX_WITHDRAWN = 10_000
MAX_DIGITS = 300
MAX_REASON, MAX_WHO = 4096, 256
CHUNK = 1024 * 1024
SHA256 = re.compile(r"[0-9a-f]{64}")
LOST = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
MISSING = {"NoSuchKey", "404", "NotFound"}
DENIED = {
    "AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken",
    "ExpiredTokenException", "AuthorizationHeaderMalformed", "RequestTimeTooSkewed",
}  # fmt: skip
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CODES = {
    "Failed": 1, "DiskFull": 1, "BadInput": 2, "BadSetting": 2, "ChannelMoved": 4, "KeyExists": 4, "NotNow": 4,
    "ObjectNotFound": 5, "NothingToRollBackTo": 5, "VersionForgotten": 5, "BadManifest": 6, "BrokenChain": 6,
    "MissingBlob": 6, "CorruptBlob": 6, "UnsafePath": 6, "StoreUnreachable": 7, "StoreDenied": 7, "OutcomeUnknown": 7,
}  # fmt: skip


class Failure(Exception):
    """Something went wrong: `error` is a key of CODES, `hint` what to do next."""

    def __init__(self, error: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.error = error
        self.hint = hint


class Undecided(Failure):
    """The server gave no clear yes: a write may or may not have been applied."""

    def __init__(self, message: str, hint: str = "try again", *, was_sent: bool = True) -> None:
        super().__init__("StoreUnreachable", message, hint)
        self.was_sent = was_sent


# --- the story -------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for, and return the exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    as_json = "--json" in words
    try:
        asked = read_arguments(words)
        store = Store()
        answer = roll_back(store, asked) if asked.restore is None else restore(store, asked)
    except Failure as failure:
        complain(as_json, failure.error, str(failure), failure.hint)
        return CODES[failure.error]
    except KeyboardInterrupt:
        complain(as_json, "Interrupted", "interrupted", "run the same command again: it is safe")
        return 130
    print(json.dumps(answer, indent=2, ensure_ascii=False) if as_json else visible(answer["sentence"]))
    return 0


def read_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line, understood."""
    if not VERSION:
        raise Failure("BadInput", "this file goes back to no version", "`ulora rollback-script VERSION` writes one")
    about = f"Make {VERSION['channel']} of {VERSION['model']} serve {VERSION['version']}. Made {VERSION['made']}."
    parser = Parser(
        description=f"{about}\n\n{__doc__}", formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would happen")
    parser.add_argument("--yes", action="store_true", help="do not ask; needed where nobody can be asked")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why; it stays on the record")
    parser.add_argument("--restore", metavar="DIR", help="only write the version's files into DIR, a new folder")
    parser.add_argument("--force", action="store_true", help="even if withdrawn or not on the stack; needs --reason")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    asked = parser.parse_args(words)
    if asked.force and not asked.reason.strip():
        raise Failure("BadInput", "--force needs a reason", "add --reason '…'")
    if asked.restore is not None and not asked.restore.strip():
        raise Failure("BadInput", "--restore names no folder", "was a shell's variable empty?")
    if asked.restore is not None and asked.force:
        raise Failure("BadInput", "--restore moves no channel: there is nothing to force", "leave --force out")
    return asked


class Parser(argparse.ArgumentParser):
    """Raises `Failure` where argparse would exit."""

    def error(self, message: str) -> NoReturn:
        raise Failure("BadInput", message, "--help shows how")


def roll_back(store: Store, asked: argparse.Namespace) -> dict[str, Any]:
    """Make the channel serve the version: look, check every file, ask, write one record."""
    head, digest = store.newest()
    if head is None or head["stable"] is None:
        text = f"{VERSION['channel']} serves nothing yet; nothing changed"
        raise Failure("NothingToRollBackTo", text, "is it the right store?")
    signature = {"who": who(), "who_verified": False, "reason": asked.reason}
    record = plan(head, digest, signature, asked.force)
    if record is None:
        return told(head, head, "none", f"{VERSION['channel']} serves {VERSION['version']} already; nothing changed")
    sentence = f"{VERSION['channel']} is {' with '.join(live(head))}; this makes it {record['stable']['version']}"
    say(asked, sentence)
    check(store, asked, head)
    if asked.dry_run:
        return told(record, head, record["action"], "nothing was written: --dry-run")
    if not asked.yes:
        confirm()
        check(store, asked, head)  # a person may have thought for long
    try:
        store.create(record_key(record["generation"]), encode(record))
    except KeyError:
        return moved(store, record["generation"])
    if not is_held(head):
        check_kept(store)
    done = f"{VERSION['channel']} serves {record['stable']['version']}, generation {record['generation']}"
    return {**told(record, head, record["action"], done), "changed": True}


def moved(store: Store, generation: int) -> dict[str, Any]:
    """Somebody else wrote first: fine, if they went to the same version."""
    winner, _ = store.record(generation)
    if live(winner) == [VERSION["version"]]:
        by = f"{winner['who']} was first: {winner['action']}, {winner['when']}"
        return told(winner, winner, "none", f"{VERSION['channel']} serves {VERSION['version']}; {by}")
    raise Failure(
        "ChannelMoved",
        f"{winner['who']} moved {VERSION['channel']} first: {winner['action']} to "
        f"{' with '.join(live(winner))}, generation {generation}; nothing changed",
        "look, then run this again",
    )


def check(store: Store, asked: argparse.Namespace, head: dict[str, Any]) -> None:
    """Check that the version's files are there, and that no garbage collection may take them away."""
    if not is_held(head) and store.has(forgotten_key()):
        raise Failure(
            "VersionForgotten",
            f"{VERSION['version']} was forgotten: its files are gone, or will be; nothing changed",
            f"`ulora store remember {VERSION['version']} --model {VERSION['model']}` brings it back in time",
        )
    check_files(store, asked)


def is_held(head: dict[str, Any]) -> bool:
    """Whether the channel itself keeps the version's files: what is stable or on its stack is never collected."""
    return VERSION["version"] in [pointer["version"] for pointer in (head["stable"], *head.get("stack", []))]


def check_files(store: Store, asked: argparse.Namespace) -> None:
    """Check by HEAD that the store holds every file of the version, whole."""
    say(asked, f"checking {len({sha256 for *_, sha256 in FILES}) + 1} files in the store")
    states = look(store)
    bad = not_whole(states)
    if bad:
        text = f"{VERSION['version']} is not whole in the store, nothing changed: {bad}"
        raise Failure("MissingBlob", text, repair())
    unproven = sum(state == "unproven" for state in states.values())
    if unproven:
        say(asked, f"the store keeps no checksum of {unproven} of them: only their size was checked")


def check_kept(store: Store) -> None:
    """Check that nothing was deleted just before the channel began to need it. Not to know is no failure by now."""
    try:
        bad = not_whole(look(store))
    except Failure:
        return
    if bad:
        text = f"{VERSION['channel']} serves {VERSION['version']} now, but files were deleted meanwhile: {bad}"
        raise Failure("MissingBlob", text, f"{repair()}; `ulora rollback` leaves it")


def look(store: Store) -> dict[str, str]:
    """The state of each of the version's blobs."""
    blobs = {sha256: size for _, size, _, sha256 in FILES}
    blobs[VERSION["manifest_sha256"]] = VERSION["manifest_size"]
    with ThreadPoolExecutor(WORKERS) as pool:
        return dict(zip(blobs, pool.map(lambda item: store.look(*item), blobs.items())))


def not_whole(states: dict[str, str]) -> str:
    """Which files are missing or corrupt, in words; empty if none is."""
    names = [(f"{path} ({states[sha256]})", states[sha256]) for path, _, _, sha256 in FILES]
    names.append(("its manifest", states[VERSION["manifest_sha256"]]))
    bad = [name for name, state in names if state in ("missing", "corrupt")]
    return ", ".join(bad[:3]) + " …" * (len(bad) > 3)


def repair() -> str:
    """What helps where files are gone."""
    return f"`ulora verify {VERSION['version']} --repair DIR` puts files back from a copy"


def confirm() -> None:
    """Ask the person; where there is none, they must say --yes."""
    if not sys.stdin.isatty():
        raise Failure("BadInput", "there is nobody to ask; nothing changed", "add --yes")
    print("go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failure("Failed", "not confirmed; nothing changed")


# --- the rules of a channel, as in the package's registry.channels.record ---------------------------------------------


def plan(head: dict[str, Any], digest: str, signature: dict[str, Any], force: bool) -> dict[str, Any] | None:
    """The record that makes the channel serve the version; None where it does already."""
    channel, version = VERSION["channel"], VERSION["version"]
    check_same(head)
    if live(head) == [version]:
        return None
    if head.get("min_writer", 1) > WRITER:
        raise Failure(
            "NotNow",
            f"the log of {channel} asks for writer {head['min_writer']}, this file is writer {WRITER}; nothing changed",
            f"write it anew: ulora rollback-script {version} --channel {channel} --model {VERSION['model']}",
        )
    if head["stable"]["version"] == version:  # a canary runs beside it
        return aborted(head, digest, signature)
    if version in [pointer["version"] for pointer in targets(head)]:
        return rolled_back(head, digest, signature)
    if force:
        return forced(head, digest, signature)
    why = "was withdrawn from" if version in head.get("withdrawn", []) else "is not on the stack of"
    hint = "--force --reason '…' goes there all the same"
    raise Failure("NothingToRollBackTo", f"{version} {why} {channel}; nothing changed", hint)


def rolled_back(head: dict[str, Any], digest: str, signature: dict[str, Any]) -> dict[str, Any]:
    """What is live, and all above the version on the stack, is withdrawn."""
    stack = targets(head)
    names = [pointer["version"] for pointer in stack]
    depth = names.index(VERSION["version"])
    changes = {
        "stable": stack[depth],
        "stack": stack[depth + 1 :],
        "withdrawn": withdraw(head, [*live(head), *names[:depth]]),
    }
    return following(head, digest, signature, action="rollback", **changes)


def aborted(head: dict[str, Any], digest: str, signature: dict[str, Any]) -> dict[str, Any]:
    """The version is stable: only the canary is withdrawn."""
    withdrawn = withdraw(head, [head["canary"]["version"]])
    return following(head, digest, signature, action="abort", stack=without(head, withdrawn), withdrawn=withdrawn)


def forced(head: dict[str, Any], digest: str, signature: dict[str, Any]) -> dict[str, Any]:
    """The version becomes stable wherever it was; what is live is withdrawn, the rest of the stack stays."""
    gone = [*live(head), VERSION["version"]]
    withdrawn = [name for name in withdraw(head, live(head)) if name != VERSION["version"]]
    stable = {"version": VERSION["version"], "manifest_sha256": VERSION["manifest_sha256"]}
    changes = {"stable": stable, "stack": without(head, gone), "withdrawn": withdrawn}
    return following(head, digest, signature, action="rollback", **changes)


def targets(head: dict[str, Any]) -> list[dict[str, Any]]:
    """Where rollbacks go, the next one first."""
    return without(head, [*head.get("withdrawn", []), *live(head)])


def live(head: dict[str, Any]) -> list[str]:
    """The versions that answer requests: stable, then canary."""
    return [pointer["version"] for pointer in (head["stable"], head.get("canary")) if pointer]


def withdraw(head: dict[str, Any], names: list[str]) -> list[str]:
    """The withdrawn versions, and these."""
    return [*(name for name in head.get("withdrawn", []) if name not in names), *dict.fromkeys(names)]


def without(head: dict[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """The stack without these."""
    return [pointer for pointer in head.get("stack", []) if pointer["version"] not in names]


def following(head: dict[str, Any], digest: str, signature: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The record after the head; fields that this file does not know are copied through."""
    kept = {name: value for name, value in head.items() if name not in ("verdict", "canary")}
    record = {
        **kept,
        **signature,
        "format": 1,
        "min_writer": head.get("min_writer", 1),
        "generation": head["generation"] + 1,
        "when": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "nonce": secrets.token_hex(16),
        "previous": digest,
        **changes,
    }
    if len(record["reason"]) > MAX_REASON or not is_text(record["reason"]):
        raise Failure("BadInput", f"the reason is longer than {MAX_REASON} characters, or not valid text")
    if len(record["withdrawn"]) > MAX_WITHDRAWN or len(encode(record)) > MAX_RECORD:
        raise Failure("BadInput", f"a record of {VERSION['channel']} can't hold so much; nothing changed")
    return record


def check_same(head: dict[str, Any]) -> None:
    """A version's name means one manifest for ever: check that the log means the one that this file holds."""
    own = VERSION["manifest_sha256"]
    for pointer in (head["stable"], head.get("canary"), *head.get("stack", [])):
        if pointer and pointer["version"] == VERSION["version"] and pointer["manifest_sha256"] != own:
            raise Failure(
                "BrokenChain",
                f"the log of {VERSION['channel']} means another {VERSION['version']}; nothing changed",
                "is this file for this store?",
            )


def check_record(record: dict[str, Any], key: str, generation: int) -> None:
    """Check that what stands at a key of the log is a record, and the one that the key spells."""
    named = (record.get("model"), record.get("channel"), record.get("generation"))
    sound = (
        type(record.get("format")) is int
        and record["format"] == 1
        and type(record.get("min_writer", 1)) is int
        and type(record.get("generation")) is int
        and named == (VERSION["model"], VERSION["channel"], generation)
        and all(isinstance(record.get(name), str) for name in ("action", "who", "when", "nonce"))
        and (record.get("stable", 0) is None or is_pointer(record.get("stable")))
        and (record.get("canary") is None or is_pointer(record["canary"]))
        and isinstance(record.get("stack", []), list)
        and all(is_pointer(pointer) for pointer in record.get("stack", []))
        and isinstance(record.get("withdrawn", []), list)
        and all(isinstance(name, str) for name in record.get("withdrawn", []))
    )
    if not sound:
        raise Failure("BrokenChain", f"{key} holds no record of {VERSION['channel']} that this file understands")


def is_pointer(value: Any) -> bool:
    """Whether a value names a version and its manifest."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("version"), str)
        and isinstance(value.get("manifest_sha256"), str)
        and SHA256.fullmatch(value["manifest_sha256"]) is not None
    )


# --- canonical JSON, as in the package's registry.formats.canonical ---------------------------------------------------


def encode(document: Any) -> bytes:
    """The canonical bytes of a JSON document."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def decode(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object's bytes, read strictly: no key twice, no NaN, nothing infinite."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key appears twice")
        return dict(pairs)

    def finite(text: str) -> float:
        if math.isinf(float(text)):
            raise ValueError("a number is too large")
        return float(text)

    def bounded(text: str) -> int:
        if len(text) > MAX_DIGITS:
            raise ValueError("a number is too large")
        return int(text)

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is not allowed")

    try:
        document = json.loads(
            data.decode("utf-8"), object_pairs_hook=unique, parse_float=finite, parse_int=bounded, parse_constant=refuse
        )
    except (ValueError, RecursionError) as error:
        raise Failure("BadManifest", f"{what} is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise Failure("BadManifest", f"{what} is not a JSON object")
    return document


def is_text(text: str) -> bool:
    """Whether a string can be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


# --- the store -------------------------------------------------------------------------------------------------------


def record_key(generation: int) -> str:
    """Where a record of the channel stands."""
    return f"{log_prefix()}{NEWEST_FIRST - generation:013d}.json"


def log_prefix() -> str:
    """The folder of the channel's log."""
    return f"models/{VERSION['model']}/channels/{VERSION['channel']}/"


def forgotten_key() -> str:
    """Where the note stands that garbage collection may drop the version's files."""
    return f"models/{VERSION['model']}/forgotten/{VERSION['version']}.json"


def blob_key(sha256: str) -> str:
    """Where bytes are stored under their own sha256."""
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


class Store:
    """The objects below the store's prefix."""

    def __init__(self) -> None:
        session = boto3.session.Session()
        # The environment of today knows better than this file where the server is now.
        endpoint = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), STORE["endpoint"])
        self.place = f"s3://{STORE['bucket']}/{STORE['prefix']}" + (f" at {endpoint}" if endpoint else "")

        def client(attempts: int) -> Any:
            with self.errors("client"):
                try:
                    config = Config(
                        retries={"mode": "standard", "total_max_attempts": attempts}, signature_version="s3v4",
                        connect_timeout=3, read_timeout=5, max_pool_connections=2 * WORKERS,
                        request_checksum_calculation="when_required", response_checksum_validation="when_required",
                    )  # fmt: skip
                except TypeError as error:
                    hint = "pip install 'boto3>=1.36'"
                    raise Failure("BadSetting", f"boto3 {boto3.__version__} is too old", hint) from error
                region = session.region_name or "us-east-1"
                return session.client("s3", endpoint_url=endpoint, config=config, region_name=region)

        self.reads = client(3)
        # A write is never sent again by boto3 itself, which would take a write that won for one that lost.
        self.once = client(1)

    def newest(self) -> tuple[dict[str, Any] | None, str]:
        """The channel's newest record and the digest of its bytes; None while the log is empty."""
        with self.errors(log_prefix()):
            page = self.reads.list_objects_v2(**self.at(log_prefix(), name="Prefix"), MaxKeys=1)
        if not page.get("Contents"):
            return None, ""
        stem = page["Contents"][0]["Key"].rpartition("/")[2].partition(".")[0]
        if re.fullmatch(r"[0-9]{13}", stem) is None:
            raise Failure("BrokenChain", f"{stem!r} is no key of a record: something else was written into the log")
        return self.record(NEWEST_FIRST - int(stem))

    def record(self, generation: int) -> tuple[dict[str, Any], str]:
        """One record of the channel and the digest of its bytes."""
        key = record_key(generation)
        body = self.get(self.reads, key)
        record = decode(body, key)
        check_record(record, key, generation)
        return record, hashlib.sha256(body).hexdigest()

    def look(self, sha256: str, size: int) -> str:
        """Whether a blob is there: `ok`, `missing`, `corrupt`, or `unproven` where the server keeps no checksum."""
        try:
            with self.errors(blob_key(sha256)):
                reply = self.reads.head_object(**self.at(blob_key(sha256)), ChecksumMode="ENABLED")
        except Failure as failure:
            if failure.error == "ObjectNotFound":
                return "missing"
            raise
        checksum = reply.get("ChecksumSHA256", "")
        found = base64.b64decode(checksum).hex() if checksum and "-" not in checksum else None
        found = found or reply.get("Metadata", {}).get("sha256")
        if reply["ContentLength"] != size or found not in (sha256, None):
            return "corrupt"
        return "ok" if found else "unproven"

    def has(self, key: str) -> bool:
        """Whether an object is there."""
        try:
            with self.errors(key):
                self.reads.head_object(**self.at(key))
        except Failure as failure:
            if failure.error == "ObjectNotFound":
                return False
            raise
        return True

    def create(self, key: str, body: bytes) -> None:
        """Create an object that does not exist yet; KeyError if other bytes are there.

        A reply can be lost after the server applied the write. So after anything but a clear answer the key is read:
        these bytes there, it was this write; others, it lost; nothing, the same bytes are sent again.
        """
        give_up = time.monotonic() + DEADLINE
        pause, maybe_applied = 0.05, False
        while True:
            try:
                with self.errors(key):
                    self.once.put_object(
                        **self.at(key), Body=body, IfNoneMatch="*", ContentType="application/json",
                        ChecksumSHA256=base64.b64encode(hashlib.sha256(body).digest()).decode(), **STORE["encryption"],
                    )  # fmt: skip
                return
            except Undecided as undecided:
                maybe_applied = maybe_applied or undecided.was_sent
                if not maybe_applied:
                    raise
            except Failure as failure:
                if failure.error != "StoreDenied" or not maybe_applied:
                    raise
            found = self.read_back(key)
            if found == body:
                return
            if found is not None:
                raise KeyError(key)
            if time.monotonic() > give_up:
                raise Failure(
                    "OutcomeUnknown",
                    f"a write of {key} was sent, but the store did not say whether it was applied",
                    "run the same command again: it is safe",
                )
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def read_back(self, key: str) -> bytes | None:
        """The bytes at a key after an undecided write; None when none are there or the store can't say right now."""
        try:
            return self.get(self.once, key)
        except Failure as failure:
            if isinstance(failure, Undecided) or failure.error == "ObjectNotFound":
                return None
            raise

    def get(self, client: Any, key: str) -> bytes:
        """A small object's bytes."""
        with self.errors(key):
            reply = client.get_object(**self.at(key))
            with closing(reply["Body"]) as body:
                if reply["ContentLength"] > MAX_RECORD:
                    raise Failure("BadManifest", f"{key} is {reply['ContentLength']} bytes, more than {MAX_RECORD}")
                return bytes(body.read())

    def chunks(self, key: str) -> Iterator[bytes]:
        """An object's bytes as they arrive."""
        with self.errors(key):
            reply = self.reads.get_object(**self.at(key))
            with closing(reply["Body"]) as body:
                yield from body.iter_chunks(CHUNK)

    def at(self, key: str, *, name: str = "Key") -> dict[str, str]:
        """Where a key is, in boto3's words."""
        prefix = f"{STORE['prefix']}/" if STORE["prefix"] else ""
        return {"Bucket": STORE["bucket"], name: prefix + key}

    @contextmanager
    def errors(self, key: str) -> Iterator[None]:
        """Turn boto3's errors into failures; those after which a write may be applied become `Undecided`."""
        try:
            yield
        except faults.ClientError as error:
            raise self.from_reply(error, key) from error
        except (faults.NoCredentialsError, faults.PartialCredentialsError, faults.NoRegionError) as error:
            hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            raise Failure("StoreDenied", f"no credentials for {self.place}: {first_line(error)}", hint) from error
        except (faults.HTTPClientError, faults.ConnectionError, faults.IncompleteReadError) as error:
            never = (faults.EndpointConnectionError, faults.ConnectTimeoutError)
            text = f"the store {self.place} does not answer: {first_line(error)}"
            hint = "is the server up, and is its address right? (ULORA_S3_ENDPOINT or AWS_ENDPOINT_URL)"
            raise Undecided(text, hint, was_sent=not isinstance(error, never)) from error
        except (faults.BotoCoreError, ValueError) as error:
            raise Failure("BadSetting", f"the store {self.place} can't be used: {first_line(error)}") from error

    def from_reply(self, error: Any, key: str) -> Failure:
        """What an error reply of the server means."""
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in MISSING or code == "NoSuchBucket":
            return Failure("ObjectNotFound", f"{key} is not in {self.place}")
        if code in DENIED or status in (401, 403):
            hint = "check the AWS credentials in use"
            return Failure("StoreDenied", f"{self.place} refuses access to {key} ({code})", hint)
        text = f"the store {self.place} answered {status} {code} for {key}"
        if code in LOST or status >= 500 or status in (408, 409, 412, 429):
            return Undecided(text)
        return Failure("Failed", f"{text}: {first_line(error)}")


# --- the version's files on disk -------------------------------------------------------------------------------------


def restore(store: Store, asked: argparse.Namespace) -> dict[str, Any]:
    """Write the version's files, verified, into a new folder: all of them beside it, then one rename."""
    target = new_folder(Path(asked.restore))
    answer = {"version": VERSION["version"], "folder": str(target), "files": len(FILES)}
    if asked.dry_run:
        check_files(store, asked)
        return {**answer, "sentence": f"would write {len(FILES)} files of {VERSION['version']} into {target}"}
    beside = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        beside.mkdir(parents=True, mode=0o755)
        with ThreadPoolExecutor(WORKERS) as pool:
            for _ in pool.map(lambda file: write(store, beside, file), FILES):
                pass
        beside.rename(target)
    except OSError as error:
        raise Failure("DiskFull" if error.errno in FULL else "Failed", f"{target} can't be written: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return {**answer, "sentence": f"{len(FILES)} files of {VERSION['version']} are in {target}"}


def new_folder(path: Path) -> Path:
    """Where the files go, if nothing is there yet and no link is on the way."""
    target = path.absolute()
    link = next((place for place in (target, *target.parents) if place.is_symlink()), None)
    if link:
        raise Failure("UnsafePath", f"{link} is a link; nothing was written", "name the real folder")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise Failure("BadInput", f"{target} is there already; nothing was written", "give a new folder")
    return target


def write(store: Store, folder: Path, file: tuple[str, int, str, str]) -> None:
    """Write one file, if its bytes are the right ones."""
    path, size, mode, sha256 = file
    place = folder / check_path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as out:
        if pour(store, sha256, size, out) != (size, sha256):
            raise Failure("CorruptBlob", f"{path} does not hash to what it should be; nothing was written")
    place.chmod(int(mode, 8))


def pour(store: Store, sha256: str, size: int, out: BinaryIO) -> tuple[int, str]:
    """Write a blob's bytes; their number and digest. A connection that breaks meanwhile is no reason to give up."""
    for tries_left in reversed(range(TRIES)):
        digest, written = hashlib.sha256(), 0
        out.seek(0)
        out.truncate()
        try:
            for chunk in store.chunks(blob_key(sha256)):
                digest.update(chunk)
                written += len(chunk)
                if written > size:
                    break
                out.write(chunk)
            break
        except Undecided:
            if not tries_left:
                raise
    return written, digest.hexdigest()


def check_path(path: str) -> str:
    """A file's path below the folder; a snapshot's files stand at the top."""
    inner = path[len("project/") :] if VERSION["flavor"] == "files" and path.startswith("project/") else path
    parts = inner.split("/")
    if any(part in ("", ".", "..", ".git") or "\\" in part for part in parts):
        raise Failure("UnsafePath", f"{path!r} would leave the folder; nothing was written")
    return inner


# --- words -----------------------------------------------------------------------------------------------------------


def told(record: dict[str, Any], before: dict[str, Any], action: str, sentence: str) -> dict[str, Any]:
    """The answer, as one document; as long as nothing was written."""
    left = {"none": None, "abort": live(before)[-1]}.get(action, live(before)[0])
    return {
        "model": VERSION["model"], "channel": VERSION["channel"], "action": action, "changed": False,
        "version": record["stable"]["version"], "previous": left,
        "generation": record["generation"], "who": record["who"], "when": record["when"],
        "reason": record.get("reason", ""), "sentence": sentence,
    }  # fmt: skip


def who() -> str:
    """Who signs the record: a claim, not a proof. Whatever the environment says must not stop a rollback."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid{os.getuid()}"
    name = os.environ.get("ULORA_WHO") or f"{user}@{socket.gethostname()}"
    return name.encode("utf-8", "replace").decode("utf-8")[:MAX_WHO]


def say(asked: argparse.Namespace, text: str) -> None:
    """A line for people."""
    if not asked.json:
        print(visible(text), flush=True)


def visible(text: str) -> str:
    """A text on one line, without what a terminal would obey: some of it was written by others."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.splitlines()))


def complain(as_json: bool, error: str, message: str, hint: str) -> None:
    """What went wrong, on standard error."""
    if as_json:
        print(json.dumps({"error": error, "message": message, "hint": hint}, ensure_ascii=False), file=sys.stderr)
    else:
        print(f"error: {visible(message)}" + (f"\nhint: {visible(hint)}" if hint else ""), file=sys.stderr)


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


if __name__ == "__main__":
    sys.exit(main())
