#!/usr/bin/env python3
"""Rolls a channel back to one version, when nothing else is at hand: all it needs is Python 3.9, boto3 and this file.

It needs S3 only. It does the same as `ulora rollback --to VERSION`: one conditional write of a record to the channel's
log, in the format of `ulora`. Credentials are found as boto3 finds them; this file contains none.

  python rollback_to_VERSION.py --dry-run          show what is live, what would become live, and check every file
  python rollback_to_VERSION.py --reason "…"       roll back, after a question
  python rollback_to_VERSION.py --yes --json       roll back from another program
  python rollback_to_VERSION.py --restore DIR      write the version's files into a new folder; no channel is changed
                                                   (--dry-run: only check that all of them are in the store)

Exit status:
  0 done; 1 failed; 2 usage; 4 channel moved or not now; 5 not found; 6 integrity; 7 unreachable or outcome unknown;
  130 interrupted
"""

from __future__ import annotations

import sys

ABSENT = ""
"""What can't be imported; reported by `main`."""
try:
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
    import signal
    import socket
    import threading
    import time
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import ThreadPoolExecutor
    from contextlib import closing, contextmanager, suppress
    from datetime import datetime, timezone
    from email.utils import parsedate_to_datetime
    from pathlib import Path
    from typing import Any, BinaryIO, NoReturn, TypeVar

    try:
        import boto3
        import botocore.exceptions as faults
        from botocore.config import Config
        from botocore.parsers import ResponseParserError
        from urllib3.exceptions import HTTPError
    except ImportError as error:
        ABSENT, faults = str(error), None
except KeyboardInterrupt:
    sys.stderr.write("error: interrupted\n")
    sys.exit(130)

# --- what this file is for: written by `ulora` ---
VERSION: dict[str, Any] = {}
STORE: dict[str, Any] = {}
FILES: list[tuple[str, int, str, str]] = []
# --- end of what was written by `ulora` ---

