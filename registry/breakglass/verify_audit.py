#!/usr/bin/env python3
"""Verify an archive that `ulora audit` made. It needs Python 3.9 or newer, and nothing else.

    python3 -I verify.py ARCHIVE.zip [--key PUBLIC.pem ...]

It reads the archive only: it extracts nothing, writes nothing and asks no server. Take this file from where you trust
it, such as the release of ulora-registry: whoever can change an archive can change the copy in it, too.

Exit status: 0 everything was checked and is right; 1 something is wrong; 2 usage, or the archive can't be read;
3 nothing wrong was found, but something could not be checked.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import stat
import sys
import zipfile
import zlib
from typing import Any

MAX_FILES, MAX_DOCUMENT, MAX_INDEX, MAX_TOTAL = 500_000, 16 * 1024 * 1024, 128 * 1024 * 1024, 2**40
SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@-]*(/[A-Za-z0-9_][A-Za-z0-9._+@-]*)*")
OWN_NAME = re.compile(
    r"store/(?:blobs/sha256|models/[^/]+/(?:evidence|outcomes|approvals|ticks|verdicts|policies|decisions|signatures))"
    r"/(?:[^/]+/)?([0-9a-f]{64})(?:\.json|\.jsonl\.gz)?"
)
"""What is stored under its own digest."""
LOOSE = ("evidence", "outcomes", "approvals", "ticks", "passed", "signatures", "forgotten")
"""What belongs to a version without anything that must name it."""
CONTENT = ("model", "flavor", "backbone", "components", "files")
Point = tuple[int, int]
Curve = tuple[int, int, int, Point, str]
Key = tuple[Curve, Point, str]
CURVES: dict[str, Curve] = {  # by their identifiers in DER (RFC 5480): p, b, n, the generator, and the hash
    "06082a8648ce3d030107": (
        2**256 - 2**224 + 2**192 + 2**96 - 1, 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
        0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
        (0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
         0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5), "sha256"),
    "06052b81040022": (
        2**384 - 2**128 - 2**96 + 2**32 - 1,
        0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
        (0xAA87CA22BE8B05378EB1C71EF320AD746E1D3B628BA79B9859F741E082542A385502F25DBF55296C3A545E3872760AB7,
         0x3617DE4A96262C6F5D9E98BF9292DC29F8F41DBD289A147CE9DA3113B5F0B8C00A60B1CE1D7E819D7A431D7C90EA0E5F), "sha384"),
    "06052b81040023": (
        2**521 - 1,
        int("0051953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109e156193951ec7e937b1652c0bd3bb1bf07"
            "3573df883d2c34f1ef451fd46b503f00", 16),
        int("01" + 64 * "f" + "fa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409", 16),
        (int("00c6858e06b70404e9cd9e3ecb662395b4429c648139053fb521f828af606b4d3dbaa14b5e77efe75928fe1dc127a2ffa8de"
             "3348b3c1856a429bf97e7e31c2e5bd66", 16),
         int("011839296a789a3bc0045c8a5fb42c7d1bd998f54449579b446817afbd17273e662c97ee72995ef42640c550b9013fad0761"
             "353c7086a272c24088be94769fd16650", 16)), "sha512"),
}  # fmt: skip


class AuditArchive:
    """The files of an archive, read one by one and never extracted; and what was found."""

    def __init__(self, path: str) -> None:
        self.zip = zipfile.ZipFile(path)
        self.files: dict[str, zipfile.ZipInfo] = {}
        self.wrong: list[str] = []
        self.unknown: list[str] = []
        self.named: set[str] = set()
        self.loose, self.read, self.is_odd = "everything", "index.json", False
        entries = self.zip.infolist()
        if not is_only_files(self.zip):
            raise ValueError("it has other bytes than those of its files")
        if len(entries) > MAX_FILES or sum(max(0, each.file_size) for each in entries) > MAX_TOTAL:
            raise ValueError("it is larger than this script reads")
        for each in entries:
            kind = stat.S_IFMT(each.external_attr >> 16)
            is_plain = kind in (0, stat.S_IFREG) and each.compress_type in (0, 8) and not each.flag_bits & 1
            if not is_plain or not SAFE.fullmatch(each.filename):
                raise ValueError(f"{each.filename[:200]!r} is not a plain file with a safe name")
            if each.filename in self.files:
                raise ValueError(f"{each.filename[:200]!r} is there twice")
            self.files[each.filename] = each
        self.index = self.json("index.json")
        if self.index.get("format", 1) != 1:
            raise ValueError("it is of a format that a newer script reads")

    def digest(self, path: str) -> str:
        found = hashlib.sha256()
        with self.zip.open(self.files[path]) as file:
            for piece in iter(lambda: file.read(1 << 20), b""):
                found.update(piece)
        return found.hexdigest()

    def sha256(self) -> str:
        """Of the archive itself."""
        found = hashlib.sha256()
        with open(str(self.zip.filename), "rb") as file:
            for piece in iter(lambda: file.read(1 << 20), b""):
                found.update(piece)
        return found.hexdigest()

    def body(self, path: str) -> bytes:
        most = MAX_INDEX if path == "index.json" else MAX_DOCUMENT
        with self.zip.open(self.files[path]) as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise ValueError(f"{path} is larger than a document may be")
        return data

    def json(self, path: str) -> dict[str, Any]:
        self.read = path
        found = json.loads(self.body(path))
        if not isinstance(found, dict):
            raise ValueError(f"{path} is not a JSON object")
        return found

    def names(self, kind: str) -> list[str]:
        """The JSON documents of a kind."""
        return [path for path in sorted(self.files) if path.startswith(self.folder(kind)) and path.endswith(".json")]

    def folder(self, kind: str) -> str:
        """Where documents of a kind are."""
        return f"store/models/{self.index['model']}/{kind}/"

    def need(self, path: str, by: str) -> bool:
        """Whether a file that something names is there; else it must be among those that are said to be missing."""
        self.named.add(path)
        if path in self.files:
            return True
        why = self.index["missing"].get(path.partition("store/")[2])
        if why is None:
            self.wrong.append(f"{by} names {path}, which is not here")
        return False  # else it is told already

    def expect(self, holds: object, said: str) -> None:
        if not holds:
            self.wrong.append(said)


def canonical(document: Any) -> bytes:
    """A document as canonical JSON: sorted keys, no spaces, UTF-8."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256(data: bytes) -> str:
    """The digest in hex."""
    return hashlib.sha256(data).hexdigest()


