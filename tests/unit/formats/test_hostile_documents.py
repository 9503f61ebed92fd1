"""Every document that is read from a store: whatever somebody made of it, it is that document or refused, never more.

The samples are those of the golden store, so a kind that is added there is tried here.
"""

from __future__ import annotations

import copy
import json
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.channels.record import Record
from registry.errors import BadManifest, BadPolicy, BadSetting, BadVersionName, BadWeights
from registry.evidence.ledger import Passed
from registry.evidence.policy import parse_policy
from registry.evidence.results import Evidence
from registry.evidence.ticks import Tick
from registry.evidence.verdict import Verdict
from registry.formats import canonical
from registry.formats.document import Document
from registry.names import VersionName
from registry.retention.notes import Forgotten, Pin
from registry.serving.fleet import Heartbeat
from registry.settings import Settings
from registry.store.gc_marks import Marks
from registry.trials.observations import Observations, TrialStage
from registry.trials.recorder import Counted, Recorder
from registry.versions.backbones import MirroredBackbone
from registry.versions.bindings import Binding
from registry.versions.manifest import Manifest
from registry.versions.weights import read_header

GOLDEN = Path(__file__).parents[2] / "version_tests" / "format1" / "store"
BELOW_A_MODEL: dict[str, type[Document]] = {
    "versions": Binding, "evidence": Evidence, "verdicts": Verdict, "channels": Record, "passed": Passed,
    "forgotten": Forgotten, "pins": Pin, "replicas": Heartbeat, "ticks": Tick,
}  # fmt: skip
NO_DOCUMENTS = ("scripts", "signatures")


def samples() -> dict[str, tuple[type[Document], dict[str, Any]]]:
    """One of each kind."""
    found: dict[str, tuple[type[Document], dict[str, Any]]] = {}
    for folder in sorted((GOLDEN / "models" / "golden").iterdir()):
        if folder.name not in NO_DOCUMENTS:
            path = next(path for path in sorted(folder.rglob("*.json")))
            found[folder.name] = (BELOW_A_MODEL[folder.name], json.loads(path.read_bytes()))
    binding = found["versions"][1]["manifest_sha256"]
    manifest = json.loads((GOLDEN / "blobs" / "sha256" / binding[:2] / binding).read_bytes())
    backbone = {"format": 1, "backbone": manifest["backbone"], "size": 1, "who": "x", "when": "2026-11-21T10:00:00Z"}
    marks = json.loads((GOLDEN / "gc.json").read_bytes())
    return {
        **found,
        "manifest": (Manifest, manifest),
        "marks": (Marks, marks),
        "backbone": (MirroredBackbone, backbone),
        "observations": (Observations, observations()),
    }


def observations() -> dict[str, Any]:
    """A replica's, of a shadow trial."""
    stage = TrialStage(2, "v1.0.0", "v2.0.0", "0123456789abcdef" * 2, "shadow", 100.0)
    seconds = iter((0.0, 100.0, 100.0))
    recorder = Recorder("a", "host", lambda: next(seconds))
    recorder.memory(stage, "canary", 27.5)
    recorder.failed(stage, "canary", "crash")
    for _ in range(2):
        recorder.record_pair(stage, 1, Counted("answer", compute_seconds=0.1), Counted("500", error=True))
    return dict(json.loads(recorder.document().to_bytes()))


SAMPLES = samples()
KINDS = pytest.mark.parametrize("kind", SAMPLES)
_HERE = '"<here>"'
RAW = (
    "NaN", "-Infinity", "1e999", "-1e999", "9" * 301, "9" * 5000, "1" + "0" * 299, "-1", "1.0", "1e0", "true", "null",
    '""', '"' + "x" * 70_000 + '"', '"\\ud800"', '"\\u0000"', '"a\\u202eb"', '"../../x"', '"/etc/passwd"',
    '".git/config"',
    "[" * 100_000 + "]" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, '{"a":1,"a":2}', "[" + "0," * 20_000 + "0]", "",
    "{", "'", "\x00", "﻿1",
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to every value in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way for name, found in inner for way in ((*here, name), *places(found, (*here, name)))]


def changed(document: dict[str, Any], way: tuple[Any, ...], value: Any) -> dict[str, Any]:
    document = copy.deepcopy(document)
    inner: Any = document
    for step in way[:-1]:
        inner = inner[step]
    inner[way[-1]] = value
    return document


@contextmanager
def refused_briefly(error: type[Exception]) -> Iterator[None]:
    """What may be refused by this error, in a message that nobody can blow up."""
    try:
        yield
    except error as refused:
        if len(str(refused)) > 2000:
            pytest.fail(f"an endless message: {str(refused)[:200]}")


def read(kind: type[Document], data: bytes) -> None:
    """Read bytes as a document: they are one and stay as they are, or are refused."""
    with refused_briefly(BadManifest):
        assert kind.parse(data, "it").to_bytes() == data


@KINDS
def test_the_samples_themselves_are_read(kind: str) -> None:
    model, document = SAMPLES[kind]
    model.parse(json.dumps(document).encode(), "it")


@KINDS
@given(st.data())
def test_any_value_in_any_place(kind: str, data: st.DataObject) -> None:
    model, document = SAMPLES[kind]
    way = data.draw(st.sampled_from(places(document)))
    read(model, json.dumps(changed(document, way, data.draw(VALUES))).encode())


@KINDS
@given(st.data())
def test_what_no_json_writer_writes_in_any_place(kind: str, data: st.DataObject) -> None:
    model, document = SAMPLES[kind]
    way, raw = data.draw(st.sampled_from(places(document))), data.draw(st.sampled_from(RAW))
    text = json.dumps(changed(document, way, "<here>"))
    read(model, text.replace(_HERE, raw, 1).encode("utf-8", "surrogatepass"))


