"""The demo's acts on real images: two releases, trials of a good and a bad one, a race, an incident, a flipped byte.

Everything is real: an S3 server, an MLflow server, a serving process, clients that ask it all the time, commands in
processes of their own. Every line that is printed comes from the call that it describes. A step with another result
than the expected one, or a request that fails, ends the demo with an error that says what happened instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from registry.api import Registry
from registry.channels.channel import PromoteOptions, RollbackOptions
from registry.devstack.demo_environment import FIXED, IN_PEFT, DemoEnvironment
from registry.devstack.demo_releases import (
    ABOUT,
    BACKBONES,
    BAD,
    FALSE_ALARM_RATES,
    FIRST,
    IMPORTED,
    RUNTIME,
    SECOND,
    create_and_measure,
    difference_text,
    expect,
    promote,
)
from registry.devstack.demo_result import (
    CanaryTrial,
    Corruption,
    DemoResult,
    Import,
    Incident,
    Race,
    Refusal,
    RuntimeComparison,
    ShadowTrial,
)
from registry.devstack.demo_trials import bad_canary, compared, exposure, shadow_trial
from registry.devstack.processes import Finished
from registry.devstack.timeline import Screen, drawn
from registry.devstack.traffic import accuracy, largest_difference
from registry.errors import BadInput, ChannelMoved, CorruptBlob, GateRefused, UloraError
from registry.names import CHANNELS
from registry.parallel import in_parallel
from registry.store import layout
from registry.usecases.options import VerifyOptions

_PROMOTERS = {"alice": FIRST, "bob": SECOND}
_SAMPLE = 64
"""Answers that an accuracy of the live traffic is taken of."""
_TOLERANCE = 1e-3
"""The largest difference between fp32 answers of one version: the tolerance that bundles state."""


def run(
    *,
    screen: Screen,
    finish: Callable[[DemoEnvironment, DemoResult], None],
    data: Path | None = None,
    root: Path | None = None,
) -> None:
    """Run all acts, then end every process and remove the folder, however it ends.

    Args:
        data: the user's own images, `crop/disease/*.jpg`; the digits when left out.
        root: an empty folder for the demo's data, which is kept; a temporary one when left out.
        finish: given what happened, while everything is still up.

    Raises:
        BadInput: `data` or `root` can't be used.
        UloraError: a step had another result than the expected one, or a request failed.
    """
    with ExitStack() as ending, _said_to_end(screen):
        demo = DemoEnvironment.create(screen, data, root, ending)
        with drawn(screen, demo.live_line):
            acts = _play(demo)
        load = demo.load
        result = DemoResult(
            events=tuple(demo.timeline.events),
            requests=len(load.answers),
            failures=len(load.failures()),
            versions=dict(load.versions()),
            imported=acts.imported,
            runtime=acts.runtime,
            shadow=acts.shadow,
            refusal=acts.refusal,
            canary=acts.canary,
            race=acts.race,
            incident=acts.incident,
            corruption=acts.corruption,
            act_seconds=dict(demo.timeline.act_seconds),
        )
        finish(demo, result)


@contextmanager
def _said_to_end(screen: Screen) -> Iterator[None]:
    """Say that an interrupted demo ends, as its processes take seconds to."""
    try:
        yield
    except KeyboardInterrupt:
        screen.say("interrupted: ending the demo's processes and removing its files, up to half a minute")
        raise


@dataclass(frozen=True)
class _Acts:
    imported: Import
    runtime: RuntimeComparison
    shadow: ShadowTrial
    refusal: Refusal
    canary: CanaryTrial
    race: Race
    incident: Incident
    corruption: Corruption


def _play(demo: DemoEnvironment) -> _Acts:
    """All acts. An error in one of them is an error of the demo (exit 1), whatever it would be by itself."""
    act = demo.timeline.act
    try:
        with act("A release goes from images to production, under load"):
            _first_release(demo)
        with act("The next one is tried in its shadow, on the same traffic, and ships"):
            shadow = _second_release(demo)
        with act("An old adapter is taken in; another runtime is judged"):
            imported, runtime = _old_adapter(demo), _another_runtime(demo)
        with act("A bad fit is measured honestly, and refused"):
            refusal = _bad_release(demo)
        with act("It gets a tenth of the traffic all the same, and the guard goes back"):
            canary = bad_canary(demo)
        with act("Two people promote at once"):
            race = _two_promoters(demo)
        with act("MLflow is down, and the bad version goes to everybody, as without trials"):
            incident = _incident(demo, race, canary)
        with act("A byte flips in the store"):
            corruption = _flipped_byte(demo)
        demo.load.stop()  # waits for its last requests, which may fail too
        demo.check()
    except BadInput:
        raise
    except UloraError as error:
        reasons = "\n".join([str(error), *demo.ended_servers()])
        is_slow = isinstance(error, GateRefused) and "latency" in str(error)
        hint = "this machine is busy: end other work, and run the demo again" if is_slow else error.hint
        raise UloraError(f"the demo ended early: {reasons}", hint=hint) from error
    return _Acts(imported, runtime, shadow, refusal, canary, race, incident, corruption)


# --- act 1 -----------------------------------------------------------------------------------------------------------


def _first_release(demo: DemoEnvironment) -> None:
    demo.stack.mlflow.launch()  # takes seconds
    counts = demo.prepare_images()
    demo.report("the images are ready", detail=counts)
    _fit(demo, FIRST, demo.images)
    _fit(demo, SECOND, demo.prepare_images_with_mist(), "--depth", "auto", "--runtimes", RUNTIME)
    demo.report("the fits of both versions began", detail="each in a process of its own")
    demo.start_stack()
    if demo.data:
        demo.show_bounds()
    demo.registry.store.initialise()
    demo.report("S3 and MLflow are up", detail=f"{demo.stack.s3.url} and {demo.stack.mlflow.url}")
    added = [demo.registry.add_backbone(backbone, name=demo.named(backbone)) for backbone in BACKBONES.values()]
    size = sum(each.uploaded for each in added) / 1e6
    demo.report("the store mirrors both backbones", detail=f"{size:.2f} MB, once for all versions and machines")

    create_and_measure(demo, FIRST)
    for channel in CHANNELS:
        promote(demo, FIRST, channel, "demo, act 1")
    demo.serve()
    demo.report("answers; the traffic begins", FIRST, f"{demo.load.url}; every answer gets its true label")


def _fit(demo: DemoEnvironment, version: str, images: Path, *how: str) -> None:
    demo.fit(version, BACKBONES[version], images, "--false-alarm-rate", str(FALSE_ALARM_RATES[version]), *how)


# --- act 2 -----------------------------------------------------------------------------------------------------------


def _second_release(demo: DemoEnvironment) -> ShadowTrial:
    demo.wait_for_fit(SECOND)
    # For this act and the next ones, on the other core.
    demo.fit_on_shuffled_labels(BAD, source=SECOND, target=demo.largest_target())
    demo.write_peft_folder(FIRST, demo.largest_target())
    create_and_measure(demo, SECOND, parent=FIRST)
    promote(demo, SECOND, "staging", "demo, act 2")
    return shadow_trial(demo)


# --- act 3 -----------------------------------------------------------------------------------------------------------


def _old_adapter(demo: DemoEnvironment) -> Import:
    """A PEFT folder with a classifier in it, as people have them lying about, becomes a version."""
    target = demo.largest_target()
    demo.wait_for_fit(IN_PEFT)
    done = demo.ulora(
        *("create", IMPORTED, "--from", str(demo.peft_folder(target)), "--target", target),
        *("--backbone", demo.named(BACKBONES[FIRST]), "--description", ABOUT[IMPORTED]),
    )
    expect(done.code == 0, "a PEFT folder becomes a version", done)
    images = [question.image for question in demo.questions if question.target == target][:FIXED]
    ours, theirs = (
        [answer.to_dict() for answer in demo.registry.load(version).predict(images, target=target)]
        for version in (FIRST, IMPORTED)
    )
    difference = max(
        abs(share - other["probabilities"][label])
        for one, other in zip(ours, theirs, strict=True)
        for label, share in one["probabilities"].items()
    )
    equal = f"{len(images)} answers differ from those of {FIRST} by {difference:.1e} at most"
    demo.report("was made from a plain PEFT folder", IMPORTED, f"{target}: {equal}")
    expect(difference <= _TOLERANCE, "what was imported answers as before")
    return Import(IMPORTED, target, len(images), difference)


def _another_runtime(demo: DemoEnvironment) -> RuntimeComparison:
    """What the fit found out about another runtime and about depth, and what the release answers with it."""
    verdict = demo.document(SECOND, "config/runtimes.json")[RUNTIME]
    demo.report(
        f"{'may' if verdict['passes'] else 'may not'} be served by {RUNTIME}", SECOND,
        "; ".join(verdict["reasons"])
        or f"least cosine {verdict['cosine']:.5f}; {verdict['flips']} of {verdict['n']} right answers became wrong, "
        f"at most {verdict['flips_bound']:.2%} with 95% confidence",
    )  # fmt: skip
    images = [question.image for question in demo.questions[:FIXED]]
    same = 0
    if verdict["passes"]:
        answers = [demo.registry.load(SECOND, runtime=name).predict(images) for name in (RUNTIME, None)]
        labels = [[answer.to_dict()["label"] for answer in some] for some in answers]
        same = sum(one == other for one, other in zip(*labels, strict=True))
        demo.report(f"gives {same} of {len(images)} the same label by {RUNTIME}", SECOND)
    fitted = demo.document(SECOND, "config/fit.json")["targets"]
    depth = {target: str(one["depth"]["recommended"]) for target, one in fitted.items()}
    blocks = [answer.document["blocks_used"] for answer in demo.load.by(SECOND) if answer.document.get("label")]
    mean = sum(blocks) / max(len(blocks), 1)
    modes = ", ".join(f"{target} {mode}" for target, mode in depth.items())
    demo.report(f"takes {mean:.2f} blocks a request", SECOND, f"what held-out images recommend: {modes}")
    return RuntimeComparison(RUNTIME, verdict["passes"], verdict["cosine"], len(images), same, mean, depth)


# --- act 4 -----------------------------------------------------------------------------------------------------------


def _bad_release(demo: DemoEnvironment) -> Refusal:
    create_and_measure(demo, BAD, parent=SECOND)
    demo.registry.promote(BAD, "staging", reason="demo, act 4")
    demo.report("promoted to staging", BAD, "staging asks only that everything was measured")
    done = demo.ulora("promote", BAD, "--channel", "production")
    rules = tuple(line.strip() for line in done.out.splitlines() if "  FAIL  " in line)
    demo.timeline.show("\n".join([f"$ {done.line}", *rules]))
    expect(done.code == GateRefused.exit_code and bool(rules), "the gate refuses the bad version", done)
    demo.report("refused for production", BAD, f"exit status {done.code}")
    return Refusal(done.code, rules)


# --- act 6 -----------------------------------------------------------------------------------------------------------


def _two_promoters(demo: DemoEnvironment) -> Race:
    """Both want the bad version out of staging and saw the same generation; one log can only take one of them."""
    demo.watch()  # not before: what is measured shall have the machine to itself
    seen = _generation(demo.registry, "staging")

    def promote(who: str) -> Finished:
        return demo.ulora("promote", _PROMOTERS[who], "--channel", "staging", "--expected", str(seen), who=who)

    wanted = " and ".join(f"{who} promotes {version}" for who, version in _PROMOTERS.items())
    demo.report("two promotions to staging began at once", detail=wanted)
    done = dict(zip(_PROMOTERS, in_parallel(promote, _PROMOTERS), strict=True))
    winner, loser = sorted(done, key=lambda who: done[who].code)
    message = done[loser].err.strip()
    demo.timeline.show(f"$ {done[loser].line}     ({loser})\n{message}")
    head = demo.registry.channel("staging").head()
    expect(done[winner].code == 0, "one of the two wins", done[winner])
    names_winner = done[loser].code == ChannelMoved.exit_code and winner in message
    expect(names_winner, "the other one's error names the winner", done[loser])
    expect(head is not None and (head.generation, head.who) == (seen + 1, winner), "the log moved once", done[winner])
    demo.report(f"is in staging: {winner} won", _PROMOTERS[winner], f"{loser} got exit status {done[loser].code}")
    return Race(winner, loser, {who: finished.code for who, finished in done.items()}, message.splitlines()[0])


# --- act 7 -----------------------------------------------------------------------------------------------------------


def _incident(demo: DemoEnvironment, race: Race, canary: CanaryTrial) -> Incident:
    registry, load = demo.registry, demo.load
    before = demo.ask_fixed()
    good = accuracy(load.by(SECOND)[-_SAMPLE:])
    demo.mirrored.clear()
    demo.stack.mlflow.kill()
    demo.report("the MLflow server was killed")

    _promote_again(demo, race)
    bad, began = _force_the_bad_version(demo, good)

    called = time.monotonic()
    registry.rollback(reason="accuracy fell", options=RollbackOptions(leave=BAD))
    moved = time.monotonic()
    demo.report(
        "is what the log names again", SECOND, f"the rollback took {1000 * (moved - called):.0f} ms and needed S3 only"
    )
    first = load.wait_for(SECOND, moved)[0]
    late = sum(answer.at < first.at for answer in load.by(BAD, moved))
    demo.report(
        f"answers again, {first.at - moved:.2f} s after the log had moved", SECOND, f"{late} by {BAD} meanwhile"
    )
    better = accuracy(load.wait_for(SECOND, moved, _SAMPLE))
    difference = largest_difference(before, demo.ask_fixed())
    demo.report(
        f"live accuracy is {better:.1%} again", SECOND, f"{difference_text(difference)}; {len(load.failures())} failed"
    )
    expect(difference <= _TOLERANCE, "the answers equal those before")
    cost = exposure(demo, 100.0, "a person who watched", began, moved - began)
    demo.timeline.show(compared(canary.exposure, cost))

    healed = _bring_mlflow_back(demo)
    return Incident(cost, good, bad, better, moved - called, first.at - moved, late, difference, healed)


def _promote_again(demo: DemoEnvironment, race: Race) -> None:
    """Whoever lost the race looks again and promotes, without MLflow."""
    version = _PROMOTERS[race.loser]
    again = Registry(settings=replace(demo.registry.settings, who=race.loser))
    again.promote(version, "staging", reason="nobody needs the one before")
    demo.report(f"promoted to staging by {race.loser}, who looked again", version, "MLflow is not needed")


def _force_the_bad_version(demo: DemoEnvironment, good: float) -> tuple[float, float]:
    """Promote the bad version against the gates; the accuracy of its answers, and when that was."""
    began = time.monotonic()
    change = demo.registry.promote(BAD, "production", PromoteOptions(force=True), reason="the release is due today")
    demo.report("forced into production", BAD, f"the record says: {change.reason}")
    demo.timeline.show("\n".join(f"note: {note}" for note in change.notes))
    bad = accuracy(demo.load.wait_for(BAD, began, _SAMPLE))
    demo.report(f"live accuracy fell from {good:.1%} to {bad:.1%}", BAD, f"of {_SAMPLE} answers each")
    expect(bad < good, "the bad version answers worse")
    return bad, began


def _bring_mlflow_back(demo: DemoEnvironment) -> tuple[str, ...]:
    demo.stack.mlflow.start()
    demo.report("MLflow is back", detail="it shows what was true when it died")
    demo.timeline.show(demo.catalog_text())
    healed = demo.healed()
    demo.report("reconcile, which watches, healed what MLflow shows", detail=", ".join(healed))
    demo.timeline.show(demo.catalog_text())
    left = demo.registry.reconcile(dry_run=True).changes
    expect(bool(healed) and not left, f"MLflow shows what is true (it still differs by {left})")
    return healed


# --- act 8 -----------------------------------------------------------------------------------------------------------


def _flipped_byte(demo: DemoEnvironment) -> Corruption:
    registry = demo.registry
    before = demo.ask_fixed()
    file = next(file for file in registry.manifest(SECOND).files if file.path.endswith("adapter_model.safetensors"))
    key = layout.blob(file.sha256)
    body = bytearray(registry.blobs.read(file.sha256))
    body[len(body) // 2] ^= 1
    registry.store.overwrite(key, bytes(body))
    demo.report("has a flipped byte in S3", SECOND, file.path)

    done = demo.ulora("verify", SECOND, "--read-data")
    demo.timeline.show(f"$ {done.line}\n{done.out.strip()}")
    expect(done.code == CorruptBlob.exit_code and file.path in done.out, "`verify` names the file", done)
    demo.report("fails verify, which names the file", SECOND, f"exit status {done.code}")

    refused = _fetch_on_another_machine(demo)
    demo.report("is refused by a machine that has to fetch it", SECOND, refused)
    difference = largest_difference(before, demo.ask_fixed())
    demo.report("answers on from verified bytes", SECOND, difference_text(difference))
    expect(difference <= _TOLERANCE, "serving stays on good bytes")

    repaired = registry.verify_all([SECOND], VerifyOptions(repair_from=demo.bundle(SECOND)))
    expect(
        not repaired.problems and bool(repaired.mended) and registry.verify(SECOND, read_data=True).ok,
        "the version is whole again",
    )
    demo.report("is whole again", SECOND, "`verify --repair` put the file back from its bundle")
    return Corruption(done.code, file.path, done.out.strip(), refused, difference)


def _fetch_on_another_machine(demo: DemoEnvironment) -> str:
    """How `load` refuses the version where no good copy is in the cache."""
    elsewhere = Registry(settings=replace(demo.registry.settings, cache=demo.folder / "another-machine"))
    try:
        elsewhere.load(SECOND)
    except CorruptBlob as error:
        return str(error)
    raise UloraError("a machine with an empty cache loaded the flipped blob")


# --- parts -----------------------------------------------------------------------------------------------------------


def _generation(registry: Registry, channel: str) -> int:
    head = registry.channel(channel).head()
    return head.generation if head else 0
