"""`ulora feedback`: labels of a file, by receipts, straight into the store."""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path
from typing import Any

import pytest

from registry.store.objects import ObjectStore
from registry.trials.receipts import ArmAnswer, FleetKeys, Receipt, issue
from registry.trials.recorder import MAX_LABEL_AGE, Recorder
from registry.usecases import feedback as usecase
from tests.support.echo_releases import Shop
from tests.support.run_ulora import complains, ulora
from tests.support.trials import advance_trial, observed, stage_in_store, start_trial

KEY = "the-key-of-this-fleet"


@pytest.fixture
def shop(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A model whose production tries v1.1.0 beside v1.0.0, in the second stage of a trial."""
    monkeypatch.setenv("ULORA_FLEET_KEY", KEY)
    monkeypatch.setenv("ULORA_MODEL", model)
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    for name in ("v1.0.0", "v1.1.0"):
        shop.release(name)
    shop.promote("v1.0.0")
    start_trial(shop, "v1.1.0", percent=10)
    advance_trial(shop, 50)
    return shop


def receipt(shop: Shop, unit: int, key: str = KEY, **fields: Any) -> str:
    said = {"generation": 3, "arm": "canary", "answer": ArmAnswer("rust"), "issued_at": int(time.time()), **fields}
    keys = FleetKeys.from_setting(key).for_channel(shop.model, "production")
    return issue(keys, Receipt(unit=unit, **said))


def write(folder: Path, rows: list[tuple[str, str]], header: tuple[str, ...] = ("label", "request_id")) -> Path:
    path = folder / "labels.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *((label, text) for text, label in rows)])
    return path


def test_labels_of_a_file_are_counted_once(shop: Shop, tmp_path: Path) -> None:
    twice = receipt(shop, 3)
    rows = [
        (receipt(shop, 1), "rust"),
        (receipt(shop, 2), "healthy"),
        (twice, "_ood"),
        (twice, "_ood"),
        (twice, "rust"),
    ]
    rows += [(receipt(shop, 4, generation=2, arm="stable"), "rust"), (receipt(shop, 5, arm="named"), "rust")]
    rows += [
        (receipt(shop, 6, issued_at=int(time.time()) - MAX_LABEL_AGE - 60), "rust"),
        ("junk", "rust"),
        ("", "rust"),
    ]
    rows += [(receipt(shop, 7, key="another-fleets-key"), "rust"), (receipt(shop, 8, generation=99), "rust")]
    path = write(tmp_path, rows)
    first, again = ulora("feedback", path, "--json"), ulora("feedback", path, "--json")
    assert first.code == 0
    assert first.document == again.document
    assert first.document | {"objects": None} == {
        "channel": "production", "rows": 12, "taken": 4, "repeated": 1, "contradictory": 1, "late": 1, "left_out": 1,
        "unknown": 3, "invalid": 1, "objects": None,
    }  # fmt: skip
    assert len(observed(shop)) == len(first.document["objects"]) == 2
    arm = stage_in_store(shop, 3).arms["canary"]
    assert {event: list(arm.of(event)) for event in ("labelled", "wrong", "ood", "missed")} == {
        "labelled": [1, 2], "wrong": [2], "ood": [3], "missed": [3],
    }  # fmt: skip
    assert list(stage_in_store(shop, 2).arms["stable"].of("labelled")) == [4]


def test_a_dry_run_writes_nothing(shop: Shop, tmp_path: Path) -> None:
    shown = ulora("feedback", write(tmp_path, [(receipt(shop, 1), "rust")]), "--dry-run")
    assert shown.code == 0
    assert "nothing was written" in shown.out
    assert observed(shop) == []


def test_a_file_of_which_nothing_counts_fails(shop: Shop, tmp_path: Path) -> None:
    failed = ulora("feedback", write(tmp_path, [("junk", "rust")]))
    assert failed.code == 1
    assert "1 rows; nothing was written" in failed.out
    assert "no label of" in failed.err
    assert ulora("feedback", write(tmp_path, [])).code == 0


def test_a_file_without_the_columns_is_refused(shop: Shop, tmp_path: Path) -> None:
    complains(ulora("feedback", write(tmp_path, [], ("label", "id"))), 2, "no columns request_id and label")
    complains(ulora("feedback", tmp_path / "none.csv"), 2, "can't be read")
    os.mkfifo(tmp_path / "pipe")
    complains(ulora("feedback", tmp_path / "pipe"), 2, "is not a regular file")
    (tmp_path / "bytes.csv").write_bytes(b"request_id,label\n\xff\xfe,x\n")
    complains(ulora("feedback", tmp_path / "bytes.csv"), 2, "no CSV file in UTF-8")


def test_without_a_fleet_key_nothing_is_taken(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, [(receipt(shop, 1), "rust")])
    monkeypatch.delenv("ULORA_FLEET_KEY")
    complains(ulora("feedback", path), 2, "no fleet key")
    keys = tmp_path / "fleet.keys"
    keys.write_text(f"the-new-key-of-this-fleet {KEY}\n")
    assert ulora("feedback", path, "--fleet-key-file", keys, "--json").document["taken"] == 1


def test_many_generations_take_bounded_memory(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usecase, "_MAX_OPEN", 1)
    monkeypatch.setattr(usecase, "_WRITE_EVERY", 2)
    rows = [(receipt(shop, unit, generation=2 + unit % 2), "rust") for unit in range(6)]
    assert ulora("feedback", write(tmp_path, rows), "--json").document["taken"] == 6
    assert list(stage_in_store(shop, 2).arms["canary"].of("labelled")) == [0, 2, 4]
    assert list(stage_in_store(shop, 3).arms["canary"].of("labelled")) == [1, 3, 5]


def test_a_label_that_counted_once_counts_when_it_is_late(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    week = 7 * 86_400
    old = receipt(shop, 1, issued_at=int(time.time()) - MAX_LABEL_AGE + week)
    path = write(tmp_path, [(old, "healthy"), (receipt(shop, 1), "rust"), (receipt(shop, 2), "healthy")])
    assert ulora("feedback", path, "--json").document["taken"] == 3
    monkeypatch.setattr("registry.trials.recorder.MAX_LABEL_AGE", MAX_LABEL_AGE - 2 * week)  # two weeks later
    again = ulora("feedback", path, "--json").document
    assert (again["taken"], again["late"]) == (2, 1)
    arm = stage_in_store(shop, 3).arms["canary"]
    found = {event: list(arm.of(event)) for event in ("labelled", "wrong", "first_wrong")}
    assert found == {"labelled": [1, 2], "wrong": [1, 2], "first_wrong": [1, 2]}


def test_a_run_that_was_interrupted_loses_nothing(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, [(receipt(shop, unit), "rust") for unit in range(6)])
    assert ulora("feedback", path).code == 0
    monkeypatch.setattr(usecase, "_WRITE_EVERY", 2)

    def end(*_: object) -> str:
        raise KeyboardInterrupt

    label = Recorder.label
    monkeypatch.setattr(Recorder, "label", lambda *asked: label(*asked) if asked[2].unit < 3 else end())
    assert ulora("feedback", path).code == 130
    assert list(stage_in_store(shop, 3).arms["canary"].of("labelled")) == [0, 1, 2, 3, 4, 5]
