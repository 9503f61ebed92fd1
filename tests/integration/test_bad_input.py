"""Whatever is wrong with what is given: one clear line, the documented exit code, and nothing half done."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from registry.api import Registry
from registry.errors import Overwritten
from registry.store import layout
from tests.servers.without_conditions import ForgetfulServer
from tests.support.bundles import noise
from tests.support.registries import create, file_of, listing, open_registry, small_bundle
from tests.support.run_ulora import complains, ulora

WEIGHTS = "adapters/low/adapter_model.safetensors"


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ULORA_MODEL", model)
    monkeypatch.setenv("ULORA_CACHE", str(tmp_path / "cache"))
    return registry


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return small_bundle(tmp_path / "bundle")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A few images of the one target that small bundles have."""
    for number, label in enumerate(("zero", "one", "two", "three") * 2):
        folder = tmp_path / "images/low" / label
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number)).save(folder / f"{number}.png")
    return tmp_path / "images"


def cut(bundle: Path) -> None:
    (bundle / WEIGHTS).write_bytes((bundle / WEIGHTS).read_bytes()[:-100])


def no_weights(bundle: Path) -> None:
    (bundle / WEIGHTS).write_bytes(b"PK\x03\x04 this is a zip, as torch writes them" * 100)


def dangling(bundle: Path) -> None:
    (bundle / WEIGHTS).unlink()
    (bundle / WEIGHTS).symlink_to("gone")


def outside(bundle: Path) -> None:
    (bundle / "config/passwd").symlink_to("/etc/passwd")


def hostile(bundle: Path) -> None:
    (bundle / "project").mkdir()
    (bundle / "project/..\\..\\evil").write_text("x")


def no_backbone(bundle: Path) -> None:
    (bundle / "backbone.json").unlink()


def folder_for_a_file(bundle: Path) -> None:
    no_backbone(bundle)
    (bundle / "backbone.json").mkdir()


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (cut, 6, "adapter_model.safetensors is truncated"),
        (no_weights, 6, "adapter_model.safetensors is not a safetensors file"),
        (dangling, 2, "adapter_model.safetensors is a link"),
        (outside, 2, "config/passwd is a link"),
        (hostile, 2, "backslash"),
        (no_backbone, 2, "backbone.json is missing"),
        (folder_for_a_file, 2, "backbone.json"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bundle_that_can_not_become_a_version(
    registry: Registry, bundle: Path, spoil: Callable[[Path], None], code: int, says: str
) -> None:
    spoil(bundle)
    before = listing(registry)
    complains(ulora("create", "v1.0.0", "--from", bundle, "--offline"), code, says)
    assert ulora("create", "v1.0.0", "--from", bundle, "--offline", "--json").error["message"]
    assert listing(registry) == before


def test_a_name_that_is_none_or_taken(registry: Registry, bundle: Path, tmp_path: Path) -> None:
    before = listing(registry)
    complains(ulora("create", "5.5.4", "--from", bundle, "--offline"), 2, "'5.5.4'", "v5.5.4-dinov3")
    assert listing(registry) == before
    assert ulora("create", "v1.0.0", "--from", bundle, "--offline").code == 0
    before = listing(registry)
    other = small_bundle(tmp_path / "other", seed=3)
    complains(ulora("create", "v1.0.0", "--from", other, "--offline"), 4, "v1.0.0 exists with other content")
    assert listing(registry) == before


def test_what_is_given_as_a_folder_is_missing_or_a_file(registry: Registry, bundle: Path) -> None:
    complains(ulora("create", "v1.0.0", "--from", "missing", "--offline"), 2, "no such folder: missing")
    words = ("create", "v1.0.0", "--from", "nosuch/", "--target", "tomato", "--offline")
    complains(ulora(*words), 2, "no such folder: nosuch")
    complains(ulora("create", "v1.0.0", "--from", bundle / "backbone.json", "--offline"), 2, "is not a folder")
    for changes in ("missing.json", "."):
        done = ulora("create", "v1.0.0", "--from", bundle, "--changes", changes, "--offline")
        complains(done, 2, f"--changes {changes} can't be read")


def test_a_policy_or_a_configuration_that_is_none(
    registry: Registry, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(registry, "v1.0.0", tmp_path)
    (tmp_path / "bad.yaml").write_text("channels: 5")
    monkeypatch.setenv("ULORA_POLICY", str(tmp_path / "bad.yaml"))
    before = listing(registry)
    complains(ulora("promote", "v1.0.0"), 2, "bad.yaml")
    monkeypatch.setenv("ULORA_POLICY", str(tmp_path / "missing.yaml"))
    complains(ulora("promote", "v1.0.0"), 2, "missing.yaml")
    assert listing(registry) == before
    (tmp_path / "ulora.toml").write_text("stor = 1")
    complains(ulora("status"), 2, "unknown keys: stor")


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "wrong"}, "InvalidAccessKeyId"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no credentials"),
    ],
)
def test_credentials_that_are_wrong_or_missing(
    registry: Registry, bundle: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], says: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
        if not value:
            monkeypatch.delenv(name)
    for words in (["status"], ["rollback"], ["create", "v1.0.0", "--from", bundle, "--offline"], ["store", "init"]):
        complains(ulora(*words), 7, says, registry.settings.store)


