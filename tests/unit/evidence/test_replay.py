"""Whatever is judged, by whatever rules: computing it again from what the verdict names gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.channels.record import Author, ChannelPosition, Record, promoted, rolled_back
from registry.errors import BadManifest, ObjectNotFound
from registry.evidence import kept_policy
from registry.evidence.approvals import Approval
from registry.evidence.ledger import Passed
from registry.evidence.policy import Policy, load_policy, parse_policy
from registry.evidence.stats import wilson
from registry.evidence.verdict_inputs import MEANING, VerdictInputs
from registry.formats import canonical
from registry.names import VersionName
from registry.settings import Settings
from registry.store import layout
from registry.store.kept_documents import KeptStore
from registry.store.object_info import StoredObject
from registry.usecases.judge import basis_of
from registry.usecases.replay import replay
from registry.versions.bindings import Binding
from registry.versions.manifest import Manifest
from registry.versions.pointer import Pointer
from registry.wiring import Wiring
from tests.support.measured_versions import accuracy_of, manifest_of

MODEL, OLD, NEW, OTHER = "leaves", "v1.0.0", "v2.0.0", "v3.0.0"
AUTHOR = Author("ann", "because")
FLOORS = [{"metric": "accuracy", "min": 0}, {"metric": "accuracy", "max": 1}]
RULES = st.one_of(
    st.fixed_dictionaries(
        {"metric": st.sampled_from(["accuracy", "macro_f1"]), "min": st.floats(0, 1)},
        optional={"per": st.sampled_from(["all", "target", "worst", "mean"]), "min_n": st.integers(0, 200)},
    ),
    st.fixed_dictionaries(
        {"metric": st.just("accuracy"), "min": st.floats(0, 1), "judge": st.just("bound")},
        optional={"confidence": st.floats(0.6, 0.99), "why": st.text("aé→😀 '#:", max_size=20)},
    ),
    st.fixed_dictionaries(
        {"metric": st.just("accuracy"), "max_decrease": st.floats(0, 0.5)},
        optional={"judge": st.just("paired"), "per": st.sampled_from(["all", "target"]), "device": st.just("cpu")},
    ),
)
WINDOWS = [{"from": "2026-01-01T00:00:00Z", "to": "2099-01-01T00:00:00+01:00", "why": "harvest"}]
CHANNELS = st.fixed_dictionaries(
    {"defaults": st.lists(RULES, max_size=3).map(lambda rules: [*FLOORS, *rules])},
    optional={
        "requires": st.just("staging"),
        "approvals": st.integers(0, 2),
        "freeze": st.sampled_from([[], WINDOWS]),
        "by_flavor": st.sampled_from([{}, {"files": []}]),
        "rollback_requests": st.booleans(),
    },
)
ANSWERS = st.lists(st.booleans(), min_size=1, max_size=40)


class MemoryStore(KeptStore):
    """A store whose objects are these documents; what is not among them is not there."""

    def __init__(self, documents: dict[str, bytes]) -> None:
        super().__init__("s3://bucket/prefix", documents)
        self._held = documents

    def get(self, key: str, limit: int = canonical.MAX_DOCUMENT) -> StoredObject:
        if key not in self._held:
            raise ObjectNotFound(key)
        return super().get(key, limit)

    def first(self, prefix: str) -> str | None:
        return next((info.key for info in self.list(prefix)), None)


@dataclass
class Story:
    """A store in memory, to which documents are added."""

    documents: dict[str, bytes]

    def wiring(self, policy: Path) -> Wiring:
        wiring = Wiring(Settings(model=MODEL, store="s3://bucket/x", policy=policy, cache=policy.parent, who="ann"))
        return wiring.through(MemoryStore(self.documents))

    def bind(self, version: str) -> Manifest:
        manifest = manifest_of(MODEL, version)
        data = manifest.to_bytes()
        digest = canonical.sha256(data)
        self.documents[layout.blob(digest)] = data
        self.documents[layout.version(MODEL, version)] = Binding.of(manifest, digest).to_bytes()
        return manifest

    def measure(self, manifest: Manifest, right: list[bool], hour: int, *, kept: bool) -> None:
        evidence, stored = accuracy_of(manifest, right, f"2026-11-21T{hour:02}:00:00+00:00", kept=kept)
        self.documents[layout.evidence(MODEL, manifest.version, evidence.sha256)] = evidence.to_bytes()
        if evidence.outcomes:
            self.documents[layout.outcomes(MODEL, manifest.version, evidence.outcomes)] = stored

    def approve(self, manifest: Manifest, who: str) -> None:
        approval = Approval(
            format=1, model=MODEL, version=manifest.version, content_sha256=manifest.content_sha256,
            channel="production", who=who, when="2026-11-21T12:00:00+00:00",
        )  # fmt: skip
        self.documents[layout.approval(MODEL, manifest.version, approval.sha256)] = approval.to_bytes()

    def move(self, channel: str, *versions: str) -> None:
        """Promote versions one after the other; an empty name rolls back."""
        head = self.head(channel)
        for version in versions:
            position = ChannelPosition(MODEL, channel, head)
            if version:
                binding = Binding.parse(self.documents[layout.version(MODEL, version)], version)
                head = promoted(position, binding.pointer, AUTHOR, None)
                note = Passed(
                    format=1, version=version, content_sha256=binding.content_sha256, generation=head.generation,
                    record_sha256=head.sha256,
                )  # fmt: skip
                self.documents[layout.passed(MODEL, channel, version, head.sha256)] = note.to_bytes()
            else:
                head = rolled_back(position, AUTHOR)
            self.documents[layout.record(MODEL, channel, head.generation)] = head.to_bytes()

    def head(self, channel: str) -> Record | None:
        keys = sorted(key for key in self.documents if key.startswith(layout.channel(MODEL, channel)))
        return Record.parse(self.documents[keys[0]], keys[0]) if keys else None


def parsed(channel: Mapping[str, Any]) -> Policy:
    return parse_policy(
        json.dumps({"format": 1, "channels": {"staging": {}, "production": channel}}, ensure_ascii=False).encode()
    )


MOVES = st.lists(st.sampled_from([OLD, NEW, OTHER]), max_size=3, unique=True)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), channel=CHANNELS, moves=st.fixed_dictionaries({"staging": MOVES, "production": MOVES}))
def test_a_verdict_computed_again_has_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, channel: dict[str, Any], moves: dict[str, list[str]]
) -> None:
    folder = tmp_path_factory.mktemp("replay")
    story, file = Story({}), folder / "policy.yaml"
    manifests = [story.bind(version) for version in (OLD, NEW, OTHER)]
    for manifest in manifests:
        for hour, right in enumerate(data.draw(st.lists(ANSWERS, max_size=2))):
            story.measure(manifest, right, hour, kept=data.draw(st.booleans()))
    for who in data.draw(st.lists(st.sampled_from(["ann", "bob"]), unique=True)):
        story.approve(manifests[1], who)
    for name, versions in moves.items():
        back = [""] if len(versions) > 1 and data.draw(st.booleans()) else []
        story.move(name, *versions, *back)

    file.write_text(json.dumps({"format": 1, "channels": {"staging": {}, "production": channel}}, ensure_ascii=False))
    basis = basis_of(story.wiring(file), NEW, "production")
    verdict = basis.judge()
    if data.draw(st.booleans()):
        verdict = verdict.force("because")
    story.documents[layout.policy(MODEL, basis.policy.digest)] = basis.policy.to_bytes()
    story.documents[layout.verdict(MODEL, verdict.sha256)] = verdict.to_bytes()

    file.write_text("format: 1\nchannels: {staging: {}, production: {}}\n")
    for manifest in manifests:
        story.measure(manifest, [False] * 7, 20, kept=True)
        story.approve(manifest, "eve")
    for name in ("staging", "production"):
        story.move(name, *[version for version in (OTHER, NEW, OLD) if not _is_stable(story, name, version)], "")
    done = replay(story.wiring(file), verdict.sha256)
    assert done.differences == ()
    assert done.equal


SAME = {"defaults": [*FLOORS, {"metric": "accuracy", "max_decrease": 0.3, "judge": "paired"}]}


@pytest.mark.parametrize("gone", [OLD, NEW])
@pytest.mark.parametrize("when", ["before", "after"])
def test_two_versions_that_answered_the_same_share_a_copy(tmp_path: Path, gone: str, when: str) -> None:
    story, file = Story({}), tmp_path / "policy.yaml"
    for version in (OLD, NEW):
        story.measure(story.bind(version), [True] * 40, 1, kept=True)
    story.move("production", OLD)
    (key,) = [each for each in story.documents if each.startswith(layout.outcomes(MODEL, gone))]
    kept = story.documents[key]
    if when == "before":
        del story.documents[key]
    file.write_text(json.dumps({"format": 1, "channels": {"staging": {}, "production": SAME}}))
    basis = basis_of(story.wiring(file), NEW, "production")
    verdict = basis.judge()
    assert (verdict.outcome, len(verdict.inputs.outcomes if verdict.inputs else ())) == ("pass", 1)
    story.documents[layout.policy(MODEL, basis.policy.digest)] = basis.policy.to_bytes()
    story.documents[layout.verdict(MODEL, verdict.sha256)] = verdict.to_bytes()
    story.documents[key] = kept[:-1]
    assert replay(story.wiring(file), verdict.sha256).equal
    story.documents.pop(key)
    assert replay(story.wiring(file), verdict.sha256).equal


@pytest.mark.parametrize("meaning", [None, 1, 3], ids=["unsaid", "first", "later"])
def test_a_verdict_says_what_rules_mean_in_it(tmp_path: Path, meaning: int | None) -> None:
    story, file = Story({}), tmp_path / "policy.yaml"
    story.measure(story.bind(NEW), [True] * 30 + [False] * 3, 1, kept=False)
    bound = {"metric": "accuracy", "min": 0.7, "judge": "bound"}
    file.write_text(json.dumps({"format": 1, "channels": {"staging": {}, "production": {"defaults": [bound]}}}))
    basis = basis_of(story.wiring(file), NEW, "production")
    assert basis.names.meaning == MEANING
    said = {} if meaning is None else {"meaning": meaning}
    named = basis.names.model_dump(mode="json", exclude_unset=True, exclude={"meaning"}) | said
    verdict = replace(basis, names=VerdictInputs.model_validate_json(json.dumps(named))).judge()
    story.documents[layout.policy(MODEL, basis.policy.digest)] = basis.policy.to_bytes()
    story.documents[layout.verdict(MODEL, verdict.sha256)] = verdict.to_bytes()
    if meaning == MEANING + 1:
        with pytest.raises(BadManifest, match=r"rules mean what this release does not know \(3\)"):
            replay(story.wiring(file), verdict.sha256)
        return
    (check,) = verdict.checks
    assert check.end == wilson(30, 33, 2 * 0.95 - 1).low != basis.judge().checks[0].end
    assert replay(story.wiring(file), verdict.sha256).equal


def _is_stable(story: Story, channel: str, version: str) -> bool:
    head = story.head(channel)
    return head is not None and isinstance(head.stable, Pointer) and head.stable.version == version


@given(CHANNELS)
def test_a_kept_policy_is_the_policy(channel: dict[str, Any]) -> None:
    policy = parsed(channel)
    kept = policy.to_bytes()
    again = kept_policy.read(kept, "a policy")
    assert again == policy
    assert (again.to_bytes(), canonical.sha256(kept)) == (kept, policy.digest)
    name = VersionName.parse(NEW)
    assert again.rules_for("production", name) == policy.rules_for("production", name)


def test_the_policies_that_ship_are_kept_as_they_are() -> None:
    for path in (None, Path("registry/evidence/aads_policy.yaml")):
        policy = load_policy(path)
        assert kept_policy.read(policy.to_bytes(), "a policy") == policy


def test_a_kept_policy_may_ask_for_what_is_not_installed() -> None:
    text = parsed({"defaults": [{"metric": "macro_f1"}]}).to_bytes().replace(b"macro_f1", b"energy_joules")
    (rule,) = kept_policy.read(text, "a policy").rules_for("production", VersionName.parse(NEW))
    assert rule.metric == "energy_joules"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format":1,"channels":[]}',
        b'{"format":1,"channels":{"staging":1,"production":{}}}',
        b'{"format":1,"channels":{"staging":{},"production":{"freeze":[1]}}}',
        b'{"format":1,"channels":{"staging":{},"production":{"freeze":[{}]}}}',
        b'{"format":1,"channels":{"staging":{},"production":{"later":true}}}',
    ],
    ids=["empty", "list", "nothing", "channels", "channel", "window", "no begin", "of later"],
)
def test_bytes_that_are_no_kept_policy_are_refused(text: bytes) -> None:
    with pytest.raises(BadManifest):
        kept_policy.read(text, "a policy")
