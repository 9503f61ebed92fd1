"""`ulora audit`: what is in an archive, and that its script finds every change, with Python alone."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from registry.api import Registry
from registry.breakglass import verify_audit
from registry.channels.channel import PromoteOptions, RollbackOptions
from registry.devstack.s3_server import S3Server
from registry.errors import NotFound
from registry.formats import canonical
from registry.guard.guard import Guard, GuardOptions
from registry.guard.notifiers import Notifiers
from registry.retention.forget import RetentionRule
from registry.store import layout
from registry.usecases import audit_documents
from registry.usecases.audit_options import AuditOptions, ChecklistOptions
from registry.usecases.options import CanaryOptions
from tests.support.echo_releases import wait_until
from tests.support.measured_versions import accuracy_of
from tests.support.registries import bind, create, open_registry
from tests.support.run_ulora import complains, ulora
from tests.support.signing_keys import Pair, certified, key_pair
from tests.support.watched_trials import Fleet, Rates, policy_text

V1, V2, V3, V4 = "v1.0.0", "v2.0.0", "v3.0.0", "v4.0.0"
RULES = """
    - {metric: error_rate, max: 0.005, severity: rollback}
"""
PLANS = """
    careful: [{percent: 10, hold: 1d}, {percent: 100}]
"""
ASKED = "{staging: {}, production: {requires: staging, approvals: 1, defaults: [{metric: accuracy, min: 0.9}]}}"
EVER = AuditOptions(channel="production")


@pytest.fixture(scope="module")
def story(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, Pair]]:
    """A channel with promotions, a forced one, a rollback, and a trial that the guard ended; all is signed."""
    folder = tmp_path_factory.mktemp("story")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.env.items():
            patch.setenv(name, value)
        registry = open_registry(folder, f"s3://{s3.bucket}/{folder.name}-{datetime.now(UTC).timestamp()}", "leaves")
        (folder / "policy.yaml").write_text(policy_text(RULES, PLANS).replace("{staging: {}, production: {}}", ASKED))
        registry.store.initialise()
        key = key_pair(folder, "release")
        bind(registry, V1, V2, V3, V4)
        for version, right in ((V1, 97), (V2, 96), (V3, 80)):
            measured = [number < right for number in range(100)]
            registry.wiring.ledger.add(*accuracy_of(registry.manifest(version), measured))
            registry.sign(version, key.key)
        registry.sign(V4, key.key)
        for version in (V1, V2):
            registry.approve(version, reason="looked at it")
            registry.promote(version, "staging")
            registry.promote(version, "production", reason="ships")
        registry.checklist(V2, ChecklistOptions(tick=("team-told",)))
        registry.promote(V3, "production", PromoteOptions(force=True), reason="growers wait")
        registry.rollback(reason="too many errors", options=RollbackOptions(leave=V3))
        fall(registry)
        yield registry, key


def fall(registry: Registry) -> None:
    """A trial errs, and the guard goes back."""
    registry.canary.start(V4, options=CanaryOptions(percent=10, plan="careful", force=True), reason="a trial")
    head = registry.channel("production").head()
    assert head
    fleet = Fleet(now=registry.store.now())
    fleet.begin(head)
    fleet.ask(head, 2000, Rates(error=0.5), labels=False)
    fleet.write(registry)
    (looked,) = Guard(registry, Notifiers([]), GuardOptions(("production",), once=True)).look()
    assert looked.changed


@pytest.fixture
def registry(story: tuple[Registry, Pair], s3_env: dict[str, str]) -> Registry:
    return story[0]


@pytest.fixture(scope="module")
def archive(story: tuple[Registry, Pair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "audit.zip"
    assert story[0].audit(path, EVER).problem is None
    return path


def verify(path: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run the script of an archive as its reader does: by a Python that knows no package at all."""
    script = path.parent / "verify.py"
    script.write_bytes(Path(verify_audit.__file__).read_bytes())
    return subprocess.run(
        [sys.executable, "-I", "-S", str(script), str(path), *map(str, words)],
        capture_output=True, text=True, check=False, cwd=path.parent,
    )  # fmt: skip


