"""What replicas ask of the store, and when they see a record: `python -m benchmarks.followers`.

Two measurements on one real S3 server:

- A real replica at rest, and in a trial: its requests by kind, counted at the level of HTTP, and from them what AWS
  would charge for 10, 100 and 1,000 replicas.
- 1 to 1,000 simulated followers: each reads the log with the replica's own reader, every `poll` seconds, and loads
  nothing. They share the machine with the server, so with many of them `poll` is longer: what a follower asks does not
  depend on it, and when it sees a record does only by `poll` itself.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import click

from benchmarks.comparison import Budget, option_json, run, say
from benchmarks.counting import CountingProxy, Traffic
from benchmarks.crowd import Crowd
from benchmarks.empty_versions import CHANNEL, bind_empty, pointer_to, serve, version_names
from benchmarks.flat_result import FlatResult, Size, option_effort
from benchmarks.serving.stage import ModelOnStage, ServingStage, on_stage
from registry.api import Registry
from registry.channels.record import Author, ChannelPosition, trial_started
from registry.channels.trial import StartTrial
from registry.errors import NotNow
from registry.machine.cores import usable_cores
from registry.settings import Settings

COUNTS: Mapping[Size, tuple[int, ...]] = {"full": (1, 10, 100, 1000), "tiny": (1, 3)}
SECONDS: Mapping[Size, float] = {"full": 120.0, "tiny": 3.0}
"""How long a replica is watched."""
RECORDS: Mapping[Size, int] = {"full": 10, "tiny": 2}
"""How many records followers see."""
MONTH = 30 * 86_400.0
FLEETS = (10, 100, 1000)
PRICES = {"PUT": 5e-6, "LIST": 5e-6, "POST": 5e-6, "GET": 0.4e-6, "HEAD": 0.4e-6, "DELETE": 0.0}
"""US dollars of a request in S3 Standard, us-east-1 (aws.amazon.com/s3/pricing). An answer of 404, as of a poll that
finds no newer record, is charged (docs.aws.amazon.com/AmazonS3/latest/userguide/ErrorCodeBilling.html)."""
_READS_A_SECOND = 150
"""What followers ask together at most; a machine with two cores answers more, but not in good time."""
_WAIT = 600.0
_AUTHOR = Author("a benchmark")

EXAMPLES = """
\b
Examples:
  python -m benchmarks.followers                            1 to 1,000 followers: ten minutes; needs the extra `demo`
  python -m benchmarks.followers --count 1 --count 50 --json
  python -m benchmarks.followers --size tiny                a look at whether it runs
"""


@dataclass(frozen=True)
class FollowersOptions:
    """How many followers there are, and how much is measured."""

    size: Size = "full"
    count: tuple[int, ...] = ()

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of followers, ascending."""
        return tuple(sorted({*(self.count or COUNTS[self.size])}))


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@option_effort
@click.option("--count", type=click.IntRange(1, 1000), multiple=True, help="A number of followers; repeatable.")
@option_json
def main(*, size: Size, count: tuple[int, ...], as_json: bool) -> None:
    """What replicas ask of the store, what AWS would charge for it, and when many followers see a record."""
    options = FollowersOptions(size, count)
    run(lambda: followers(options), threads=usable_cores(), as_json=as_json)


def followers(options: FollowersOptions | None = None) -> FlatResult:
    """Measure on a server of its own."""
    options = options or FollowersOptions()
    with on_stage() as stage:
        asked = _replica(stage, SECONDS[options.size])
        seen = {count: _follow(stage, count, RECORDS[options.size]) for count in options.counts}
    return _result(options, asked, seen)


# --- a real replica --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReplicaRequests:
    """What one replica asked of the store in so many seconds."""

    seconds: float
    traffic: Traffic

    def per_second(self) -> dict[str, float]:
        """Requests of each kind per second."""
        return {kind: count / self.seconds for kind, count in Counter(self.traffic.requests).items()}

    def dollars_a_month(self) -> float:
        """What AWS charges for these requests, if they go on for 30 days."""
        return MONTH * sum(PRICES[kind] * rate for kind, rate in self.per_second().items())

    def figures(self) -> dict[str, float]:
        """The same, rounded, by name."""
        rates = {f"{kind} a second": round(rate, 4) for kind, rate in sorted(self.per_second().items())}
        costs = {f"US$ a month, {fleet} replicas": round(fleet * self.dollars_a_month(), 2) for fleet in FLEETS}
        return {
            **rates,
            "bytes sent a second": round(self.traffic.sent / self.seconds),
            "bytes received a second": round(self.traffic.received / self.seconds),
            **costs,
        }


