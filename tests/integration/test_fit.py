"""`ulora fit`: what it says, what it writes, and that it goes on where it was interrupted."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from adapters.answer.loading import load_bundle
from tests.support.bundles import read_bundle
from tests.support.coloured_images import write_blotches
from tests.support.image_layouts import plantdoc
from tests.support.registries import bind, open_registry
from tests.support.run_ulora import Finished, complains, ulora


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blotches(tmp_path_factory.mktemp("images"))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fit(images: Path, out: Path | str, *words: object) -> Finished:
    return ulora("fit", "--data", images, "--backbone", "dinov3-tiny", "--out", out, *words)


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a fit that nothing disturbed, with two epochs."""
    out = tmp_path_factory.mktemp("whole") / "bundle"
    assert fit(images, out).code == 0
    return out


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path: place.read_bytes() for path, place in read_bundle(folder).items()}


def test_a_fit_writes_a_bundle_and_a_table_and_says_what_is_odd(images: Path) -> None:
    done = fit(images, "bundle", "--epochs", 1, "--targets", "pear", "--method", "dora", "--modules", "q_proj,k_proj")
    assert done.code == 0, done
    header, pear, router, wrote = done.out.splitlines()
    assert header.split()[:2] == ["TARGET", "LABELS"]
    assert pear.split()[:2] == ["pear", "2"]
    assert pear.split()[3:5] == ["of", "16"]
    assert "WITHOUT LORA (VAL)" in header
    assert "<= 0.134" in pear, "16 validation images promise no better false-alarm rate"
    assert router.startswith("(router)")
    assert wrote.startswith("wrote bundle; next: ulora backbone add ")
    assert wrote.endswith(" (once), and ulora create VERSION --from bundle")
    assert (
        "note: pear: the OOD thresholds rest on 16 held-out images, too few for a false-alarm rate of 0.03" in done.err
    )
    assert load_bundle(read_bundle(Path("bundle"))).targets == ("pear",)


def test_the_json_answer_is_what_the_bundle_keeps(images: Path) -> None:
    done = fit(images, "bundle", "--epochs", 1, "--depth", "auto", "--head", "cls", "--json")
    kept = json.loads(Path("bundle/config/fit.json").read_bytes())
    assert done.document == {"folder": "bundle", **kept}
    assert kept["recipe"] | {"head": "cls", "depth": "auto", "epochs": 1, "method": "lora"} == kept["recipe"]
    assert kept["targets"]["apple"]["depth"]["recommended"] == "full"
    assert all("note" in json.loads(line) for line in done.err.splitlines())


def test_a_dry_run_says_what_would_be_fitted_and_writes_nothing(images: Path) -> None:
    done = fit(images, "bundle", "--dry-run")
    assert done.code == 0, done
    assert [line.split() for line in done.out.splitlines()[1:3]] == [
        ["apple", "2", "16", "16", "8"],
        ["pear", "2", "16", "16", "8"],
    ]
    assert "would fit bundle on dinov3-tiny" in done.out
    assert fit(images, "bundle", "--dry-run", "--json").document["targets"]["pear"] == ["rot", "sound"]
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--targets", "plum"], 2, "no target 'plum'"),
        (["--targets", "pear,"], 2, "not a list of names"),
        (["--rank", 0], 2, "rank 0"),
        (["--modules", "query"], 2, "it has down_proj"),
        (["--depth", "deep"], 2, "--depth"),
        (["--device", "abacus"], 2, "abacus"),
        (["--backbone", "dinov9"], 5, "dinov9"),
        (["--data", "nowhere"], 2, "no such folder: nowhere"),
        (["--out", "."], 2, "exists already"),
    ],
)
def test_invalid_fit_options_are_refused_with_a_hint(
    words: Sequence[object], code: int, says: str, images: Path
) -> None:
    complains(fit(images, "bundle", *words), code, says)
    assert list(Path().iterdir()) == []


