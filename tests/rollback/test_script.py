"""Rollback scripts: one file that moves a channel as the package does, with nothing else at hand."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.api import Registry
from registry.breakglass import rollback_script as source
from registry.breakglass.rollback_script import Failure
from registry.breakglass.write_script import Script, StoreLocation, rollback_script
from registry.channels.channel import PromoteOptions, RollbackOptions
from registry.channels.record import Author, Canary, ChannelPosition, Record, aborted, promoted, rolled_back
from registry.errors import MissingBlob, NothingToRollBackTo, VersionNotFound
from registry.formats import canonical
from registry.store import layout
from registry.versions.pointer import Pointer
from tests.servers.proxy import (
    Exchange,
    Proxy,
    Reply,
    answering,
    cut_body,
    drip_body,
    drip_headers,
    fail_after_applying,
    refuse,
    swallow_reply,
)
from tests.support.broken_aws import BROKEN, apply
from tests.support.echo_releases import wait_until
from tests.support.full_pipe import full_pipe
from tests.support.registries import bind, create, listing, open_registry
from tests.support.run_script import TEST, pointer_of, run, serve, serve_three
from tests.support.run_ulora import complains, ulora

ALONE = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six.py", "urllib3")
"""What boto3 consists of, in a folder of installed packages."""
NEVER = ("registry", "adapters", "pydantic", "click", "mlflow", "torch", "yaml", "requests", "numpy")
LAUNCH = f"""
import importlib.util, runpy, sys
sys.path.append(sys.argv.pop(1))
for name in {NEVER}:
    assert importlib.util.find_spec(name) is None, name
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    """Production served v1.0.0, v2.0.0, and now v3.0.0."""
    registry = open_registry(tmp_path, store_url, model)
    serve_three(registry)
    return registry


@pytest.fixture
def script(registry: Registry) -> Script:
    """The one that goes to v2.0.0."""
    return registry.rollback_script("v2.0.0")


def now(registry: Registry) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """What production serves, its stack, and what is withdrawn."""
    head = registry.channel("production").head()
    assert head
    assert head.stable
    return head.stable.version, tuple(pointer.version for pointer in head.stack), head.withdrawn


def try_out(registry: Registry, name: str) -> None:
    """Start a trial."""
    log = registry.channel("production")
    head, pointer = log.head(), pointer_of(registry, name)
    assert head
    record = promoted(ChannelPosition(registry.model, "production", head), pointer, TEST, None)
    unchanged = {"action": "canary", "stable": head.stable, "stack": head.stack}
    log.commit(record.model_copy(update={**unchanged, "canary": Canary(**pointer.model_dump(), weight=5.0)}))


# --- alone -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages in which there is nothing but boto3."""
    folder = tmp_path_factory.mktemp("boto3-alone")
    for name in ALONE:
        (folder / name).symlink_to(Path(sysconfig.get_path("purelib")) / name)
    return folder