def test_a_bucket_that_is_not_there_or_has_no_bucket_s_name(
    registry: Registry, bundle: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULORA_STORE", f"s3://{model}/x")
    create = ["create", "v1.0.0", "--from", bundle, "--offline"]
    for words in (["status"], ["list"], ["rollback"], ["store", "init"], create):
        complains(ulora(*words), 5, f"no bucket '{model}'", "--create-bucket")
    for junk in ("s3://Junk Bucket!/x", "s3:///x", "bucket", "s3://a"):
        monkeypatch.setenv("ULORA_STORE", junk)
        complains(ulora("status"), 2, "is not a store", "s3://BUCKET/PREFIX")


def test_a_prefix_that_is_no_store(registry: Registry, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULORA_STORE", f"{registry.settings.store}/deeper")
    complains(ulora("create", "v1.0.0", "--from", bundle, "--offline"), 5, "format.json", "ulora store init")
    complains(ulora("doctor"), 1, "store")


def test_a_server_without_conditional_writes_is_refused(
    registry: Registry, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ForgetfulServer() as server:
        monkeypatch.setenv("ULORA_S3_ENDPOINT", server.url)
        monkeypatch.setenv("ULORA_STORE", "s3://bucket/x")
        complains(ulora("store", "init"), 6, "ignores `If-None-Match: *`", "AWS S3")
        assert server.objects == {}
        # Also when somebody has made it look like a store: with the first write of a create or a promotion.
        server.objects["/bucket/x/format.json"] = b'{"format":1}'
        before = dict(server.objects)
        complains(ulora("create", "v1.0.0", "--from", bundle, "--offline"), 6, "ignores `If-None-Match: *`")
        complains(ulora("doctor"), 1, "store")
        assert server.objects == before
        inner = open_registry(tmp_path / "other", "s3://bucket/x", registry.model, endpoint_url=server.url)
        create_without_asking(inner, bundle)
        before = dict(server.objects)
        complains(ulora("promote", "v1.0.0", "--force", "--reason", "x"), 6, "ignores `If-None-Match: *`")
        assert server.objects == before


def create_without_asking(registry: Registry, bundle: Path) -> None:
    """As if the server had kept its promises when the version was made, and was replaced since."""
    registry.wiring._is_checked = True
    with pytest.raises(Overwritten, match="may have replaced"):
        registry.create("v1.0.0", bundle, offline=True)


def test_servers_that_are_down(
    registry: Registry, bundle: Path, monkeypatch: pytest.MonkeyPatch, dead_address: str
) -> None:
    before = listing(registry)
    complains(ulora("create", "v1.0.0", "--from", bundle, "--tracking-uri", dead_address), 7, dead_address, "--offline")
    assert listing(registry) == before
    monkeypatch.setenv("ULORA_S3_ENDPOINT", dead_address)
    complains(ulora("create", "v1.0.0", "--from", bundle, "--offline"), 7, dead_address)


@pytest.mark.acceptance
def test_a_full_disk(registry: Registry, images: Path, tmp_path: Path) -> None:
    create(registry, "v1.0.0", tmp_path)
    sha256 = file_of(registry, "v1.0.0", WEIGHTS).sha256
    before = listing(registry)
    words = [sys.executable, "-m", "registry", "measure", "v1.0.0", "--only", "memory", "--data", str(images)]
    # no file may have more than a kilobyte, whichever folder it is in
    full = ["sh", "-c", 'ulimit -f 1 && exec "$@"', "sh", *words, "--offline"]
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}  # else Python 3.11 keeps the kilobyte as a module's bytecode
    done = subprocess.run(full, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, "no space left" in done.stderr, sha256 in done.stderr) == (1, True, True), done
    (noted,) = registry.operations()
    assert (noted.command, noted.error) == ("measure", "DiskFull")
    assert {key: size for key, size in listing(registry).items() if key != noted.key} == before
    measured = ulora("measure", "v1.0.0", "--only", "memory", "--data", images, "--offline")
    assert measured.code == 0
    assert "checks do not pass" in measured.out, "the gates are told at once, not by promote"
    assert "adapter_memory_mb (low)" in measured.out
    assert measured.out.splitlines()[-1] == "next: ulora promote v1.0.0 --channel staging"


def test_measuring_without_images_or_what_is_no_benchmark(registry: Registry, images: Path, tmp_path: Path) -> None:
    create(registry, "v1.0.0", tmp_path)
    before = listing(registry)
    complains(ulora("measure", "v1.0.0", "--offline"), 2, "data")
    complains(ulora("measure", "v1.0.0", "--offline", "--data", "missing"), 2, "missing")
    complains(ulora("measure", "v1.0.0", "--offline", "--data", images, "--only", "beauty"), 2, "beauty", "memory")
    assert listing(registry) == before
    done = ulora("measure", "v1.0.0", "--offline", "--data", images, "--only", "memory", "--json")
    assert [one["benchmark"] for one in done.document] == ["memory"]


def test_what_the_gates_will_miss_is_said_before_measuring(
    registry: Registry, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(registry, "v1.0.0", tmp_path)
    words = ("measure", "v1.0.0", "--offline", "--data", images, "--only", "accuracy")
    said = ulora(*words, "--device", "abacus").err
    assert "low has" in said
    assert said.index("note: production needs more images, whatever is fitted") < said.index("error:"), (
        "before the version is loaded"
    )
    assert "ood" not in said, "what is not measured now is not asked for"
    (tmp_path / "wrong.yaml").write_text("format: 2")
    monkeypatch.setenv("ULORA_POLICY", str(tmp_path / "wrong.yaml"))
    assert "note: what the gates need is not known: policy" in ulora(*words, "--device", "abacus").err


def test_measure_takes_a_file_of_names(registry: Registry, images: Path, tmp_path: Path) -> None:
    create(registry, "v1.0.0", tmp_path)
    (images / "low").rename(images / "Low digits")
    words = ("measure", "v1.0.0", "--offline", "--data", images, "--only", "memory", "--json")
    names = "".join(f'"Low digits/{label}" = "low/{label}"\n' for label in ("zero", "one", "two", "three"))
    (tmp_path / "names.toml").write_text(names)
    done = ulora(*words, "--rename", tmp_path / "names.toml")
    assert done.code == 0, done
    assert "Low digits/one as low/one" in done.err
    refused = ulora(*words, "--rename", tmp_path / "missing.toml")
    assert (refused.code, "missing.toml can't be read" in refused.error["message"]) == (2, True)


def test_another_package_that_is_called_adapters(registry: Registry, images: Path, tmp_path: Path) -> None:
    create(registry, "v1.0.0", tmp_path)
    other = tmp_path / "site/adapters/__init__.py"
    other.parent.mkdir(parents=True)
    other.write_text("# PyPI's package of this name\n")
    done = subprocess.run(
        [sys.executable, "-m", "registry", "measure", "v1.0.0", "--offline", "--data", str(images), "--only", "memory"],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert str(other) in done.stderr or str(other.parent) in done.stderr
    assert "hint: " in done.stderr


def test_what_is_damaged_in_the_store(registry: Registry, tmp_path: Path) -> None:
    create(registry, "v1.0.0", tmp_path)
    key = layout.version(registry.model, "v1.0.0")
    good = registry.store.get(key).body
    for body in (b"", b"{}", good[:-1], good.replace(b'"format":1', b'"format":9'), b"\xff" * 100):
        registry.store.overwrite(key, body)
        assert ulora("list", "--json").document[0]["problem"]
        for words in (["show", "v1.0.0"], ["promote", "v1.0.0"], ["verify", "v1.0.0"]):
            complains(ulora(*words), 6, "v1.0.0.json")
    registry.store.overwrite(key, good)
    registry.promote("v1.0.0", "production")
    head = layout.record(registry.model, "production", 1)
    registry.store.overwrite(head, b"nonsense")
    for words in (["status"], ["history"], ["rollback"], ["promote", "v1.0.0", "-c", "production"]):
        complains(ulora(*words), 6, head)


def test_a_damaged_channel_does_not_hide_the_others(registry: Registry, tmp_path: Path) -> None:
    create(registry, "v1.0.0", tmp_path)
    registry.promote("v1.0.0", "staging")
    registry.promote("v1.0.0", "production")
    registry.store.overwrite(layout.record(registry.model, "staging", 1), b"nonsense")
    status = ulora("status", "--json")
    assert status.code == 6
    assert {found["channel"]: found["stable"] for found in status.document["channels"]} == {
        "staging": None,
        "production": "v1.0.0",
    }
    assert ulora("list", "--json").document[0]["channels"] == ["production"]
    assert ulora("show", "v1.0.0", "--json").document["tested"] is False


def test_rollback_options_that_contradict_each_other(registry: Registry) -> None:
    complains(ulora("rollback", "--from", "v1.0.0", "--to", "v1.0.0"), 2, "v1.0.0")
    complains(ulora("rollback", "--from", "v1.0.0", "--expected", "1"), 2, "give either")
