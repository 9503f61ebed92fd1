"""How long a replica takes to switch to another version that is in memory: `python -m benchmarks.flip`.

A replica (`registry.serving.follow.Live`) follows a channel on an embedded S3 server; the channel alternates between
two versions of a ViT-B adapter, both resident. The time of the switch (flip) is measured: from when the replica has
read the new record until it answers with it. `log moved, then answered by it` includes reading the log: an S3 round
trip, without waiting for the next poll.

No weights may be copied: the addresses of all tensors, of the bank's pages and of the backbone, are compared before and
after. The baselines are PEFT's `set_adapter` between loaded adapters, and `hotswap_adapter`, which reads a file and
overwrites weights in place, which is unsafe during a forward pass.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from adapters import bundle
from adapters.answer.loading import FLAVOR, load
from adapters.bank.slots import Page
from benchmarks.baselines.peft import PeftBaseline
from benchmarks.comparison import (
    Budget,
    Result,
    Times,
    option_json,
    option_rounds,
    option_size,
    option_threads,
    run,
    say,
    timed,
)
from benchmarks.synthetic import MODULES, SyntheticBackbone, make_backbone, write_bundle
from registry.channels.channel import Channel
from registry.channels.record import Author, ChannelPosition, promoted
from registry.devstack.s3_server import S3Server
from registry.errors import NotNow
from registry.machine import clock
from registry.names import VersionName
from registry.serving.follow import Live
from registry.serving.loaders import Loader
from registry.serving.options import LiveOptions
from registry.store.blobs import Blobs
from registry.store.objects import ObjectStore
from registry.versions.bindings import Bindings
from registry.versions.bundle import read_bundle
from registry.versions.manifest import Manifest
from registry.versions.pointer import Pointer

MODEL, CHANNEL = "flip", "production"
VERSIONS = ("v1.0.0", "v1.0.1")
TARGET = "leaf"
SWAPPED = "swapped"
WARM_UP = 4
LOADED_FOR_BASELINE = 8
"""How many adapters PEFT's model has: `set_adapter` goes through all of them."""
RANK = 16
LIMIT_MS = 1.0
TIMEOUT = 60.0

EXAMPLES = """
\b
Examples:
  python -m benchmarks.flip                           ViT-B/14; needs the extra `demo` for its S3 server
  python -m benchmarks.flip --rounds 300 --json
  python -m benchmarks.flip --size tiny --rounds 20   seconds; a look at whether it runs
"""


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@option_size(["vit-b", "tiny"], "vit-b")
@option_rounds(100)
@option_threads
@option_json
def main(*, size: str, rounds: int, threads: int, as_json: bool) -> None:
    """The flip of a replica to a version that is resident, against PEFT's ways to change the adapter."""

    def measure() -> Result:
        with tempfile.TemporaryDirectory() as folder, _embedded_store(Path(folder)) as store:
            return flip(store, Path(folder), size, rounds)

    run(measure, threads=threads, as_json=as_json)


def flip(store: ObjectStore, folder: Path, size: str, rounds: int) -> Result:
    """Measure on a store that is initialised.

    Args:
        folder: for temporary files; the caller deletes it.
    """
    say("making two versions and loading them")
    backbone = make_backbone(folder, size)
    places = {version: folder / version for version in VERSIONS}
    for seed, place in enumerate(places.values()):
        write_bundle(
            place, backbone, targets=[TARGET], modules=MODULES["q,v"][backbone.ref.family], rank=RANK, seed=seed
        )
    baseline = _baseline(backbone, places)
    with _followed(store, folder, backbone, places) as replica:
        say("flipping")
        there, held = replica.addresses(), replica.bank_bytes
        times = _take_turns(replica, baseline, places, rounds)
        moved, grown = len(there ^ replica.addresses()), replica.bank_bytes - held
    flips, _, activated, swapped = times.values()
    return Result(
        benchmark="flip",
        setting={"size": size, "rank": RANK, "modules": "q,v", "rounds": rounds},
        times=times,
        figures={
            "tensors in memory": len(there),
            "slowest flip, ms": max(flips.rounds),
            "PEFT set_adapter / flip": activated.over(flips),
            "PEFT hotswap_adapter / flip": swapped.over(flips),
        },
        budgets=[
            Budget("flip to a resident version", flips.median, "at most", LIMIT_MS, "ms"),
            Budget("tensors that moved", moved, "at most", 0, "tensors"),
            Budget("growth of the bank", grown, "at most", 0, "bytes"),
        ],
    )


