"""What MLflow costs with many versions is measured on real servers, SQLite and PostgreSQL. Figures: no concern."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.catalog_growth import OURS, THEIRS, GrowthOptions, catalog_growth
from registry.errors import BadInput
from tests.servers.postgresql import PostgresqlServer, program


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "sqlite":
        yield ""
        return
    if not program("initdb"):
        pytest.skip("PostgreSQL is not installed")
    server = PostgresqlServer()
    try:
        yield server.start().uri
    finally:
        server.end()


@pytest.mark.acceptance
def test_the_growth_with_versions_is_measured(database: str) -> None:
    """Reconcile finds nothing to do with the versions that were inserted: they are as `create` leaves them."""
    found = catalog_growth(GrowthOptions("tiny", rounds=2, database=database)).document()
    assert found["setting"]["catalog"] == ("postgresql" if database else "sqlite")
    assert len(found["times"]) == 2 * len((*OURS, *THEIRS))
    assert len(found["metrics"]) == len((*OURS, *THEIRS))
    assert all(curve["40"] > 0 for curve in found["figures"].values())


def test_one_number_of_versions_can_not_be_compared() -> None:
    with pytest.raises(BadInput, match="can't be compared"):
        _ = GrowthOptions(versions=(10,)).counts
