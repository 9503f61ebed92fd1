"""True labels from a file, straight into the store: an object of observations for each generation that they are about.

The objects are named by the digest of the file, and their counts are sets of units: to take a file again, or labels
that replicas got too, changes nothing. What an object has, stays in it: a label that counted once may be late by now.
"""

from __future__ import annotations

import csv
import io
import os
import socket
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from registry.errors import BadInput, BadManifest, BadReceipt, NotFound, ObjectNotFound
from registry.formats.bounded import file_digest, open_regular
from registry.progress import OpenProgress, Progress, Say, open_no_progress, say_nothing
from registry.serving.labels import StageLookup
from registry.store import layout
from registry.trials.merge import MergedArm, counted_in
from registry.trials.observations import ArmCounts, Observations, StageCounts
from registry.trials.receipts import FleetKeys, read
from registry.trials.recorder import Recorder
from registry.wiring import Wiring

COLUMNS = ("request_id", "label")
_MAX_FILE = 64 * 1024**3
_MAX_LINE = 8192
"""Characters of a line; a longer one is several, and so no label."""
_MAX_LABEL = 256
_MAX_OPEN = 16
"""Generations that are counted at a time; of more, the one that was longest not asked for is written first."""
_WRITE_EVERY = 50_000
"""Rows between two writes, so that little is to be done again."""


@dataclass(frozen=True)
class FeedbackOptions:
    """How labels are taken.

    Attributes:
        fleet_key_file: the keys that signed the receipts; None for those of `ULORA_FLEET_KEY`.
    """

    fleet_key_file: Path | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class LabelsTaken:
    """What became of the labels of a file.

    Attributes:
        rows: without the header.
        taken: labels that count. `repeated`: receipts that had the same label before, in this file.
        contradictory: receipts that had another one before, in this file; the first counts.
        late: of answers of more than 30 days ago. `left_out`: of answers that no trial counts.
        unknown: receipts that no key has signed for this channel, or of no generation of it. `invalid`: rows without a
            receipt and a label.
        objects: keys of the objects that hold the counts.
    """

    channel: str
    rows: int = 0
    taken: int = 0
    repeated: int = 0
    contradictory: int = 0
    late: int = 0
    left_out: int = 0
    unknown: int = 0
    invalid: int = 0
    objects: tuple[str, ...] = ()


def take_labels(
    wiring: Wiring, labels: Path, channel: str, options: FeedbackOptions | None = None, *,
    progress: OpenProgress = open_no_progress, say: Say = say_nothing,
) -> LabelsTaken:  # fmt: skip
    """Count the labels of a CSV file with the columns `request_id` and `label`, by the receipts of answers.

    The file is read as a stream. After an error or an interruption run it again: what was taken counts once.

    Raises:
        BadInput: the file can't be read, is no CSV file, or lacks a column.
        BadSetting: there is no fleet key, or it can't be used.
        StoreUnreachable, StoreDenied: the log can't be read, or the counts can't be written.
    """
    options = options or FeedbackOptions()
    keys = FleetKeys.from_setting(file=options.fleet_key_file)
    if keys is None:
        raise BadInput(
            "there is no fleet key", hint="give --fleet-key-file, or set ULORA_FLEET_KEY, as for the replicas"
        )
    log = wiring.channel(channel)
    if log.head() is None:
        wiring.store.check_holds(wiring.model)
    with _opened(labels) as file:
        digest = file_digest(file.fileno(), _MAX_FILE)
        if digest is None:
            raise BadInput(f"{labels} has more than {_MAX_FILE} bytes", hint="split it")
        counts = _Counts(wiring, channel, digest, writes=not options.dry_run)
        taker = _Taker(keys.for_channel(wiring.model, channel), StageLookup(log), counts)
        try:
            with progress(os.fstat(file.fileno()).st_size) as done:
                taker.take(file, labels, done)
        except BaseException:
            if taker.rows:
                say(f"stopped at row {taker.rows:,} of {labels}; run it again: what was taken counts once")
            raise
    return LabelsTaken(channel, taker.rows, **taker.results, objects=tuple(counts.keys))


