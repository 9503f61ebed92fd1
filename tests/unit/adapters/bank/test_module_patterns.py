"""Patterns match as in PEFT, and one that takes for ever is refused while everything else goes on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from adapters.answer.loaded import LoadedVersion
from adapters.answer.loading import load
from adapters.bank import module_patterns
from adapters.bank.match_patterns import InvalidPattern, is_literal, match, patterns_of
from adapters.bank.module_patterns import match_modules
from adapters.importing.literal_names import literal_documents
from registry.errors import BadWeights
from registry.versions import bundle as bundles
from tests.support.bundles import manifest_of, noise, read_bundle, write_bundle
from tests.support.pattern_probes import AT_EVERY_DOOR, DOORS, PROBES, SECONDS, change

ROOT = Path(__file__).parents[4]
ENDS = ("attention.q_proj", "attention.v_proj", "attention.o_proj", "mlp.fc1", "mlp.weights_in")
NAMES = [
    *(f"{stem}.{layer}.{end}" for stem in ("encoder.layer", "model.layer") for layer in (0, 11) for end in ENDS),
    *(f"dinov2.encoder.layer.{layer}.attention.attention.query" for layer in (1, 12)),
]
PLAIN = ("q_proj", "attention.q_proj", "layer.1.attention.q_proj", "0.mlp.fc1", "q.proj", "proj", "query", *NAMES[:3])
EXPRESSIONS = (
    r".*\.(q|v)_proj", r"^(?:.*?(?:layer).*?(?:q_proj|v_proj).*?)$", r"^(?!.*(?:fc1|weights_in)).*$", r".*\.[0-3]\..*",
    "q_proj$", "(q_proj|query)", r"layer\.(0|1)\.attention\.\w+", ".*query", "model", "", r"a)|(.*q_proj", "fc[12]",
)  # fmt: skip
HONEST: dict[str, dict[str, Any]] = {
    "as Unsloth writes it": {"target_modules": r"^(?:.*?(?:layer).*?(?:attention).*?(?:q_proj|v_proj).*?)$"},
    "a look-ahead that excludes": {"target_modules": "all-linear", "exclude_modules": r"^(?!.*(?:q_proj|v_proj)).*$"},
    "layers": {"layers_to_transform": [0, 1, 2, 3, 4, 5], "layers_pattern": "lay.r"},
    "alpha by a group": {"alpha_pattern": {"(q|v)_proj": 8}, "lora_alpha": 2},
}
"""Patterns that mean the q and v of all layers, with an alpha of 8: what `write_bundle` writes as a list."""

listed = st.lists(st.sampled_from(PLAIN), min_size=1, max_size=4)
expression = st.sampled_from([each for each in EXPRESSIONS if each])
keys = st.lists(st.sampled_from([*PLAIN, *EXPRESSIONS]), max_size=4, unique=True)
documents = st.fixed_dictionaries(
    {
        "target_modules": listed | expression,
        "exclude_modules": st.none() | listed | expression,
        "layers_to_transform": st.none() | st.integers(0, 2) | st.lists(st.integers(0, 12), max_size=3),
        "layers_pattern": st.none()
        | st.just("")
        | st.lists(st.sampled_from(["layer", "block", "lay.r|x"]), max_size=2),
        "rank_pattern": keys.map(lambda each: dict.fromkeys(each, 3)),
        "alpha_pattern": keys.map(lambda each: dict.fromkeys(each, 5)),
    }
)


def said_by_peft(document: dict[str, Any]) -> dict[str, list[str | None]]:
    """Target -> the keys of its rank and its alpha pattern, None if none matches."""
    config = LoraConfig(**document)
    targets = [name for name in NAMES if check_target_module_exists(config, name)]
    fields = [list(document[field]) for field in ("rank_pattern", "alpha_pattern")]
    keys = {name: [get_pattern_key(patterns, name) for patterns in fields] for name in targets}
    return {
        name: [key if key in field else None for key, field in zip(found, fields, strict=True)]
        for name, found in keys.items()
    }


@given(documents)
@settings(max_examples=150, deadline=None)
def test_every_module_matches_as_in_peft(document: dict[str, Any]) -> None:
    try:
        expected = said_by_peft(document)
    except ValueError:
        assume(False)
    except re.error:
        with pytest.raises(InvalidPattern):
            match(patterns_of(document), NAMES)
        return
    found = zip(NAMES, match(patterns_of(document), NAMES), strict=True)
    ranks, alphas = list(document["rank_pattern"]), list(document["alpha_pattern"])
    assert expected == {
        name: [None if rank is None else ranks[rank], None if alpha is None else alphas[alpha]]
        for name, (is_target, rank, alpha) in found
        if is_target
    }


@pytest.mark.parametrize("targets", ["all-linear", "ALL-LINEAR"])
def test_all_linear_leaves_out_what_is_excluded(targets: str) -> None:
    """PEFT first replaces it by the names of all linear modules."""
    document = {"target_modules": targets, "exclude_modules": ["fc1", "query"]}
    config = LoraConfig(**{**document, "target_modules": NAMES})
    found = match_modules(patterns_of(document), NAMES, "a file")
    assert [is_target for is_target, _, _ in found] == [bool(check_target_module_exists(config, n)) for n in NAMES]


@pytest.mark.parametrize("fields", HONEST.values(), ids=HONEST)
def test_a_process_of_its_own_gives_the_same_answer(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = patterns_of({"target_modules": ["q_proj"]} | fields)
    assert not is_literal(patterns)
    assert match_modules(patterns, NAMES, "a file") == match(patterns, NAMES)
    monkeypatch.setattr(module_patterns, "MATCH_SECONDS", 0.0)
    assert match_modules(patterns, NAMES, "another of the version") == match(patterns, NAMES), "one process is enough"


def test_names_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_patterns, "MATCH_SECONDS", 0.0)
    literal = {"target_modules": ["q_proj", ".?" * 60 + "X"], "exclude_modules": ["1.attention.q_proj"]}
    literal |= {
        "rank_pattern": {"layer.0.attention.q_proj": 2},
        "alpha_pattern": {"q_proj": 3},
        "layers_to_transform": 0,
    }
    assert is_literal(patterns_of(literal))
    found = match_modules(patterns_of(literal), NAMES, "a file")
    assert {n: one[1:] for n, one in zip(NAMES, found, strict=True) if one[0]} == {
        "encoder.layer.0.attention.q_proj": (0, 0), "model.layer.0.attention.q_proj": (0, 0)
    }  # fmt: skip
    with pytest.raises(BadWeights, match="within 0 s"):
        match_modules(patterns_of(literal | {"target_modules": "a pattern that was not asked before"}), NAMES, "a file")


@pytest.mark.parametrize("probe", PROBES)
def test_a_pattern_that_takes_for_ever_is_refused(probe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_patterns, "MATCH_SECONDS", SECONDS)
    patterns = patterns_of({"target_modules": ["q_proj"]} | PROBES[probe])
    field = next(name for name in reversed(PROBES[probe]))
    with pytest.raises(BadWeights, match=rf"^a/file: {field} '.*can't be matched .* within {SECONDS:g} s") as caught:
        match_modules(patterns, NAMES, "a/file")
    assert "a list in target_modules" in caught.value.hint


def test_very_many_names_are_compared_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = patterns_of({"target_modules": ["q_proj"], "rank_pattern": dict.fromkeys(PLAIN, 3)})
    monkeypatch.setattr(module_patterns, "MAX_COMPARISONS", len(PLAIN) * len(NAMES) - 1)
    monkeypatch.setattr(module_patterns, "MATCH_SECONDS", 0.0)
    with pytest.raises(BadWeights, match="within 0 s"):
        match_modules(patterns, NAMES, "a file")
    monkeypatch.undo()
    assert match_modules(patterns, NAMES, "a file") == match(patterns, NAMES)


@pytest.mark.parametrize("text", ["((", "a{1,99999999999}", "(" * 900 + ")" * 900, "(?P<a>x)(?P<a>y)", "\ud800("])
def test_what_is_no_regular_expression_is_refused(text: str) -> None:
    with pytest.raises(BadWeights, match=r"a/file: rank_pattern .* is not a regular expression"):
        match_modules(patterns_of({"target_modules": ["q_proj"], "rank_pattern": {text: 3}}), NAMES, "a/file")


def test_patterns_that_are_too_long_are_not_tried() -> None:
    many = {f"({number}{'x' * 1000})": 3 for number in range(1200)}
    with pytest.raises(BadWeights, match="its patterns are longer than"):
        match_modules(patterns_of({"target_modules": ["q_proj"], "rank_pattern": many}), NAMES, "a/file")


def test_the_process_imports_the_standard_library_only() -> None:
    code = "import sys, adapters.bank.match_patterns; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"torch", "numpy", "pydantic", "peft", "registry"} & set(done.stdout.split())


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[str, str], tuple[str, str, bool]]:
    """What became of patterns that take for ever: (door, pattern) -> (error, message, whether another thread ran)."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.pattern_probes"],
        capture_output=True, text=True, cwd=ROOT, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return {(door, probe): (*rest,) for door, probe, *rest in json.loads(done.stdout)}


