"""Compute the parts of a shard that are not there yet, one after another.

A few threads read files ahead while this one computes. Batches never reach over the end of a part, so a part has the
same batches, and the same numbers, whatever runs were interrupted before it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice

from registry.errors import LoadFailed, UloraError
from registry.machine.cores import usable_cores
from registry.progress import Progress
from registry.serving.batch.folder import BatchFolder
from registry.serving.batch.inputs import BatchInput
from registry.serving.batch.parts import part_writer
from registry.serving.batch.plan import BatchPlan
from registry.serving.batch.reading import InputFile
from registry.serving.batch.rows import FAILED, UNREADABLE, PredictedRow, PreparedFile, ReadFile, RowPredictor

_BATCH = 64
"""Files that are computed together."""
_AHEAD = 4 * _BATCH
"""Files that are read and wait for their turn at most, as small as the version takes them."""
_MAX_READERS = 8
_FEW = 8
"""A part of which so many files were read or computed, and all of them failed, is not a matter of the files."""


@dataclass(frozen=True)
class WrittenPart:
    """A part that was just written: its number from 0 on, its rows by outcome, and the seconds since the one before."""

    part: int
    outcomes: dict[str, int]
    seconds: float

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(self.outcomes.values())


def compute_parts(
    plan: BatchPlan, folder: BatchFolder, source: BatchInput, predictor: RowPredictor, progress: Progress
) -> Iterator[WrittenPart]:
    """Compute and write what is missing, and tell of each part once it is there.

    Raises:
        LoadFailed: nothing of a part could be computed. It is not written.
        BadManifest: the list of inputs is not the one of the plan.
        DiskFull, BadSetting: a part can't be written.
        UloraError: files can't be read, and that is not the fault of single ones; or none of a part can.
    """
    write, began = part_writer(plan.output), time.monotonic()

    def prepare(item: tuple[int, InputFile]) -> tuple[int, PreparedFile]:
        number, file = item
        read = source.read(file)
        return number, predictor.prepare(ReadFile(read.path, read.data, read.target or plan.target, read.problem))

    predictor.begin()
    with _Readers(prepare, min(max(2, usable_cores()), _MAX_READERS)) as readers:
        prepared = readers.each(_missing(plan, folder))
        for part, files in groupby(prepared, key=_part_of):
            rows: list[PredictedRow] = []
            for batch in _batches(file for _, file in files):
                rows += predictor.answer(batch)
                progress(len(batch))
            _check_some(rows, part)
            folder.commit(part, plan.output, partial(write, rows))
            now = time.monotonic()
            yield WrittenPart(part, dict(Counter(row.outcome for row in rows)), now - began)
            began = now


def _missing(plan: BatchPlan, folder: BatchFolder) -> Iterator[tuple[int, InputFile]]:
    """The inputs of the parts that are not there, with the number of the part."""
    finished = folder.finished(plan.output)
    for number, file in enumerate(folder.listed(plan)):
        part = number // plan.part_rows
        if part not in finished:
            yield part, file


def _part_of(item: tuple[int, PreparedFile]) -> int:
    return item[0]


def _batches(files: Iterable[PreparedFile]) -> Iterator[list[PreparedFile]]:
    left = iter(files)
    while batch := list(islice(left, _BATCH)):
        yield batch


def _check_some(rows: list[PredictedRow], part: int) -> None:
    """Refuse a part of which everything failed: it would keep an error of this machine for ever.

    Raises:
        UloraError: no file could be read.
        LoadFailed: nothing could be computed.
    """
    computed = [row for row in rows if row.outcome != UNREADABLE]
    if len(rows) >= _FEW and not computed:
        raise UloraError(
            f"none of the {len(rows)} files of part {part} could be read: {rows[-1].path[:300]!r}: {rows[-1].detail}",
            hint="the part was not written; bring the files back, and the same command goes on. If they are gone for "
            "good, leave them out of the input, and give another --out",
        )
    if len(computed) >= _FEW and all(row.outcome == FAILED for row in computed):
        raise LoadFailed(
            f"none of the {len(computed)} images of part {part} could be computed: {computed[-1].detail}",
            hint="the part was not written; the same command goes on there",
        )


@dataclass
class _Readers:
    """Threads that prepare items ahead of the one that takes them, in order. They keep no process from ending."""

    prepare: Callable[[tuple[int, InputFile]], tuple[int, PreparedFile]]
    count: int
    _waiting: queue.SimpleQueue[tuple[tuple[int, InputFile], Future[tuple[int, PreparedFile]]] | None] = field(
        default_factory=queue.SimpleQueue
    )

    def __enter__(self) -> _Readers:
        for number in range(self.count):
            threading.Thread(target=self._work, name=f"ulora-reader-{number}", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(queue.Empty):  # nobody wants the rest
            while True:
                self._waiting.get_nowait()
        for _reader in range(self.count):
            self._waiting.put(None)

    def each(self, items: Iterator[tuple[int, InputFile]]) -> Iterator[tuple[int, PreparedFile]]:
        """The items, prepared, in order; at most `_AHEAD` of them are read and not taken."""
        begun: deque[Future[tuple[int, PreparedFile]]] = deque()
        for item in items:
            future: Future[tuple[int, PreparedFile]] = Future()
            begun.append(future)
            self._waiting.put((item, future))
            if len(begun) >= _AHEAD:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()

    def _work(self) -> None:
        while (given := self._waiting.get()) is not None:
            item, future = given
            try:
                future.set_result(self.prepare(item))
            except BaseException as error:
                future.set_exception(error)