@dataclass
class _Counts:
    """The recorders of the generations, and their objects."""

    wiring: Wiring
    channel: str
    digest: str
    writes: bool
    keys: dict[str, None] = field(default_factory=dict)
    parts: Counter[int] = field(default_factory=Counter)
    recorders: OrderedDict[int, Recorder] = field(default_factory=OrderedDict)

    def of(self, generation: int) -> Recorder:
        """The recorder of a generation."""
        if generation not in self.recorders:
            if len(self.recorders) >= _MAX_OPEN:
                self._write(*self.recorders.popitem(last=False))
            self.parts[generation] += 1
            self.recorders[generation] = Recorder(self._id(generation), socket.gethostname())
        self.recorders.move_to_end(generation)
        return self.recorders[generation]

    def write_all(self) -> None:
        """Write what was counted so far."""
        for generation, recorder in self.recorders.items():
            self._write(generation, recorder)

    def _write(self, generation: int, recorder: Recorder) -> None:
        key = layout.observation(self.wiring.model, self.channel, self._id(generation))
        document = recorder.document()
        if document.stages and self.writes:
            self.wiring.store.overwrite(key, self._with_known(key, document).to_bytes())
            self.keys[key] = None

    def _with_known(self, key: str, document: Observations) -> Observations:
        """The same with what was counted in an earlier run. What nobody can read is written anew."""
        try:
            known = Observations.parse(self.wiring.store.get(key, Observations.LIMIT).body, key)
        except (ObjectNotFound, BadManifest):
            return document
        return _joined(known, document)

    def _id(self, generation: int) -> str:
        part = self.parts[generation]
        return f"labels-{self.digest[:32]}-g{generation}" + (f"-{part}" if part > 1 else "")


def _joined(known: Observations, counted: Observations) -> Observations:
    """What either has counted of labels. Of a unit that both have, what `known` says of its first label stays."""
    both = [known.model_copy(update={"replica": "1"}), counted.model_copy(update={"replica": "2"})]  # in this order
    return counted.model_copy(update={"stages": tuple(_joined_stage(each, both) for each in counted.stages)})


def _joined_stage(stage: StageCounts, both: Sequence[Observations]) -> StageCounts:
    found = counted_in(stage.stage, both).arms
    return stage.model_copy(update={"arms": {name: _with_units(arm, found[name]) for name, arm in stage.arms.items()}})


def _with_units(arm: ArmCounts, joined: MergedArm) -> ArmCounts:
    return arm.model_copy(update={"units": {event: units for event, units in joined.units.items() if units}})


class _Taker:
    """Takes rows, and counts what becomes of them."""

    def __init__(self, keys: FleetKeys, lookup: StageLookup, counts: _Counts) -> None:
        self._keys = keys
        self._lookup = lookup
        self._counts = counts
        self.rows = 0
        self.results: Counter[str] = Counter()

    def take(self, file: IO[bytes], path: Path, done: Progress) -> None:
        """Take all rows of a file."""
        for receipt, label in _rows(file, path, done):
            self.rows += 1
            self.results[self._take_one(receipt, label)] += 1
            if self.rows % _WRITE_EVERY == 0:
                self._counts.write_all()
        self._counts.write_all()

    def _take_one(self, text: str, label: str) -> str:
        if not text or not 0 < len(label) <= _MAX_LABEL:
            return "invalid"
        try:
            receipt = read(self._keys, text)
            stage = self._lookup.find(receipt.generation)
        except (BadReceipt, NotFound):
            return "unknown"
        return self._counts.of(receipt.generation).label(stage, receipt, label)


def _rows(file: IO[bytes], path: Path, done: Progress) -> Iterator[tuple[str, str]]:
    """The receipt and the label of each row, empty where it has none.

    Raises:
        BadInput: it is no CSV file, or lacks a column.
    """
    file.seek(0)
    rows = csv.reader(_lines(io.TextIOWrapper(file, "utf-8-sig", newline=""), done))
    try:
        header = [name.strip() for name in next(rows, [])]
        if any(header.count(name) != 1 for name in COLUMNS):
            raise BadInput(f"{path} has no columns {' and '.join(COLUMNS)}", hint="its first line names its columns")
        places = [header.index(name) for name in COLUMNS]
        for row in rows:
            receipt, label = (row[place].strip() if place < len(row) else "" for place in places)
            if row:
                yield receipt, label
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is no CSV file in UTF-8: {error}"[:300]) from error


def _lines(text: io.TextIOWrapper, done: Progress) -> Iterator[str]:
    while line := text.readline(_MAX_LINE):
        done(len(line))
        yield line


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = open_regular(path)
    except OSError as error:
        hint = "it is read twice: give a file on this disk"
        raise BadInput(f"{path} can't be read: {error.strerror}", hint=hint) from error
    with file:
        yield file
