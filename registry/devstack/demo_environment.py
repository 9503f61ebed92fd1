"""What the demo's acts share: a folder, environment variables, servers, traffic, fits; and how all of it ends."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from registry.api import Registry
from registry.catalog import mirror
from registry.catalog.watch import LoopControl, Watch
from registry.devstack.batch_sizes import BatchSizes
from registry.devstack.demo_images import questions, write_images, write_with_mist
from registry.devstack.guard_server import GuardServer
from registry.devstack.processes import Finished, FitProcess, isolated_env, ulora
from registry.devstack.replica_server import ReplicaServer
from registry.devstack.stack import Stack
from registry.devstack.timeline import RequestCount, Screen, Timeline
from registry.devstack.traffic import Client, ClientReply, Question, SteadyLoad, raise_if_failed
from registry.devstack.true_labels import TrueLabels
from registry.errors import BadInput, UloraError, no_folder
from registry.evidence.measure import open_data
from registry.evidence.policy import load_policy
from registry.formats import canonical
from registry.names import VersionName
from registry.serving.fleet import wait_for_replicas
from registry.settings import Settings
from registry.trials.receipts import FLEET_KEY
from registry.versions.bundle import DEFAULT_FLAVOR

FIXED = 40
"""Questions whose answers are compared before and after."""
IN_PEFT = "an adapter in PEFT's own layout"
_POLICY = "ULORA_POLICY"
_HORIZON = 150
"""Labelled units at which a trial's report judges: the traffic of seconds. What it asks then is not less than ever."""
_WATCH_SECONDS, _HEALING_SECONDS, _FOLLOW_SECONDS = 5.0, 120.0, 60.0
_ENDING_SECONDS = 0.5
"""How long after a failed request a process may need until it is seen to have ended."""