def is_only_files(opened: zipfile.ZipFile) -> bool:
    """Whether nothing is before, between or behind the files of an archive, as in those that `ulora audit` writes."""
    place, listed, file = 0, 0, opened.fp
    for each in sorted(opened.infolist(), key=lambda each: each.header_offset):
        if file is None or each.header_offset != place or each.comment or each.flag_bits & 8 or len(each.extra) > 28:
            return False
        file.seek(place + 26)
        name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
        place += 30 + name + extra + each.compress_size
        listed += 46 + name + len(each.extra)
        if extra > 20:
            return False
    size = file.seek(0, 2) if file else 0
    return not opened.comment and opened.start_dir == place and size - place - listed in (22, 98)  # 98: of a large one


def check_files(archive: AuditArchive) -> str:
    """The index is whole, and every file is the one that it lists."""
    index = archive.index
    kept = {name: value for name, value in index.items() if name != "sha256"}
    archive.expect(index.get("sha256") == sha256(canonical(kept)), "index.json is not what was written")
    archive.expect(archive.body("index.json") == canonical(index), "index.json has other bytes than were written")
    archive.expect(
        set(index["files"]) | {"index.json"} == set(archive.files), "other files are here than the index lists"
    )
    for path in sorted(set(index["files"]) & set(archive.files)):
        try:
            is_same = archive.digest(path) == index["files"][path]["sha256"]
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            is_same = False
            archive.wrong.append(f"{path} can't be read: {error}")
        archive.expect(is_same, f"{path} does not have the digest that the index lists")
    archive.unknown += [f"{key} is not here: {why}" for key, why in sorted(index["missing"].items())]
    return f"{len(index['files'])} files have the digests that the index lists"