def _replica(stage: ServingStage, seconds: float) -> dict[str, ReplicaRequests]:
    """A replica that serves nobody: at rest, then with a canary beside stable."""
    model = stage.model("tiny")
    names = version_names(2)
    for name in names:
        model.create(name)
    model.serve(names[0])
    with CountingProxy(stage.stack.s3.url) as proxy:
        settings = replace(model.registry.settings, endpoint_url=proxy.url)
        with Registry(settings=settings).follow(CHANNEL) as live:
            at_rest = _watch("a replica at rest", proxy, seconds)
            generation = _begin_trial(model, names[1])
            if not live.wait_for(generation=generation, timeout=_WAIT):
                raise NotNow(f"the replica has not begun the trial: {live.health().error}")
            in_trial = _watch("a replica in a trial", proxy, seconds)
    return {"at rest": at_rest, "in a trial": in_trial}


def _watch(what: str, proxy: CountingProxy, seconds: float) -> ReplicaRequests:
    say(f"{what}: counting what it asks for {seconds:g} s")
    proxy.take()
    began = time.monotonic()
    time.sleep(seconds)
    return ReplicaRequests(time.monotonic() - began, proxy.take())


def _begin_trial(model: ModelOnStage, name: str) -> int:
    log = model.registry.channel(CHANNEL)
    position = ChannelPosition(model.name, CHANNEL, log.head())
    pointer = pointer_to(model.registry, name)
    record = trial_started(position, pointer, _AUTHOR, None, StartTrial("split", 10))
    log.commit(record)
    return record.generation


# --- many followers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeenRecords:
    """How many followers saw records, and when.

    Attributes:
        poll: seconds between two reads of a follower.
        delays: seconds from a record's commit until a follower had read it; of every follower and record.
        reads: requests that all followers together made per second; `received` bytes per second.
    """

    poll: float
    delays: tuple[float, ...]
    reads: float
    received: float

    @property
    def p99(self) -> float:
        """Seconds that 99% of the delays are below."""
        return statistics.quantiles(self.delays, n=100)[98] if len(self.delays) > 1 else self.delays[0]


def _follow(stage: ServingStage, count: int, records: int) -> SeenRecords:
    """Let so many followers see records."""
    poll = max(1.0, count / _READS_A_SECOND)
    say(f"{count} followers, each reads every {poll:.3g} s")
    settings = replace(Settings.load(model=f"bench-followed-{count}"), tracking_uri=None)
    writer = Registry(settings=settings)
    names = version_names(2)
    bind_empty(writer, names)
    pointers = [pointer_to(writer, name) for name in names]
    serve(writer, pointers[0])
    with CountingProxy(stage.stack.s3.url) as proxy:
        crowd = Crowd(replace(settings, endpoint_url=proxy.url), count, poll)
        with crowd.following():
            crowd.wait(1)
            proxy.take()
            began, delays = time.monotonic(), list[float]()
            for number in range(records):
                generation = serve(writer, pointers[(number + 1) % 2])
                written = time.monotonic()
                delays += [seen - written for seen in crowd.wait(generation)]
            took, traffic = time.monotonic() - began, proxy.take()
    return SeenRecords(poll, tuple(delays), len(traffic.requests) / took, traffic.received / took)


# --- the result ------------------------------------------------------------------------------------------------------


def _result(
    options: FollowersOptions, asked: Mapping[str, ReplicaRequests], seen: Mapping[int, SeenRecords]
) -> FlatResult:
    figures: dict[str, object] = {f"a replica {when}": one.figures() for when, one in asked.items()}
    figures |= {
        f"{count} followers": {
            "poll, s": round(one.poll, 3),
            "p99 from commit to read, s": round(one.p99, 3),
            "requests a second": round(one.reads, 1),
            "bytes received a second": round(one.received),
        }
        for count, one in seen.items()
    }
    budgets = [
        Budget(f"p99 from commit to read - poll, {count} followers", one.p99 - one.poll, "at most", 0.1, "s")
        for count, one in seen.items()
    ]
    metrics = {f"dollars_a_month_{when.replace(' ', '_')}": one.dollars_a_month() for when, one in asked.items()}
    metrics |= {f"p99_seconds_{count}_followers": one.p99 for count, one in seen.items()}
    setting = {"size": options.size, "followers": ",".join(map(str, options.counts))}
    return FlatResult("followers", setting, figures=figures, budgets=budgets, metrics=metrics)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.followers")