@dataclass
class DemoEnvironment:
    """Nothing is started by `create`; `ending` stops whatever is started later.

    Attributes:
        folder: holds everything that the demo writes.
        data: the user's own images; None for the digits.
        env: the environment of every process of the demo, this one included. The addresses come with `start_stack`.
        fits: the fits that run or ran, by the version that they are for.
        questions: what the traffic asks, in a fixed random order.
        mirrored: what was changed in MLflow by the reconciler that watches; `watch_control` is its own.
    """

    folder: Path
    data: Path | None
    env: dict[str, str]
    stack: Stack
    timeline: Timeline
    screen: Screen
    ending: ExitStack
    fits: dict[str, FitProcess] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)
    mirrored: list[str] = field(default_factory=list)
    watch_control: LoopControl = field(default_factory=lambda: LoopControl(_WATCH_SECONDS))
    _registry: Registry | None = None
    _replica: ReplicaServer | None = None
    _load: SteadyLoad | None = None
    _labels: TrueLabels | None = None
    _guard: GuardServer | None = None
    _batches: BatchSizes | None = None

    @classmethod
    def create(cls, screen: Screen, data: Path | None, root: Path | None, ending: ExitStack) -> DemoEnvironment:
        """Make the folder and set the environment variables.

        Raises:
            BadInput: a folder can't be used.
        """
        if data and not data.is_dir():
            raise BadInput(no_folder(data), hint="give a folder of images: DIR/crop/disease/*.jpg")
        folder = _empty_folder(root, ending)
        stack = Stack(folder)
        ending.callback(stack.stop)
        env = isolated_env(_settings(folder, own_data=data is not None))
        ending.enter_context(_environment(env))
        return cls(folder, data, env, stack, Timeline(screen), screen, ending)

    # --- images ------------------------------------------------------------------------------------------------------

    @property
    def images(self) -> Path:
        """The folder of all images."""
        return self.folder / "images"

    @property
    def images_with_mist(self) -> Path:
        """The same, with photographs in mist among those for training."""
        return self.folder / "images-with-mist"

    def prepare_images(self) -> str:
        """Write all images, and choose what the traffic asks; returns what the images are, in words.

        Raises:
            BadInput: the user's folder holds no usable images.
        """
        write_images(self.data, self.images)
        images = open_data(DEFAULT_FLAVOR, self.images)
        self.questions = questions(images)
        what = "of your own" if self.data else "of handwritten digits, which stand in for leaves"
        counts = ", ".join(f"{len(images.split(name))} {name}" for name in ("train", "val", "test"))
        return f"{counts} {what}; targets {', '.join(images.targets)}"

    def prepare_images_with_mist(self) -> Path:
        """Write the images that later releases are fitted to; returns their folder."""
        write_with_mist(open_data(DEFAULT_FLAVOR, self.images), self.images_with_mist)
        return self.images_with_mist

    def largest_target(self) -> str:
        """The target with the most labels."""
        images = open_data(DEFAULT_FLAVOR, self.images)
        return str(max(images.targets, key=lambda target: len(images.labels(target))))

    # --- servers -----------------------------------------------------------------------------------------------------

    def start_stack(self) -> None:
        """Start the S3 server and the MLflow server, and open the registry on them."""
        self.stack.start()
        self.env = {**self.env, **self.stack.env, "ULORA_S3_ENDPOINT": self.stack.s3.url}
        self.ending.enter_context(_environment(self.env))
        self._registry = Registry(settings=Settings.load())

    @property
    def registry(self) -> Registry:
        """The demo's registry, once its servers are up."""
        if self._registry is None:
            raise UloraError("the servers are not started yet")
        return self._registry

    def serve(self) -> None:
        """Start the replica that follows production, the traffic on it, and the true labels that come back."""
        self._replica = ReplicaServer(self.folder / "serve", self.env)
        self.ending.callback(self._replica.stop)
        self._replica.start()
        self._batches = BatchSizes(self._replica.url)
        self._labels = labels = self.ending.enter_context(TrueLabels(self._replica.url))
        load = SteadyLoad(self._replica.url, self.questions, answered=labels.answered)
        self._load = self.ending.enter_context(load)
        self.timeline.traffic = lambda: RequestCount(len(load.answers), len(load.failures()))

    def start_guard(self) -> None:
        """Start the guard of production."""
        self._guard = GuardServer(self.folder / "guard", self.env)
        self.ending.callback(self._guard.stop)
        self._guard.start()

    def stop_guard(self) -> None:
        """Stop it again."""
        if self._guard:
            self._guard.stop()

    def wait_for_replicas(self, generation: int) -> None:
        """Return when every replica of production follows a generation.

        Raises:
            UloraError: one does not, or a request failed.
        """
        found = wait_for_replicas(self.registry.store, self.registry.model, "production", generation, _FOLLOW_SECONDS)
        self.check()
        if found.behind:
            raise UloraError(f"a replica does not follow generation {generation}")

    @property
    def load(self) -> SteadyLoad:
        """The traffic, once `serve` was called."""
        if self._load is None:
            raise UloraError("there is no traffic yet")
        return self._load

    def check(self) -> None:
        """Check that all is well so far.

        Raises:
            UloraError: a request has failed, a true label was refused, or the guard has ended.
        """
        for part in (self._load, self._labels):
            if part is not None:
                part.check()
        if self._guard and (why := self._guard.why_ended()):
            raise UloraError(why)

    def ended_servers(self) -> list[str]:
        """For each server that ended by itself: how, and the end of its log."""
        servers = (self._replica, self._guard, self.stack.s3, self.stack.mlflow)
        return [text for server in servers if server and (text := server.why_ended(_ENDING_SECONDS))]

    # --- processes ---------------------------------------------------------------------------------------------------

    def bundle(self, version: str) -> Path:
        """Where a version's bundle is, or will be."""
        return self.folder / "bundles" / version

    def document(self, version: str, path: str) -> dict[str, Any]:
        """A JSON file of a version's bundle."""
        return canonical.decode((self.bundle(version) / path).read_bytes(), path)

    def named(self, backbone: str) -> str:
        """What a backbone is called here. No file on this machine has the name, so every user asks the store for it."""
        return f"demo-{backbone}"

    def fit(self, version: str, backbone: str, images: Path, *how: str) -> None:
        """Start to fit a version, in a process of its own; `how` are options of the trainer's."""
        words = [str(images), backbone, str(self.bundle(version)), "--name", self.named(backbone)]
        self._start_fit(version, "fit", *words, *how)

    def peft_folder(self, target: str) -> Path:
        """Where `write_peft_folder` writes."""
        return self.folder / "peft" / target

    def write_peft_folder(self, version: str, target: str) -> None:
        """Start to write one target of a version's bundle as PEFT itself would have saved it, classifier included."""
        self._start_fit(IN_PEFT, "peft", str(self.bundle(version)), target, str(self.peft_folder(target)))

    def fit_on_shuffled_labels(self, version: str, source: str, target: str) -> None:
        """Start to fit one target of another version's bundle again, on shuffled labels; all else stays as it is."""
        shutil.copytree(self.bundle(source), self.bundle(version))
        self._start_fit(version, "spoil", str(self.images_with_mist), str(self.bundle(version)), target)

    def watch(self) -> None:
        """Start to reconcile MLflow again and again, in the background."""
        self.ending.enter_context(
            Watch(self.registry.reconciler(), self.watch_control, lambda done: self.mirrored.extend(done.changes))
        )

    def healed(self) -> tuple[str, ...]:
        """What the reconciler changes in MLflow once that is back; empty if it changes nothing in time.

        Raises:
            UloraError: a request failed meanwhile.
        """
        deadline = time.monotonic() + _HEALING_SECONDS
        self.watch_control.wake.set()
        while not self.mirrored and time.monotonic() < deadline:
            self.check()
            time.sleep(0.05)
        return tuple(self.mirrored)

    def ulora(self, *words: str, who: str = "demo") -> Finished:
        """Run a command as somebody."""
        return ulora(*words, env={**self.env, "ULORA_WHO": who}, cwd=self.folder, check=self.check)

    def wait_for_fit(self, version: str) -> None:
        """Return when a fit is done.

        Raises:
            UloraError: it failed, or a request did meanwhile.
        """
        self.fits[version].wait(self.check)

    def ask_fixed(self) -> list[ClientReply]:
        """The replica's answers to the fixed questions."""
        with closing(Client(self.load.url)) as client:
            answers = [client.ask(question) for question in self.questions[:FIXED]]
        for answer in answers:
            raise_if_failed(answer)
        return answers

    # --- output ------------------------------------------------------------------------------------------------------

    def report(self, event: str, version: str = "", detail: str = "") -> None:
        """Record and print what has just happened.

        Raises:
            UloraError: a request has failed.
        """
        self.timeline.add(event, version, detail)
        self.check()

    def live_line(self) -> str:
        """What goes on right now."""
        fits = [f"fitting {version}: {fit.progress}" for version, fit in list(self.fits.items()) if fit.running]
        if self._load is None:
            return "; ".join(fits)
        load, versions = self._load, self._load.versions()
        numbers = f"{len(load.answers)} requests ({load.rate():.0f}/s), {len(load.failures())} failed"
        times = f"p50 {1000 * load.percentile(0.5):.0f} ms, p99 {1000 * load.percentile(0.99):.0f} ms"
        batches = self._batches.text() if self._batches else ""
        counts = ", ".join(f"{version.partition('-')[0]} {count}" for version, count in sorted(versions.items()))
        return "; ".join(part for part in (numbers, times, batches, counts, *fits) if part)

    def catalog_text(self) -> str:
        """Each version's stage and aliases, as MLflow shows them."""
        shown = mirror.read_state(self.registry.catalog, self.registry.model)
        lines = []
        for each in shown.versions:
            ours = [name for name in self.registry.catalog.aliases.values() if shown.aliases.get(name) == each.number]
            lines.append(f"{each.version:20} stage {each.stage:10} alias {', '.join(ours) or '-'}")
        return "\n".join(lines)

    def show_bounds(self) -> None:
        """What production asks, beside what it asks by default."""
        plain = VersionName(0, 0, 0)
        here = load_policy(self.registry.settings.policy).rules_for("production", plain)
        default = load_policy().rules_for("production", plain)
        self.screen.say("\nThe tiny backbones know digits, not these images, so production asks less than by default:")
        for name in dict.fromkeys(rule.metric for rule in default):
            texts = ["; ".join(str(rule) for rule in rules if rule.metric == name) for rules in (here, default)]
            self.screen.say(f"  {texts[0]}\n      default: {texts[1]}")

    def addresses(self) -> str:
        """Where to look while everything is up, in words."""
        names = [*self.stack.env, "ULORA_CACHE", "ULORA_DATA", *([_POLICY] if _POLICY in self.env else [])]
        pages = self.registry.catalog.versions(self.registry.model)
        image = open_data(DEFAULT_FLAVOR, self.images).split("test")[0].path
        lines = [
            "", "Everything is up until Ctrl-C. MLflow's page of each version:",
            *(f"  {page.version:20} {page.url}" for page in pages),
            f"The replica: {self.load.url}/docs", f"  curl -F image=@{image} {self.load.url}/predict",
            "To use `ulora` on it from another terminal:", *(f"  export {name}={self.env[name]}" for name in names),
        ]  # fmt: skip
        return "\n".join(lines)

    def _start_fit(self, version: str, *words: str) -> None:
        self.fits[version] = fit = FitProcess(DEFAULT_FLAVOR, list(words), self.env, self.folder / "fits" / version)
        self.ending.callback(fit.stop)


