"""Where cases are played: real servers behind proxies, a warm process that commands are forked from, and eyes that
look at the store and at MLflow without the code under test."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import boto3
from botocore.config import Config

from registry.devstack.s3_server import S3Server
from tests.faults.calls import Call, mlflow_name, numbered, s3_name
from tests.faults.faults import Fault
from tests.faults.oracle import OWN_MODEL, Snapshot, Stored
from tests.faults.scenarios import Scenario
from tests.faults.warm import Ended, Warm
from tests.servers.proxy import Exchange, Proxy
from tests.servers.proxy import Fault as NetworkFault

_SECONDS = 300


@dataclass(frozen=True)
class Story:
    """What a command told: its exit code, None when it was killed, and the error that it named."""

    code: int | None
    error: str = ""
    message: str = ""
    killed: bool = False

    def __str__(self) -> str:
        return "killed" if self.killed else f"exit {self.code} {self.error}: {self.message}"


@dataclass(frozen=True)
class Played:
    """A command that was run: its story, its calls in order, and whether the fault was met."""

    story: Story
    calls: list[Call]
    puts: list[str]
    met: bool


@dataclass
class Place:
    """A case's own prefix, model and folder."""

    prefix: str
    model: str
    folder: Path
    scenario: Scenario


@dataclass
class _Running:
    """The command that runs now, as faults see it."""

    pid_known: threading.Event = field(default_factory=threading.Event)
    gone: threading.Event = field(default_factory=threading.Event)
    cut: threading.Event = field(default_factory=threading.Event)
    acted: threading.Event = field(default_factory=threading.Event)
    number: int = 0