def check_names(archive: AuditArchive) -> str:
    """What is stored under its own digest has that digest; documents are canonical JSON."""
    checked = 0
    for path in sorted(archive.files):
        found = OWN_NAME.fullmatch(path)
        if found:
            checked += 1
            archive.expect(archive.digest(path) == found[1], f"{path} does not hash to its name")
        if path.endswith(".json") and path.startswith("store/models/") and "/signatures/" not in path:
            archive.expect(archive.body(path) == canonical(archive.json(path)), f"{path} is not canonical JSON")
    return f"{checked} documents hash to their names"


def check_versions(archive: AuditArchive) -> str:
    """Each name is bound to a manifest that is here, and whose content digest is right."""
    for path in archive.names("versions"):
        bound = archive.json(path)
        name, blob = path.rpartition("/")[2][:-5], bound["manifest_sha256"]
        archive.expect(
            (bound["model"], bound["version"]) == (archive.index["model"], name), f"{path} binds another name"
        )
        if archive.need(blob_path(blob), path):
            manifest = archive.json(blob_path(blob))
            archive.named.update(blob_path(file["sha256"]) for file in manifest["files"])
            content = sha256(canonical({field: manifest[field] for field in CONTENT}))
            said = (manifest["version"], manifest["content_sha256"], bound["content_sha256"])
            same = said == (name, content, content)
            archive.expect(same, f"the manifest of {name} has the content {content[:12]}, which is not what it says")
    return f"{len(archive.names('versions'))} versions have the content that their names are bound to"


def blob_path(digest: str) -> str:
    """Where bytes are that are stored under their own digest."""
    return f"store/blobs/sha256/{digest[:2]}/{digest}"


def check_channels(archive: AuditArchive) -> str:
    """Each record names the one before it by its digest; generations have no gaps; what a record rests on is here."""
    said = []
    for channel, span in sorted(archive.index["channels"].items()):
        before, copied, most = None, None, len(archive.files) + len(archive.index["missing"])
        if not 0 < span["first"] <= span["last"] <= span["first"] + most:
            archive.wrong.append(f"the log of {channel} is said to have none, or more records than there are files")
            continue
        for generation in range(span["first"], span["last"] + 1):
            path = f"{archive.folder('channels')}{channel}/{10**12 - generation:013d}.json"
            if not archive.need(path, f"the log of {channel}"):
                before = copied = None
                continue
            record, digest = archive.json(path), archive.digest(path)
            place = (record["model"], record["channel"], record["generation"])
            archive.expect(place == (archive.index["model"], channel, generation), f"{path} is another record")
            archive.expect(before in (None, record.get("previous")), f"{path} does not follow the record before it")
            archive.expect(generation > 1 or record.get("previous") is None, f"{path} is not the beginning of a log")
            check_record(archive, path, record)
            if record.get("decision") != copied:  # releases that know no decisions copy it on
                check_decision(archive, path, record, is_first=before is None)
            before, copied = digest, record.get("decision")
        said.append(f"{channel} {span['first']} to {span['last']}, newest record {before or 'not here'}")
    return f"all records that are here follow each other: {'; '.join(said) or 'there are none'}"


def check_record(archive: AuditArchive, path: str, record: dict[str, Any]) -> None:
    """What a record names: the versions that it serves, and its verdict."""
    for pointer in (record.get("stable"), record.get("canary")):
        if pointer and archive.need(f"{archive.folder('versions')}{pointer['version']}.json", path):
            bound = archive.json(f"{archive.folder('versions')}{pointer['version']}.json")
            same = bound["manifest_sha256"] == pointer["manifest_sha256"]
            archive.expect(same, f"{path} names another manifest of {pointer['version']} than its name is bound to")
    served = record.get("canary") or record.get("stable") or {}
    verdict = f"{archive.folder('verdicts')}{record.get('verdict')}.json"
    trial = record.get("trial") or {}  # of an earlier record, if a release that knows no trials copied it on
    is_trial = record["action"] == "canary" and trial.get("started_generation") == record["generation"]
    is_judged = record["action"] == "promote" or is_trial
    archive.expect(not is_judged or record.get("verdict"), f"{path} names no verdict")
    if record.get("verdict") and archive.need(verdict, path):
        found = archive.json(verdict)
        about = (found["version"], found["channel"])
        archive.expect(about == (served.get("version"), record["channel"]), f"{path} rests on a verdict about {about}")
        archive.expect(found["outcome"] == "pass" or found.get("forced"), f"{path} rests on a verdict that refuses")
        inputs = found.get("inputs") or {"manifest": served.get("manifest_sha256")}
        archive.expect(
            inputs["manifest"] == served.get("manifest_sha256"), f"{path} rests on a verdict about other bytes"
        )


