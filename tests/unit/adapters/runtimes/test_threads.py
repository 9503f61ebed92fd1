"""A replica computes with as many threads as it has cores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from adapters.runtimes import threads


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "usable_cores", lambda: before + 2)
    yield
    torch.set_num_threads(before)


def test_all_usable_cores_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = torch.get_num_threads() + 2
    for _ in range(2):  # the number of threads between operations can be set only once
        threads.compute_in_this_thread()
        assert (torch.get_num_threads(), torch.get_num_interop_threads()) == (cores, 1)


def test_what_the_environment_says_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    threads.compute_in_this_thread()
    assert torch.get_num_threads() == before
