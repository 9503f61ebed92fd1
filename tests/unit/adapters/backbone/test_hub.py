"""What the hub has is downloaded once and checked; what it refuses says why, and how to do without it.

The hub's client reads its settings when it is imported, so it runs in a process of its own: one, for all questions.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adapters.backbone.locate import TINY
from adapters.backbone.resolve import ref_of_folder
from registry.formats.canonical import sha256
from tests.servers.model_hub import COMMIT, Hub

VITB16 = "facebook/dinov3-vitb16-pretrain-lvd1689m"
VIT7B16 = "facebook/dinov3-vit7b16-pretrain-lvd1689m"

_CLIENT = """
import json, sys, warnings
from adapters.backbone.locate import find_weights
from adapters.backbone.resolve import resolve
from registry.errors import CorruptBlob, UloraError
from registry.versions.manifest import BackboneRef

def damaged(sha256):
    raise CorruptBlob("the mirror is damaged")

def answer(question):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            if "damaged mirror" in question:
                ref = BackboneRef.model_validate(question["damaged mirror"])
                return {"path": str(find_weights(ref, fetch=damaged))}
            if "find" in question:
                return {"path": str(find_weights(BackboneRef.model_validate(question["find"])))}
            ref, path = resolve(question["spec"], revision=question.get("revision"))
            return {"ref": ref.model_dump(), "path": str(path), "warned": [str(one.message) for one in warned]}
        except UloraError as error:
            return {"error": type(error).__name__, "message": str(error), "hint": error.hint}

json.dump([answer(question) for question in json.load(sys.stdin)], sys.stdout)
"""


@dataclass(frozen=True)
class Client:
    """A process that asks a hub, with a cache of its own."""

    url: str
    cache: Path

    def ask(self, *questions: dict[str, Any]) -> list[dict[str, Any]]:
        """Ask in one process; a question is `{"spec": …, "revision": …}` to resolve, `{"find": a reference}`, or that
        with a damaged mirror."""
        kept = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        done = subprocess.run(
            [sys.executable, "-c", _CLIENT],
            input=json.dumps(questions),
            env={**kept, "HF_ENDPOINT": self.url, "HF_HOME": str(self.cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        answers: list[dict[str, Any]] = json.loads(done.stdout)
        return answers


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    shards = tmp_path_factory.mktemp("hub") / "shards"
    shards.mkdir()
    shutil.copy(TINY / "dinov3-tiny" / "config.json", shards)
    (shards / "model.safetensors.index.json").write_text("{}")
    repositories = {"team/plants": TINY / "dinov3-tiny", VITB16: TINY / "dinov3-tiny", VIT7B16: shards}
    refused = {"team/gated": (401, "GatedRepo"), "team/waiting": (403, ""), "team/broken": (500, "")}
    with Hub(repositories, refused) as hub:
        yield hub


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub.url, tmp_path / "cache")


@pytest.mark.acceptance
def test_a_repository_is_downloaded_once_and_named_by_its_commit(hub: Hub, client: Client) -> None:
    before = len(hub.requests)
    first, again = client.ask({"spec": "team/plants"}, {"spec": "team/plants", "revision": COMMIT})
    expected = ref_of_folder(TINY / "dinov3-tiny", name="plants", hub_id="team/plants", revision=COMMIT)
    assert first["ref"] == again["ref"] == expected.model_dump()
    assert Path(first["path"]).read_bytes() == (TINY / "dinov3-tiny" / "model.safetensors").read_bytes()
    assert [path.rpartition("/")[2] for path in hub.requests[before:]] == ["config.json", "model.safetensors"]


@pytest.mark.acceptance
def test_weights_that_a_version_names_are_downloaded_and_checked(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = ref_of_folder(TINY / "dinov3-tiny", name="plants", hub_id="team/plants", revision=COMMIT).model_dump()
    shutil.copytree(TINY / "dinov2-tiny", tmp_path / "folders" / "plants")  # other weights of this name
    monkeypatch.setenv("ULORA_BACKBONES", str(tmp_path / "folders"))
    wrong = {**ref, "sha256": "0" * 64}
    instead, neither, found, misnamed, moved = client.ask(
        {"damaged mirror": {**ref, "name": "leaves"}},
        {"damaged mirror": {**wrong, "name": "leaves"}},
        {"find": ref},
        {"find": wrong},
        {"find": {**wrong, "name": "leaves"}},
    )
    assert sha256(Path(found["path"]).read_bytes()) == ref["sha256"]
    assert (misnamed["error"], "does not hash to" in misnamed["message"]) == ("CorruptBlob", True)
    assert (moved["error"], "has other weights" in moved["message"]) == ("BackboneNotFound", True)
    assert sha256(Path(instead["path"]).read_bytes()) == ref["sha256"]
    assert (neither["error"], neither["message"]) == ("CorruptBlob", "the mirror is damaged")


@pytest.mark.acceptance
def test_names_of_older_documents_are_understood_with_a_word(client: Client) -> None:
    base, giant = client.ask({"spec": "facebook/dinov3-base"}, {"spec": "facebook/dinov3-giant"})
    assert (base["ref"]["hub_id"], base["ref"]["name"]) == (VITB16, VITB16.rpartition("/")[2])
    assert base["warned"] == [f"facebook/dinov3-base does not exist; {VITB16} is used instead"]
    assert VIT7B16 in giant["message"]


def test_every_refusal_says_why_and_how_to_mirror(client: Client) -> None:
    asked = {
        "team/gated": "gated",
        "team/waiting": "gated",
        "team/nowhere": "no such repository",
        "team/broken": "answers 500",
        "team/plants": "no revision v9",
    }
    questions = [{"spec": spec, **({"revision": "v9"} if spec == "team/plants" else {})} for spec in asked]
    for (spec, reason), answer in zip(asked.items(), client.ask(*questions), strict=True):
        assert answer["error"] == "BackboneNotFound", answer
        assert spec in answer["message"]
        assert reason in answer["message"]
        assert f"ulora backbone add {spec}" in answer["hint"]
        assert "ulora backbone add DIR" in answer["hint"]
        assert ("hf auth login" in answer["hint"]) == (reason == "gated")


def test_a_gated_backbone_of_a_version_is_reported_as_gated(client: Client) -> None:
    ref = ref_of_folder(TINY / "dinov3-tiny", name="licensed", hub_id="team/gated").model_dump()
    (answer,) = client.ask({"find": ref})
    assert answer["error"] == "BackboneNotFound"
    assert "gated" in answer["message"]
    assert "hf auth login" in answer["hint"]


def test_weights_in_several_files_are_refused_by_name(client: Client) -> None:
    (answer,) = client.ask({"spec": VIT7B16})
    assert answer["error"] == "BadInput"
    assert VIT7B16 in answer["message"]
    assert "several files" in answer["message"]


def test_a_hub_that_is_not_there_is_named_as_the_reason(tmp_path: Path) -> None:
    with Hub({}) as gone:
        url = gone.url
    (answer,) = Client(url, tmp_path).ask({"spec": "team/plants"})
    assert answer["error"] == "BackboneNotFound"
    assert "does not answer" in answer["message"]
