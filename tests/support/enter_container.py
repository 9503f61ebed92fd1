"""Become the process of a container, as far as a machine without an engine allows; `container_process.py` starts it.

It runs as root in a mount namespace of its own (`unshare --mount`), and makes a root folder there: this machine's
programs and libraries, read-only, and folders that the container may write to. Then it drops to the user of the
container, by number, without groups and privileges, and becomes its command. Nothing outside of the namespace changes.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/proc", "/dev", "/sys")
_ETC = (
    *("alternatives", "group", "hosts", "ld.so.cache", "localtime", "mime.types", "nsswitch.conf", "passwd"),
    *("postgresql-common", "protocols", "resolv.conf", "services", "ssl"),
)
_PR_SET_NO_NEW_PRIVS = 38


def main(root: Path, wanted: str) -> None:
    """Make the root folder, become the user, and then the command."""
    container = json.loads(wanted)
    _mount("-t", "tmpfs", "-o", "mode=0755", "container", str(root))
    for path in _SYSTEM:
        _system(root, Path(path))
    for name in _ETC:
        if Path("/etc", name).exists():
            _bind(root, Path("/etc", name), Path("/etc", name))
    for inside, outside in container["writable"].items():
        _bind(root, Path(outside), Path(inside), writable=True)
    for inside, outside in container["read_only"].items():
        _bind(root, Path(outside), Path(inside))
    _mount("-o", "remount,ro", str(root))
    os.chroot(root)
    os.chdir(container["folder"])
    _drop(container["user"], container["group"])
    os.execvpe(container["command"][0], container["command"], container["env"])


def _system(root: Path, path: Path) -> None:
    """A folder of the system; of a link, such as /bin, a link."""
    if path.is_symlink():
        (root / path.relative_to("/")).symlink_to(path.readlink())
    elif path.exists():
        _bind(root, path, path, writable=str(path) in ("/proc", "/dev", "/sys"))


def _bind(root: Path, outside: Path, inside: Path, *, writable: bool = False) -> None:
    """Let a file or folder appear in the root folder."""
    place = root / inside.relative_to("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    if outside.is_dir():
        place.mkdir(exist_ok=True)
    else:
        place.touch()
    _mount("--rbind" if writable else "--bind", str(outside), str(place))
    if not writable:
        _mount("-o", "remount,bind,ro", str(place))


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def _drop(user: int, group: int) -> None:
    """Become a user, for good: a program that is setuid gives nothing back."""
    if ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError("no_new_privs can't be set")
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