class TimedLive(Live):
    """A replica that records how long each change to another record takes, with its lock and its notifications."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.flips: list[float] = []

    def _serve_goal(self) -> None:
        before = self._serving
        took = timed(super()._serve_goal)
        if self._serving is not before:
            self.flips.append(took)


class _Replica:
    """A replica that follows a channel, and a writer of that channel."""

    def __init__(self, live: TimedLive, channel: Channel, pointers: Mapping[str, Pointer]) -> None:
        self._live = live
        self._channel = channel
        self._pointers = pointers
        self._pages: dict[int, Page] = {}

    def flip(self) -> tuple[float, float]:
        """Make the other version stable: milliseconds of the flip, and from the commit until it answers."""
        other = next(version for version in self._pointers if version != self._live.version)
        place = ChannelPosition(MODEL, CHANNEL, self._channel.head())
        self._channel.commit(promoted(place, self._pointers[other], Author("a benchmark"), None))
        start = time.perf_counter_ns()
        self._live.refresh()
        if not self._live.wait_for(version=other, timeout=TIMEOUT):
            raise NotNow(f"the replica does not answer by {other}: {self._live.health().error}")
        took = (time.perf_counter_ns() - start) / 1e6
        self._pages |= {id(page): page for page in self._answering_pages()}
        return self._live.flips[-1], took

    def addresses(self) -> set[tuple[int, int]]:
        """Address and size of every tensor of the backbone and of the pages with the versions."""
        model = self._loaded.components.runtime.model
        stacks = [stack for page in self._pages.values() for stack in page.stacks.values()]
        banked = [tensor for stack in stacks for tensor in (stack.a, stack.b, stack.scale)]
        return {(tensor.data_ptr(), tensor.nbytes) for tensor in (*model.parameters(), *model.buffers(), *banked)}

    @property
    def bank_bytes(self) -> int:
        """Bytes of the bank."""
        return int(self._loaded.components.runtime.bank.nbytes)

    def _answering_pages(self) -> list[Page]:
        return [adapter.slot.page for adapter in self._loaded.components.adapters.values()]

    @property
    def _loaded(self) -> Any:
        """The version that answers now: a `LoadedVersion` on the torch runtime."""
        return self._live.serving.stable


def _take_turns(replica: _Replica, baseline: PeftBaseline, places: Mapping[str, Path], rounds: int) -> dict[str, Times]:
    """The replica's flip and the baseline's two methods, in turns."""
    names = ("flip of a replica", "log moved, then answered by it", "PEFT: set_adapter", "PEFT: hotswap_adapter")
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        flip, answered = replica.flip()
        active, swapped = f"other{number % (LOADED_FOR_BASELINE - 1)}", places[VERSIONS[number % 2]]
        activation = timed(lambda: baseline.activate(active))  # noqa: B023  called at once
        baseline.activate(SWAPPED)
        swap = timed(lambda: baseline.swap(SWAPPED, _lora(swapped)))  # noqa: B023  called at once
        for name, took in zip(names, (flip, answered, activation, swap), strict=True):
            times[name].append(took)
    return {name: Times(tuple(taken)) for name, taken in times.items()}


def _baseline(backbone: SyntheticBackbone, places: Mapping[str, Path]) -> PeftBaseline:
    """A model with adapters to switch between, and one to overwrite."""
    first, second = map(_lora, places.values())
    others = {f"other{number}": second for number in range(LOADED_FOR_BASELINE - 1)}
    return PeftBaseline(backbone.ref, backbone.folder, {SWAPPED: first, **others})


def _lora(place: Path) -> Path:
    return place / bundle.adapter_folder(TARGET)


@contextmanager
def _followed(
    store: ObjectStore, folder: Path, backbone: SyntheticBackbone, places: Mapping[str, Path]
) -> Iterator[_Replica]:
    """A replica with both versions in memory, on its own channel."""
    blobs = Blobs(store, folder / "cache")
    versions, channel = Bindings(store, blobs, MODEL), Channel(store, MODEL, CHANNEL)
    pointers = {name: _bind(versions, blobs, name, place) for name, place in places.items()}
    for pointer in pointers.values():
        channel.commit(promoted(ChannelPosition(MODEL, CHANNEL, channel.head()), pointer, Author("a benchmark"), None))

    def find(flavor: str) -> Loader:
        return partial(load, backbone_folders=[backbone.folder])

    with TimedLive(channel, versions, blobs, LiveOptions(poll=TIMEOUT, find=find)) as live:
        replica = _Replica(live, channel, pointers)
        for _ in range(WARM_UP):  # the first one waits for the other version to be loaded
            replica.flip()
        yield replica


def _bind(versions: Bindings, blobs: Blobs, name: str, place: Path) -> Pointer:
    content = read_bundle(place)
    manifest = Manifest.make(
        model=MODEL,
        version=name,
        flavor=FLAVOR,
        backbone=content.backbone,
        components=content.components,
        files=content.files,
        timestamp=clock.timestamp(),
    )
    blobs.upload(content.sources)
    versions.bind(manifest, blobs.put(manifest.to_bytes()))
    return versions.get(VersionName.parse(name)).pointer


@contextmanager
def _embedded_store(folder: Path) -> Iterator[ObjectStore]:
    """An S3 server for this process, with its credentials in the environment."""
    server = S3Server(folder / "s3")
    before: dict[str, str | None] = {}
    try:
        before = {name: os.environ.get(name) for name in server.start().env}
        os.environ.update(server.env)
        store = ObjectStore(f"s3://{server.bucket}/benchmark")
        store.initialise()
        yield store
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.flip")
