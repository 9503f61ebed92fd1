"""What replicas ask of the store: the arithmetic of its price, and a short run on a real store."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import followers
from benchmarks.counting import Traffic
from benchmarks.followers import FollowersOptions, ReplicaRequests

ROOT = Path(__file__).parents[3]


def test_the_price_is_that_of_the_counted_requests() -> None:
    asked = ReplicaRequests(10.0, Traffic(["GET"] * 10 + ["PUT", "LIST", "DELETE"], sent=20, received=100))
    assert asked.per_second() == {"GET": 1.0, "PUT": 0.1, "LIST": 0.1, "DELETE": 0.1}
    # A month of 30 days has 2,592,000 s: as many GETs at $0.40 a million, and 518,400 PUTs and LISTs at $5 a million.
    assert asked.dollars_a_month() == pytest.approx(2.592 * 0.4 + 0.5184 * 5)
    assert asked.figures()["US$ a month, 100 replicas"] == pytest.approx(362.88)


def test_the_numbers_of_followers_are_as_asked() -> None:
    assert FollowersOptions().counts == (1, 10, 100, 1000)
    assert FollowersOptions(count=(50, 5)).counts == (5, 50)
    assert CliRunner().invoke(followers.main, ["--count", "1001"]).exit_code == 2
    assert "python -m benchmarks.followers" in CliRunner().invoke(followers.main, ["--help"]).output


def test_the_page_on_costs_computes_with_these_prices() -> None:
    page = (ROOT / "docs" / "costs.md").read_text()
    for when, column in (("at rest", 1), ("in a trial", 2)):
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {when} |")]
        rates = [float(cell) for cell in row.split("|")[2:5]]
        a_month = followers.MONTH * sum(
            followers.PRICES[kind] * rate for kind, rate in zip(("GET", "LIST", "PUT"), rates, strict=True)
        )
        (costs,) = [line for line in page.splitlines() if line.startswith("| 1,000 | $")]
        said = float(costs.split("|")[1 + column].strip(" $").replace(",", ""))
        assert said == pytest.approx(1000 * a_month, rel=0.01)


@pytest.mark.acceptance
def test_replicas_are_counted_and_followers_see_every_record() -> None:
    found = followers.followers(FollowersOptions("tiny"))
    for when in ("at rest", "in a trial"):
        asked = found.figures[f"a replica {when}"]
        assert asked["GET a second"] > 0
        assert asked["US$ a month, 10 replicas"] > 0
    assert found.figures["3 followers"]["requests a second"] > found.figures["1 followers"]["requests a second"]
    assert {"p99_seconds_1_followers", "dollars_a_month_at_rest"} <= found.metrics.keys()
