"""How many threads torch computes with in a replica."""

from __future__ import annotations

import os
from contextlib import suppress

import torch

from registry.machine.cores import usable_cores


def compute_in_this_thread() -> None:
    """Set up the process for one thread that computes and shares its operations among all cores that it may use.

    `OMP_NUM_THREADS`, if it is set, says how many instead. More threads than cores make every operation slower: they
    wait for each other.
    """
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(usable_cores())
    with suppress(RuntimeError):  # it was set before, or this process has computed already
        torch.set_num_interop_threads(1)