def _empty_folder(root: Path | None, ending: ExitStack) -> Path:
    if root is None:
        temporary = TemporaryDirectory(prefix="ulora-demo-", ignore_cleanup_errors=True)
        return Path(ending.enter_context(temporary)).resolve()
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise BadInput(f"{root} is not an empty folder", hint="give a new one: --folder DIR")
    root.mkdir(parents=True, exist_ok=True)
    return root.resolve()


def _settings(folder: Path, *, own_data: bool) -> dict[str, str]:
    """The demo's settings, all of them, so that none comes from a file or an environment of the user's."""
    config = folder / "ulora.toml"
    config.touch()
    return {
        "ULORA_CONFIG": str(config),
        "ULORA_CACHE": str(folder / "cache"),
        "ULORA_DATA": str(folder / "images"),
        "ULORA_WHO": "demo",
        FLEET_KEY: secrets.token_hex(32),
        _POLICY: str(_write_policy(folder, own_data=own_data)),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "torch"),  # torch makes one beside the folder otherwise
    }


def _write_policy(folder: Path, *, own_data: bool) -> Path:
    """The default policy, or for the user's own images the demo's, with a horizon that suits the small traffic."""
    with resources.as_file(resources.files("registry.devstack") / "demo_policy.yaml") as own:
        policy = load_policy(own if own_data else None)
    trials = policy.trial_policy()
    trials = trials.model_copy(update={"horizon": trials.horizon.model_copy(update={"units": _HORIZON})})
    path = folder / "policy.json"
    path.write_bytes(policy.model_copy(update={"trials": trials}).to_bytes())
    return path


@contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    """Make this the environment of this process for a while."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
