"""The text of a version's page: the mirror's parts are written anew, what people wrote stays."""

from __future__ import annotations

import pytest

from registry.catalog.description import LIMIT, Description, model_description

PAGE = Description("v1.0.0", {"Refused: request-production": "too few images"}, "made by hand", "| a | b |", "abc123")
OLD = """a first one

| | |
|---|---|
| version | `v1.0.0` |
| backbone | none |
| content | `{}` |
""".format("0" * 64)


def test_a_description_is_read_as_it_was_written() -> None:
    assert Description.parse(str(PAGE), "v1.0.0") == PAGE


def test_name_then_notices_then_people_then_the_table() -> None:
    shown = [line for line in str(PAGE).splitlines() if line and not line.startswith("[//]")]
    refused = "> **Refused: request-production** too few images"
    assert shown == ["v1.0.0", "---", refused, "made by hand", "| a | b |"]


def test_what_people_wrote_around_our_parts_is_kept() -> None:
    edited = "above\n\n" + str(PAGE).replace("made by hand", "made by two hands") + "\n\nbelow"
    people = Description.parse(edited, "v1.0.0").people
    assert people.split() == ["above", "made", "by", "two", "hands", "below"]
    assert "above" in str(Description.parse(edited, "v1.0.0"))


def test_the_table_of_earlier_releases_is_no_text_of_people() -> None:
    assert Description.parse(OLD, "v1.0.0").people == "a first one"
    assert Description.parse(OLD + "\nand mine", "v1.0.0").people == "a first one\n\n\nand mine"


def test_a_notice_acts_on_nobody_and_is_written_once() -> None:
    said = {"Forced into production": "by eve: \u202egood\x1b[31m 👩\u200d🔬"}
    shown = str(PAGE.noting(said))
    assert "by eve: \ufffdgood\ufffd[31m 👩\u200d🔬" in shown
    assert str(Description.parse(shown, "v1.0.0").noting(said)) == shown


def test_a_notice_goes_with_an_empty_text() -> None:
    assert PAGE.noting({"Refused: request-production": ""}).notices == {}
    assert PAGE.noting({"Other": "two\nlines"}).notices["Other"] == "two lines"


def test_a_long_description_fits_and_keeps_what_people_wrote() -> None:
    people = "p" * 4000
    text = str(Description("v1.0.0", {"Refused": "r" * 5000}, people, "| row |\n" * 1000))
    assert len(text) <= LIMIT
    assert people in text


def test_the_models_description_is_replaced_and_people_are_kept() -> None:
    before = (
        "Versions are made, gated, promoted and rolled back with `ulora` (ulora-registry). Stages and aliases here "
        "mirror the log that serving follows: `ulora promote` and `ulora rollback` change them."
    )
    once = model_description(before + "\n\nAsk Ana first.")
    assert "request-rollback" in once
    assert before[:80] not in once
    assert once.endswith("Ask Ana first.")
    assert model_description(once) == once


ENDLESS = {
    "tables": "[//]: # (ulora: the table is written anew at each change, )\n",
    "old tables": "| | |\n|---|---|\n| version | ",
    "old texts": "Versions are made, gated, promoted and rolled back with `ulora` (ulora-registry).",
    "notices": "> **a** ",
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("part", ENDLESS)
def test_no_text_in_mlflow_takes_long_to_read(part: str) -> None:
    """To look for the end of each beginning would take hours, in which no thread of the process goes on."""
    text = ENDLESS[part] * (5_000_000 // len(ENDLESS[part]))
    found = Description.parse(text, "v1.0.0")
    assert str(found) == text, "a text of people is not written anew"
    assert len(model_description(text)) == LIMIT
