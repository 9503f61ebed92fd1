"""Collections of garbage are short in a replica, and still collect."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import gc, weakref
from registry.serving.pauses import shorten_collections

class Node: pass

def circle():
    node = Node()
    node.itself = node
    return weakref.ref(node)

garbage, kept = circle(), [object() for _ in range(1000)]
assert gc.get_freeze_count() == 0
shorten_collections()
assert garbage() is None
assert gc.get_freeze_count() > 1000 > len(gc.get_objects())
later = circle()
gc.collect()
assert later() is None
print("done")
"""


def test_what_is_alive_is_left_out_of_later_collections() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")