def check_decision(archive: AuditArchive, path: str, record: dict[str, Any], *, is_first: bool) -> None:
    """The decision of the guard that a record rests on is about the record before it."""
    decision = f"{archive.folder('decisions')}{record['channel']}/{record.get('decision')}.json"
    archive.named.add(decision.replace("/decisions/", "/incidents/")[:-5] + ".md")
    if record.get("decision") and archive.need(decision, path):
        facts = archive.json(decision)["facts"]
        was = (facts["channel"], facts["record"]["generation"], facts["record"]["sha256"])
        expected = (record["channel"], record["generation"] - 1, record.get("previous"))
        is_older = is_first and was[0] == expected[0] and 0 < was[1] < expected[1]  # it may have been copied on
        archive.expect(was == expected or is_older, f"{path} rests on a decision about another record")


def check_verdicts(archive: AuditArchive) -> str:
    """Everything that a verdict was made from is here, and is about the same content."""
    for path in archive.names("verdicts"):
        found = archive.json(path)
        inputs, name = found.get("inputs") or {}, found["version"]
        policy = f"{archive.folder('policies')}{found['policy']}.json"
        archive.named.add(policy)
        if inputs:  # earlier releases kept neither them nor the policy
            archive.need(policy, path)
        for kind, field in (("evidence", "evidence"), ("approvals", "approvals")):
            for digest in inputs.get(field, ()):
                each = f"{archive.folder(kind)}{name}/{digest}.json"
                if archive.need(each, path):
                    same = archive.json(each)["content_sha256"] == found["content_sha256"]
                    archive.expect(same, f"{path} rests on {each}, which is about other content")
        for digest in inputs.get("stable_evidence", ()):
            archive.need(f"{archive.folder('evidence')}{found['stable']}/{digest}.json", path)
        for field, channel in (("head", found["channel"]), ("past", "staging"), ("past_head", "staging")):
            record = inputs.get(field) or {"generation": 0}
            each = f"{archive.folder('channels')}{channel}/{10**12 - record['generation']:013d}.json"
            if record["generation"] and archive.need(each, path):
                same = archive.digest(each) == record["sha256"]
                archive.expect(same, f"{path} was made after another record than {each}")
        for each in filter(None, (name, found.get("stable"))):
            archive.need(f"{archive.folder('versions')}{each}.json", path)
        check_content(archive, path, name, found["content_sha256"])
    return f"{len(archive.names('verdicts'))} verdicts rest on what they name"


def check_content(archive: AuditArchive, path: str, name: str, content: str) -> None:
    """What a document is about is the content that the version's name is bound to."""
    bound = f"{archive.folder('versions')}{name}.json"
    if bound in archive.files:
        same = archive.json(bound)["content_sha256"] == content
        archive.expect(same, f"{path} is about other content than {name} is bound to")


def check_evidence(archive: AuditArchive) -> str:
    """The answers for each image that evidence names are here."""
    for path in archive.names("evidence"):
        found = archive.json(path)
        if found.get("outcomes"):
            archive.need(f"{archive.folder('outcomes')}{found['version']}/{found['outcomes']}.jsonl.gz", path)
    return f"{len(archive.names('evidence'))} results of benchmarks are here with the answers that they name"