def test_fit_works_without_the_store_on_a_local_backbone(
    images: Path, monkeypatch: pytest.MonkeyPatch, dead_address: str
) -> None:
    monkeypatch.setenv("ULORA_STORE", "s3://bucket/prefix")
    monkeypatch.setenv("ULORA_S3_ENDPOINT", dead_address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    done = fit(images, "bundle", "--dry-run")
    assert done.code == 0, done
    assert "note: the store's backbones are left out" in done.err


def test_a_fit_comes_before_the_store_and_the_first_version(
    images: Path, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = open_registry(tmp_path, store_url, "others")
    others.store.initialise()
    bind(others, "v1.0.0")
    for url in (store_url, f"{store_url}-new"):
        monkeypatch.setenv("ULORA_STORE", url)
        done = fit(images, "bundle", "--dry-run")
        assert done.code == 0, done


@pytest.mark.acceptance
def test_an_interrupted_fit_says_how_to_go_on_and_goes_on(images: Path, whole: Path) -> None:
    """Ctrl-C as soon as the bar of the second target is there."""
    with on_a_terminal(images, "bundle") as (process, said):
        told = read_until(said, "pear:train")
        process.send_signal(signal.SIGINT)
        told += "".join(said)
        assert process.wait() == 130, told
    assert "the same command goes on from there" in told
    assert not Path("bundle").exists()
    assert fit(images, "bundle").code == 0
    assert bytes_of(Path("bundle")) == bytes_of(whole)


@pytest.mark.acceptance
def test_a_fit_that_was_killed_goes_on_and_gives_the_same_files(images: Path, whole: Path) -> None:
    """Killed when the second target is trained, and nothing of it written but the state of its training."""
    with on_a_terminal(images, "bundle") as (process, said):
        read_until(said, "pear:others")
        process.kill()
    assert [path.name for path in Path().iterdir()] == [".bundle.fit"]
    assert fit(images, "bundle").code == 0
    assert bytes_of(Path("bundle")) == bytes_of(whole)
    assert [path.name for path in Path().iterdir()] == ["bundle"]


def test_an_interrupted_fit_is_not_resumed_with_other_settings(images: Path) -> None:
    Path(".bundle.fit").mkdir()
    Path(".bundle.fit/recipe.json").write_text('{"format":1,"recipe":{"epochs":7}}')
    refused = fit(images, "bundle")
    assert refused.code == 2
    assert "error: the unfinished fit in .bundle.fit used --epochs 7\n" in refused.err
    assert "hint: rerun with that, or delete the folder .bundle.fit" in refused.err


def test_what_the_gates_will_miss_is_said_before_the_fit(images: Path) -> None:
    Path(".bundle.fit").mkdir()
    Path(".bundle.fit/recipe.json").write_text('{"format":1,"recipe":{"epochs":7}}')
    said = fit(images, "bundle").err
    assert said.index("ood_false_alarm_rate 300 test images (apple has 8, pear has 8)") < said.index("error:")


def test_a_fit_takes_a_file_of_names() -> None:
    plantdoc(Path("PlantDoc"))
    complains(fit(Path("PlantDoc"), "bundle", "--dry-run"), 2, "do not say of which crop")
    names = {"Apple Scab Leaf": "apple/scab", "Apple leaf": "apple/healthy", "Corn Gray leaf spot": ""}
    Path("names.toml").write_text("".join(f'"{folder}" = "{meaning}"\n' for folder, meaning in names.items()))
    for split in ("train", "test"):  # the set has no validation images of its own
        shutil.copytree(Path("PlantDoc") / split, Path("sorted/train" if split == "train" else "sorted/val"))
    done = fit(Path("sorted"), "bundle", "--rename", "names.toml", "--dry-run", "--json")
    assert done.document["targets"] == {"apple": ["healthy", "scab"]}


@contextmanager
def on_a_terminal(images: Path, out: str) -> Iterator[tuple[subprocess.Popen[bytes], Iterator[str]]]:
    """A fit in a process of its own whose standard error is a terminal, so that there are progress bars; and what it
    says there, as it says it."""
    words = ["fit", "--data", str(images), "--backbone", "dinov3-tiny", "--out", out]
    command = [sys.executable, "-m", "registry", *words]
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        try:
            yield process, _said(ours)
        finally:
            process.kill()
            os.close(ours)


def _said(terminal: int) -> Iterator[str]:
    while True:
        try:
            said = os.read(terminal, 4096)
        except OSError:  # how a terminal ends
            return
        if not said:
            return
        yield said.decode(errors="replace")


def read_until(parts: Iterator[str], word: str) -> str:
    """What is said up to a word.

    Raises:
        AssertionError: it is not said.
    """
    said = ""
    for part in parts:
        said += part
        if word in said:
            return said
    raise AssertionError(f"{word!r} is not in {said!r}")
