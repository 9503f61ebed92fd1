"""Which images the gates will miss is known before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from registry.evidence.candidate import Candidate
from registry.evidence.data_check import Shortage, future_version, in_short, shortages, summary
from registry.evidence.metrics import METRICS
from registry.evidence.policy import load_policy, parse_policy
from registry.names import VersionName

ENOUGH = {"potato": 300, "tomato": 300}


@dataclass(frozen=True)
class Counts:
    """The numbers of images of a folder."""

    test: Mapping[str, int]
    far: int = 100
    near: int = 0
    test_share: Mapping[str, float | None] = field(default_factory=dict)

    def images(self, split: str) -> Mapping[str, int]:
        assert split == "test"
        return self.test


def missing(counts: Counts, *rules: str, targets: tuple[str, ...] = ("potato", "tomato")) -> list[Shortage]:
    production = "".join(f"\n      - {{{rule}}}" for rule in rules) or " []"
    text = f"format: 1\nchannels:\n  staging: {{}}\n  production:\n    defaults:{production}\n"
    return shortages(parse_policy(text.encode()), counts, future_version(targets, "dino-lora"))


def found(*args: object, **options: object) -> list[tuple[str, str | None, int, int]]:
    return [(one.images, one.target, one.n, one.needs) for one in missing(*args, **options)]  # type: ignore[arg-type]


def test_the_default_policy_is_content_with_what_it_asks_for() -> None:
    version = future_version(ENOUGH, "dino-lora")
    assert shortages(load_policy(), Counts(ENOUGH), version) == []
    said = {(one.images, one.target, one.needs) for one in shortages(load_policy(), Counts({}, far=99), version)}
    assert said >= {("test", "tomato", 300), ("test", None, 300), ("far", None, 100), ("near", "tomato", 1)}


def test_eighty_images_a_label_never_pass_the_default_policy() -> None:
    counts = Counts({"potato": 26, "tomato": 26}, test_share={"potato": 0.16, "tomato": 0.16})
    said = "\n".join(summary(shortages(load_policy(), counts, future_version(ENOUGH, "dino-lora"))))
    assert "these rules can't be met with these images" in said
    assert (
        "tomato has 26 test images, and production needs 300 for ood_false_alarm_rate: about 1,875 images of it in all "
        "would be enough, or 274 more in test of tomato" in said
    )


def test_a_channel_says_in_one_sentence_what_it_needs() -> None:
    rules = ("metric: accuracy, min: 0.9, per: target, min_n: 301", "metric: ood_auroc, min: 0.9, min_n: 2000")
    assert in_short(missing(Counts(ENOUGH, far=1), *rules)) == [
        "production needs more images, whatever is fitted (`ulora data check` says what to add): "
        "accuracy 301 test images (potato has 300, tomato has 300); ood_auroc 2,000 test images (there are 600); "
        "ood_auroc 2,000 far images (there are 1)"
    ]
    assert in_short([]) == []


@pytest.mark.parametrize(
    ("rule", "lacks"),
    [
        ("metric: accuracy, min: 0.9, per: target, min_n: 301", [
            ("test", "potato", 300, 301), ("test", "tomato", 300, 301),
        ]),
        ("metric: accuracy, min: 0.9, min_n: 601", [("test", None, 600, 601)]),
        ("metric: ood_auroc, min: 0.9, per: target, min_n: 101", [("far", None, 100, 101)]),
        ("metric: ood_near_auroc, min: 0.9, per: target, min_n: 301", [
            ("test", "potato", 300, 301), ("test", "tomato", 300, 301),
            ("near", "potato", 300, 301), ("near", "tomato", 300, 301),
        ]),
        ("metric: latency_ms_p95, max: 9, min_n: 5000", []),
        ("metric: adapter_memory_mb, max: 9, per: target", []),
    ],
)  # fmt: skip
def test_each_metric_has_its_own_images(rule: str, lacks: list[object]) -> None:
    assert found(Counts(ENOUGH), rule) == lacks


def test_every_metric_of_images_is_known() -> None:
    without_images = {metric for name in ("latency", "memory", "tests", "deployed") for metric in METRICS[name]}
    for metric in {name for names in METRICS.values() for name in names} - without_images:
        assert found(Counts({}, far=0), f"metric: {metric}, min: 0.5"), metric


def test_the_largest_number_that_is_asked_is_said_once() -> None:
    rules = [f"metric: ood_detection_rate, min: 0.{n}, min_n: {n}" for n in (200, 500, 300)]
    assert found(Counts(ENOUGH), *rules) == [("far", None, 100, 500)]


def test_near_images_come_from_the_folder_or_other_targets() -> None:
    rule = "metric: ood_near_detection_rate, per: target"
    assert found(Counts({"tomato": 9}), rule, targets=("tomato",)) == [("near", "tomato", 0, 1)]
    assert found(Counts({"tomato": 9}, near=1), rule, targets=("tomato",)) == []
    assert found(Counts({"tomato": 9, "potato": 1}), rule) == []


def test_a_versions_suffix_and_benchmarks_count() -> None:
    counts = Counts({"tomato": 300})
    router = Candidate("aads", VersionName.parse("v1.0.0-router"), "", ("tomato",), "dino-lora")
    assert [one.metric for one in shortages(load_policy(), counts, router)] == ["ood_near_detection_rate"]
    assert shortages(load_policy(), counts, router, only=("routing",)) == []
    assert shortages(load_policy(), Counts({}), router, only=("latency",)) == []