def check_rest(archive: AuditArchive) -> str:
    """What belongs to a version is in its folder and about its content; all else is named by something that is here."""
    index, loose = archive.index, 0
    asked = index["about"]
    archive.expect(asked.get("channel", "") in {"", *index["channels"]}, "the records that were asked for are not here")
    for name in [*index["versions"], *filter(None, [asked.get("version")])]:
        archive.need(f"{archive.folder('versions')}{name}.json", "index.json")
    for path in sorted(set(archive.files) - {"index.json", "verify.py"}):
        folders, file = path.split("/")[:-1], path.split("/")[-1]
        if path not in archive.named:
            loose += 1
            fits = folders[:3] == archive.folder("x").split("/")[:3] and folders[3:] and folders[3] in LOOSE
            name = file[:-5] if folders[3:] == ["forgotten"] else folders[-1]
            version = f"{archive.folder('versions')}{name}.json"
            is_known = version in archive.files or version[6:] in index["missing"]
            archive.expect(archive.is_odd or (fits and is_known), f"{path} is here, and nothing here names it")
        if folders[3:] and folders[3] in ("evidence", "approvals", "ticks", "passed"):
            found = archive.json(path)
            archive.expect(found["version"] == folders[-1], f"{path} is about {found['version']}")
            check_content(archive, path, folders[-1], found["content_sha256"])
    archive.loose = f"the newest record of each log, and {loose} documents that no other names"
    if archive.is_odd:
        archive.unknown.append("what a document names that is not as it should be")
    return "what belongs to a version is about its content; all else is named by something"


def check_signatures(archive: AuditArchive, keys: dict[str, Key]) -> str:
    """Signatures by the given public keys. Others prove nothing here: anybody may have put them there."""
    good, bare = 0, {path.rpartition("/")[2][:-5] for path in archive.names("versions") if keys}
    for path in archive.names("signatures"):
        try:
            by = signed_by(archive, path, keys)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            archive.unknown.append(f"{path} is not a signature that this script can read")
            continue
        good += by == "a key that was given"
        bare -= {path.split("/")[-2]} if by == "a key that was given" else set()
        if by == "nobody":
            archive.wrong.append(f"{path} names a key that was given, and is not signed by it")
        elif by != "a key that was given":
            archive.unknown.append(f"signature not checked, as it is by {by}: {path}")
    archive.unknown += [f"{name} has no signature by a key that was given" for name in sorted(bare)]
    return f"{good} of {len(archive.names('signatures'))} signatures are right, by the keys that were given"


def signed_by(archive: AuditArchive, path: str, keys: dict[str, Key]) -> str:
    """By whom the manifest of a version is signed, in words. The envelope is DSSE, the statement model-signing's."""
    bundle = archive.json(path)
    envelope = bundle["dsseEnvelope"]
    payload, kind = base64.b64decode(envelope["payload"], validate=True), envelope["payloadType"]
    manifest = archive.json(f"{archive.folder('versions')}{path.split('/')[-2]}.json")["manifest_sha256"]
    if [each["digest"] for each in json.loads(payload)["predicate"]["resources"]] != [manifest]:
        return "somebody on another manifest"
    message = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
    if any(is_signed(key, message, signature) for key in keys.values()):
        return "a key that was given"
    hint = (bundle["verificationMaterial"].get("publicKey") or {}).get("hint")
    return "nobody" if hint in [key[2] for key in keys.values()] else "none of the keys that were given"