def run_alone(alone: Path, path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", "-c", LAUNCH, str(alone), str(path), *words]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300, check=False)


def test_it_rolls_back_with_boto3_only(
    registry: Registry, script: Script, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = script.write(tmp_path / script.name)
    with monkeypatch.context() as another_machine:
        another_machine.delenv("AWS_ENDPOINT_URL_S3")  # the script knows where the server is
        done = run_alone(alone, path, "--yes", "--reason", "it is three in the morning")
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[0] == "production is v3.0.0; this makes it v2.0.0"
    assert done.stdout.splitlines()[-1] == "production serves v2.0.0, generation 4"
    assert now(registry) == ("v2.0.0", ("v1.0.0",), ("v3.0.0",))
    newest = registry.history()[0]  # the whole chain is verified
    assert (newest.action, newest.reason, newest.verdict) == ("rollback", "it is three in the morning", None)
    registry.promote("v3.0.0", "production", PromoteOptions(force=True), reason="fixed")
    assert registry.rollback(options=RollbackOptions(leave="v3.0.0")).version == "v2.0.0"


def test_without_boto3_it_says_what_to_install(script: Script, tmp_path: Path) -> None:
    done = run_alone(tmp_path / "nothing", script.write(tmp_path / script.name), "--dry-run")
    assert (done.returncode, "pip install 'boto3>=1.36'" in done.stderr) == (2, True)
    as_json = run_alone(tmp_path / "nothing", tmp_path / script.name, "--dry-run", "--json")
    assert (as_json.returncode, json.loads(as_json.stderr)["error"]) == (2, "MissingDependency")
    (tmp_path / "boto3.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    stopped = run_alone(tmp_path, tmp_path / script.name, "--dry-run")
    assert (stopped.returncode, stopped.stderr) == (130, "error: interrupted\n")


@pytest.mark.parametrize("module", ["argparse", "hashlib", "concurrent.futures"])
def test_ctrl_c_at_a_scripts_start_is_one_line(script: Script, tmp_path: Path, module: str) -> None:
    """While one of the first modules is imported: a hook of imports stands for the person."""
    hook = (
        "import os, runpy, signal, sys\n"
        "class Hook:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        f"for name in [each for each in sys.modules if each == {module!r}]:\n"
        "    del sys.modules[name]\n"
        "sys.meta_path.insert(0, Hook())\n"
        "runpy.run_path(sys.argv[1], run_name='__main__')\n"
    )
    command = [sys.executable, "-I", "-c", hook, str(script.write(tmp_path / script.name)), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


def test_ctrl_c_at_a_scripts_end_changes_no_exit_status(script: Script, tmp_path: Path) -> None:
    (tmp_path / "boto3.py").write_text(
        "import atexit, os, signal\natexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "raise ImportError('none')\n"
    )
    done = run_alone(tmp_path, script.write(tmp_path / script.name), "--dry-run")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)


def test_it_is_written_for_python_3_9_and_carries_no_credentials(
    registry: Registry, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    ast.parse(script.text, feature_version=(3, 9))
    secrets = (os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    assert not any(secret in script.text for secret in secrets)
    place = StoreLocation(
        "s3://bucket/a/b", "https://me:secret@s3.example.com:9000", {"ServerSideEncryption": "AES256"}
    )
    text = rollback_script(registry.manifest("v2.0.0"), "production", place).text
    assert "secret@" not in text
    scope: dict[str, Any] = {"__name__": "a_script"}
    exec(text, scope)
    assert scope["STORE"] == {
        "bucket": "bucket", "prefix": "a/b", "endpoint": "https://s3.example.com:9000",
        "encryption": {"ServerSideEncryption": "AES256"},
    }  # fmt: skip


def test_the_script_contains_any_file_names() -> None:
    from registry.versions.manifest import FileEntry, Manifest

    odd = sorted(["a'''b", 'a"""b', "c # --- d", "blätter/ü 🍅.txt", "x\u0301".replace("x\u0301", "ẋ"), "{}", "%s"])
    files = [FileEntry(path=path, size=3, sha256="a" * 64, mode="0755") for path in odd]
    manifest = Manifest.make(
        model="m", version="v1.0.0", flavor="files", backbone=None, components={}, files=files, timestamp="now"
    )
    scope: dict[str, Any] = {"__name__": "a_script"}
    exec(rollback_script(manifest, "production", StoreLocation("s3://bucket")).text, scope)
    assert scope["FILES"] == [(path, 3, "0755", "a" * 64) for path in odd]
    assert scope["VERSION"]["manifest_sha256"] == manifest.sha256


def test_the_source_without_data_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert source.main(["--yes"]) == 2
    assert "`ulora rollback-script VERSION` writes a complete one" in capsys.readouterr().err


# --- what it writes --------------------------------------------------------------------------------------------------

NAMES = [f"v{number}.0.0" for number in range(6)]
WHO = {"who": "me@here", "who_verified": False, "reason": "because"}
ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


def pointer(name: str) -> Pointer:
    return Pointer(version=name, manifest_sha256=canonical.sha256(name.encode()))


@st.composite
def heads(draw: st.DrawFn) -> Record:
    """Any state of a channel, with fields of a later release."""
    names = draw(st.permutations(NAMES))
    depth = draw(st.integers(0, 4))
    canary = names[5] if draw(st.booleans()) else None
    more = st.dictionaries(st.sampled_from(["new", "newer"]), ODD)
    fields: dict[str, Any] = {
        "format": 1, "model": "m", "channel": "production", "generation": draw(st.integers(1, 10**6)),
        "action": draw(st.sampled_from(["promote", "rollback", "from-a-later-release"])), "who": "somebody",
        "when": "2026-11-21T12:00:00.000+00:00", "nonce": "0" * 32,
        "stable": pointer(names[0]).model_dump() | draw(more),
        **draw(st.dictionaries(st.sampled_from(["later", "much_later"]), ODD)),
    }  # fmt: skip
    for name, value in {
        "min_writer": 1, "reason": "so", "who_verified": True, "previous": "f" * 64, "verdict": "e" * 64,
        "stack": [pointer(each).model_dump() | draw(more) for each in names[1 : depth + 1]],
        "withdrawn": draw(st.lists(st.sampled_from(names[1:5]), unique=True)),
        "canary": {**pointer(canary).model_dump(), "weight": 5.0} if canary else None,
    }.items():  # fmt: skip
        if draw(st.booleans()):
            fields[name] = value
    return Record.parse(canonical.encode(fields), "a head")


def by_script(head: Record, to: str, *, force: bool = False) -> dict[str, Any] | None:
    """What the script for a version plans on a head."""
    body = head.to_bytes()
    version = {"model": "m", "channel": "production", "version": to, "manifest_sha256": pointer(to).manifest_sha256}
    before = dict(source.VERSION)
    source.VERSION.update(version)
    try:
        document = source.decode(body, "a head")
        source.check_record(document, "a head", head.generation)
        return source.plan(document, canonical.sha256(body), WHO, force)
    finally:
        source.VERSION.clear()
        source.VERSION.update(before)


def by_package(head: Record, to: str) -> Record | None:
    """What `ulora rollback --to` plans on a head; None if there is nothing to do."""
    place, signature = ChannelPosition("m", "production", head), Author("me@here", "because")
    options = RollbackOptions(to=to)
    if options.is_reached(head):
        return None
    return aborted(place, signature) if options.ends_trial(head) else rolled_back(place, signature, to)


@settings(max_examples=150)
@given(head=heads(), to=st.sampled_from(NAMES))
def test_its_record_equals_that_of_the_package(head: Record, to: str) -> None:
    try:
        expected = by_package(head, to)
    except NothingToRollBackTo:
        with pytest.raises(Failure) as refused:
            by_script(head, to)
        assert refused.value.error == "NothingToRollBackTo"
        return
    record = by_script(head, to)
    if expected is None:
        assert record is None
        return
    assert record
    same = {"nonce": record["nonce"], "when": record["when"]}
    assert source.encode(record) == canonical.encode(json.loads(expected.to_bytes()) | same)
    assert Record.parse(source.encode(record), "its record").to_bytes() == source.encode(record)


@given(head=heads(), to=st.sampled_from(NAMES))
def test_a_forced_rollback_makes_the_version_stable(head: Record, to: str) -> None:
    record = by_script(head, to, force=True)
    if record is None:
        return
    parsed = Record.parse(source.encode(record), "its record")
    assert parsed.stable
    assert parsed.live() == (to,)
    assert to not in parsed.withdrawn
    assert to not in [each.version for each in parsed.stack]
    left = {name for name in head.live() if name != to}
    assert left <= set(parsed.withdrawn)
    assert not left & {each.version for each in parsed.rollback_targets()}


def test_it_reads_records_as_strictly_as_the_package() -> None:
    for body in (b'{"a":1,"a":2}', b'{"a":NaN}', b'{"a":1e999}', b"[]", b"\xff", b"{" * 10_000, b"1" * 400):
        with pytest.raises(Failure) as refused:
            source.decode(body, "a record")
        assert source.CODES[refused.value.error] == 6


# --- on a real store -------------------------------------------------------------------------------------------------


def test_a_dry_run_looks_and_writes_nothing(registry: Registry, script: Script) -> None:
    before = listing(registry)
    looked = run(script, "--dry-run")
    assert (looked.code, looked.out.splitlines()[0]) == (0, "production is v3.0.0; this makes it v2.0.0")
    assert listing(registry) == before


def test_where_nobody_can_be_asked_it_does_nothing_without_yes(
    registry: Registry, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", StringIO("y\n"))
    asked = run(script, "--json")
    assert (asked.code, asked.error) == (2, "BadInput")
    assert now(registry)[0] == "v3.0.0"


@pytest.mark.acceptance
@pytest.mark.parametrize(("answer", "code", "serves"), [("y", 0, "v2.0.0"), ("", 1, "v3.0.0")])
def test_a_person_at_a_terminal_is_asked(
    registry: Registry, script: Script, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, serves: str
) -> None:
    person, terminal = os.openpty()
    os.write(person, f"{answer}\n".encode())
    with os.fdopen(terminal) as stdin, os.fdopen(person):
        monkeypatch.setattr(sys, "stdin", stdin)
        asked = run(script)
    assert (asked.code, "continue? [y/N]" in asked.err) == (code, True)
    assert now(registry)[0] == serves


def test_once_it_is_done_it_is_done_whatever_its_user_is_called(
    registry: Registry, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULORA_WHO", "\udcff" + "x" * 300)
    first, again = run(script, "--yes", "--json"), run(script, "--yes", "--json")
    assert (first.code, first.document["changed"], first.document["previous"]) == (0, True, "v3.0.0")
    assert (again.code, again.document["changed"], again.document["action"]) == (0, False, "none")
    assert [record.who for record in registry.history()] == ["?" + "x" * 255, *["a test"] * 3]


def test_a_withdrawn_version_needs_force_and_a_reason(registry: Registry, script: Script) -> None:
    registry.rollback()
    registry.rollback(options=RollbackOptions(again=True))
    assert now(registry) == ("v1.0.0", (), ("v3.0.0", "v2.0.0"))
    refused = run(script, "--yes", "--json")
    assert (refused.code, refused.error) == (5, "NothingToRollBackTo")
    assert run(script, "--yes", "--force", "--json").error == "BadInput"
    assert run(script, "--yes", "--force", "--reason", "it was the network").code == 0
    assert now(registry) == ("v2.0.0", (), ("v3.0.0", "v1.0.0"))
    assert len(registry.history()) == 6


def test_a_trial_is_ended_as_the_package_does_it(registry: Registry) -> None:
    bind(registry, "v4.0.0", "v5.0.0")
    try_out(registry, "v4.0.0")
    ended = run(registry.rollback_script("v3.0.0"), "--yes", "--json").document
    assert (ended["action"], ended["version"], ended["previous"]) == ("abort", "v3.0.0", "v4.0.0")
    assert now(registry) == ("v3.0.0", ("v2.0.0", "v1.0.0"), ("v4.0.0",))
    try_out(registry, "v5.0.0")
    both = run(registry.rollback_script("v1.0.0"), "--dry-run")
    assert both.out.startswith("production is v3.0.0 with v5.0.0; this makes it v1.0.0")
    assert run(registry.rollback_script("v1.0.0"), "--yes").code == 0
    assert now(registry) == ("v1.0.0", (), ("v4.0.0", "v3.0.0", "v5.0.0", "v2.0.0"))


def test_a_log_that_asks_for_a_later_writer_is_left_alone(registry: Registry, script: Script) -> None:
    log = registry.channel("production")
    head = log.head()
    assert head
    later = promoted(
        ChannelPosition(registry.model, "production", head), pointer("v9.0.0"), Author("a later release"), None
    )
    log.commit(later.model_copy(update={"min_writer": 2}))
    refused = run(script, "--yes")
    assert refused.code == 4
    assert "ulora rollback-script v2.0.0 --channel production" in refused.err


def test_a_file_that_the_store_lost_stops_it(registry: Registry, tmp_path: Path) -> None:
    create(registry, "v4.0.0", tmp_path)
    for name in ("v4.0.0", "v3.0.0"):
        serve(registry, name)
    script = registry.rollback_script("v4.0.0")
    lost = registry.manifest("v4.0.0").files[0]
    registry.store.delete(layout.blob(lost.sha256))
    stopped = run(script, "--yes")
    assert stopped.code == 6
    assert f"{lost.path} (missing)" in stopped.err
    assert now(registry)[0] == "v3.0.0"
    with pytest.raises(MissingBlob, match=r"files of v4\.0\.0 are missing"):
        registry.rollback_scripts()


@pytest.mark.parametrize("fault", [swallow_reply, refuse, fail_after_applying])
def test_a_write_whose_outcome_is_not_told_happens_once(
    registry: Registry, script: Script, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., None]
) -> None:
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    proxy.next(fault, method="PUT", containing="/channels/")
    done = run(script, "--yes", "--json")
    assert (done.code, done.document["changed"], done.document["generation"]) == (0, True, 4)
    asked = [method for method, path in proxy.requests if "/channels/" in path]
    assert asked[asked.index("PUT") + 1] == "GET", "boto3 itself must not send a write again"
    assert len(registry.history()) == 4


def test_when_nothing_can_be_learned_it_says_so(
    registry: Registry, script: Script, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    proxy.next(refuse, method="PUT", times=100)
    unknown = run(script, "--yes", "--json", DEADLINE=0.3)
    assert (unknown.code, unknown.error) == (7, "OutcomeUnknown")


@pytest.mark.parametrize(("to", "code"), [("v2.0.0", 0), ("v1.0.0", 4)])
def test_of_two_at_once_one_writes(
    registry: Registry, script: Script, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, to: str, code: int
) -> None:
    def first_the_package(exchange: Any) -> None:
        other = Registry(settings=replace(registry.settings, who="the\x1b[2J\nother"))
        other.rollback(options=RollbackOptions(to=to))
        exchange.send(exchange.forward())

    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    proxy.next(first_the_package, method="PUT", containing="/channels/")
    late = run(script, "--yes")
    assert late.code == code
    assert "the\ufffd[2J other" in late.out + late.err, "what others wrote moves no cursor"
    assert now(registry)[0] == to
    assert len(registry.history()) == 4


def test_a_version_that_went_live_during_the_question(
    registry: Registry, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Person(StringIO):
        def isatty(self) -> bool:
            return True

        def readline(self, *_: Any) -> str:
            registry.rollback(options=RollbackOptions(to="v2.0.0"))
            registry.promote("v3.0.0", "production", PromoteOptions(force=True), reason="so")
            return "y"

    monkeypatch.setattr(sys, "stdin", Person())
    late = run(script, "--json")
    assert (late.code, "ChannelMoved" in late.err) == (4, True)
    assert now(registry)[0] == "v3.0.0"


def test_a_stale_listing_never_tells_the_script_it_is_done(
    registry: Registry, script: Script, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.rollback()
    kept: list[Any] = []

    def listing_of_now(exchange: Any) -> None:
        kept.append(kept[0] if kept else exchange.forward())
        exchange.send(kept[0])

    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    proxy.next(listing_of_now, method="GET", containing="channels%2Fproduction%2F", times=1000)
    assert run(script, "--yes", "--json").document["action"] == "none"
    registry.promote("v3.0.0", "production", PromoteOptions(force=True), reason="so")
    assert run(script, "--yes", "--json").document["changed"]
    assert now(registry)[0] == "v2.0.0"


def test_an_empty_listing_stops_no_script(
    registry: Registry, script: Script, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listing_of_nothing(exchange: Exchange) -> None:
        reply = exchange.forward()
        body = re.sub(rb"<Contents>.*</Contents>", b"", reply.body, flags=re.DOTALL)
        body = body.replace(b"<IsTruncated>true", b"<IsTruncated>false")
        exchange.send(replace(reply, body=body))

    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    proxy.next(listing_of_nothing, method="GET", containing="channels%2Fproduction%2F", times=1000)
    assert run(script, "--yes", "--json").document["changed"]
    assert now(registry)[0] == "v2.0.0"


def test_after_an_unclear_answer_no_error_is_clear(
    registry: Registry, script: Script, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    newest = "/channels/production/0999999999996.json"

    def swallow(exchange: Exchange) -> None:
        for method in ("GET", "PUT"):
            proxy.next(answering(400, "InvalidRequest"), method=method, containing=newest)
        swallow_reply(exchange)

    proxy.next(swallow, method="PUT", containing=newest)
    assert run(script, "--yes", "--json").document["changed"]
    assert now(registry)[0] == "v2.0.0"


def test_a_404_for_the_write_is_settled_by_looking(
    registry: Registry, script: Script, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    proxy.next(answering(404, "NoSuchKey"), method="PUT", containing="/channels/")
    assert run(script, "--yes", "--json").document["changed"]
    assert now(registry)[0] == "v2.0.0"


def test_a_redirect_is_said_to_be_one(script: Script, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    proxy.next(answering(301, "PermanentRedirect"), times=1000)
    refused = run(script, "--yes", "--json")
    assert (refused.code, "redirects" in refused.err) == (2, True)


@pytest.mark.parametrize("junk", [".DS_Store", "0.json", "0999999999990.json.bak"])
def test_junk_in_the_log_does_not_stop_the_script(registry: Registry, script: Script, junk: str) -> None:
    registry.store.overwrite(layout.channel(registry.model, "production") + junk, b"junk")
    assert run(script, "--yes", "--json").document["changed"]
    assert now(registry)[0] == "v2.0.0"


def test_a_record_with_half_a_character_is_refused(registry: Registry, script: Script) -> None:
    head = registry.channel("production").head()
    assert head
    later = {**json.loads(head.to_bytes()), "generation": 4, "previous": head.sha256, "reason": "\ud800"}
    key = layout.record(registry.model, "production", 4)
    registry.store.overwrite(key, json.dumps(later).encode())
    assert run(script, "--yes", "--json").error == "BadManifest"


def test_a_store_that_is_away_or_refuses_us(
    registry: Registry, script: Script, monkeypatch: pytest.MonkeyPatch, dead_address: str
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert run(script, "--dry-run", "--json").error == "StoreDenied"
    monkeypatch.setenv("ULORA_S3_ENDPOINT", dead_address)
    away = run(script, "--yes", "--json")
    assert (away.code, away.error) == (7, "StoreUnreachable")


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def whole(registry: Registry, tmp_path: Path) -> Script:
    """A script of a version that has files."""
    create(registry, "v4.0.0", tmp_path)
    return registry.rollback_script("v4.0.0")


def test_restored_files_are_those_of_the_version(registry: Registry, whole: Script, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "restored"
    assert run(whole, "--restore", target).code == 0
    written = {path.relative_to(target).as_posix(): path for path in target.rglob("*") if path.is_file()}
    files = registry.manifest("v4.0.0").files
    assert {path: canonical.sha256(place.read_bytes()) for path, place in written.items()} == {
        file.path: file.sha256 for file in files
    }
    assert {oct(place.stat().st_mode & 0o777) for place in written.values()} == {"0o644"}
    assert now(registry)[0] == "v3.0.0"


def test_a_connection_that_breaks_while_a_file_arrives_is_no_end(
    registry: Registry, whole: Script, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    proxy.next(cut_body, method="GET", containing="/blobs/", times=2)
    assert run(whole, "--restore", tmp_path / "restored").code == 0
    proxy.next(cut_body, method="GET", containing="/blobs/", times=100)
    assert run(whole, "--restore", tmp_path / "never", "--json").error == "StoreUnreachable"
    assert not (tmp_path / "never").exists()


def test_a_restore_changes_no_channel_and_its_dry_run_no_file(
    registry: Registry, whole: Script, tmp_path: Path
) -> None:
    for words in (("--restore", "", "--yes"), ("--restore", tmp_path / "here", "--force", "--reason", "so")):
        assert run(whole, *words, "--json").error == "BadInput"
    looked = run(whole, "--restore", tmp_path / "here", "--dry-run")
    assert (looked.code, "would write" in looked.out) == (0, True)
    assert not (tmp_path / "here").exists()
    assert now(registry)[0] == "v3.0.0"


def test_a_corrupt_file_is_not_written_and_nothing_is_left(registry: Registry, whole: Script, tmp_path: Path) -> None:
    key = layout.blob(registry.manifest("v4.0.0").files[-1].sha256)
    registry.store.overwrite(key, b"something else")
    target = tmp_path / "empty" / "restored"
    broken = run(whole, "--restore", target, "--json")
    assert (broken.code, broken.error) == (6, "CorruptBlob")
    assert list(target.parent.iterdir()) == []


def test_what_lies_there_already_and_links_are_left_alone(whole: Script, tmp_path: Path) -> None:
    mine, link = tmp_path / "mine", tmp_path / "link"
    mine.mkdir()
    (mine / "file").write_text("mine")
    link.symlink_to(tmp_path / "elsewhere")
    assert run(whole, "--restore", mine, "--json").error == "BadInput"
    for place in (link, link / "below"):
        assert run(whole, "--restore", place, "--json").error == "UnsafePath"
    assert (mine / "file").read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()


# --- where they come from --------------------------------------------------------------------------------------------


def scripts_in_store(registry: Registry) -> list[str]:
    return [key for key in listing(registry) if "/scripts/" in key]


def test_a_promotion_stores_its_rollback_script(registry: Registry) -> None:
    bind(registry, "v4.0.0")
    registry.promote("v4.0.0", "production")
    (key,) = scripts_in_store(registry)
    assert key.endswith("/rollback_to_v3.0.0.py")
    body = registry.store.get(key).body
    assert key == layout.script(registry.model, "v3.0.0", canonical.sha256(body))
    scope: dict[str, Any] = {"__name__": "a_script"}
    exec(body, scope)
    assert scope["main"](["--yes"]) == 0
    assert now(registry)[0] == "v3.0.0"


def test_a_promotion_succeeds_if_its_script_can_t_be_stored(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    bind(registry, "v4.0.0")
    other = open_registry(tmp_path / "other", registry.settings.store, registry.model, endpoint_url=proxy.url)
    proxy.next(lambda exchange: exchange.send(Reply(403, [], b"")), method="PUT", containing="/scripts/")
    change = other.promote("v4.0.0", "production")
    assert change.changed
    assert any("`ulora rollback-script v3.0.0` writes one" in note for note in change.notes)


def test_a_script_for_a_person_pins_its_version_until_unpinned(registry: Registry) -> None:
    pin = layout.pin(registry.model, "v1.0.0")
    registry.rollback_script("v1.0.0", dry_run=True)
    assert not registry.is_pinned("v1.0.0")
    for _ in range(2):
        registry.rollback_script("v1.0.0", reason="on my stick")
    document = json.loads(registry.store.get(pin).body)
    assert {name: document[name] for name in ("format", "version", "channel", "reason")} == {
        "format": 1, "version": "v1.0.0", "channel": "production", "reason": "on my stick",
    }  # fmt: skip
    assert registry.unpin("v1.0.0")
    assert not registry.unpin("v1.0.0")
    assert pin not in listing(registry)
    with pytest.raises(VersionNotFound):
        registry.rollback_script("v9.0.0")


def test_from_the_command_line(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULORA_MODEL", registry.model)
    monkeypatch.chdir(tmp_path)
    planned = ulora("rollback-script", "v2.0.0", "--dry-run")
    assert (planned.code, planned.out.strip()) == (0, "would write rollback_to_v2.0.0.py")
    assert not (tmp_path / "rollback_to_v2.0.0.py").exists()
    for _ in range(2):
        assert ulora("rollback-script", "v2.0.0").code == 0
    assert os.access(tmp_path / "rollback_to_v2.0.0.py", os.X_OK)
    every = ulora("rollback-script", "--all", "--out", tmp_path / "stick", "--json")
    assert [one["version"] for one in every.document] == ["v2.0.0", "v1.0.0"]
    assert not registry.is_pinned("v1.0.0")
    assert "is unpinned" in ulora("rollback-script", "v2.0.0", "--unpin").out
    (tmp_path / "mine.py").write_text("mine")
    complains(ulora("rollback-script", "v2.0.0", "--out", "mine.py"), 2, "is not a rollback script")
    for more in ((), ("--dry-run",)):
        other = ulora("rollback-script", "v2.0.0", "--channel", "staging", *more)
        complains(other, 2, "is a rollback script for another channel", "--out")
    complains(ulora("rollback-script", "v2.0.0", "--out", "no/such/folder.py"), 2, "can't be written", "--out")
    assert not registry.is_pinned("v2.0.0"), "no script, no pin"
    complains(ulora("rollback-script"), 2, "--all")
    complains(ulora("rollback-script", "--all", "--channel", "staging", "--out", "x"), 5, "no earlier version")


def test_a_failed_script_leaves_the_pin_of_another(
    registry: Registry, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else writes a script for the same version while this command is under way, and fails at its file."""

    def another_pins_first(exchange: Exchange) -> None:
        registry.rollback_script("v2.0.0", reason="on the stick in the safe")
        exchange.send(exchange.forward())

    monkeypatch.setenv("ULORA_MODEL", registry.model)
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    proxy.next(another_pins_first, method="GET", containing="/forgotten/")
    complains(ulora("rollback-script", "v2.0.0", "--out", tmp_path / "no" / "folder.py"), 2, "can't be written")
    assert registry.is_pinned("v2.0.0")


def test_a_script_that_can_not_be_pinned_is_not_written(
    registry: Registry, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULORA_MODEL", registry.model)
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    proxy.next(answering(403, "AccessDenied"), method="PUT", containing="/pins/", times=100)
    complains(ulora("rollback-script", "v2.0.0", "--out", tmp_path / "to.py"), 7, "refuses")
    assert list(tmp_path.glob("*to.py*")) == []


def test_nobody_can_guess_where_a_script_is_written(script: Script, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("another file of this user")
    (tmp_path / f".{script.name}.part").symlink_to(outside)
    script.write(tmp_path / script.name)
    assert outside.read_text() == "another file of this user"
    assert (tmp_path / script.name).read_bytes() == script.body
    assert [path.name for path in tmp_path.glob("*.part")] == [f".{script.name}.part"]


# --- its output, AWS's settings, and servers that answer byte by byte -------------------------------------------------


@pytest.mark.acceptance
@pytest.mark.parametrize("fault", [drip_headers, drip_body], ids=lambda fault: fault.__name__)
def test_the_script_ends_though_the_server_drips(
    registry: Registry, script: Script, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., None]
) -> None:
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    proxy.next(fault, method="GET", times=100)
    looked = run(script, "--yes", "--json", CALL=1.0)
    assert (looked.code, looked.error) == (7, "StoreUnreachable")
    proxy.clear()
    proxy.next(fault, method="PUT", containing="/channels/")
    done = run(script, "--yes", "--json", ATTEMPT=0.5)
    assert (done.code, done.document["changed"], len(registry.history())) == (0, True, 4)


def test_a_write_whose_answers_all_drip_is_unknown(
    registry: Registry, script: Script, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    newest = layout.record("", "production", 4).rpartition("/")[2]

    def drip_from_now_on(exchange: Exchange) -> None:
        proxy.next(drip_headers, containing=newest, times=100)
        drip_headers(exchange)

    proxy.next(drip_from_now_on, method="PUT", containing=newest)
    unknown = run(script, "--yes", "--json", ATTEMPT=0.4, DEADLINE=1.0)
    assert (unknown.code, unknown.error) == (7, "OutcomeUnknown")
    assert len(registry.history()) == 4, "it was applied"


@pytest.mark.acceptance
@pytest.mark.parametrize(
    "line", ["> /dev/full", "--json > /dev/full", "2> /dev/full", ">&-", ">&- 2>&- <&-", "| true", "--json | true"]
)
def test_what_becomes_of_its_output_changes_nothing(
    registry: Registry, script: Script, tmp_path: Path, line: str
) -> None:
    path = script.write(tmp_path / script.name)
    whole = f"set -o pipefail; {sys.executable} {path} --yes {line}"
    done = subprocess.run(["bash", "-c", whole], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, now(registry)[0]) == (0, "v2.0.0"), done
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_it_rolls_back_though_nobody_reads_its_output(registry: Registry, script: Script, tmp_path: Path) -> None:
    command = [sys.executable, str(script.write(tmp_path / script.name)), "--yes"]
    with full_pipe() as (_, writes), subprocess.Popen(command, stdout=writes, stderr=writes) as process:
        try:
            wait_until(lambda: now(registry)[0] == "v2.0.0")
        finally:
            process.kill()


def test_the_script_says_what_is_wrong_with_aws_s_settings(
    registry: Registry, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, (config, variables, says) in BROKEN.items():
        with monkeypatch.context() as broken:
            apply(broken, tmp_path, config, variables)
            ended = run(script, "--yes", OPENING=1.0 if "hangs" in name else 60.0)
        assert ended.code in (2, 7), (name, ended)
        assert ended.err.startswith("error: "), (name, ended)
        assert ended.err.count("\nhint: ") == 1, (name, ended)
        assert says in ended.err, (name, ended)
        assert "unexpected" not in ended.err, (name, ended)
    assert now(registry)[0] == "v3.0.0"


@pytest.mark.parametrize("value", ["horse\n", "ho\r\nrse", "horse\x01", "horse\udcff"])
def test_credentials_that_cant_be_sent_are_not_shown(
    script: Script, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    problem = "ends with a line break" if value.endswith("\n") else "has characters in it"
    for name in ("AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_ACCESS_KEY_ID"):
        with monkeypatch.context() as broken:
            broken.setenv(name, value)
            ended = run(script, "--yes")
        assert (ended.code, f"error: {name} {problem} that can't be sent" in ended.err) == (2, True), ended
        assert "rse" not in ended.err


def test_a_token_of_a_file_that_cant_be_sent_is_not_shown(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"{name} = {os.environ[name]}" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    lines = ["[default]", *keys, "aws_session_token = horse", "  horse", ""]
    (tmp_path / "keys").write_text("\n".join(lines))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    ended = run(script, "--yes")
    assert (ended.code, "a header of the request has a line break in it" in ended.err) == (2, True), ended
    assert "horse" not in ended.err


def test_what_it_says_of_a_library_s_error_has_no_header() -> None:
    for said in ("Invalid header value b'horse\\n'", "Illegal header value b'horse'", "in header value: 'horse\\n'"):
        assert source.first_line(ValueError(f"It failed: {said}")).endswith("header value (not shown)")


def test_an_unexpected_error_is_one_line(registry: Registry, script: Script) -> None:
    ended = run(script, "--yes", "--json", roll_back=None)
    assert (ended.code, ended.error) == (1, "Failed")
