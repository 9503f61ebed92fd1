"""The folder that a run writes into: plans, lists of inputs, and parts, each of them whole or not there.

`part-3-of-8-000012.jsonl` is the thirteenth part of the third shard. Names that begin with `_` or `.` are not
data: engines that read such a folder leave them out.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from registry.errors import BadManifest, NotNow, disk_errors
from registry.formats.bounded import open_regular, read_regular
from registry.serving.batch.options import FORMATS, PartFormat, Shard
from registry.serving.batch.plan import BatchPlan
from registry.serving.batch.reading import InputFile

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_MAX_LINE = 1024 * 1024
_PLAN = re.compile(r"_plan-(\d{1,6})-of-(\d{1,6})\.json")
PLAN_SECONDS = 60.0
"""How long another shard's run is waited for, which keeps its plan."""
_PAUSE = 0.05
_HINT = "choose a folder that you can write as --out"


class BatchFolder:
    """One shard's files in a folder that several shards may share. Everything here may raise `DiskFull` or
    `BadSetting`, where the folder can't be written."""

    def __init__(self, folder: Path, shard: Shard) -> None:
        self.path = folder
        self._of = f"{shard.number}-of-{shard.count}"
        self._shard = shard
        self._part = re.compile(rf"part-{self._of}-(\d{{6,}})\.({'|'.join(FORMATS)})", re.ASCII)

    # --- one run at a time -------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this shard, until the end of the process at most.

        Raises:
            NotNow: another process holds it.
        """
        with self._lock(f"_lock-{self._of}", f"another run writes shard {self._shard} into {self.path}"):
            self._remove_unfinished()
            yield

    def _lock(self, name: str, problem: str, seconds: float = 0.0) -> _Locked:
        with disk_errors(self.path, _HINT):
            self.path.mkdir(parents=True, exist_ok=True)
            return _Locked(self.path / name, problem, seconds)

    def _remove_unfinished(self) -> None:
        """Remove what a killed run of this shard has left, which no other process writes."""
        for file in self.path.glob(f".{self._of}.*"):
            with suppress(OSError):
                file.unlink()

    # --- the plan ----------------------------------------------------------------------------------------------------

    def plan(self) -> BatchPlan | None:
        """The plan of this shard; None before it has one.

        Raises:
            BadManifest: it is damaged.
        """
        return self._read_plan(f"_plan-{self._of}.json")

    def other_plans(self) -> list[BatchPlan]:
        """The plans of other shards in this folder, or of the same shard of another number of shards.

        Raises:
            BadManifest: one is damaged.
        """
        names = sorted(name for name in self._names() if _PLAN.fullmatch(name))
        found = [self._read_plan(name) for name in names if name != f"_plan-{self._of}.json"]
        return [plan for plan in found if plan]

    def keep_plan(self, plan: BatchPlan) -> None:
        """Write the plan of this shard, if it fits those of the others.

        Raises:
            BadInput: the folder has those of another run.
            NotNow: another process has been keeping its plan for PLAN_SECONDS: it hangs.
        """
        with self._lock("_lock", f"another run has been keeping its plan in {self.path} for long", PLAN_SECONDS):
            for other in self.other_plans():
                plan.check_other_shard(other)
            self._write(f"_plan-{self._of}.json", lambda out: out.write(plan.to_bytes()))

    def _read_plan(self, name: str) -> BatchPlan | None:
        path = self.path / name
        try:
            data = read_regular(path, BatchPlan.LIMIT)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadManifest(f"{path} can't be read: {error.strerror or error}") from error
        plan = BatchPlan.parse(data, str(path))
        if name != f"_plan-{plan.shard}-of-{plan.shards}.json":
            raise BadManifest(f"{path} is the plan of shard {plan.shard}/{plan.shards}")
        return plan

    # --- the list of inputs ------------------------------------------------------------------------------------------

    def keep_list(self, files: Iterable[InputFile]) -> tuple[int, str]:
        """Write the list of this shard's inputs; how many there are, and its digest."""
        found: list[tuple[int, str]] = []

        def write(out: BinaryIO) -> None:
            found.append(list_digest(files, out.write))

        self._write(f"_inputs-{self._of}.jsonl", write)
        return found[0]

    def listed(self, plan: BatchPlan) -> Iterator[InputFile]:
        """The inputs of this shard, in order.

        Raises:
            BadManifest: the list is not the one of its plan.
        """
        path = self.path / f"_inputs-{self._of}.jsonl"
        damaged = BadManifest(f"{path} is not the list that the plan names", hint="begin again in another folder")
        digest, count = hashlib.sha256(), 0
        try:
            with open_regular(path) as lines:
                while line := lines.readline(_MAX_LINE):
                    digest.update(line)
                    count += 1
                if (count, digest.hexdigest()) != (plan.inputs, plan.inputs_sha256):
                    raise damaged
                lines.seek(0)
                while line := lines.readline(_MAX_LINE):
                    path_, target = json.loads(line)
                    yield InputFile(path_, target)
        except (OSError, ValueError) as error:
            raise damaged from error

    # --- the parts ---------------------------------------------------------------------------------------------------

    def finished(self, form: PartFormat) -> set[int]:
        """The parts of this shard that are there, whole."""
        found = (self._part.fullmatch(name) for name in self._names())
        return {int(part[1]) for part in found if part and part[2] == form}

    def has_parts(self) -> bool:
        """Whether there is any part of this shard, of whatever format."""
        return any(map(self._part.fullmatch, self._names()))

    def commit(self, part: int, form: PartFormat, write: Callable[[BinaryIO], object]) -> bool:
        """Write a part: whole, or not at all. False if it is there already: then it stays as it is."""
        return self._write(f"part-{self._of}-{part:06d}.{form}", write, only_new=True)

    def _names(self) -> Iterator[str]:
        """What is in the folder, if there is one."""
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.path) as entries:
            yield from (entry.name for entry in entries)

    def _write(self, name: str, write: Callable[[BinaryIO], object], *, only_new: bool = False) -> bool:
        """Write a file beside, flush it to the disk, then give it its name, which is the commit."""
        scratch, place = self.path / f".{self._of}.{secrets.token_hex(8)}", self.path / name
        with disk_errors(place, _HINT):
            try:
                with scratch.open("xb") as out:
                    write(out)
                    out.flush()
                    os.fsync(out.fileno())
                is_new = _name_new(scratch, place) if only_new else _name_again(scratch, place)
            finally:
                scratch.unlink(missing_ok=True)
            _flush(self.path)
        return is_new