def read_key(path: str) -> Key:
    """An elliptic-curve public key in a PEM file: its curve, its point, and the name that signatures have for it."""
    with open(path, "rb") as file:
        text = file.read(65536).decode("ascii")
    found = re.search("-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\\s]+)-----END PUBLIC KEY-----", text)
    der = base64.b64decode(re.sub(r"\s", "", found[1]) if found else "")
    for oid, curve in CURVES.items():
        size = (curve[0].bit_length() + 7) // 8
        point = der[-2 * size :]
        x, y = int.from_bytes(point[:size], "big"), int.from_bytes(point[size:], "big")
        if bytes.fromhex(oid) in der[:32] and (y * y - x**3 + 3 * x - curve[1]) % curve[0] == 0:
            lines = re.findall(".{1,64}", base64.b64encode(der).decode())
            normal = "\n".join(["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""])
            return curve, (x, y), sha256(normal.encode())
    raise ValueError(f"{path} has no public key on P-256, P-384 or P-521")


def is_signed(key: Key, message: bytes, signature: bytes) -> bool:
    """Whether an ECDSA signature is right (FIPS 186-5, 6.4.2). Nothing here is secret, so it may take its time."""
    (p, _, n, generator, name), public, _ = key
    numbers = der_numbers(signature)
    if numbers is None or not all(0 < number < n for number in numbers):
        return False
    hashed = int.from_bytes(hashlib.new(name, message).digest(), "big")
    hashed >>= max(0, hashlib.new(name).digest_size * 8 - n.bit_length())
    inverse = pow(numbers[1], -1, n)
    found = add(multiply(hashed * inverse % n, generator, p), multiply(numbers[0] * inverse % n, public, p), p)
    return found is not None and found[0] % n == numbers[0]


def der_numbers(data: bytes) -> list[int] | None:
    """The two integers of a signature in DER; None if it is anything else."""
    numbers, place = [], 2 if data[1:2] < b"\x80" else 3
    while place + 2 <= len(data) and data[place] == 2:
        end = place + 2 + data[place + 1]
        numbers.append(int.from_bytes(data[place + 2 : end], "big"))
        place = end
    return numbers if data[:1] == b"0" and len(numbers) == 2 and place == len(data) else None


def add(one: Point | None, other: Point | None, p: int) -> Point | None:
    """The sum of two points of a curve with a = -3; None is the point at infinity."""
    if one is None or other is None:
        return one or other
    if one[0] == other[0] and (one[1] + other[1]) % p == 0:
        return None
    if one == other:
        slope = (3 * one[0] * one[0] - 3) * pow(2 * one[1], -1, p) % p
    else:
        slope = (other[1] - one[1]) * pow(other[0] - one[0], -1, p) % p
    x = (slope * slope - one[0] - other[0]) % p
    return x, (slope * (one[0] - x) - one[1]) % p


def multiply(number: int, point: Point, p: int) -> Point | None:
    """A point added to itself so many times."""
    found: Point | None = None
    for bit in bin(number)[2:]:
        found = add(found, found, p)
        found = add(found, point, p) if bit == "1" else found
    return found


def main(words: list[str] | None = None) -> int:
    """Check an archive and print what was found; returns the exit status."""
    parser = argparse.ArgumentParser(description=str(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive")
    parser.add_argument("--key", action="append", default=[], metavar="PUBLIC.pem", help="a public key that you trust")
    given = parser.parse_args(words)
    try:
        keys = {path: read_key(path) for path in given.key}
        archive = AuditArchive(given.archive)
    except Exception as error:  # a file that `ulora audit` did not write may raise anything
        print(f"can't be read: {str(error)[:1000]!a}", file=sys.stderr)
        return 2
    checks = (check_files, check_names, check_versions, check_channels, check_verdicts, check_evidence, check_rest)
    for check in (*checks, lambda each: check_signatures(each, keys)):
        before = len(archive.wrong)
        try:
            said = check(archive)
        except Exception as error:  # so may a document that ulora did not write
            said, archive.is_odd = "", True
            archive.wrong.append(f"{archive.read} is not as it should be: {type(error).__name__}: {str(error)[:300]}")
        if len(archive.wrong) == before:
            print(f"ok: {ascii(said)[1:-1]}")
    for word, lines in (("not checked", archive.unknown), ("WRONG", archive.wrong)):
        for line in dict.fromkeys(lines):
            print(f"{word}: {line[:1000]!a}")
    print(f"only the index says that these are whole: {archive.loose}")
    print(f"sha256 of the archive, to compare with what `ulora audit` said: {archive.sha256()}")
    most = "nothing wrong was found, and some of it was not checked" if archive.unknown else "all of it is right"
    print("result:", "something is WRONG" if archive.wrong else most)
    return 1 if archive.wrong else 3 if archive.unknown else 0


if __name__ == "__main__":
    sys.exit(main())