WRITER = 1
"""The writer version of this file. It writes no record into a log that needs a later one."""
NEWEST_FIRST = 10**12
ENDPOINTS = ("ULORA_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
COMMAND, CALL, ATTEMPT, DEADLINE, STALL, OPENING = 60.0, 10.0, 5.0, 15.0, 60.0, 30.0
"""Seconds after which are given up: a whole rollback, except for the time of the question; one call to
the store, whatever it sends; one attempt to write, and all of them; a file of which no more arrives; finding
credentials."""
WORKERS = 16
TRIES = 3
"""How often a file is requested if the connection breaks during the download."""
MAX_RECORD = 1024 * 1024
MAX_STACK, MAX_WITHDRAWN = 100, 10_000
MAX_DIGITS, MAX_DEPTH = 300, 100
MAX_REASON, MAX_WHO, MAX_NAME, MAX_WHEN = 4096, 256, 120, 40
MAX_SALT, MAX_PLAN = 64, 100
RECORD_FIELDS = {
    "format", "min_writer", "model", "channel", "generation", "action", "stable", "canary", "stack", "withdrawn",
    "verdict", "trial", "decision", "reason", "who", "who_verified", "when", "nonce", "previous",
}  # fmt: skip
OF_ONE_CHANGE = {"verdict", "canary", "trial", "decision"}
"""The fields of a record that the next one does not take over."""
VERSION_FIELDS = {"version", "manifest_sha256", "weight"}
CHUNK = 64 * 1024
SHA256, TRIAL_ID = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{32}")
ACTION = KIND = re.compile(r"[a-z-]{1,40}")
LOST = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
TRANSIENT = {"RequestTimeout", "InternalError", "SlowDown", "ServiceUnavailable", "Throttling"}
CODE = re.compile(r"[A-Za-z][A-Za-z0-9]*")
"""Codes of S3's own errors."""
MISSING = {"NoSuchKey", "NotFound", "NoSuchBucket"}
IN_FRONT = "is there a proxy or a login page in front of it?"
RECORD = re.compile(r"(0[0-9]{12})(?<!0{13})\.json", re.ASCII)
WEAK = 'W/"'
"""The beginning of an ETag that web servers send, and S3 never does."""
PAGES = ("text/html", "application/xhtml+xml")
"""Media types of pages: no answer of the store has one of its own."""
DENIED = {
    "AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken",
    "AuthorizationHeaderMalformed",
}  # fmt: skip
KEPT_AWAY = {
    "InvalidObjectState", "InvalidRequest", "KMS.DisabledException", "KMS.NotFoundException",
    "KMS.KMSInvalidStateException", "KMS.InvalidStateException", "KMS.InvalidKeyUsageException",
}  # fmt: skip
"""Codes of an object that was archived, or whose key of AWS KMS can't be used."""
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
UNREADABLE = (
    "no replica passes a record that it can't read, so a rollback after it would not be followed; bring its bytes back "
    'or remove it (docs/runbook.md, "Junk in the log"), then run this again'
)
SKEWED, MAX_SKEW = "RequestTimeTooSkewed", 15 * 60
"""The code for a wrong clock, and the seconds by which it may differ."""
NO_CREDENTIALS = tuple(
    getattr(faults, name)
    for name in (
        "NoCredentialsError", "PartialCredentialsError", "NoRegionError", "CredentialRetrievalError", "SSOError",
        "TokenRetrievalError", "LoginError",
    )
    if hasattr(faults, name)
)  # fmt: skip
SETTINGS = "look at AWS's variables (AWS_PROFILE, AWS_ENDPOINT_URL, AWS_CA_BUNDLE, ...) and ~/.aws/config"
SENT, CONTROL = ("AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"), re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""The variables that boto3 sends as headers, and what no header can have in it."""
HEADER = re.compile(r"((?:invalid|illegal) header value|in header value|header part)\b.*", re.IGNORECASE)
"""How HTTP libraries begin to show a header that they refuse, which may be a credential."""
LATER: list[tuple[str, str]] = []
"""With --yes, the stream and the text of what is said at the end: a terminal that was stopped, or a full pipe, would
keep this from going back."""
Result = TypeVar("Result")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CODES = {
    "Failed": 1, "DiskFull": 1, "BadInput": 2, "BadSetting": 2, "MissingDependency": 2,
    "ChannelMoved": 4, "KeyExists": 4, "NotNow": 4,
    "ObjectNotFound": 5, "NothingToRollBackTo": 5, "VersionForgotten": 5,
    "StoreUnfit": 6, "BadManifest": 6, "BrokenChain": 6, "MissingBlob": 6, "CorruptBlob": 6, "UnsafePath": 6,
    "StoreUnreachable": 7, "StoreDenied": 7, "OutcomeUnknown": 7,
}  # fmt: skip


class Failure(Exception):
    """An error: `error` is a key of CODES, `hint` says what to do next.

    `is_clear` is False for an answer of the server that is not S3's own: somebody else may have given it.
    """

    is_clear = True

    def __init__(self, error: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.error = error
        self.hint = hint


class Taken(Exception):
    """A key exists already, with other bytes."""


class OutcomeUnclear(Failure):
    """The server gave no clear answer: the write may or may not have been applied."""

    def __init__(self, message: str, hint: str = "try again", *, was_sent: bool = True) -> None:
        super().__init__("StoreUnreachable", message, hint)
        self.was_sent = was_sent


# --- the steps -------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    as_json, store = "--json" in words, None
    try:
        if ABSENT:
            raise Failure("MissingDependency", ABSENT, "pip install 'boto3>=1.36'")
        options = read_arguments(words)
        store = Store()
        answer = roll_back(store, options) if options.restore is None else restore(store, options)
    except Failure as failure:
        print_error(as_json, failure.error, after(store, str(failure)), failure.hint)
        return CODES[failure.error]
    except KeyboardInterrupt:
        print_error(as_json, "Interrupted", after(store, "interrupted"), "run the same command again: it is safe")
        return 130
    except Exception as error:
        text = after(store, f"unexpected {type(error).__name__}: {first_line(error)}")
        print_error(as_json, "Failed", text, "run the same command again: it is safe; `ulora rollback` does the same")
        return 1
    print_later()
    emit("stdout", json.dumps(answer, indent=2, ensure_ascii=False) if as_json else printable(answer["sentence"]))
    return 0


def after(store: Store | None, text: str) -> str:
    """What ended this, after what is known of a record that was sent."""
    return f"{store.known}; {text}" if store and store.known else text


def read_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The parsed command line."""
    if not VERSION:
        raise Failure("BadInput", "this file names no version", "`ulora rollback-script VERSION` writes a complete one")
    about = f"Make {VERSION['channel']} of {VERSION['model']} serve {VERSION['version']}. Made {VERSION['made']}."
    parser = Parser(
        description=f"{about}\n\n{__doc__}", formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would happen")
    parser.add_argument("--yes", action="store_true", help="do not ask; needed without a terminal")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why; it is stored in the record")
    parser.add_argument("--restore", metavar="DIR", help="only write the version's files into DIR, a new folder")
    parser.add_argument("--force", action="store_true", help="even if withdrawn or not on the stack; needs --reason")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    options = parser.parse_args(words)
    if options.force and not options.reason.strip():
        raise Failure("BadInput", "--force needs a reason", "add --reason '…'")
    if options.restore is not None and not options.restore.strip():
        raise Failure("BadInput", "--restore needs a folder", "is a shell variable empty?")
    if options.restore is not None and options.force:
        raise Failure("BadInput", "--restore changes no channel, so --force has no effect", "omit --force")
    return options


class Parser(argparse.ArgumentParser):
    """Raises `Failure` where argparse would exit."""

    def error(self, message: str) -> NoReturn:
        raise Failure("BadInput", message, "see --help")

    def print_help(self, file: Any = None) -> None:
        emit("stdout", self.format_help())


def roll_back(store: Store, options: argparse.Namespace) -> dict[str, Any]:
    """Make the channel serve the version: read the log, check every file, ask, write one record."""
    head, digest = store.newest()
    if head is None:
        text = f"{VERSION['channel']} serves no version yet; nothing changed"
        raise Failure("NothingToRollBackTo", text, "is this the right store?")
    author = {"who": who(), "who_verified": False, "reason": options.reason}
    record = plan(head, digest, author, options.force)
    if record is None:
        return answer_document(
            head, head, "none", f"{VERSION['channel']} serves {VERSION['version']} already; nothing changed"
        )
    serves = " with ".join(live(head)) or "nothing"
    print_line(options, f"{VERSION['channel']} is {serves}; this makes it {record['stable']['version']}")
    left_out = fit(record)
    if left_out:
        text = f"note: not taken over, as the record would have been too large: {', '.join(left_out)}"
        print_line(options, text, "stderr")
    check(store, options, head)
    if options.dry_run:
        planned = answer_document(record, head, record["action"], "nothing was written: --dry-run")
        return with_chain(store, options, head, {**planned, "left_out": left_out})
    if not options.yes:
        asked = time.monotonic()
        ask()
        store.ends += time.monotonic() - asked
        newest, _ = store.newest_from(head["generation"])  # the answer may have taken long
        if newest["generation"] != head["generation"]:
            return already_moved(newest)
        check(store, options, head)
    done = f"{VERSION['channel']} serves {record['stable']['version']}, generation {record['generation']}"
    store.known = f"not known whether {done}: that record was sent, and the store had not answered"
    try:
        store.create(record_key(record["generation"]), encode(record))
    except (Taken, Failure) as error:  # it was not taken, or the failure says itself that nobody knows
        store.known = ""
        if isinstance(error, Failure):
            raise
        return already_moved(store.newest_from(record["generation"])[0])
    store.known = f"{done}: that record is written"
    if not is_protected(head):
        check_still_complete(store)
    made = {**answer_document(record, head, record["action"], done), "changed": True, "left_out": left_out}
    return with_chain(store, options, head, made)


def with_chain(
    store: Store, options: argparse.Namespace, head: dict[str, Any], answer: dict[str, Any]
) -> dict[str, Any]:
    """The same answer, and a warning if the record that was newest does not continue the log. It stops no rollback."""
    problem = broken_link(store, head)
    if problem and not options.json:
        what = f"the log of {VERSION['channel']} is broken below the newest record: {problem}"
        stay = "replicas that followed it before stay where they were until they are restarted"
        emit("stderr", f"warning: {printable(what)}; {stay}; look with `ulora history`")
    return {**answer, "broken_chain": problem}


def broken_link(store: Store, head: dict[str, Any]) -> str:
    """Why a record does not continue the log; empty if it does, or the store does not say."""
    before, named = head["generation"] - 1, str(head.get("previous"))[:12]
    if not before:
        return "" if head.get("previous") is None else f"generation 1 names {named} as the one before it"
    try:
        digest = store.record(before)[1]
    except Failure as failure:
        return str(failure) if failure.error in ("ObjectNotFound", "BadManifest", "BrokenChain") else ""
    except Exception:
        return ""
    if head.get("previous") == digest:
        return ""
    return f"generation {before} does not hash to what generation {before + 1} says: {digest[:12]}, not {named}"


def already_moved(winner: dict[str, Any]) -> dict[str, Any]:
    """Another writer was first: this is fine if the channel serves the same version now."""
    if live(winner) == [VERSION["version"]]:
        by = f"{winner['who']} was first: {winner['action']}, {winner['when']}"
        return answer_document(winner, winner, "none", f"{VERSION['channel']} serves {VERSION['version']}; {by}")
    raise Failure(
        "ChannelMoved",
        f"{winner['who']} moved {VERSION['channel']} first: {winner['action']} to "
        f"{' with '.join(live(winner)) or 'nothing'}, generation {winner['generation']}; nothing changed",
        "check what it serves, then run this again",
    )


def check(store: Store, options: argparse.Namespace, head: dict[str, Any]) -> None:
    """Check that the version's files exist, and that garbage collection may not delete them."""
    if not is_protected(head) and store.has(forgotten_key()):
        raise Failure(
            "VersionForgotten",
            f"{VERSION['version']} was forgotten: its files were deleted or will be; nothing changed",
            f"`ulora store remember {VERSION['version']} --model {VERSION['model']}` if its files still exist",
        )
    check_files(store, options)


def is_protected(head: dict[str, Any]) -> bool:
    """Whether the channel protects the version's files: those of stable and the stack are never deleted."""
    held = (head["stable"], *head.get("stack", []))
    return VERSION["version"] in [pointer["version"] for pointer in held if pointer]


def check_files(store: Store, options: argparse.Namespace) -> None:
    """Check by HEAD requests that the store has every file of the version, with the right size and checksum."""
    print_line(options, f"checking {len({sha256 for *_, sha256 in FILES}) + 1} files in the store")
    states = blob_states(store)
    bad = incomplete_files(states)
    if bad:
        text = f"{VERSION['version']} is not complete in the store, nothing changed: {bad}"
        raise Failure("MissingBlob", text, repair_hint())
    unproven = sum(state == "unproven" for state in states.values())
    if unproven:
        print_line(options, f"the store has no checksum of {unproven} of them: only their size was checked")


def check_still_complete(store: Store) -> None:
    """Check again after the write that no file was deleted meanwhile. If the check fails, the rollback still counts."""
    try:
        bad = incomplete_files(blob_states(store))
    except Exception:
        return
    if bad:
        text = f"{VERSION['channel']} serves {VERSION['version']} now, but files were deleted meanwhile: {bad}"
        store.known = ""
        raise Failure("MissingBlob", text, f"{repair_hint()}; `ulora rollback` goes to another version")


def blob_states(store: Store) -> dict[str, str]:
    """The state of each of the version's blobs."""
    blobs = {sha256: size for _, size, _, sha256 in FILES}
    blobs[VERSION["manifest_sha256"]] = VERSION["manifest_size"]
    with ThreadPoolExecutor(WORKERS) as pool:
        return dict(zip(blobs, pool.map(lambda item: store.blob_state(*item), blobs.items())))


def incomplete_files(states: dict[str, str]) -> str:
    """The missing and corrupt files, for people; empty if there are none."""
    names = [(f"{path} ({states[sha256]})", states[sha256]) for path, _, _, sha256 in FILES]
    names.append(("its manifest", states[VERSION["manifest_sha256"]]))
    bad = [name for name, state in names if state in ("missing", "corrupt")]
    return ", ".join(bad[:3]) + " …" * (len(bad) > 3)


def repair_hint() -> str:
    """The hint for missing files."""
    return f"`ulora verify {VERSION['version']} --repair DIR` puts files back from a copy"


def ask() -> None:
    """Ask for confirmation; without a terminal, --yes is needed."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise Failure("BadInput", "there is no terminal to ask for confirmation; nothing changed", "add --yes")
    emit("stderr", "continue? [y/N] ", end="")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failure("Failed", "not confirmed; nothing changed")


# --- the rules of a channel, as in the package's registry.channels.record ---------------------------------------------


def plan(head: dict[str, Any], digest: str, author: dict[str, Any], force: bool) -> dict[str, Any] | None:
    """The record that makes the channel serve the version; None if it does already."""
    channel, version = VERSION["channel"], VERSION["version"]
    check_manifest(head)
    if live(head) == [version]:
        return None
    if head.get("min_writer", 1) > WRITER:
        raise Failure(
            "NotNow",
            f"the log of {channel} needs writer version {head['min_writer']}, this file has {WRITER}; nothing changed",
            f"write a new file: ulora rollback-script {version} --channel {channel} --model {VERSION['model']}",
        )
    if head["stable"] and head["stable"]["version"] == version:  # a canary runs
        return aborted(head, digest, author)
    if version in [pointer["version"] for pointer in targets(head)]:
        return rolled_back(head, digest, author)
    if force:
        return forced(head, digest, author)
    why = "was withdrawn from" if version in head.get("withdrawn", []) else "is not on the stack of"
    hint = "--force --reason '…' rolls back to it anyway"
    raise Failure("NothingToRollBackTo", f"{version} {why} {channel}; nothing changed", hint)


def rolled_back(head: dict[str, Any], digest: str, author: dict[str, Any]) -> dict[str, Any]:
    """The live versions, and all above the version on the stack, are withdrawn."""
    stack = targets(head)
    names = [pointer["version"] for pointer in stack]
    depth = names.index(VERSION["version"])
    changes = {
        "stable": stack[depth],
        "stack": stack[depth + 1 :],
        "withdrawn": withdraw(head, [*live(head), *names[:depth]]),
    }
    return next_record(head, digest, author, action="rollback", **changes)


def aborted(head: dict[str, Any], digest: str, author: dict[str, Any]) -> dict[str, Any]:
    """The version is stable already: only the canary is withdrawn."""
    withdrawn = withdraw(head, [head["canary"]["version"]])
    return next_record(head, digest, author, action="abort", stack=without(head, withdrawn), withdrawn=withdrawn)


def forced(head: dict[str, Any], digest: str, author: dict[str, Any]) -> dict[str, Any]:
    """The version becomes stable, wherever it was; the live versions are withdrawn, the rest of the stack stays."""
    gone = [*live(head), VERSION["version"]]
    withdrawn = [name for name in withdraw(head, live(head)) if name != VERSION["version"]]
    stable = {"version": VERSION["version"], "manifest_sha256": VERSION["manifest_sha256"]}
    changes = {"stable": stable, "stack": without(head, gone), "withdrawn": withdrawn}
    return next_record(head, digest, author, action="rollback", **changes)


def targets(head: dict[str, Any]) -> list[dict[str, Any]]:
    """The versions that rollbacks go to, the next one first."""
    return without(head, [*head.get("withdrawn", []), *live(head)])


def live(head: dict[str, Any]) -> list[str]:
    """The versions that answer requests: stable, then the canary."""
    return [pointer["version"] for pointer in (head["stable"], head.get("canary")) if pointer]


def withdraw(head: dict[str, Any], names: list[str]) -> list[str]:
    """The withdrawn versions, and these."""
    return [*(name for name in head.get("withdrawn", []) if name not in names), *dict.fromkeys(names)]


def without(head: dict[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """The stack without these."""
    return [pointer for pointer in head.get("stack", []) if pointer["version"] not in names]


def next_record(head: dict[str, Any], digest: str, author: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The record after the head; unknown fields are copied."""
    kept = {name: value for name, value in head.items() if name not in OF_ONE_CHANGE}
    record = {
        **kept,
        **author,
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
    return record


def fit(record: dict[str, Any], limit: int = MAX_RECORD, names: int = MAX_WITHDRAWN) -> list[str]:
    """Leave out of a record, in place, until it has at most so many bytes and withdrawn names; return what, in words.

    Unknown fields go first, the largest before others, then those of its versions, then the names that were withdrawn
    first, then the versions that rollbacks would come to last.
    """
    steps: dict[str, Callable[[dict[str, Any], int], int]] = {
        "unknown fields": drop_fields,
        "unknown fields of its versions": drop_version_fields,
        "the names that were withdrawn first": lambda record, excess: drop_names(record, excess, names),
        "the versions at the end of the stack": drop_versions,
    }
    dropped = {what: drop(record, size_of(record) - limit) for what, drop in steps.items()}
    return [f"{what} ({number})" for what, number in dropped.items() if number]


def drop_fields(record: dict[str, Any], excess: int) -> int:
    """Drop unknown fields until so many bytes are gone; return how many."""
    sizes = {name: size_of({name: value}) - 1 for name, value in record.items() if name not in RECORD_FIELDS}
    dropped = 0
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        if excess <= 0:
            break
        del record[name]
        excess -= sizes[name]
        dropped += 1
    return dropped


def drop_version_fields(record: dict[str, Any], excess: int) -> int:
    """The same for the unknown fields of its versions: all, or none."""
    dropped = 0
    versions = filter(None, (record["stable"], record.get("canary"), *record.get("stack", [])))
    for version in versions if excess > 0 else ():
        for name in [name for name in version if name not in VERSION_FIELDS]:
            del version[name]
            dropped += 1
    return dropped


def drop_names(record: dict[str, Any], excess: int, most: int) -> int:
    """The same for the names that were withdrawn first, and for these versions on the stack."""
    names = list(record.get("withdrawn", []))
    dropped = 0
    while dropped < len(names) and (excess > 0 or len(names) - dropped > most):
        excess -= size_of(names[dropped]) + 1
        dropped += 1
    if dropped:
        record["withdrawn"], record["stack"] = names[dropped:], without(record, names[:dropped])
    return dropped


def drop_versions(record: dict[str, Any], excess: int) -> int:
    """The same for the versions that rollbacks would come to last."""
    stack = list(record.get("stack", []))
    kept = len(stack)
    while kept and excess > 0:
        kept -= 1
        excess -= size_of(stack[kept]) + 1
    if kept < len(stack):
        record["stack"] = stack[:kept]
    return len(stack) - kept


def size_of(value: Any) -> int:
    """The bytes of a value in a document."""
    return len(encode(value))


def check_manifest(head: dict[str, Any]) -> None:
    """Check that the log has the same manifest under the version's name as this file."""
    own = VERSION["manifest_sha256"]
    for pointer in (head["stable"], head.get("canary"), *head.get("stack", [])):
        if pointer and pointer["version"] == VERSION["version"] and pointer["manifest_sha256"] != own:
            raise Failure(
                "BrokenChain",
                f"{VERSION['version']} in the log of {VERSION['channel']} has another manifest; nothing changed",
                "is this file for this store?",
            )


def check_record(record: dict[str, Any], key: str, generation: int) -> None:
    """Check that a document of the log is a record, as the package checks it, of this channel and of the generation in
    its key. What the package does not read no replica follows, and nothing that is written after it."""
    found = record.get("format")
    if type(found) is not int or found != 1:
        text = f"{key} has format {str(found)[:40]}; this file reads format 1"
        raise Failure("BadManifest", text, "write a new file with the release that wrote it: ulora rollback-script")
    bad = next((name for name, is_right in record_checks().items() if not is_right(record, name)), None)
    if bad:
        raise Failure("BadManifest", f"{key} does not follow the format: {bad}", UNREADABLE)
    if (record["model"], record["channel"], record["generation"]) != (VERSION["model"], VERSION["channel"], generation):
        raise Failure("BrokenChain", f"{key} has another record, not this one of {VERSION['channel']}", UNREADABLE)


def record_checks() -> dict[str, Callable[[dict[str, Any], str], bool]]:
    """For each field of a record whether its value is right."""

    def given(test: Callable[[Any], bool]) -> Callable[[dict[str, Any], str], bool]:
        return lambda record, name: name in record and test(record[name])

    def optional(test: Callable[[Any], bool]) -> Callable[[dict[str, Any], str], bool]:
        return lambda record, name: name not in record or test(record[name])

    return {
        "min_writer": optional(lambda value: type(value) is int and value >= 1),
        "model": given(lambda value: is_string(value, 100)),
        "channel": given(lambda value: is_string(value, 64)),
        "generation": given(is_generation),
        "action": given(lambda value: is_match(value, ACTION)),
        "stable": given(lambda value: value is None or is_pointer(value)),
        "canary": optional(lambda value: value is None or (is_pointer(value) and is_weight(value.get("weight")))),
        "stack": optional(lambda value: is_list(value, MAX_STACK) and all(map(is_pointer, value))),
        "withdrawn": optional(lambda value: is_list(value, MAX_WITHDRAWN) and all(isinstance(e, str) for e in value)),
        "verdict": optional(lambda value: value is None or is_sha256(value)),
        "trial": optional(lambda value: value is None or is_trial(value)),
        "decision": optional(lambda value: value is None or is_sha256(value)),
        "reason": optional(lambda value: is_string(value, MAX_REASON)),
        "who": given(lambda value: is_string(value, MAX_WHO)),
        "who_verified": optional(lambda value: type(value) is bool),
        "when": given(lambda value: is_string(value, MAX_WHEN)),
        "nonce": given(lambda value: is_string(value, 64, least=16)),
        "previous": optional(lambda value: value is None or is_sha256(value)),
    }


def is_string(value: Any, most: int, least: int = 0) -> bool:
    """Whether a value is text of so many characters."""
    return isinstance(value, str) and least <= len(value) <= most


def is_list(value: Any, most: int) -> bool:
    """Whether a value is a list that is not too long."""
    return isinstance(value, list) and len(value) <= most


def is_sha256(value: Any) -> bool:
    """Whether a value is a sha256 in hex."""
    return is_match(value, SHA256)


def is_match(value: Any, pattern: re.Pattern[str]) -> bool:
    """Whether a value is text of this form."""
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def is_generation(value: Any) -> bool:
    """Whether a value is the number of a record."""
    return type(value) is int and 1 <= value < NEWEST_FIRST


def is_trial(value: Any) -> bool:
    """Whether a value is the trial of a canary."""
    if not isinstance(value, dict):
        return False
    plan, percent = value.get("plan"), value.get("shadow_percent")
    return (
        is_match(value.get("id"), TRIAL_ID)
        and is_match(value.get("kind"), KIND)
        and is_string(value.get("salt"), MAX_SALT, least=1)
        and is_generation(value.get("started_generation"))
        and (plan is None or is_string(plan, MAX_PLAN))
        and (percent is None or (is_weight(percent) and percent > 0))
    )


def is_weight(value: Any) -> bool:
    """Whether a value is a share in percent."""
    return type(value) in (int, float) and 0 <= value <= 100


def is_pointer(value: Any) -> bool:
    """Whether a value is a version and the sha256 of its manifest."""
    named = isinstance(value, dict) and is_string(value.get("version"), MAX_NAME)
    return named and is_sha256(value.get("manifest_sha256"))


# --- canonical JSON, as in the package's registry.formats.canonical ---------------------------------------------------


def encode(document: Any) -> bytes:
    """The canonical bytes of a JSON document."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def decode(data: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object strictly: no duplicate key, no NaN, no number that is too large."""

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
        json.dumps(document, ensure_ascii=False).encode("utf-8")  # half a character is no text
    except (ValueError, RecursionError) as error:
        raise Failure("BadManifest", f"{what} is not valid JSON: {error}", UNREADABLE) from error
    if not isinstance(document, dict):
        raise Failure("BadManifest", f"{what} is not a JSON object", UNREADABLE)
    if is_deeper(document, MAX_DEPTH):
        raise Failure("BadManifest", f"{what} is nested more than {MAX_DEPTH} levels deep", UNREADABLE)
    return document


def is_deeper(document: Any, levels: int) -> bool:
    """Whether more than so many objects and lists are in each other, the outermost included."""
    inner = [document]
    for _ in range(levels):
        outer, inner = inner, []
        for each in outer:
            values = each.values() if isinstance(each, dict) else each
            inner += [value for value in values if isinstance(value, (dict, list))]
        if not inner:
            return False
    return True


def is_document(data: bytes) -> bool:
    """Whether bytes are a document as the store has them: canonical, with the number of its format."""
    try:
        found = decode(data, "a document")
        return type(found.get("format")) is int and encode(found) == data
    except (Failure, ValueError):
        return False


def is_text(text: str) -> bool:
    """Whether a string can be encoded as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


# --- the store -------------------------------------------------------------------------------------------------------


def record_key(generation: int) -> str:
    """The key of a record of the channel."""
    return f"{log_prefix()}{NEWEST_FIRST - generation:013d}.json"


def log_prefix() -> str:
    """The prefix of the channel's log."""
    return f"models/{VERSION['model']}/channels/{VERSION['channel']}/"


def forgotten_key() -> str:
    """The key of the note that allows garbage collection to delete the version's files."""
    return f"models/{VERSION['model']}/forgotten/{VERSION['version']}.json"


def blob_key(sha256: str) -> str:
    """The key of a blob."""
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def within(seconds: float, act: Callable[[], Result]) -> Result:
    """The result of `act`, called in another thread; TimeoutError after so many seconds, though it may go on."""
    results: list[Result] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(act())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(max(0.0, seconds))
    if thread.is_alive():
        raise TimeoutError(f"not done after {max(0.0, seconds):.3g} s")
    if failures:
        raise failures[0]
    return results[0]


class Store:
    """The objects below the store's prefix."""

    def __init__(self) -> None:
        # An endpoint in the environment is newer than the one in this file.
        self.endpoint = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), STORE["endpoint"])
        self.place = f"s3://{STORE['bucket']}/{STORE['prefix']}" + (f" at {self.endpoint}" if self.endpoint else "")
        self.ends = time.monotonic() + COMMAND
        self.known = ""
        """What is known of a record that was sent; empty before."""
        with self.errors("client"):
            check_credentials()
            try:
                self.reads, self.writes = within(OPENING, self.open)
            except TimeoutError as error:
                hint = "does a credential_process, AWS SSO or a metadata service hang? `aws sts get-caller-identity`"
                text = f"credentials for {self.place} were not found within {OPENING:g} s"
                raise OutcomeUnclear(text, hint, was_sent=False) from error
            except (Failure, faults.ClientError, faults.BotoCoreError, OSError, ValueError):
                raise
            except Exception as error:  # what a damaged configuration may cause
                raise ValueError(f"{type(error).__name__}: {first_line(error)}") from error

    def open(self) -> tuple[Any, Any]:
        """Clients for reads and for writes."""
        session = boto3.session.Session()
        self.source = getattr(session.get_credentials(), "method", "nowhere")

        def client(attempts: int) -> Any:
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
            return session.client("s3", endpoint_url=self.endpoint, config=config, region_name=region)

        # boto3 must not repeat a write: after a lost reply it would report a successful write as refused.
        return client(3), client(1)

    def call(self, key: str, act: Callable[[], Result], seconds: float = 0.0) -> Result:
        """Send one small request and read the whole answer, in time, even if it arrives byte by byte."""
        with self.errors(key):
            return within(min(seconds or CALL, self.ends - time.monotonic()), act)

    def newest(self) -> tuple[dict[str, Any] | None, str]:
        """The channel's newest record and the sha256 of its bytes, whatever the listing shows; None if the log is
        empty."""
        place = self.at(log_prefix(), name="Prefix")
        place["StartAfter"] = place["Prefix"]  # an object that stands for the folder is skipped: consoles make them
        names = self.names(place, 1)
        if names and not RECORD.fullmatch(names[0]):
            names = self.names(place, 1000)  # junk, e.g. of a program that syncs folders: it may stop no rollback
        if not names:
            return self.newest_by_name()
        found = next((match for match in map(RECORD.fullmatch, names) if match), None)
        if found is None:
            raise Failure("BrokenChain", f"{names[0]!r} is not the key of a record: the log has another object")
        return self.newest_from(NEWEST_FIRST - int(found[1]))

    def names(self, place: dict[str, str], most: int) -> list[str]:
        """The names of the first objects in the channel's log."""
        return [str(entry["Key"])[len(place["Prefix"]) :] for entry in self.entries(place, most, log_prefix())]

    def entries(self, place: dict[str, str], most: int, what: str) -> list[dict[str, Any]]:
        """The first entries of a listing."""
        page = self.call(what, lambda: self.reads.list_objects_v2(**place, MaxKeys=most))
        self.check_reply(page, "IsTruncated", what)
        if (page.get("Name"), page.get("Prefix") or "") != (STORE["bucket"], place["Prefix"]):
            raise OutcomeUnclear(f"what {self.place} answered for {what} is a listing of something else", IN_FRONT)
        if page["IsTruncated"] and not page.get("Contents"):
            raise OutcomeUnclear(f"{self.place} answered a page without keys, though there are more")
        found: list[dict[str, Any]] = page.get("Contents", [])
        if not all("Size" in entry for entry in found):
            raise OutcomeUnclear(f"what {self.place} answered for {what} is a listing without sizes", IN_FRONT)
        return found

    def listed_size(self, key: str) -> int | None:
        """The size of an object by the store's listing, None if there is none."""
        place = self.at(key, name="Prefix")
        sizes = (int(entry["Size"]) for entry in self.entries(place, 1, key) if entry["Key"] == place["Prefix"])
        return next(sizes, None)

    def check_reply(self, reply: dict[str, Any], field: str, key: str) -> None:
        """Check that a success says what S3 always says: a proxy or a login page may answer 200 to everything."""
        is_page = self.is_page(reply) and not self.is_object(reply)
        is_other = is_page or reply.get("ResponseMetadata", {}).get("HTTPStatusCode") != 200
        if str(reply.get(field, WEAK)).startswith(WEAK) or is_other:
            text = f"what {self.place} answered for {key} is not an answer of S3: it lacks {field}"
            raise OutcomeUnclear(text, IN_FRONT)

    def is_page(self, reply: dict[str, Any]) -> bool:
        """Whether a reply says that it is a web page."""
        kind = str(reply.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("content-type", ""))
        return kind.partition(";")[0].strip().lower() in PAGES

    def is_object(self, reply: dict[str, Any]) -> bool:
        """Whether a reply is S3's own for an object, which has the media type that its writer chose."""
        headers = reply.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return "LastModified" in reply and "x-amz-request-id" in headers

    def newest_by_name(self) -> tuple[dict[str, Any] | None, str]:
        """The same where nothing is listed, as in an empty log, or one that is younger than the listing."""
        try:
            return self.newest_from(1)
        except Failure as failure:
            if failure.error != "ObjectNotFound":
                raise
            return None, ""

    def newest_from(self, generation: int) -> tuple[dict[str, Any], str]:
        """The same, found by name from a generation that exists: a listing may be out of date."""
        found = self.record(generation)
        while True:
            try:
                found = self.record(found[0]["generation"] + 1)
            except Failure as failure:
                if failure.error != "ObjectNotFound":
                    raise
                return found

    def record(self, generation: int) -> tuple[dict[str, Any], str]:
        """One record of the channel and the sha256 of its bytes."""
        key = record_key(generation)
        body = self.get(self.reads, key, CALL)
        record = decode(body, key)
        check_record(record, key, generation)
        return record, hashlib.sha256(body).hexdigest()

    def blob_state(self, sha256: str, size: int) -> str:
        """The state of a blob: `ok`, `missing`, `corrupt`, or `unproven` if the server has no checksum.

        The reply to a HEAD has no body to know S3 by: a problem counts only if a listing says the same.
        """
        key = blob_key(sha256)
        described, found = self.described(key)
        if described == size and found in (sha256, None):
            return "ok" if found else "unproven"
        listed = self.listed_size(key)
        if listed != described:
            sizes = ["no object" if each is None else f"an object of {each} bytes" for each in (described, listed)]
            raise OutcomeUnclear(
                f"the store {self.place} describes {key} as {sizes[0]}, and lists {sizes[1]}", IN_FRONT
            )
        return "missing" if described is None else "corrupt"

    def described(self, key: str) -> tuple[int | None, str | None]:
        """The size and the sha256 of an object by HEAD; None for what the server does not say, or has not."""
        try:
            reply = self.call(key, lambda: self.reads.head_object(**self.at(key), ChecksumMode="ENABLED"))
        except Failure as failure:
            if failure.error == "ObjectNotFound":
                return None, None
            raise
        self.check_reply(reply, "ETag", key)
        checksum = reply.get("ChecksumSHA256", "")
        try:
            found = base64.b64decode(checksum).hex() if checksum and "-" not in checksum else None
        except ValueError as error:
            raise OutcomeUnclear(f"what {self.place} says is the checksum of {key} is none", IN_FRONT) from error
        return reply.get("ContentLength"), found or reply.get("Metadata", {}).get("sha256")

    def has(self, key: str) -> bool:
        """Whether an object exists."""
        return self.listed_size(key) is not None

    def create(self, key: str, body: bytes) -> None:
        """Create an object; Taken if it exists with other bytes.

        A reply can be lost after the server applied the write. So after an unclear answer the key is read: with these
        bytes, the write succeeded; with others, another writer was first; without an object, it is sent again.
        """
        give_up = min(time.monotonic() + DEADLINE, self.ends)
        pause, is_undecided, answer = 0.05, False, ""
        request = {
            **self.at(key), "Body": body, "IfNoneMatch": "*", "ContentType": "application/json",
            "ChecksumSHA256": base64.b64encode(hashlib.sha256(body).digest()).decode(), **STORE["encryption"],
        }  # fmt: skip
        while True:
            try:
                left = give_up - time.monotonic()
                reply = self.call(key, lambda: self.writes.put_object(**request), min(ATTEMPT, left))
                self.check_reply(reply, "ETag", key)
                if reply["ResponseMetadata"].get("HTTPHeaders", {}).get("content-length") == "0":
                    return
                raise OutcomeUnclear(f"what {self.place} answered for {key} is not an answer of S3: it may have a body")
            except Failure as failure:
                # After one unclear answer no later one is clear: only the key itself can tell.
                refusal = None if is_undecided or may_be_applied(failure) else failure
                if isinstance(refusal, OutcomeUnclear):  # it was not sent
                    raise
                answer = str(failure) if time.monotonic() < give_up or not answer else answer
            found = self.read_back(key, give_up - time.monotonic())
            if found == body:
                return  # something in front of the store may even refuse what it has passed on
            if refusal and (refusal.is_clear or found is not None):
                raise refusal
            if found:
                raise Taken(key)
            is_undecided = True
            if time.monotonic() > give_up:
                raise Failure(
                    "OutcomeUnknown",
                    f"a write of {key} was sent, but the store did not say whether it was applied; at last: {answer}",
                    "run the same command again: it is safe",
                )
            time.sleep(max(0.0, min(pause, give_up - time.monotonic())))
            pause = min(2 * pause, 1.0)

    def read_back(self, key: str, left: float) -> bytes | None:
        """The bytes at a key after an unclear write, empty if there are none; None if the store does not say."""
        try:
            found = self.get(self.writes, key, min(ATTEMPT, left))
        except Failure as failure:  # also one that says that it is too large to be ours
            return b"" if failure.error == "ObjectNotFound" else None
        return found if is_document(found) else None  # a page in the place of the store is none

    def get(self, client: Any, key: str, seconds: float) -> bytes:
        """A small object's bytes."""

        def read() -> bytes:
            reply = client.get_object(**self.at(key))
            with closing(reply["Body"]) as body:
                self.check_reply(reply, "ETag", key)
                size = reply.get("ContentLength")
                if size is None:
                    raise OutcomeUnclear(f"what {self.place} answered for {key} does not say its length")
                if size > MAX_RECORD:
                    raise Failure("BadManifest", f"{key} is {size} bytes, more than {MAX_RECORD}", UNREADABLE)
                return bytes(body.read())

        return self.call(key, read, seconds)

    def chunks(self, key: str) -> Iterator[bytes]:
        """An object's bytes, in chunks."""
        with self.errors(key):
            body = within(STALL, lambda: self.reads.get_object(**self.at(key)))["Body"]
            while chunk := within(STALL, lambda: body.read(CHUNK)):
                yield chunk
            body.close()

    def at(self, key: str, *, name: str = "Key") -> dict[str, str]:
        """The arguments of boto3 for a key."""
        prefix = f"{STORE['prefix']}/" if STORE["prefix"] else ""
        return {"Bucket": STORE["bucket"], name: prefix + key}

    @contextmanager
    def errors(self, key: str) -> Iterator[None]:
        """Convert boto3's errors to `Failure`; those after which a write may be applied to `OutcomeUnclear`."""
        try:
            yield
        except faults.ClientError as error:
            raise self.from_reply(error, key) from error
        except (*NO_CREDENTIALS, json.JSONDecodeError, UnicodeDecodeError) as error:
            hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            failure = Failure("StoreDenied", f"no credentials for {self.place}: {first_line(error)}", hint)
            failure.is_clear = isinstance(error, NO_CREDENTIALS)
            raise failure from error
        except (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError) as error:
            raise Failure("BadSetting", f"the store {self.place} can't be used: {error}", SETTINGS) from error
        except (
            faults.HTTPClientError, faults.ConnectionError, faults.IncompleteReadError, HTTPError, OSError
        ) as error:  # fmt: skip
            never = (faults.EndpointConnectionError, faults.ConnectTimeoutError)
            text = f"the store {self.place} does not answer: {first_line(error)}"
            hint = "is the server up, and is its address right? (ULORA_S3_ENDPOINT or AWS_ENDPOINT_URL)"
            if "Invalid header value" in text:
                text = f"the store {self.place} can't be asked: a header of the request has a line break in it"
                raise Failure("BadSetting", text, "do the AWS credentials have one?") from error
            if isinstance(error, faults.SSLError):
                hint = f"are the certificates right? AWS_CA_BUNDLE is {os.environ.get('AWS_CA_BUNDLE', 'not set')}"
            raise OutcomeUnclear(text, hint, was_sent=not isinstance(error, never)) from error
        except (ResponseParserError, KeyError) as error:  # KeyError: a listing without keys, for boto3
            text = f"what {self.place} answered for {key} is not an answer of S3: {first_line(error)}"
            raise OutcomeUnclear(text, IN_FRONT) from error
        except RecursionError as error:  # boto3 asks for the region, and is redirected again, without end
            failure = self.redirected("another address")
            failure.is_clear = False
            raise failure from error
        except (faults.BotoCoreError, ValueError) as error:
            failure = Failure("BadSetting", f"the store {self.place} can't be used: {first_line(error)}", SETTINGS)
            failure.is_clear = False  # it may be about a reply
            raise failure from error

    def redirected(self, detail: str) -> Failure:
        """The failure for a store that sends its callers elsewhere."""
        hint = "set the endpoint that serves this bucket (ULORA_S3_ENDPOINT; https instead of http?), or AWS_REGION"
        return Failure("BadSetting", f"the store {self.place} redirects ({detail})", hint)

    def from_reply(self, error: Any, key: str) -> Failure:
        """The failure for an error reply of the server. S3's own have a code in words."""
        code = str(error.response.get("Error", {}).get("Code", ""))
        failure = self.from_code(error, code, key)
        failure.is_clear = CODE.fullmatch(code) is not None
        return failure

    def from_code(self, error: Any, code: str, key: str) -> Failure:
        """The failure for a code of S3, or the status of an answer without one."""
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        here, there = datetime.now(timezone.utc), server_time(error.response)
        refused = f"{self.place} refuses access to {key}"
        if code in TRANSIENT:
            return OutcomeUnclear(f"the store {self.place} answered {status} {code} for {key}")
        is_bare = code == "404" and error.operation_name == "HeadObject"  # whose replies have no body
        if (code in MISSING or is_bare) and not self.is_page(error.response):
            return Failure("ObjectNotFound", f"{key} is not in {self.place}")
        if status == 404:
            return OutcomeUnclear(f"what {self.place} answered for {key} is not an answer of S3 ({status})", IN_FRONT)
        is_wrong = there is not None and abs((here - there).total_seconds()) > MAX_SKEW
        if code == SKEWED or (status in (401, 403) and is_wrong):
            says = "the clocks differ" if is_wrong else f"it says that the clocks differ ({code})"
            text = f"{refused}: {says}; here it is {here:%F %T %Z}, at the server {there or 'another time'}"
            return Failure("StoreDenied", text, "set the clock of this machine (or of the server)")
        if code in EXPIRED:
            text = f"{refused}: the temporary credentials (found by boto3 in: {self.source}) have expired ({code})"
            return Failure("StoreDenied", text, "get new ones, for example by `aws sso login`")
        if code in KEPT_AWAY and error.operation_name == "GetObject":
            return Failure("BadManifest", f"{key} can't be read as it was stored ({status} {code})", UNREADABLE)
        if code in DENIED or status in (401, 403):
            return Failure("StoreDenied", f"{refused} ({code})", "check the AWS credentials in use")
        if 300 <= status < 400:
            return self.redirected(f"{status} {code}")
        if status == 501:
            return Failure("StoreUnfit", f"the store {self.place} has no conditional writes ({status} {code})")
        text = f"the store {self.place} answered {status} {code} for {key}"
        if code in LOST or status >= 500 or status in (408, 409, 412, 429):
            return OutcomeUnclear(text)
        return Failure("Failed", f"{text}: {first_line(error)}")


def check_credentials() -> None:
    """Check that the credentials in the environment can be sent; the error does not show them."""
    for name in SENT if os.environ.get(SENT[0]) else ():
        value = os.environ.get(name, "")
        if CONTROL.search(value) or not is_text(value):
            problem = "ends with a line break" if value.endswith(("\n", "\r")) else "has characters in it"
            text = f"{name} {problem} that can't be sent in an HTTP header"
            raise Failure("BadSetting", text, "was it made from a file? `printf %s` writes no line break at the end")


def may_be_applied(failure: Failure) -> bool:
    """Whether a write may be applied after this answer; some servers answer 404 for a condition on nothing."""
    return failure.error == "ObjectNotFound" or (isinstance(failure, OutcomeUnclear) and failure.was_sent)


def server_time(reply: dict[str, Any]) -> datetime | None:
    """The clock of the server, by an error reply; None if it does not say."""
    with suppress(TypeError, ValueError):
        return parsedate_to_datetime(reply["ResponseMetadata"]["HTTPHeaders"].get("date"))
    return None


# --- the version's files on disk -------------------------------------------------------------------------------------


def restore(store: Store, options: argparse.Namespace) -> dict[str, Any]:
    """Write the version's files, verified, into a temporary folder, then rename it to the new folder."""
    target = new_folder(Path(options.restore))
    answer = {"version": VERSION["version"], "folder": str(target), "files": len(FILES)}
    if options.dry_run:
        check_files(store, options)
        return {**answer, "sentence": f"would write {len(FILES)} files of {VERSION['version']} into {target}"}
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        temporary.mkdir(parents=True, mode=0o755)
        with ThreadPoolExecutor(WORKERS) as pool:
            for _ in pool.map(lambda file: write(store, temporary, file), FILES):
                pass
        temporary.rename(target)
    except OSError as error:
        raise Failure("DiskFull" if error.errno in FULL else "Failed", f"{target} can't be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {**answer, "sentence": f"{len(FILES)} files of {VERSION['version']} are in {target}"}


def new_folder(path: Path) -> Path:
    """The absolute path of the new folder, after checking that it is free and no part of it is a link."""
    target = path.absolute()
    link = next((path for path in (target, *target.parents) if path.is_symlink()), None)
    if link:
        raise Failure("UnsafePath", f"{link} is a symbolic link; nothing was written", "give the real folder")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise Failure("BadInput", f"{target} already exists; nothing was written", "give a new folder")
    return target


def write(store: Store, folder: Path, file: tuple[str, int, str, str]) -> None:
    """Download and write one file; Failure if its bytes have another sha256."""
    path, size, mode, sha256 = file
    place = folder / check_path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as out:
        if download(store, sha256, size, out) != (size, sha256):
            raise Failure("CorruptBlob", f"{path} has the wrong sha256; nothing was written")
    place.chmod(int(mode, 8))


def download(store: Store, sha256: str, size: int, out: BinaryIO) -> tuple[int, str]:
    """Write a blob's bytes; return their number and sha256. Tried again if the connection breaks."""
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
        except OutcomeUnclear:
            if not tries_left:
                raise
    return written, digest.hexdigest()


def check_path(path: str) -> str:
    """A file's path in the folder; a snapshot's `project/x` is `x` there."""
    inner = path[len("project/") :] if VERSION["flavor"] == "files" and path.startswith("project/") else path
    parts = inner.split("/")
    if any(part in ("", ".", "..", ".git") or "\\" in part for part in parts):
        raise Failure("UnsafePath", f"{path!r} is outside of the folder; nothing was written")
    return inner


# --- output ----------------------------------------------------------------------------------------------------------


def answer_document(record: dict[str, Any], before: dict[str, Any], action: str, sentence: str) -> dict[str, Any]:
    """The answer as one JSON document, with `changed` False."""
    left = None if action == "none" else live(before)[-1] if action == "abort" else stable_of(before)
    return {
        "model": VERSION["model"], "channel": VERSION["channel"], "action": action, "changed": False,
        "version": stable_of(record), "previous": left,
        "generation": record["generation"], "who": record["who"], "when": record["when"],
        "reason": record.get("reason", ""), "sentence": sentence, "broken_chain": "", "left_out": [],
    }  # fmt: skip


def stable_of(record: dict[str, Any]) -> str:
    """The stable version; empty if there is none."""
    return str(record["stable"]["version"]) if record["stable"] else ""


def who() -> str:
    """Who acts, for the record; a claim without proof. No value in the environment may prevent a rollback."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid{os.getuid()}"
    name = os.environ.get("ULORA_WHO") or f"{user}@{socket.gethostname()}"
    return name.encode("utf-8", "replace").decode("utf-8")[:MAX_WHO]


def print_line(options: argparse.Namespace, text: str, name: str = "stdout") -> None:
    """Print a line for people; with --yes at the end."""
    if not options.json:
        LATER.append((name, printable(text)))
    if not options.yes:
        print_later()


def print_later() -> None:
    """Print what was kept for the end."""
    while LATER:
        emit(*LATER.pop(0))


def emit(name: str, text: str, end: str = "\n") -> None:
    """Print on `stdout` or `stderr`. If that fails, what happens and the exit status are the same."""
    stream = getattr(sys, name)
    if stream is None:  # closed before the start
        return
    try:
        encoding = getattr(stream, "encoding", None) or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding), end=end, file=stream, flush=True)
    except (OSError, ValueError):
        with suppress(Exception):  # what is left in its buffer must not fail at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def printable(text: str) -> str:
    """A text on one line without control characters: other people wrote parts of it."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.splitlines()))


def print_error(as_json: bool, error: str, message: str, hint: str) -> None:
    """Print an error to standard error."""
    print_later()
    if as_json:
        emit("stderr", json.dumps({"error": error, "message": message, "hint": hint}, ensure_ascii=False))
    else:
        emit("stderr", f"error: {printable(message)}" + (f"\nhint: {printable(hint)}" if hint else ""))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the value of a header that was refused."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return HEADER.sub(r"\1 (not shown)", line)[:300]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # at its end the interpreter would die of it, with another status
