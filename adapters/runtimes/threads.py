"""How many threads torch computes with in a replica."""

from __future__ import annotations

import os
from contextlib import suppress

import torch

from registry.machine.cores import usable_cores
from registry.versions.manifest import BackboneRef

QUICK_IMAGE = 100e6
"""Floating-point operations; about 2 ms of one core. Reading an image and answering it over HTTP takes as long, so the
threads that do so keep the other cores busy, and operations that are shared among cores would wait for them."""


class _Process:
    """How this process was set up.

    Attributes:
        threads: that share an operation; None if it was not set up, or the environment says how many.
    """

    threads: int | None = None


def compute_in_this_thread() -> None:
    """Set up the process for one thread that computes and shares its operations among all cores that it may use.

    `OMP_NUM_THREADS`, if it is set, says how many instead. More threads than cores make every operation slower: they
    wait for each other.
    """
    if not os.environ.get("OMP_NUM_THREADS"):
        _Process.threads = usable_cores()
        torch.set_num_threads(_Process.threads)
    with suppress(RuntimeError):  # it was set before, or this process has computed already
        torch.set_num_interop_threads(1)


def share_cores(operations: float) -> None:
    """Let this thread, which was set up to compute, share its next operations among all cores, or keep them to itself
    if images are quick.

    Args:
        operations: of an image, the one that takes most; see `operations_of`.
    """
    if _Process.threads is not None:
        torch.set_num_threads(1 if operations < QUICK_IMAGE else _Process.threads)


def most_threads() -> int:
    """The threads that share an operation of this process at most; torch may use fewer now."""
    return _Process.threads or min(torch.get_num_threads(), usable_cores())


def operations_of(backbone: BackboneRef, side: int) -> float:
    """About how many floating-point operations an image of `side` pixels takes.

    Two for each token and each weight of a block's matrices: 4 of attention, and 8 of a perceptron that is 4 times as
    wide (Dosovitskiy et al. 2021). Attention between tokens, heads and adapters are left out.
    """
    config = backbone.config
    tokens = (side // int(config.get("patch_size", 16))) ** 2
    return 2.0 * 12 * int(config["hidden_size"]) ** 2 * int(config["num_hidden_layers"]) * tokens