class _Locked:
    """A locked file; free again at the end, and when the process ends for whatever reason."""

    def __init__(self, path: Path, problem: str, seconds: float) -> None:
        """Raises: NotNow: another process has it after so many seconds; the text is `problem`."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        ends = time.monotonic() + seconds
        while not self._is_taken():
            if time.monotonic() >= ends:
                os.close(self._file)
                raise NotNow(problem, hint="wait for its end, or stop it; the same command then goes on")
            time.sleep(_PAUSE)

    def _is_taken(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def list_digest(files: Iterable[InputFile], write: Callable[[bytes], object] = len) -> tuple[int, str]:
    """How many inputs there are, and the digest of their list, whose lines are given to `write`."""
    digest, count = hashlib.sha256(), 0
    for file in files:
        line = json.dumps([file.path, file.target]).encode() + b"\n"
        digest.update(line)
        write(line)
        count += 1
    return count, digest.hexdigest()


def _name_new(scratch: Path, place: Path) -> bool:
    """Give a file its name, unless that is taken: in one step, also where two machines share a disk without locks."""
    try:
        os.link(scratch, place)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if place.exists():
            return False
        scratch.rename(place)  # this file system has no links; the lock keeps others away
    return True


def _name_again(scratch: Path, place: Path) -> bool:
    scratch.replace(place)
    return True


def _flush(folder: Path) -> None:
    """Flush the names in a folder to the disk, where that is offered."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            os.fsync(opened)
    finally:
        os.close(opened)
