"""The policies in docs/policies: each role can do its work with them, on a server that enforces them, and no more.

One story is told by all roles, each with a user of its own. Every request is noted: by AWS's own rules, with the
bucket's policy too, it must be allowed to who sent it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from registry.api import Registry
from registry.channels.channel import RollbackOptions
from registry.channels.record import Author, ChannelPosition, promoted
from registry.dashboard import session
from registry.dashboard.session import Dashboard
from registry.devstack.s3_server import S3Server
from registry.errors import StoreDenied
from registry.evidence.outcomes import ImageOutcome, packed
from registry.evidence.results import BenchmarkRun, Evidence, Measurement
from registry.formats.canonical import sha256
from registry.guard.guard import Guard, GuardOptions
from registry.guard.notifiers import Notifiers
from registry.names import VersionName
from registry.retention.forget import RetentionRule
from registry.serving.follow import LiveOptions
from registry.store import layout, uploads
from registry.store.object_info import ObjectInfo
from registry.store.objects import ObjectStore
from registry.usecases.audit_options import AuditOptions, ChecklistOptions
from registry.usecases.options import AdvanceOptions, CanaryOptions, VerifyOptions
from registry.usecases.replay import newest_digest, replay
from tests.servers.iam import Call, Policy, UserServer, allows, read_policy
from tests.support.dashboard_browser import PAGES
from tests.support.drawn_pages import page
from tests.support.echo_releases import load_echo, wait_until
from tests.support.registries import create, open_registry
from tests.support.sent_requests import Sent, record
from tests.support.signing_keys import key_pair
from tests.support.watched_trials import Fleet, Rates

pytestmark = pytest.mark.acceptance

POLICIES = Path(__file__).parents[2] / "docs" / "policies"
ROLES = ("publisher", "measurer", "promoter", "replica", "guard", "gc", "verifier", "reader")
MODEL, PREFIX = "leaves", "team/ulora"
GC_ROLE = "arn:aws:iam::123456789012:role/gc"
FIVE_MIB = 5 * 1024 * 1024
TARGET = "adapters/low"


class Cast:
    """The roles: a registry for each, which acts with its own rights, and what each has sent."""

    def __init__(self, server: S3Server, policies: dict[str, Policy], users: dict[str, dict[str, str]], folder: Path):
        self.server, self.policies, self._users, self._folder = server, policies, users, folder
        self.sent: dict[str, list[Sent]] = {}
        self._registries: dict[str, Registry] = {}

    def __getitem__(self, role: str) -> Registry:
        if role not in self._registries:
            store = f"s3://{self.server.bucket}/{PREFIX}"
            registry = open_registry(self._folder / role, store, MODEL, who=role)
            with pytest.MonkeyPatch.context() as patch:
                for name, value in self._users.get(role, self.server.env).items():
                    patch.setenv(name, value)
                self.sent[role] = record(registry.store)  # opens the connections, with these keys
            self._registries[role] = registry
        return self._registries[role]

    def calls(self, role: str) -> list[Call]:
        principal = GC_ROLE if role == "gc" else f"arn:aws:iam::123456789012:role/{role}"
        return [Call.of(sent, self.server.bucket, principal) for sent in self.sent[role]]


@pytest.fixture(scope="module")
def cast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cast]:
    """All that the roles do for a release, done."""
    folder = tmp_path_factory.mktemp("cast")
    server = UserServer(folder / "s3").start()
    try:
        names = {"BUCKET": server.bucket, "PREFIX": PREFIX, "MODEL": MODEL, "GC_ROLE_ARN": GC_ROLE}
        policies = {name: read_policy(POLICIES / f"{name}.json", names) for name in (*ROLES, "bucket")}
        users = {role: server.add_user(role, policies[role]) for role in ROLES}
        cast = Cast(server, policies, users, folder)
        tell_the_story(cast, folder)
        yield cast
    finally:
        server.kill()


def tell_the_story(cast: Cast, folder: Path) -> None:
    cast["admin"].store.initialise()
    publish(cast["publisher"], folder)
    for version in ("v1.0.0", "v1.1.0", "v1.2.0"):
        registry = cast["measurer"]
        registry.blobs.fetch(registry.trusted_manifest(version).files)
        answers = packed([ImageOutcome(image="a" * 64)])
        registry.wiring.ledger.add(measured(registry, version, sha256(answers)), answers)
        assert registry.wiring.ledger.outcomes(registry.evidence(version)[0])
    promoter = cast["promoter"]
    promoter.approve("v1.0.0", "staging")
    promoter.checklist("v1.0.0", ChecklistOptions(tick=("team-told",)))
    for role in ("publisher", "measurer"):  # whose pages say what the gates say
        assert cast[role].wiring.ledger.approvals(VersionName.parse("v1.0.0"))
    for version in ("v1.0.0", "v1.1.0"):
        for channel in ("staging", "production"):
            promoter.promote(version, channel)
    for role in ("publisher", "measurer", "promoter"):
        assert replay(cast[role].wiring, newest_digest(cast[role].wiring, "v1.1.0", "production")).equal
    serve(cast["replica"], promoter)
    try_beside_stable(cast)
    cast["verifier"].verify_all(None, VerifyOptions(read_data=True))
    look(cast["reader"], folder)
    assert cast["verifier"].audit(folder / "audit.zip", AuditOptions(channel="production")).missing == {}
    for role in ("promoter", "verifier"):
        assert cast[role].report("v1.1.0").decisions[0].action == "", "what decided is no decision in this story"
    collect(cast)


def measured(registry: Registry, version: str, outcomes: str) -> Evidence:
    run = BenchmarkRun(
        benchmark="accuracy", model=MODEL, version=version, content_sha256=registry.manifest(version).content_sha256,
        device="cpu", runtime="none", seconds=1.0, timestamp="2026-11-21T10:00:00Z", libraries={}, who="measurer",
    )  # fmt: skip
    return Evidence.of(Measurement((), "d" * 64, "leaves", 10), run, outcomes)


def publish(registry: Registry, folder: Path) -> None:
    key = key_pair(folder, "release")
    for version in ("v1.0.0", "v1.1.0", "v1.2.0"):
        create(registry, version, folder / "bundles")
        registry.sign(version, key.key)
    large = folder / "large"
    large.write_bytes(bytes(FIVE_MIB + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uploads, "PART_BYTES", FIVE_MIB)
        registry.blobs.upload({sha256(large.read_bytes()): large})


def serve(replica: Registry, promoter: Registry) -> None:
    """A replica follows while the channel goes back as a whole and in part."""
    with replica.follow("production", LiveOptions(poll=0.02, retry=0.02, find=lambda flavor: load_echo)) as live:
        wait_until(lambda: live.health().rollback_ready)
        part = promoter.rollback(only=[TARGET], reason="only low")
        assert live.wait_for(generation=part.generation, timeout=150)
        back = promoter.rollback(options=RollbackOptions(again=True), reason="all of it")
        assert live.wait_for(generation=back.generation, timeout=150)
        wait_until(lambda: any(replica.version == back.version for replica in promoter.status().channels[1].replicas))
        assert live.health().note == ""
    promoter.rollback_script("v1.0.0")
    assert promoter.unpin("v1.0.0")
    promoter.history("production")


def try_beside_stable(cast: Cast) -> None:
    """Two trials: one advances to the end, the other is ended; both by the guard, from what a replica counts."""
    promoter, guard, counted = cast["promoter"], cast["guard"], cast["replica"].store
    promoter.promote("v1.0.0", "production")
    counts = layout.observation(MODEL, "production", "one")
    for version in ("v1.1.0", "v1.2.0"):
        force = CanaryOptions(percent=10, force=True)
        begun = promoter.canary.start(version, "production", force, reason="a trial").generation
        for body in (b"{}", b'{"replica":"one"}'):
            counted.overwrite(counts, body)
        assert guard.store.get(counts).body == counted.get(counts).body
        decision = sha256(version.encode())
        guard.store.create(layout.decision(MODEL, "production", decision), version.encode())
        if version == "v1.1.0":
            guard.canary.advance(to=50, options=AdvanceOptions(expected=begun, decision=decision))
            guard.canary.advance(options=AdvanceOptions(expected=begun + 1, decision=decision))
        else:
            go_back(guard, cast["replica"])
    old = layout.observation(MODEL, "production", "old")
    counted.overwrite(old, b'{"replica":"old"}')
    cast["gc"].store.delete(old)


def go_back(guard: Registry, replica: Registry) -> None:
    """The guard goes back by itself, and leaves a note."""
    head = guard.channel("production").head()
    assert head
    fleet = Fleet(now=guard.store.now())
    fleet.begin(head)
    fleet.ask(head, 2000, Rates(error=0.5), labels=False)
    fleet.write(replica)
    (looked,) = Guard(guard, Notifiers([]), GuardOptions(("production",), once=True)).look()
    assert (looked.action, looked.changed, looked.notes) == ("rollback", True, ())
    assert guard.store.head(layout.incident(MODEL, "production", looked.decision))


def look(reader: Registry, folder: Path) -> None:
    """All that people look at is read."""
    assert reader.status().channels[1].stable
    assert list(reader.history("production"))
    assert reader.audit(folder / "seen.zip", AuditOptions(channel="production")).missing == {}
    for listed in reader.versions(mlflow=False):
        reader.evidence(listed.version)
        reader.report(listed.version)
        reader.checklist(listed.version)


def collect(cast: Cast) -> None:
    """What no channel needs is forgotten, and its files go."""
    all_but_one = RetentionRule(keep=1, older_than=timedelta(0))
    wait_until(lambda: cast["gc"].collect_garbage(all_but_one, grace=timedelta(0)).pruned.deleted)


def test_every_request_of_a_role_is_allowed_by_its_policy(cast: Cast) -> None:
    for role in ROLES:
        calls = cast.calls(role)
        assert calls
        assert [call for call in calls if not allows(cast.policies[role], cast.policies["bucket"], call)] == []


def test_a_dashboard_needs_the_rights_of_a_reader(cast: Cast) -> None:
    for name in PAGES:
        shown = page(name.lower(), Dashboard(cast["reader"]))
        assert not [*shown.exception, *shown.error], name
    session._CURRENT.clear()


def test_the_story_had_every_kind_of_write_in_it(cast: Cast) -> None:
    kinds = {(sent.operation, sent.key) for role in ROLES for sent in cast.sent[role]}
    written = " ".join(key for operation, key in kinds if operation == "PutObject")
    for kind in (
        "versions",
        "evidence",
        "outcomes",
        "verdicts",
        "policies",
        "approvals",
        "ticks",
        "channels",
        "passed",
        "decisions",
        "incidents",
        "forgotten",
        "pins",
        "scripts",
        "signatures",
    ):
        assert f"/{kind}/" in written
    for kind in ("replicas/production", "observations/production", "blobs/sha256", "gc.json"):
        assert kind in written
    assert {"DeleteObject", "CompleteMultipartUpload"} <= {operation for operation, _ in kinds}


# --- what each must not do, on the server that enforces it -----------------------------------------------------------

VERSION, RECORD = layout.version(MODEL, "v9.0.0"), layout.record(MODEL, "production", 999)
EVIDENCE, VERDICT = layout.evidence(MODEL, "v1.0.0", "e" * 64), layout.verdict(MODEL, "e" * 64)
POLICY = layout.policy(MODEL, "e" * 64)
PASSED = layout.passed(MODEL, "staging", "v1.0.0", "e" * 64)
FORGOTTEN, SIGNATURE = layout.forgotten(MODEL, "v1.0.0"), layout.signature(MODEL, "v1.0.0", "e" * 64)
DECISION = layout.decision(MODEL, "production", "e" * 64)
INCIDENT = layout.incident(MODEL, "production", "e" * 64)
NESTED = tuple(
    f"models/{MODEL}/{folder}/v1.0.0/{inside}/{'e' * 64}.json"
    for folder in ("approvals", "evidence", "ticks", "versions") for inside in ("operations", "forgotten")
)  # fmt: skip
"""Where a role may write whose rights hold for `models/*/operations/*`: AWS's `*` goes past slashes."""
OPERATION, TICK = f"{layout.operations(MODEL)}2026-11-21/{'e' * 64}.json", layout.tick(MODEL, "v1.0.0", "e" * 64)
BLOB, ELSEWHERE = layout.blob("e" * 64), layout.record("roses", "production", 1)


