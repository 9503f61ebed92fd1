"""Work in several threads: results in order, errors reach the caller."""

from __future__ import annotations

import pytest

from registry.parallel import in_parallel


def test_results_come_in_the_order_of_the_items() -> None:
    assert in_parallel(lambda number: number * 2, range(40)) == [number * 2 for number in range(40)]


def test_an_error_in_a_thread_is_raised() -> None:
    def act(number: int) -> int:
        if number == 7:
            raise ValueError("seven")
        return number

    with pytest.raises(ValueError, match="seven"):
        in_parallel(act, range(40))
