"""Pauses of the whole process: those of Python's garbage collection."""

from __future__ import annotations

import gc


def shorten_collections() -> None:
    """Collect garbage now, and leave out of later collections what is alive.

    A full collection looks at every object while no other thread runs Python: the 400,000 and more of torch and
    transformers take 0.4 s, in which no request is answered. They stay until the process ends, so nothing is lost by
    leaving them out; what is made afterwards is collected as ever. To be called by a program that only serves, once all
    has been imported and the first version is loaded.
    """
    gc.collect()
    gc.freeze()