@KINDS
@given(st.data())
def test_a_field_twice_or_not_at_all(kind: str, data: st.DataObject) -> None:
    model, document = SAMPLES[kind]
    name = data.draw(st.sampled_from(sorted(document)))
    text = canonical.encode(document).decode()
    with pytest.raises(BadManifest, match="twice"):
        model.parse(f"{text[:-1]},{json.dumps(name)}:1}}".encode(), "it")
    read(model, json.dumps({key: value for key, value in document.items() if key != name}).encode())


@KINDS
@given(st.data())
def test_bytes_cut_off_or_damaged(kind: str, data: st.DataObject) -> None:
    model, document = SAMPLES[kind]
    body = bytearray(canonical.encode(document))
    position = data.draw(st.integers(0, len(body) - 1))
    if data.draw(st.booleans()):
        read(model, bytes(body[:position]))
    else:
        body[position] = data.draw(st.integers(0, 255))
        read(model, bytes(body))


@KINDS
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-16")))
def test_any_bytes(kind: str, body: bytes) -> None:
    with pytest.raises(BadManifest):
        SAMPLES[kind][0].parse(body, "it")


@KINDS
def test_what_is_too_large_is_not_even_parsed(kind: str) -> None:
    model = SAMPLES[kind][0]
    body = b'{"format":1,"x":[' + b"0," * (model.LIMIT // 2) + b"0]}"
    tracemalloc.start()
    try:
        with pytest.raises(BadManifest, match="more than"):
            model.parse(body, "it")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# --- what is no document ---------------------------------------------------------------------------------------------

POLICY = """format: 1
channels:
  staging: {defaults: [{metric: accuracy, min: 0.5, per: target, min_n: 10}]}
  production: {requires: staging}
"""


@given(st.text(max_size=60) | st.text("[]{}:-&*!|>\n \"'a1.?,#%@`", max_size=60))
def test_any_text_in_a_policy(text: str) -> None:
    for body in (text, POLICY + text, POLICY.replace("accuracy", text)):
        with refused_briefly(BadPolicy):
            parse_policy(body.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    "text",
    ["a: &x [*x]", "? {a: 1}\n: 2", "!!python/object/apply:os.system [id]", "{" * 10_000, "a: " + "[" * 10_000,
     POLICY.replace("0.5", ".nan"), POLICY.replace("0.5", "1e999"), POLICY.replace("0.5", "0x" + "f" * 400),
     POLICY.replace("10", "1" + "0" * 400), POLICY.replace("10", "1:" * 200 + "1"), POLICY + "format: 1\n",
     "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))],
    ids=lambda text: repr(text[:30]),
)  # fmt: skip
def test_a_hostile_policy_is_refused(text: str) -> None:
    with pytest.raises(BadPolicy):
        parse_policy(text.encode())


def header(text: bytes, tail: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + tail


@given(
    st.binary(max_size=60).map(header) | st.binary(max_size=60)
    | VALUES.map(lambda value: header(json.dumps(value).encode()))
    | VALUES.map(lambda value: header(json.dumps({"a": value}).encode()))
    | st.tuples(SCALARS | st.lists(SCALARS, max_size=3), SCALARS | st.lists(SCALARS, max_size=3)).map(
        lambda two: header(json.dumps({"a": {"dtype": "F32", "shape": two[0], "data_offsets": two[1]}}).encode())
    )
)  # fmt: skip
def test_any_safetensors_header(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "hostile.safetensors"
    path.write_bytes(body)
    with refused_briefly(BadWeights):
        read_header(path)


@pytest.mark.parametrize(
    "entry",
    [
        '{"dtype":"F32","data_offsets":[0,4],"shape":[' + ",".join(["9" * 300] * 2000) + "]}",
        '{"dtype":"F32","data_offsets":[0,4],"shape":[' + ",".join(["1"] * 100_000) + "]}",
        '{"dtype":"F32","shape":[1],"data_offsets":[0,' + "9" * 300 + "]}",
        '{"dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[4,8]}',
        "[" * 100_000,
    ],
    ids=["huge numbers", "many dimensions", "a huge offset", "a field twice", "deep"],
)
def test_a_hostile_safetensors_header_is_refused_at_once(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(header(f'{{"a":{entry}}}'.encode(), bytes(4)))
    with pytest.raises(BadWeights):
        read_header(path)


def test_a_safetensors_header_with_a_large_size_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 200_000_000))
        file.truncate(300_000_000)
    with pytest.raises(BadWeights, match="its header would have"):
        read_header(path)


@given(st.text(max_size=40) | st.text("v0123456789.-p٣０", max_size=20))
def test_any_text_is_a_name_that_reads_back_or_none(text: str) -> None:
    with refused_briefly(BadVersionName):
        assert str(VersionName.parse(text)) == text


@pytest.mark.parametrize(
    "write", [lambda path: path.write_bytes(b"\xff\xfe"), lambda path: path.write_bytes(b"#" * 2_000_000)]
)
def test_settings_that_are_no_text_or_too_large_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], int]
) -> None:
    write(tmp_path / "ulora.toml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadSetting, match=r"ulora\.toml"):
        Settings.load(store="s3://b")


@pytest.mark.parametrize("deep", ["[" * 5_000_000, '{"a":' * 2_000_000, "[" * 2_000_000 + "]" * 2_000_000])
def test_depth_costs_nothing(deep: str) -> None:
    with pytest.raises(BadManifest):
        canonical.decode(deep.encode(), "it")


def test_a_file_of_any_size_costs_no_more_than_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(1 << 34)
    with pytest.raises(BadManifest, match="larger than the allowed 1000 bytes"):
        canonical.read_file(path, "it", 1000)