class Stage:
    """One worker's servers, proxies and warm process. Plays one command at a time."""

    def __init__(self, s3: S3Server, mlflow_url: str, folder: Path) -> None:
        self.s3 = s3
        self.shared = folder / "shared"
        self._folder = folder
        self._mlflow = urlsplit(mlflow_url)
        self._seen: dict[tuple[str, int], bytes] = {}
        self._running = _Running()
        self._templates: dict[str, tuple[Snapshot, Path]] = {}
        self._warm = Warm(_environment(s3, folder))
        self._s3_proxy = _Watching(self, "s3", s3.port)
        self._mlflow_proxy = _Watching(self, "mlflow", self._mlflow.port or 0)
        self._planned: tuple[Call, Fault] | None = None
        self._counts: Counter[tuple[str, str]] = Counter()
        self._met = False
        self._client = boto3.session.Session().client(
            "s3", endpoint_url=s3.url, aws_access_key_id=s3.access_key, aws_secret_access_key=s3.secret_key,
            region_name="us-east-1",
            config=Config(request_checksum_calculation="when_required", response_checksum_validation="when_required"),
        )  # fmt: skip

    def __enter__(self) -> Stage:
        self._s3_proxy.__enter__()
        self._mlflow_proxy.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._warm.close()
        self._s3_proxy.__exit__()
        self._mlflow_proxy.__exit__()

    # --- a case ------------------------------------------------------------------------------------------------------

    def places(self, scenario: Scenario, count: int) -> Iterator[Place]:
        """Fresh prefixes in the state that a scenario begins from, each until the next is asked for."""
        with ExitStack() as stack:
            # What must grow older does so together.
            early = [stack.enter_context(self.place(scenario)) for _ in range(count if scenario.ripen else 0)]
            if early:
                self._wait_for_a_later_second()
            for place in early:
                self._prepare(place, scenario.ripen)
                yield place
        for _ in range(0 if early else count):
            with self.place(scenario) as place:
                yield place

    @contextmanager
    def place(self, scenario: Scenario) -> Iterator[Place]:
        """A fresh prefix, not ripened."""
        number = uuid.uuid4().hex[:12]
        model = f"{OWN_MODEL}{number}" if scenario.uses_mlflow else "a-model"
        place = Place(number, model, self._folder / number, scenario)
        place.folder.mkdir()
        try:
            if scenario.uses_mlflow:
                self._prepare(place, scenario.prepare)
            else:
                self._lay_out(place)
            yield place
        finally:
            shutil.rmtree(place.folder, ignore_errors=True)

    def play(
        self, place: Place, call: Call | None = None, fault: Fault | None = None, words: tuple[str, ...] = ()
    ) -> Played:
        """Run the scenario's command (or other words), with a fault at one of its calls."""
        self._counts, self._met = Counter(), False
        self._planned = (call, fault) if call and fault and fault.act else None
        self._s3_proxy.clear()
        self._mlflow_proxy.clear()
        words = [word.format(shared=self.shared, folder=place.folder) for word in words or place.scenario.words]
        job: dict[str, Any] = {"words": [*words, "--json"]}
        if place.scenario.tree:
            job["watch"] = str(place.folder / "site")
        if fault and fault.hasty:
            job["hasty"] = True
        if call and fault and not fault.act:
            kind = "disk" if call.server == "disk" else "raise"
            moment = fault.name.rpartition("_")[2]
            job[kind] = {"server": call.server, "name": call.name, "n": call.n, "moment": moment}
        ended = self._run(place, job, self._s3_proxy.url, self._mlflow_proxy.url)
        if self._met:
            assert self._running.acted.wait(_SECONDS), "the fault did not end"
        names = [s3_name(*request) for request in self._s3_proxy.requests]
        calls = numbered("s3", names)
        calls += numbered("mlflow", [mlflow_name(*request) for request in self._mlflow_proxy.requests])
        calls += numbered("disk", (ended.said or {}).get("changes", []))
        puts = [urlsplit(path).path for method, path in self._s3_proxy.requests if method == "PUT"]
        story = _story(ended)
        met = self._met or story.killed or bool((ended.said or {}).get("raised"))
        return Played(story, calls, puts, met)

    # --- looking -----------------------------------------------------------------------------------------------------

    def look(self, place: Place) -> Snapshot:
        """All objects of the case's prefix. Bytes are read once for each ETag."""
        objects: dict[str, Stored] = {}
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.s3.bucket, Prefix=f"{place.prefix}/")
        for page in pages:
            for entry in page.get("Contents", []):
                identity = (entry["ETag"], entry["Size"])
                if identity not in self._seen:
                    reply = self._client.get_object(Bucket=self.s3.bucket, Key=entry["Key"])
                    self._seen[identity] = reply["Body"].read()
                objects[entry["Key"].partition("/")[2]] = Stored(entry["ETag"], self._seen[identity])
        return Snapshot(objects)

    def shown(self, place: Place) -> dict[str, Any]:
        """What MLflow shows of the case's model: each version's stage and artifacts, and each alias."""
        if not place.scenario.uses_mlflow:
            return {}
        found = self._ask(f"registered-models/get?name={place.model}").get("registered_model", {})
        text = quote(f"name = '{place.model}'")
        versions = self._ask(f"model-versions/search?filter={text}").get("model_versions", [])
        # By the short tag, or by that of earlier releases, which registered the versions of some scenarios.
        names = {each["version"]: _tag(each, "version") or _tag(each, "ulora.version") for each in versions}
        # The script that a promotion adds is optional, and `reconcile` adds those of production only.
        logged = self._logged if place.scenario.shows else lambda source: ("", 0)
        return {
            "versions": sorted(
                (names[each["version"]], each["current_stage"], *logged(each["source"])) for each in versions
            ),
            "aliases": {each["alias"]: names.get(each["version"]) for each in found.get("aliases", [])},
        }

    def _logged(self, source: str) -> tuple[str, int]:
        """The state of a version's LoggedModel and how many artifacts it has."""
        model_id = source.removeprefix("models:/")
        if model_id == source:
            return "", 0
        info = self._ask(f"logged-models/{model_id}")["model"]["info"]

        def count(path: str) -> int:
            query = f"?artifact_directory_path={quote(path)}" if path else ""
            page = self._ask(f"logged-models/{model_id}/artifacts/directories{query}")
            return sum(count(each["path"]) if each.get("is_dir") else 1 for each in page.get("files", []))

        return info["status"], count("")

    def _ask(self, path: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self._mlflow.hostname or "", self._mlflow.port, timeout=_SECONDS)
        try:
            connection.request("GET", f"/api/2.0/mlflow/{path}")
            document: dict[str, Any] = json.loads(connection.getresponse().read())
            return document
        finally:
            connection.close()

    # --- what faults act on ------------------------------------------------------------------------------------------

    def pid(self) -> int:
        """The process of the command that runs now."""
        assert self._running.pid_known.wait(_SECONDS)
        return self._running.number

    def wait_until_gone(self) -> None:
        """Return when the command that runs now has ended."""
        self._running.gone.wait(_SECONDS)

    def restart_s3(self) -> None:
        """Kill the S3 server and start it again on its port and data."""
        self.s3.kill()
        self.s3.start()

    def cut_off(self) -> None:
        """Refuse all that the command that runs now asks from now on."""
        self._running.cut.set()

    def fault_of(self, server: str, name: str) -> NetworkFault | None:
        """What is to happen to a request that has just arrived."""
        if self._running.cut.is_set():
            return lambda exchange: exchange.reset()
        self._counts[server, name] += 1
        if self._planned is None:
            return None
        call, fault = self._planned
        if (call.server, call.name, call.n) != (server, name, self._counts[server, name]):
            return None
        self._met = True
        return lambda exchange: self._act(exchange, fault, self._running.acted)

    def _act(self, exchange: Exchange, fault: Fault, acted: threading.Event) -> None:
        assert fault.act
        try:
            fault.act(exchange, self)
        finally:
            acted.set()

    # --- parts -------------------------------------------------------------------------------------------------------

    def _run(self, place: Place, job: dict[str, Any], s3_url: str, mlflow_url: str) -> Ended:
        env = {
            "ULORA_MODEL": place.model,
            "ULORA_STORE": f"s3://{self.s3.bucket}/{place.prefix}",
            "ULORA_S3_ENDPOINT": s3_url,
            "ULORA_CACHE": str(place.folder / "cache"),
            "ULORA_POLICY": str(self.shared / "policy.yaml"),
            "ULORA_WHO": "a test",
        }
        if place.scenario.uses_mlflow:
            env["MLFLOW_TRACKING_URI"] = mlflow_url
        self._running = running = _Running()
        running.number = self._warm.begin({"env": env, "folder": str(place.folder), **job})
        running.pid_known.set()
        try:
            return self._warm.end()
        finally:
            running.gone.set()

    def _wait_for_a_later_second(self) -> None:
        """Until what is written from now on is younger by the server's clock, which counts seconds."""

        def written() -> float:
            self._client.put_object(Bucket=self.s3.bucket, Key="clock", Body=b"")
            reply = self._client.head_object(Bucket=self.s3.bucket, Key="clock")
            return float(reply["LastModified"].timestamp())

        began = written()
        while written() <= began:
            time.sleep(0.05)

    def _prepare(self, place: Place, name: str) -> None:
        act = f"tests.faults.scenarios:{name}"
        ended = self._run(place, {"act": act, "arguments": [str(self.shared)]}, self.s3.url, self._mlflow.geturl())
        assert ended.said == {"code": 0}, ended
        shutil.rmtree(place.folder / "cache", ignore_errors=True)

    def _lay_out(self, place: Place) -> None:
        """Copy the state that a scenario begins from: made once, as nothing in it depends on the prefix."""
        name = place.scenario.prepare
        if name not in self._templates:
            folder = self._folder / f"template-{name}"
            folder.mkdir()
            original = Place(f"template-{name}", place.model, folder, place.scenario)
            self._prepare(original, name)
            self._templates[name] = self.look(original), folder
        snapshot, folder = self._templates[name]
        for key, stored in snapshot.objects.items():
            self._client.put_object(
                Bucket=self.s3.bucket, Key=f"{place.prefix}/{key}", Body=stored.body,
                ChecksumSHA256=_base64_sha256(stored.body),
            )  # fmt: skip
        shutil.copytree(folder, place.folder, dirs_exist_ok=True, symlinks=True)


