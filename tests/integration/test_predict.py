"""`ulora predict` on a real store: versions, channels, trust, S3, signals, and the same numbers as `Loaded.predict`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry.api import Registry
from registry.devstack.s3_server import S3Server
from registry.errors import (
    BadInput,
    BucketNotFound,
    ChannelEmpty,
    NotTrusted,
    StoreDenied,
    StoreUnreachable,
    UloraError,
    VersionNotFound,
)
from registry.serving.batch.options import PredictOptions, Shard
from registry.serving.batch.shard import run_shard
from registry.store.objects import ObjectStore
from tests.servers.proxy import Proxy, answering, refuse, unavailable
from tests.support.batch_jobs import job, parts_of, rows_in, shards, write_files
from tests.support.bundles import png
from tests.support.echo_releases import Shop, find_echo, wait_until
from tests.support.registries import create, open_registry
from tests.support.run_ulora import complains, ulora
from tests.support.signing_keys import key_pair


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    """A model whose production serves v1.1.0, and before that v1.0.0."""
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    shop = shop_of(registry)
    for name in ("v1.0.0", "v1.1.0"):
        shop.release(name)
        shop.promote(name)
    return registry


def shop_of(registry: Registry) -> Shop:
    return Shop(registry.store, registry.model, registry.settings.cache.parent)


def predict(registry: Registry, source: Any, out: Path, **options: Any) -> Any:
    return registry.predict_files(source, out, PredictOptions(**{"find": find_echo, "part_rows": 3, **options}))


def versions_in(out: Path) -> set[tuple[str, str]]:
    return {(row["version"], row["manifest_sha256"]) for row in rows_in(out)}


def test_the_version_is_fixed_at_the_first_start(registry: Registry, tmp_path: Path) -> None:
    images, out = write_files(tmp_path / "images", 8), tmp_path / "out"
    predict(registry, images, out)
    served = ("v1.1.0", shop_of(registry).pointer("v1.1.0").manifest_sha256)
    next(iter(out.glob("part-*"))).unlink()
    shop_of(registry).rollback()
    assert predict(registry, images, out).version == "v1.1.0"
    assert versions_in(out) == {served}
    assert predict(registry, images, out, version="v1.1.0").rows == 0
    with pytest.raises(BadInput, match=r"the version is v1\.0\.0, but the run that began in this folder has v1\.1\.0"):
        predict(registry, images, out, version="v1.0.0")
    with pytest.raises(BadInput, match="has the version of production, not of staging"):
        predict(registry, images, out, channel="staging")
    shop_of(registry).promote("v1.0.0")
    assert predict(registry, images, tmp_path / "new").version == "v1.0.0"


def test_later_shards_take_the_version_of_the_first(registry: Registry, tmp_path: Path) -> None:
    images, out = write_files(tmp_path / "images", 12), tmp_path / "out"
    predict(registry, images, out, shard=Shard(1, 3))
    shop_of(registry).rollback()
    for shard in shards(3)[1:]:
        predict(registry, images, out, shard=shard)
    assert {version for version, _ in versions_in(out)} == {"v1.1.0"}
    assert len(rows_in(out)) == 12


def test_only_what_is_there_and_trusted_answers(registry: Registry, tmp_path: Path) -> None:
    images = write_files(tmp_path / "images", 2)
    with pytest.raises(VersionNotFound):
        predict(registry, images, tmp_path / "a", version="v9.9.9")
    with pytest.raises(ChannelEmpty, match="staging serves no version yet"):
        predict(registry, images, tmp_path / "b", channel="staging")
    strict = replace(registry.settings, trusted_keys=(key_pair(tmp_path, "release").trusted,))
    late = replace(registry.settings, minimum_version="v2.0.0")
    for number, settings in enumerate((strict, late)):
        with pytest.raises(NotTrusted):
            predict(Registry(settings=settings), images, tmp_path / f"out-{number}")
        assert parts_of(tmp_path / f"out-{number}") == {}


def test_a_target_that_the_version_lacks_is_refused(registry: Registry, tmp_path: Path) -> None:
    images, out = write_files(tmp_path / "images", 2), tmp_path / "out"
    with pytest.raises(BadInput, match=r"v1\.1\.0 has no target grape") as refused:
        predict(registry, images, out, target="grape")
    assert parts_of(out) == {}
    assert "it has " in str(refused.value.hint)


# --- S3 ---------------------------------------------------------------------------------------------------------------


def photos_of(s3: S3Server, model: str, count: int) -> str:
    """So many images in S3, and other files; the prefix."""
    url = f"s3://{s3.bucket}/photos-{model}"
    store = ObjectStore(url)
    for number in range(count):
        store.create(f"2026/{number:03d}.jpg", f"leaf {number}".encode())
    store.create("2026/notes.txt", b"none")
    ObjectStore(f"{url}-others").create("x.jpg", b"of others")
    return url


def test_a_prefix_in_s3_is_answered(registry: Registry, s3: S3Server, model: str, tmp_path: Path) -> None:
    url, out = photos_of(s3, model, 7), tmp_path / "out"
    for shard in shards(2):
        predict(registry, f"{url}/", out, shard=shard)
    rows = rows_in(out)
    assert sorted(row["path"] for row in rows) == [f"{url}/2026/{number:03d}.jpg" for number in range(7)]
    images = write_files(tmp_path / "images", 7)
    predict(registry, images, tmp_path / "local")
    assert len(rows_in(tmp_path / "local")) == 7
    table = tmp_path / "paths.csv"
    table.write_text(f"path\n{url}/2026/000.jpg\n{url}/gone.jpg\nimages/000/00001.jpg\n")
    predict(registry, table, tmp_path / "table")
    assert [row["outcome"] for row in rows_in(tmp_path / "table")] == ["answer", "unreadable", "answer"]


def test_an_s3_server_that_goes_away_ends_the_run(
    registry: Registry, s3: S3Server, model: str, proxy: Proxy, tmp_path: Path
) -> None:
    """An outage is no outcome of a file. What was written stays."""
    url, out = photos_of(s3, model, 12), tmp_path / "out"
    distant = Registry(settings=replace(registry.settings, endpoint_url=proxy.url))
    proxy.next(refuse, containing="008.jpg", times=1_000_000)
    proxy.next(unavailable, containing="format.json", times=1_000_000)
    with pytest.raises(StoreUnreachable):
        predict(distant, url, out)
    assert len(parts_of(out)) <= 2
    proxy.clear()
    predict(distant, url, out)
    assert {row["outcome"] for row in rows_in(out)} == {"answer"}
    assert len(rows_in(out)) == 12


def test_a_bucket_that_is_not_there_is_told(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(BucketNotFound):
        predict(registry, "s3://no-such-bucket-here/x", tmp_path / "out")
    table = tmp_path / "paths.csv"
    table.write_text("path\ns3://no-such-bucket-here/a.jpg\n")
    with pytest.raises(
        BucketNotFound, match=r"s3://no-such-bucket-here/a\.jpg can't be read: there is no bucket"
    ) as told:
        predict(registry, table, tmp_path / "out")
    assert "ULORA_STORE" not in told.value.hint
    assert parts_of(tmp_path / "out") == {}


def test_a_prefix_that_was_emptied_ends_the_run(s3: S3Server, store_url: str, model: str, tmp_path: Path) -> None:
    url, out = photos_of(s3, model, 3), tmp_path / "out"
    store, whole = ObjectStore(url), job(url, out, open_store=ObjectStore)

    def emptied(plan: Any) -> Any:
        for info in list(store.list("")):
            store.delete(info.key)
        return whole.load(plan)

    with pytest.raises(UloraError, match=f"nothing is there any more below {url}/2026/"):
        run_shard(replace(whole, load=emptied))
    assert parts_of(out) == {}
    photos_of(s3, model, 3)
    run_shard(whole)
    assert {row["outcome"] for row in rows_in(out)} == {"answer"}


def test_a_refused_object_is_told_in_its_row(
    registry: Registry, s3: S3Server, model: str, proxy: Proxy, tmp_path: Path
) -> None:
    """One that refuses all of them ends the run, however few they are."""
    url = photos_of(s3, model, 3)
    table = tmp_path / "paths.csv"
    table.write_text(f"path\n{url}/2026/000.jpg\n{url}/2026/001.jpg\n")
    distant = Registry(settings=replace(registry.settings, endpoint_url=proxy.url))
    for source in (url, table):
        proxy.next(answering(403, "AccessDenied"), containing=".jpg", times=1_000_000)
        out = tmp_path / f"out-{Path(source).name}"
        with pytest.raises(StoreDenied, match=r"refuses access to .*000\.jpg \(AccessDenied\)"):
            predict(distant, source, out)
        assert parts_of(out) == {}
        proxy.clear()
        proxy.next(answering(403, "AccessDenied"), containing="000.jpg", times=1_000_000)
        predict(distant, source, out)
        first, *others = rows_in(out)
        assert (first["path"], first["outcome"]) == (f"{url}/2026/000.jpg", "unreadable")
        assert "refuses access" in first["detail"]
        assert {row["outcome"] for row in others} == {"answer"}
        proxy.clear()


def test_a_missing_object_where_nothing_may_be_listed(
    registry: Registry, s3: S3Server, model: str, proxy: Proxy, tmp_path: Path
) -> None:
    url = photos_of(s3, model, 1)
    table = tmp_path / "paths.csv"
    table.write_text(f"path\n{url}/2026/000.jpg\n{url}/2026/gone.jpg\n")
    distant = Registry(settings=replace(registry.settings, endpoint_url=proxy.url))
    proxy.next(answering(403, "AccessDenied"), containing="prefix=photos", times=1_000_000)
    predict(distant, table, tmp_path / "out")
    assert [row["outcome"] for row in rows_in(tmp_path / "out")] == ["answer", "unreadable"]
    assert [seen for seen in proxy.requests if "prefix=photos" in str(seen)]


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def released(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Production serves a version of the torch side."""
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    create(registry, "v1.0.0", tmp_path / "bundles")
    registry.promote("v1.0.0", "production")
    for name, value in {"ULORA_MODEL": model, "ULORA_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    return registry


def images_in(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:04d}.png").write_bytes(png(number))
    return folder


@pytest.mark.acceptance
def test_rows_are_what_the_version_answers(released: Registry, tmp_path: Path) -> None:
    images, out = images_in(tmp_path / "images", 5), tmp_path / "out"
    (images / "damaged.png").write_bytes(png(1)[:200])
    (images / "empty.jpg").write_bytes(b"")
    planned = ulora("predict", images, "--out", out, "--dry-run", "--json")
    assert (planned.code, planned.document["inputs"], planned.document["rows"]) == (0, 7, 0)
    assert not out.exists()
    done = ulora("predict", images, "--out", out, "--part-rows", "4", "--json")
    assert (done.code, done.document["rows"], done.document["parts"]) == (0, 7, 2)
    assert done.document["outcomes"]["corrupt_image"] == 2

    loaded = released.load("v1.0.0")
    paths = sorted(images.iterdir())
    for row, answer in zip(rows_in(out), loaded.predict(paths), strict=True):
        told = answer.to_dict()
        assert {name: row[name] for name in ("target", "label", "outcome", "is_ood", "version", "detail")} == {
            name: told[name] for name in ("target", "label", "outcome", "is_ood", "version", "detail")
        }
        assert row["confidence"] == pytest.approx(told["confidence"], abs=1e-4)
    again = ulora("predict", images, "--out", out, "--part-rows", "4")
    assert "v1.0.0 on 7 files: all 2 parts are in" in again.out
    assert "nothing was left to do" in again.out
    complains(ulora("predict", images, "--out", out), 2, "--part-rows is 1000", "another folder")


def test_what_is_no_input_or_shard_is_a_usage_error(tmp_path: Path) -> None:
    words = ["--out", tmp_path / "out", "--store", "s3://bucket/x"]
    complains(ulora("predict", tmp_path / "none", *words), 2, "does not exist", "give a folder")
    complains(ulora("predict", tmp_path, *words, "--shard", "9/8"), 2, "there is no shard 9/8")
    complains(ulora("predict", tmp_path, *words, "--version", "v1.0.0", "-c", "staging"), 2, "exclude each other")


@pytest.mark.acceptance
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_command_goes_on_after_a_signal(released: Registry, tmp_path: Path, number: signal.Signals) -> None:
    images, out = images_in(tmp_path / "images", 400), tmp_path / "out"
    command = [sys.executable, "-m", "registry", "predict", str(images), "--out", str(out), "--part-rows", "10"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    wait_until(lambda: parts_of(out) or process.poll() is not None)
    process.send_signal(number)
    _, err = process.communicate()
    if number != signal.SIGKILL:
        assert process.returncode == 130, err
        assert "written now; the same command goes on there" in err
    before = parts_of(out)
    assert 0 < len(before) < 40
    assert ulora(*command[3:]).code == 0
    whole = parts_of(out)
    assert before.items() <= whole.items()
    assert sorted(row["path"] for row in rows_in(out)) == sorted(path.name for path in images.iterdir())
    assert ulora(*command[3:5], "--out", tmp_path / "once", "--part-rows", "10").code == 0
    assert parts_of(tmp_path / "once") == whole
    assert json.loads((out / "_plan-1-of-1.json").read_text())["version"] == "v1.0.0"