@pytest.mark.parametrize(
    ("role", "keys"),
    [
        ("guard", (VERSION, EVIDENCE, VERDICT, POLICY, FORGOTTEN, SIGNATURE, BLOB, layout.GC_KEY, ELSEWHERE)),
        ("publisher", (DECISION, RECORD, EVIDENCE, VERDICT, POLICY, PASSED, FORGOTTEN, layout.GC_KEY, ELSEWHERE)),
        ("measurer", (VERSION, RECORD, VERDICT, POLICY, PASSED, FORGOTTEN, SIGNATURE, BLOB, ELSEWHERE)),
        ("promoter", (DECISION, VERSION, EVIDENCE, FORGOTTEN, SIGNATURE, layout.GC_KEY, ELSEWHERE)),
        (
            "replica",
            (DECISION, VERSION, RECORD, EVIDENCE, VERDICT, POLICY, PASSED, FORGOTTEN, SIGNATURE, BLOB, ELSEWHERE),
        ),
        (
            "verifier",
            (VERSION, RECORD, EVIDENCE, VERDICT, FORGOTTEN, SIGNATURE, BLOB, layout.GC_KEY, ELSEWHERE, *NESTED),
        ),
        ("reader", (VERSION, RECORD, TICK, EVIDENCE, VERDICT, OPERATION, FORGOTTEN, SIGNATURE, BLOB, ELSEWHERE)),
        ("gc", (DECISION, VERSION, RECORD, EVIDENCE, VERDICT, PASSED, SIGNATURE, BLOB, ELSEWHERE, *NESTED)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_role_creates_nothing_that_is_another_s_to_create(cast: Cast, role: str, keys: tuple[str, ...]) -> None:
    for key in keys:
        before = what_is_at(cast["admin"].store, key)
        with pytest.raises(StoreDenied):
            cast[role].store.create(key, b"{}")
        assert what_is_at(cast["admin"].store, key) == before


def what_is_at(store: ObjectStore, key: str) -> ObjectInfo | None:
    """The object at a key, whenever it is looked at."""
    info = store.head(key)
    return info and replace(info, read_at=None)


@pytest.mark.parametrize("role", ROLES)
def test_no_role_deletes_history(cast: Cast, role: str) -> None:
    for kind in (layout.channel(MODEL, "production"), layout.versions(MODEL), layout.evidence(MODEL, "v1.0.0")):
        key = cast["admin"].store.first(kind)
        assert key
        with pytest.raises(StoreDenied):
            cast[role].store.delete(key)
        assert cast["admin"].store.head(key)


@pytest.mark.parametrize("role", ["publisher", "measurer", "promoter", "replica", "guard", "verifier", "reader"])
def test_only_garbage_collection_deletes_files_and_signatures(cast: Cast, role: str) -> None:
    blob = layout.blob(cast["admin"].manifest("v1.0.0").files[0].sha256)
    for key in (blob, cast["admin"].store.first(layout.signature(MODEL, "v1.0.0"))):
        assert key
        with pytest.raises(StoreDenied):
            cast[role].store.delete(key)
        assert cast["admin"].store.head(key)


def test_invalid_signatures_can_be_removed_with_the_gc_role(cast: Cast) -> None:
    cast["publisher"].store.create(SIGNATURE, b"{}")
    cast["gc"].store.delete(SIGNATURE)
    assert cast["admin"].store.head(SIGNATURE) is None


def test_a_replica_reads_no_more_than_it_serves(cast: Cast) -> None:
    for folder in (layout.evidence(MODEL, "v1.0.0"), f"models/{MODEL}/verdicts/"):
        key = cast["admin"].store.first(folder)
        assert key
        with pytest.raises(StoreDenied):
            cast["replica"].store.get(key)


def test_the_rights_of_a_replica_are_enough_for_a_sidecar(cast: Cast, tmp_path: Path) -> None:
    done = cast["replica"].sidecar("production", tmp_path / "served").once()
    assert (done.moved, done.unready) == (True, "")


def test_a_replica_may_not_promote(cast: Cast) -> None:
    replica, log = cast["replica"], cast["admin"].channel("production")
    before = log.head()
    pointer = replica.bindings.get(VersionName.parse("v1.1.0")).pointer
    with pytest.raises(StoreDenied):
        replica.channel("production").commit(
            promoted(ChannelPosition(MODEL, "production", before), pointer, Author("me"), None)
        )
    assert log.head() == before


# --- the bucket's policy, by AWS's rules: the server here knows none of these conditions ------------------------------

ALL = {"Statement": [{"Effect": "Allow", "Action": ["s3:*", *(f"s3:{verb}Object" for verb in ("Put", "Delete", "Get"))],
                      "Resource": "*"}]}  # fmt: skip
CREATES, REPLACES = {"s3:if-none-match": "*"}, {"s3:if-match": '"etag"'}


def may(
    cast: Cast, action: str, key: str, principal: str = "arn:aws:iam::123456789012:role/admin", **given: str
) -> bool:
    """Whether an administrator, who may do everything, may do this for all the bucket's policy says."""
    context = {"aws:PrincipalArn": principal, "aws:SecureTransport": "true", **given}
    if action == "s3:PutObject":
        context.setdefault("s3:ObjectCreationOperation", "true")
    call = Call(action, f"arn:aws:s3:::{cast.server.bucket}/{PREFIX}/{key}", context)
    return allows(ALL, cast.policies["bucket"], call)


@pytest.mark.parametrize(
    "key", [VERSION, RECORD, EVIDENCE, VERDICT, PASSED, DECISION, INCIDENT, FORGOTTEN, SIGNATURE, layout.FORMAT_KEY]
)
def test_nobody_overwrites_what_is_created_once(cast: Cast, key: str) -> None:
    assert may(cast, "s3:PutObject", key, **CREATES)
    assert not may(cast, "s3:PutObject", key)
    assert not may(cast, "s3:PutObject", key, **REPLACES)
    assert not may(cast, "s3:DeleteObject", key)


@pytest.mark.parametrize("key", [BLOB, layout.GC_KEY])
def test_blobs_and_marks_are_replaced_only_knowingly(cast: Cast, key: str) -> None:
    assert may(cast, "s3:PutObject", key, **CREATES)
    assert may(cast, "s3:PutObject", key, **REPLACES)
    assert not may(cast, "s3:PutObject", key)
    assert may(cast, "s3:PutObject", key, **{"s3:ObjectCreationOperation": "false"})  # a part of an upload
    assert not may(cast, "s3:DeleteObject", key)
    assert may(cast, "s3:DeleteObject", key, principal=GC_ROLE)


def test_heartbeats_can_be_deleted_and_plain_http_is_refused(cast: Cast) -> None:
    heartbeat = layout.replica(MODEL, "production", "one")
    for key in (heartbeat, layout.observation(MODEL, "production", "one")):
        assert may(cast, "s3:PutObject", key)
        assert may(cast, "s3:DeleteObject", key)
    assert not may(cast, "s3:GetObject", heartbeat, **{"aws:SecureTransport": "false"})