@pytest.mark.acceptance
@pytest.mark.parametrize("probe", AT_EVERY_DOOR)
@pytest.mark.parametrize("door", DOORS)
def test_no_door_lets_a_pattern_freeze_the_process(
    door: str, probe: str, outcomes: dict[tuple[str, str], tuple[str, str, bool]]
) -> None:
    error, message, others_ran = outcomes[door, probe]
    assert (error, others_ran) == ("BadWeights", True)
    assert "adapter_config.json: " in message
    assert "can't be matched" in message


def answers(version: LoadedVersion) -> list[dict[str, Any]]:
    return [each.to_dict() for each in version.predict([noise(seed) for seed in range(3)], target=["low"] * 3)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("plain"), targets=("low",))


@pytest.mark.parametrize("fields", HONEST.values(), ids=HONEST)
def test_a_stored_version_with_patterns_answers_as_ever(fields: dict[str, Any], plain: Path, tmp_path: Path) -> None:
    """Older releases stored patterns; and what `create` now stores instead of them means the same."""
    write_bundle(tmp_path, targets=("low",))
    path = "adapters/low/adapter_config.json"
    change(tmp_path / path, fields)
    expected, old = load(manifest_of(plain), read_bundle(plain)), load(manifest_of(tmp_path), read_bundle(tmp_path))
    assert answers(old) == answers(expected)
    read = bundles.read_bundle(tmp_path)
    (stored,) = literal_documents(read.paths, read.backbone).items()
    assert stored[0] == path
    assert is_literal(patterns_of(json.loads(stored[1])))
    (tmp_path / path).write_bytes(stored[1])
    assert answers(load(manifest_of(tmp_path), read_bundle(tmp_path))) == answers(expected)


def test_names_in_a_bundle_are_left_as_they_are(plain: Path) -> None:
    read = bundles.read_bundle(plain)
    assert literal_documents(read.paths, read.backbone) == {}


def test_patterns_that_match_nothing_are_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path, targets=("low",))
    change(tmp_path / "adapters/low/adapter_config.json", {"target_modules": ".*query"})
    read = bundles.read_bundle(tmp_path)
    with pytest.raises(BadWeights, match="match no module of dinov3-tiny"):
        literal_documents(read.paths, read.backbone)


def test_text_that_is_no_unicode_is_refused_by_name(tmp_path: Path) -> None:
    write_bundle(tmp_path, targets=("low",))
    odd = {"target_modules": ".*q_proj", "base_model_name_or_path": "\ud800"}
    change(tmp_path / "adapters/low/adapter_config.json", odd)
    read = bundles.read_bundle(tmp_path)
    with pytest.raises(BadWeights, match="can't be written as JSON"):
        literal_documents(read.paths, read.backbone)