class _Watching(Proxy):
    """A proxy that asks the stage what is to happen to each request."""

    def __init__(self, stage: Stage, server: str, upstream: int) -> None:
        super().__init__(upstream)
        self._stage, self._of = stage, server

    def _fault_of(self, method: str, path: str) -> NetworkFault | None:
        super()._fault_of(method, path)
        with self._lock:
            return self._stage.fault_of(self._of, (s3_name if self._of == "s3" else mlflow_name)(method, path))


def _environment(s3: S3Server, folder: Path) -> dict[str, str]:
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("ULORA_", "MLFLOW_", "AWS_"))}
    quiet = {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(folder / "xdg"),
    }
    return keep | quiet


def _story(ended: Ended) -> Story:
    if ended.said is None:
        return Story(None, killed=True)
    said = ended.said
    lines = [line for line in said.get("err", "").splitlines() if line.startswith("{")]
    documents = [document for document in map(_parsed, lines) if "error" in document]
    last = documents[-1] if documents else {"error": said.get("error", ""), "message": ""}
    return Story(said["code"], last["error"], last.get("message", ""))


def _parsed(line: str) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _tag(version: Mapping[str, Any], name: str) -> str:
    return next((tag["value"] for tag in version.get("tags", []) if tag["key"] == name), "")


def _base64_sha256(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()
