"""Names: parsing, order, and the MLflow alias."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import BadInput, BadVersionName
from registry.names import VersionName, check_channel, check_model, check_new_target, check_target

NUMBER = st.integers(0, 999_999_999)
SUFFIX = st.just("") | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}", fullmatch=True)
NAMES = st.builds(VersionName, NUMBER, NUMBER, NUMBER, SUFFIX)


@given(NAMES)
def test_a_name_reads_as_it_is_written(name: VersionName) -> None:
    assert VersionName.parse(str(name)) == name


@given(st.text() | st.from_regex(r"v?[0-9.]*-?[A-Za-z0-9.-]*", fullmatch=True))
def test_any_text_is_a_name_or_is_refused_with_an_example(text: str) -> None:
    refusal = BadVersionName("", hint="v5.5.4-dinov3")
    written = text
    try:
        written = str(VersionName.parse(text))
    except BadVersionName as error:
        refusal = error
    assert written == text
    assert "v5.5.4-dinov3" in refusal.hint
    assert len(str(refusal)) < 500


@pytest.mark.parametrize(
    "text",
    [
        "", "5.5.4", "v5.5", "v5.5.4.1", "v05.5.4", "v5.5.4-", "v5.5.4--x", "v5.5.4-.x", "V5.5.4", "v5.5.4-ä",
        "v5.5.4\n", " v5.5.4", "v5.5.4-a/b", "v5.5.4-a b", "v٥.5.4", "v1000000000.0.0", "v1.0.0-" + "x" * 65,
        "latest", "v5",
    ],
)  # fmt: skip
def test_almost_valid_names_are_refused(text: str) -> None:
    with pytest.raises(BadVersionName):
        VersionName.parse(text)


def test_names_are_ordered_by_number_then_by_suffix() -> None:
    ordered = ["v1.9.9", "v1.10.0", "v5.5.4", "v5.5.4-dinov3", "v5.5.4-ood", "v5.5.5-a", "v5.10.0", "v10.0.0"]
    assert [str(name) for name in sorted(map(VersionName.parse, reversed(ordered)))] == ordered
    assert VersionName.parse("v5.5.4") < VersionName.parse("v5.5.4-dinov3")


@given(NAMES, NAMES, NAMES)
def test_the_order_is_total_and_agrees_with_equality(a: VersionName, b: VersionName, c: VersionName) -> None:
    assert [a < b, a == b, a > b].count(True) == 1
    assert (a <= b) == (not b < a)
    if a <= b and b <= c:
        assert a <= c


@given(NAMES)
def test_the_alias_is_one_that_mlflow_takes(name: VersionName) -> None:
    assert re.fullmatch(r"[\w\-]+", name.alias)
    assert not re.fullmatch(r"v\d+|latest", name.alias)  # reserved by MLflow
    assert name.alias.startswith(f"v{name.major}_{name.minor}_{name.patch}")


def test_a_suffix_is_split_into_words_for_policies() -> None:
    assert VersionName.parse("v1.0.0-ood-v2.router").suffix_words == {"ood", "v2", "router"}
    assert VersionName.parse("v1.0.0").suffix_words == frozenset()


@pytest.mark.parametrize("name", ["staging", "production", "drill-7", "drill-a-b"])
def test_channels_are_staging_production_and_drills(name: str) -> None:
    assert check_channel(name) == name


@pytest.mark.parametrize("name", ["", "Staging", "prod", "drill-", "drill-A", "staging/../x", "drill-" + "a" * 41])
def test_no_other_name_is_a_channel(name: str) -> None:
    with pytest.raises(BadInput, match="channel"):
        check_channel(name)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "ä", "a\n", "x" * 101, "../x"])
def test_a_models_name_can_lead_nowhere_else(name: str) -> None:
    assert check_model("aads-ulora_2.x") == "aads-ulora_2.x"
    with pytest.raises(BadInput, match="model"):
        check_model(name)


@pytest.mark.parametrize("name", ["Tomato", "tomato__", "_tomato", "tomato_", "a___b", "tomato__leaf__x", "", "a/b"])
def test_a_target_is_a_crop_or_a_crop_and_a_part(name: str) -> None:
    for valid in ("tomato", "tomato__leaf", "corn_maize", "sweet_corn__young_leaf"):
        assert check_target(valid) == valid
    with pytest.raises(BadInput, match="target"):
        check_target(name)


def test_a_new_target_has_a_name_that_a_folder_can_have() -> None:
    assert check_new_target("a" * 200) == "a" * 200
    with pytest.raises(BadInput, match="201 characters, more than 200"):
        check_new_target("a" * 201)
    with pytest.raises(BadInput, match="target"):
        check_new_target("Tomato")
    assert check_target("a" * 250) == "a" * 250, "earlier releases took it"
