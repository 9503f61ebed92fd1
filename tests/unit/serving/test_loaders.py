"""Finding the loader of a flavor among what is installed: each way that it can be missing has its own clear error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry.errors import LoadFailed, MissingDependency
from registry.serving.loaders import find_loader, no_mirror

Install = Callable[[str, str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package that offers a loader, as pip would: `install(flavor, module, code)`."""

    def install(flavor: str, module: str, code: str) -> None:
        site = tmp_path / f"site-{module}"
        info = site / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[ulora.loaders]\n{flavor} = {module}:load\n")
        (site / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(site)

    return install


@pytest.fixture
def no_adapters_yet() -> Iterator[None]:
    """As in a process that has not imported `adapters`."""
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "adapters"}
    for name in kept:
        del sys.modules[name]
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "adapters"]:
        del sys.modules[name]
    sys.modules.update(kept)


def test_the_installed_package_that_offers_a_flavor_is_found(install: Install) -> None:
    install("kind-a", "kind_a_loader", "def load(manifest, files, *, device, runtime, fetch): return runtime")
    loader = find_loader("kind-a")
    assert loader(None, {}, device="cpu", runtime="torch-fp32", fetch=no_mirror) == "torch-fp32"


def test_our_own_flavor_is_found() -> None:
    from adapters.answer.loading import load

    assert find_loader("dino-lora") is load


def test_a_flavor_that_nobody_offers_says_what_to_install() -> None:
    with pytest.raises(MissingDependency, match="flavor kind-b") as caught:
        find_loader("kind-b")
    assert "ulora.loaders: kind-b" in caught.value.hint


def test_a_flavor_that_two_packages_offer_names_both(install: Install) -> None:
    for module in ("first_loader", "second_loader"):
        install("kind-c", module, "def load(): pass")
    with pytest.raises(LoadFailed, match="first_loader:load, second_loader:load"):
        find_loader("kind-c")


def test_a_loader_that_lacks_a_package_names_it(install: Install) -> None:
    install("kind-d", "kind_d_loader", "import a_package_that_nobody_has")
    with pytest.raises(MissingDependency, match="needs a_package_that_nobody_has"):
        find_loader("kind-d")


def test_a_loader_that_is_not_where_it_is_said_to_be_is_named(install: Install) -> None:
    install("kind-e", "kind_e_loader", "other = 1")
    with pytest.raises(MissingDependency, match="kind_e_loader:load"):
        find_loader("kind-e")


@pytest.mark.parametrize("code", ["", "import a_package_that_nobody_has"])
@pytest.mark.usefixtures("no_adapters_yet")
def test_another_adapters_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    other = tmp_path / "adapters" / "__init__.py"
    other.parent.mkdir()
    other.write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependency, match="shadows it") as caught:
        find_loader("dino-lora")
    assert str(other) in str(caught.value)
