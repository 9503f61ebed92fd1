"""A replica computes with as many threads as it has cores, or with one where an image takes little."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from adapters.runtimes import threads
from registry.versions.manifest import BackboneRef


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "usable_cores", lambda: before + 2)
    monkeypatch.setattr(threads._Process, "threads", None)
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
    threads.share_cores(1.0)
    assert torch.get_num_threads() == threads.most_threads() == before


def test_quick_images_are_computed_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = torch.get_num_threads() + 2
    threads.compute_in_this_thread()
    for operations, expected in ((threads.QUICK_IMAGE - 1, 1), (threads.QUICK_IMAGE, cores), (0.0, 1)):
        threads.share_cores(operations)
        assert (torch.get_num_threads(), threads.most_threads()) == (expected, cores)


def test_threads_stay_where_nobody_set_them_up() -> None:
    before = torch.get_num_threads()
    threads.share_cores(1.0)
    assert torch.get_num_threads() == threads.most_threads() == before


@pytest.mark.parametrize(
    ("hidden", "blocks", "patch", "side", "quick"),
    [(96, 6, 7, 28, True), (384, 12, 14, 224, False), (768, 12, 14, 224, False), (1024, 24, 16, 512, False)],
)
def test_only_tiny_backbones_are_quick(hidden: int, blocks: int, patch: int, side: int, *, quick: bool) -> None:
    config = {"hidden_size": hidden, "num_hidden_layers": blocks, "patch_size": patch}
    backbone = BackboneRef(family="dinov2", sha256="0" * 64, name="some", hub_id=None, revision=None, config=config)
    assert (threads.operations_of(backbone, side) < threads.QUICK_IMAGE) is quick


def test_operations_are_two_for_each_weight_and_token() -> None:
    config = {"hidden_size": 10, "num_hidden_layers": 3, "patch_size": 7}
    backbone = BackboneRef(family="dinov2", sha256="0" * 64, name="some", hub_id=None, revision=None, config=config)
    assert threads.operations_of(backbone, 30) == 2 * (12 * 10 * 10) * 3 * 16