def verify_here(path: Path) -> tuple[int, str]:
    """The same in this process."""
    said = io.StringIO()
    with redirect_stdout(said):
        code = verify_audit.main([str(path)])
    return code, said.getvalue()


def files_in(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as opened:
        return {info.filename: opened.read(info) for info in opened.infolist()}


def written(path: Path, files: dict[str, bytes], *, indexed: bool = False) -> Path:
    """An archive with these files; `indexed` if whoever changed it was able to bring the index up to date."""
    if indexed:
        index = json.loads(files["index.json"])
        index["files"] = {name: {"sha256": canonical.sha256(body), "size": len(body)}
                          for name, body in files.items() if name != "index.json"}  # fmt: skip
        index["sha256"] = canonical.digest({name: value for name, value in index.items() if name != "sha256"})
        files = {**files, "index.json": canonical.encode(index)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, body in files.items():
            opened.writestr(name, body)
    return path


def kinds(files: dict[str, bytes]) -> dict[str, str]:
    """A file of each kind."""
    found: dict[str, str] = {}
    for name in sorted(files):
        parts = name.split("/")
        found.setdefault(
            parts[3] if name.startswith("store/models/") else parts[-1] if len(parts) == 1 else "blobs", name
        )
    return found


KINDS = {
    "approvals", "blobs", "channels", "decisions", "evidence", "incidents", "index.json", "outcomes", "passed",
    "policies", "signatures", "ticks", "verdicts", "verify.py", "versions",
}  # fmt: skip


def test_a_good_archive_is_right(story: tuple[Registry, Pair], archive: Path) -> None:
    done = verify(archive, "--key", story[1].trusted)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "result: all of it is right" in done.stdout
    assert "4 of 4 signatures are right" in done.stdout
    head = story[0].history()[0]
    assert f"production 1 to {head.generation}, newest record {head.sha256}" in done.stdout
    assert set(kinds(files_in(archive))) == KINDS


def test_signatures_are_not_checked_without_keys(archive: Path, tmp_path: Path) -> None:
    for words in ((), ("--key", key_pair(tmp_path, "other").trusted)):
        done = verify(archive, *words)
        assert done.returncode == 3
        assert "signature not checked" in done.stdout
        assert "WRONG" not in done.stdout


def test_a_byte_that_changed_in_any_kind_of_file_is_found(archive: Path, tmp_path: Path) -> None:
    files = files_in(archive)
    for name in kinds(files).values():
        body = bytearray(files[name])
        body[len(body) // 2] ^= 1
        done = verify(written(tmp_path / "changed.zip", {**files, name: bytes(body)}))
        assert done.returncode in (1, 2), (name, done.stdout)
        assert "all of it is right" not in done.stdout


@pytest.mark.acceptance
def test_every_byte_of_every_kind_of_file_counts(archive: Path, tmp_path: Path) -> None:
    files = files_in(archive)
    for name in kinds(files).values():
        for place in {*range(0, len(files[name]), max(1, len(files[name]) // 40)), len(files[name]) - 1}:
            body = bytearray(files[name])
            body[place] ^= 1 << place % 8
            code, said = verify_here(written(tmp_path / "changed.zip", {**files, name: bytes(body)}))
            assert code in (1, 2), (name, place, said)


def test_a_file_that_is_added_or_removed_is_found(archive: Path, tmp_path: Path) -> None:
    files = files_in(archive)
    assert verify_here(written(tmp_path / "more.zip", {**files, "store/more.json": b"{}"}))[0] == 1
    for name in kinds(files).values():
        less = {each: body for each, body in files.items() if each != name}
        assert verify_here(written(tmp_path / "less.zip", less))[0] in (1, 2), name


def other_value(body: bytes, **changed: Any) -> bytes:
    return canonical.encode({**json.loads(body), **changed})


def test_who_writes_the_index_anew_is_found_too(archive: Path, tmp_path: Path) -> None:
    """By digests that other documents have: all but the newest record, and notes that nothing names."""
    files, by_kind = files_in(archive), kinds(files_in(archive))
    older = sorted(name for name in files if "/channels/production/" in name)[-1]
    for name in [
        *(by_kind[kind] for kind in KINDS - {"channels", "incidents", "index.json", "passed", "verify.py"}),
        older,
    ]:
        changed = files[name] + b" " if name.endswith(".gz") else other_value(files[name], who="eve", more=1)
        if name == by_kind["versions"]:
            changed = other_value(files[name], manifest_sha256="e" * 64)
        code, said = verify_here(written(tmp_path / "forged.zip", {**files, name: changed}, indexed=True))
        assert code == 1, (name, said)
    for name in (by_kind["verdicts"], by_kind["evidence"], by_kind["decisions"], by_kind["policies"], older):
        less = {each: body for each, body in files.items() if each != name}
        code, said = verify_here(written(tmp_path / "less.zip", less, indexed=True))
        assert code == 1, (name, said)


def renamed(files: dict[str, bytes], name: str, body: bytes) -> dict[str, bytes]:
    """The same with a document under the digest that it has now."""
    folder = name.rpartition("/")[0]
    return {each: kept for each, kept in files.items() if each != name} | {
        f"{folder}/{canonical.sha256(body)}.json": body
    }


def test_a_verdict_about_something_else_is_found(archive: Path, tmp_path: Path) -> None:
    files = files_in(archive)
    head = next(
        name for name in sorted(files) if "/channels/production/" in name and b'"action":"promote"' in files[name]
    )
    verdict = f"store/models/leaves/verdicts/{json.loads(files[head])['verdict']}.json"
    for changed in (
        {"version": V1},
        {"channel": "staging"},
        {"outcome": "fail", "forced": ""},
        {"content_sha256": "e" * 64},
    ):
        body = other_value(files[verdict], **changed)
        forged = renamed(files, verdict, body)
        forged[head] = other_value(files[head], verdict=canonical.sha256(body))
        code, said = verify_here(written(tmp_path / "forged.zip", forged, indexed=True))
        assert code == 1, (changed, said)
        assert "verdict" in said.split("WRONG", 1)[1]


def test_what_nothing_names_is_found_too(archive: Path, tmp_path: Path) -> None:
    """Whoever writes the index anew can't leave a record out of it, or add what belongs to nothing."""
    files, by_kind = files_in(archive), kinds(files_in(archive))
    head = min(name for name in files if "/channels/production/" in name)
    index = json.loads(files["index.json"])
    for channels in ({}, {"production": {"first": 1, "last": 2}}, {"production": {"first": 2, "last": 1}}):
        changed = {**files, "index.json": canonical.encode({**index, "channels": channels})}
        assert verify_here(written(tmp_path / "forged.zip", changed, indexed=True))[0] == 1, channels
    more = {
        head.replace("0999999999994", "0999999999993"): other_value(files[head], generation=7, previous="e" * 64),
        by_kind["evidence"].replace(V1, V3): files[by_kind["evidence"]],
        by_kind["ticks"].replace(V2, V1): files[by_kind["ticks"]],
        by_kind["decisions"].replace("production", "staging"): files[by_kind["decisions"]],
        "store/models/other/versions/v1.0.0.json": files[by_kind["versions"]],
        "store/more.json": b"{}",
    }
    for name, body in more.items():
        assert name not in files
        code, said = verify_here(written(tmp_path / "forged.zip", {**files, name: body}, indexed=True))
        assert code == 1, (name, said)


def test_what_only_the_index_vouches_for_is_said(archive: Path, tmp_path: Path) -> None:
    code, said = verify_here(archive)
    assert "only the index says that these are whole: the newest record of each log, and " in said
    assert canonical.sha256(archive.read_bytes()) in said
    files = files_in(archive)
    junk = {"x\nresult: all of it is right": {"first": 1, "last": 1}}
    files["index.json"] = canonical.encode({**json.loads(files["index.json"]), "channels": junk})
    code, said = verify_here(written(tmp_path / "forged.zip", files, indexed=True))
    assert (code, "\nresult: all" in said) == (1, False), "a name in the index can't write lines of its own"


def test_what_older_releases_copy_on_is_no_finding(archive: Path, tmp_path: Path) -> None:
    """A release without trials writes the fields of trials, which it does not know, into each record that follows."""
    files, folder = files_in(archive), "store/models/leaves/channels/production/"
    name = min(each for each in files if each.startswith(folder))
    promotion = next(record for each in files if each.startswith(folder)
                     if (record := json.loads(files[each]))["action"] == "promote")  # fmt: skip
    trial = next(record["trial"] for each in sorted(files) if each.startswith(folder)
                 if (record := json.loads(files[each])).get("canary"))  # fmt: skip
    stable = {"action": "promote", "stable": promotion["stable"], "verdict": promotion["verdict"], "trial": trial}
    canary = {"action": "canary", "canary": {**json.loads(files[name])["stable"], "weight": 10.0}, "verdict": None}
    first = json.loads(files[name])["generation"]
    for changed in (stable, canary):
        head = json.loads(files[name])
        body = canonical.encode({**head, **changed, "generation": head["generation"] + 1,
                                 "previous": canonical.sha256(files[name])})  # fmt: skip
        name = f"{folder}{10**12 - head['generation'] - 1:013d}.json"
        files[name] = body
    assert json.loads(files[name])["decision"]
    for begin in (1, first + 1):
        index = {**json.loads(files["index.json"]), "channels": {"production": {"first": begin, "last": first + 2}}}
        files["index.json"] = canonical.encode(index)
        code, said = verify_here(written(tmp_path / "copied.zip", files, indexed=True))
        wrong = [line for line in said.splitlines() if line.startswith("WRONG") and "nothing here names it" not in line]
        assert (code, wrong) == (3 if begin == 1 else 1, []), said


def test_an_index_may_be_larger_than_a_document(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of 100,000 documents is."""
    sizes = {name: len(body) for name, body in files_in(archive).items() if name.endswith(".json")}
    index = sizes.pop("index.json")
    assert max(sizes.values()) < index
    monkeypatch.setattr(verify_audit, "MAX_DOCUMENT", max(sizes.values()))
    assert verify_here(archive)[0] == 3


def test_a_version_without_a_known_signature_is_told(
    story: tuple[Registry, Pair], archive: Path, tmp_path: Path
) -> None:
    files = {name: body for name, body in files_in(archive).items() if f"/signatures/{V2}/" not in name}
    done = verify(written(tmp_path / "bare.zip", files, indexed=True), "--key", story[1].trusted)
    assert done.returncode == 3, done.stdout
    assert f"{V2} has no signature by a key that was given" in done.stdout


AROUND: dict[str, Callable[[bytes], bytes]] = {
    "before": lambda body: b"#!/bin/sh\n" + body,
    "an archive before": lambda body: body + body,
    "behind": lambda body: body + b"more",
    "a comment": lambda body: body[:-2] + b"\4\0more",
    "between": lambda body: body[: body.rindex(b"PK\3\4")] + b"more" + body[body.rindex(b"PK\3\4") :],
    "of a newer format": lambda body: body.replace(b"PK\1\2\x14\3\x14", b"PK\1\2\x14\3\xeb", 1),
}


@pytest.mark.parametrize("change", AROUND.values(), ids=AROUND)
def test_other_bytes_than_those_of_files_are_refused(
    change: Callable[[bytes], bytes], archive: Path, tmp_path: Path
) -> None:
    body = archive.read_bytes()
    assert change(body) != body
    (tmp_path / "more.zip").write_bytes(change(body))
    done = verify(tmp_path / "more.zip")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stdout + done.stderr


def symlink(opened: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    opened.writestr(info, "/etc/passwd")


def twice(opened: zipfile.ZipFile) -> None:
    opened.writestr("index.json", b"{}")
    with pytest.warns(UserWarning, match="Duplicate"):
        opened.writestr("index.json", b"{}")


HOSTILE: dict[str, Callable[[zipfile.ZipFile], object]] = {
    "a link": symlink,
    "a path that leaves": lambda opened: opened.writestr("../outside", b"x"),
    "an absolute path": lambda opened: opened.writestr("/tmp/outside", b"x"),
    "a name twice": twice,
    "no index": lambda opened: opened.writestr("other", b"x"),
    "an index that is a list": lambda opened: opened.writestr("index.json", b"[]"),
    "an index too deep": lambda opened: opened.writestr("index.json", b"[" * 200_000),
    "an index too large": lambda opened: opened.writestr("index.json", b" " * (129 * 1024 * 1024)),
    "another compression": lambda opened: opened.writestr("index.json", b"{}", zipfile.ZIP_LZMA),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_is_refused(make: Callable[[zipfile.ZipFile], object], tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    path = folder / "hostile.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        make(opened)
    done = verify(path)
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith("can't be read: ")
    assert {each.name for each in tmp_path.rglob("*")} == {"inside", "hostile.zip", "verify.py"}


@pytest.mark.parametrize("body", [b"", b"no archive", b"PK\x03\x04" + bytes(100)])
def test_what_is_no_archive_is_refused(body: bytes, tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_bytes(body)
    assert verify(tmp_path / "no.zip").returncode == 2
    assert verify(tmp_path / "missing.zip").returncode == 2


@pytest.mark.parametrize(
    "index",
    [{}, {"files": {}}, {"files": [], "missing": 1, "model": "m", "channels": {}},
     {"files": {}, "missing": {}, "model": "m", "channels": {"production": {"first": 1, "last": 10**18}}}],
)  # fmt: skip
def test_an_index_of_anything_else_ends_in_a_finding(index: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path / "odd.zip", {"index.json": canonical.encode(index)})
    code, said = verify_here(path)
    assert code == 1
    assert "WRONG" in said


def test_the_same_state_gives_the_same_bytes(registry: Registry, archive: Path, tmp_path: Path) -> None:
    again = registry.audit(tmp_path / "again.zip", EVER)
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()
    assert again.sha256 == canonical.sha256(archive.read_bytes())
    assert again.verify_sha256 == canonical.sha256(files_in(archive)["verify.py"])


def test_a_version_has_all_that_is_kept_of_it(story: tuple[Registry, Pair], registry: Registry, tmp_path: Path) -> None:
    found = registry.audit(tmp_path / "v2.zip", AuditOptions(version=V2))
    assert (found.versions, found.problem) == ((V2,), None)
    assert found.channels == {"staging": (1, 2), "production": (1, 6)}
    kept = {name.partition("store/")[2] for name in files_in(tmp_path / "v2.zip")}
    for folder in (layout.evidence, layout.outcomes, layout.approval, layout.tick, layout.signature):
        keys = {info.key for info in registry.store.list(folder("leaves", V2))}
        assert keys
        assert keys <= kept
    done = verify(tmp_path / "v2.zip", "--key", story[1].trusted)
    assert done.returncode == 0, done.stdout


def test_a_time_has_its_records_and_the_one_before(registry: Registry, tmp_path: Path) -> None:
    records = registry.history()
    since = datetime.fromisoformat(records[2].when)
    found = registry.audit(tmp_path / "late.zip", AuditOptions(channel="production", since=since))
    assert found.channels == {"production": (records[3].generation, records[0].generation)}
    assert verify_here(tmp_path / "late.zip")[0] == 3, "it has no keys, and nothing is wrong"
    later = AuditOptions(channel="production", since=datetime.now(UTC) + timedelta(days=1))
    with pytest.raises(NotFound, match=r"production has no record from [0-9T:.+-]+ on\n"):
        registry.audit(tmp_path / "none.zip", later)
    with pytest.raises(NotFound, match=r"production has no record before 2020-01-01T00:00:00\+00:00\n"):
        registry.audit(tmp_path / "none.zip", replace(later, since=None, until=datetime(2020, 1, 1, tzinfo=UTC)))


# --- what is missing, damaged or forgotten, in stores of their own ---------------------------------------------------


@pytest.fixture
def small(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """One measured version in production."""
    monkeypatch.setenv("ULORA_MODEL", model)
    opened = open_registry(tmp_path, store_url, model)
    opened.store.initialise()
    bind(opened, V1)
    opened.wiring.ledger.add(*accuracy_of(opened.manifest(V1), [True] * 50))
    opened.promote(V1, "production")
    return opened


def test_what_is_missing_is_said_and_the_rest_is_there(small: Registry, tmp_path: Path) -> None:
    (outcomes,) = [info.key for info in small.store.list(layout.outcomes(small.model, V1))]
    small.store.delete(outcomes)
    done = ulora("audit", V1, "--out", tmp_path / "audit.zip")
    complains(done, 6, "1 of the documents are missing or damaged", outcomes)
    assert json.loads(files_in(tmp_path / "audit.zip")["index.json"])["missing"] == {outcomes: "it is not in the store"}
    code, said = verify_here(tmp_path / "audit.zip")
    assert (code, "WRONG" in said) == (3, False)
    assert f"{outcomes} is not here" in said


def test_what_is_damaged_is_in_it_as_it_is(small: Registry, tmp_path: Path) -> None:
    (key,) = [info.key for info in small.store.list(layout.evidence(small.model, V1))]
    body = small.store.get(key).body.replace(b'"accuracy"', b'"accurate"')
    small.store.overwrite(key, body)
    complains(ulora("audit", V1, "--out", tmp_path / "audit.zip"), 6, key)
    files = files_in(tmp_path / "audit.zip")
    assert files[f"store/{key}"] == body
    assert list(json.loads(files["index.json"])["damaged"]) == [key]
    assert verify_here(tmp_path / "audit.zip")[0] == 1


def test_more_than_one_archive_takes_is_refused(
    small: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_documents, "MAX_DOCUMENTS", 3)
    complains(ulora("audit", V1, "--out", tmp_path / "audit.zip"), 2, "more than 3 documents", "a shorter time")
    assert not list(tmp_path.glob("*.zip*"))


@pytest.mark.parametrize("body", [b"junk", b"[]", b'{"stable":5,"canary":[],"action":1}', None])
def test_one_damaged_document_is_one_finding(body: bytes | None, small: Registry, tmp_path: Path) -> None:
    """What a document names that can't be read is not said to be named by nobody."""
    keys = [layout.record(small.model, "production", 1), layout.version(small.model, V1)]
    for key in keys:
        before = small.store.get(key).body
        small.store.overwrite(key, body) if body else small.store.delete(key)
        if body or key == keys[1]:
            ulora("audit", "-c", "production", "--out", tmp_path / "audit.zip")
            code, said = verify_here(tmp_path / "audit.zip")
            assert code == (1 if body else 3), said
            assert key in said
            assert "nothing here names it" not in said
        small.store.overwrite(key, before)


def test_a_record_that_was_overwritten_is_found(small: Registry, tmp_path: Path) -> None:
    bind(small, V2)
    small.promote(V2, "production")
    first = layout.record(small.model, "production", 1)
    small.store.overwrite(first, other_value(small.store.get(first).body, who="eve"))
    second = layout.record(small.model, "production", 2)
    complains(ulora("audit", V2, "--out", tmp_path / "audit.zip"), 6, second)
    code, said = verify_here(tmp_path / "audit.zip")
    assert code == 1
    assert "does not follow the record before it" in said


@pytest.mark.acceptance
def test_an_audit_of_a_forgotten_version(small: Registry, tmp_path: Path) -> None:
    create(small, V2, tmp_path)
    create(small, V3, tmp_path)
    whole = small.audit(tmp_path / "whole.zip", AuditOptions(version=V2, with_weights=True))
    assert whole.problem is None
    assert verify_here(tmp_path / "whole.zip")[0] == 0
    all_but_one = RetentionRule(keep=1, older_than=timedelta(0))
    # A blob has to be older than its mark, by a clock of whole seconds.
    wait_until(lambda: small.collect_garbage(all_but_one, grace=timedelta(0), reason="old").pruned.deleted)
    gone = replace(small.settings, cache=tmp_path / "other-cache")
    found = Registry(settings=gone).audit(tmp_path / "gone.zip", AuditOptions(version=V2, with_weights=True))
    assert found.problem is None, "that its files are gone is as it should be"
    assert found.explained
    assert all(f"{V2} was forgotten by" in found.missing[key] for key in found.explained)
    assert f"store/{layout.forgotten(small.model, V2)}" in files_in(tmp_path / "gone.zip")
    assert verify_here(tmp_path / "gone.zip")[0] == 3
    assert small.audit(tmp_path / "papers.zip", AuditOptions(version=V2)).missing == {}
    assert verify_here(tmp_path / "papers.zip")[0] == 0


def test_the_command_plans_writes_and_refuses(small: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    planned = ulora("audit", V1, "--dry-run")
    assert (planned.code, "not written" in planned.out) == (0, True)
    assert not list(tmp_path.glob("*.zip"))
    document = ulora("audit", "--channel", "production", "--since", "2020-01-01", "--json").document
    assert (document["path"], document["channels"]) == ("audit-production.zip", {"production": [1, 1]})
    assert document["sha256"] == canonical.sha256((tmp_path / "audit-production.zip").read_bytes())
    assert sorted(path.name for path in tmp_path.glob("*zip*")) == ["audit-production.zip"]
    complains(ulora("audit"), 2, "VERSION, or --channel")
    complains(ulora("audit", V1, "--channel", "production"), 2, "VERSION, or --channel")
    complains(ulora("audit", V1, "--since", "2026-01-01"), 2, "--channel")
    complains(ulora("audit", "-c", "production", "--since", "yesterday"), 2, "not a day")
    complains(
        ulora("audit", "-c", "production", "--since", "2026-01-02", "--until", "2026-01-01"), 2, "before it begins"
    )
    complains(ulora("audit", "-c", "production", "--until", "2020-01-01"), 5, "no record")
    complains(ulora("audit", "v9.0.0"), 5, "v9.0.0")
    complains(ulora("audit", V1, "--out", tmp_path / "no" / "such.zip"), 2, "can't be a file")


SLOW = pytest.mark.acceptance
CURVES = [ec.SECP256R1(), pytest.param(ec.SECP384R1(), marks=SLOW), pytest.param(ec.SECP521R1(), marks=SLOW)]


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_signatures_on_each_curve_are_checked(curve: ec.EllipticCurve, small: Registry, tmp_path: Path) -> None:
    key, other = key_pair(tmp_path, "mine", curve), key_pair(tmp_path, "other", curve)
    small.sign(V1, key.key)
    small.sign(V1, certified(tmp_path, "team").key)
    small.audit(tmp_path / "audit.zip", AuditOptions(version=V1))
    done = verify(tmp_path / "audit.zip", "--key", key.trusted, "--key", other.trusted)
    assert done.returncode == 3, "the other one is by a certificate"
    assert "1 of 2 signatures are right" in done.stdout
    assert done.stdout.count("not checked:") == 1
    assert verify(tmp_path / "audit.zip", "--key", key.private).returncode == 2


def test_a_false_signature_by_a_known_key_is_wrong(small: Registry, tmp_path: Path) -> None:
    key = key_pair(tmp_path, "mine")
    small.sign(V1, key.key)
    (info,) = small.store.list(layout.signature(small.model, V1))
    bundle = json.loads(small.store.get(info.key).body)
    (signature,) = bundle["dsseEnvelope"]["signatures"]
    signature["sig"] = signature["sig"][:20] + ("A" if signature["sig"][20] != "A" else "B") + signature["sig"][21:]
    body = json.dumps(bundle).encode()
    small.store.create(layout.signature(small.model, V1, canonical.sha256(body)), body)
    small.store.create(layout.signature(small.model, V1, canonical.sha256(b"junk")), b"junk")
    small.audit(tmp_path / "audit.zip", AuditOptions(version=V1))
    done = verify(tmp_path / "audit.zip", "--key", key.trusted)
    assert done.returncode == 1
    assert "is not signed by it" in done.stdout
    assert "is not a signature that this script can read" in done.stdout
