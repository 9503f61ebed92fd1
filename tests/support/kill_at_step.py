"""An action in a child process that is killed by SIGKILL at its n-th file system call.

The steps are the interpreter's own audit events (an open, a mkdir, a rename, a link …), so a step that is added later
is covered without anyone listing it. Forking is cheap: everything is imported once.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterable

_SEED = os.environ.get("ULORA_FAULT_SEED")
_ALL = "ULORA_FAULT_CASES" in os.environ
"""Set where there is time for all."""


def killed_at(step: int, act: Callable[[], object]) -> bool:
    """Whether `act` was killed at this step; False if it ended before."""
    child = os.fork()
    if child == 0:
        _die_at(step)
        try:
            act()
        except BaseException as error:
            print(f"at step {step}: {error!r}", file=sys.__stderr__)
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), code
    return code != 0


def count_of(act: Callable[[], object]) -> int:
    """How many steps something takes; it is done in a child."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        seen = _watch(lambda count: None)
        act()
        os.write(write, str(seen[0]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        count = int(said.read())
    os.waitpid(child, 0)
    return count


def some_steps(count: int, most: int) -> Iterable[int]:
    """All steps, or in a usual run `most` of them, chosen by ULORA_FAULT_SEED if that is set."""
    steps = range(1, count + 1)
    return steps if _ALL or count <= most else sorted(random.Random(_SEED).sample(steps, most))


def _die_at(step: int) -> None:
    def look(count: int) -> None:
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)

    _watch(look)


def _watch(look: Callable[[int], None]) -> list[int]:
    seen = [0]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" or event.startswith(("os.", "shutil.", "fcntl.", "ctypes.dlsym")):
            seen[0] += 1
            look(seen[0])

    sys.addaudithook(hook)
    return seen
