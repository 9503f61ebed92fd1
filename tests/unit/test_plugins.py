"""Entry points of installed packages: found, listed, and each way that one can be missing has its own clear error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry import plugins
from registry.errors import MissingDependency

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package with one entry point, as pip would: `install(name, module, code)`."""

    def install(name: str, module: str, code: str, group: str = plugins.LOADERS) -> None:
        site = tmp_path / f"site-{module}"
        info = site / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:load\n")
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


def test_the_object_that_an_entry_point_names_is_imported(install: Install) -> None:
    install("kind-a", "kind_a_plugin", "def load(): return 'loaded'")
    assert plugins.plugin(plugins.LOADERS, "kind-a")() == "loaded"


def test_an_entry_point_is_found_without_an_import(install: Install) -> None:
    install("kind-f", "kind_f_plugin", "raise RuntimeError")
    assert plugins.entry_point(plugins.LOADERS, "kind-f").module == "kind_f_plugin"
    assert "kind_f_plugin" not in sys.modules


def test_a_group_is_listed_by_name(install: Install) -> None:
    install("another", "another_benchmark", "", group=plugins.BENCHMARKS)
    assert plugins.installed(plugins.BENCHMARKS) == ("accuracy", "another", "latency", "memory", "ood", "routing")


def test_a_missing_entry_point_says_what_to_install() -> None:
    with pytest.raises(MissingDependency, match="kind-b") as caught:
        plugins.plugin(plugins.LOADERS, "kind-b")
    assert "ulora.loaders: kind-b" in caught.value.hint


def test_two_packages_with_the_same_entry_point_are_both_named(install: Install) -> None:
    for module in ("first_plugin", "second_plugin"):
        install("kind-c", module, "def load(): pass")
    with pytest.raises(MissingDependency, match="first_plugin:load, second_plugin:load"):
        plugins.plugin(plugins.LOADERS, "kind-c")


def test_a_package_that_a_plugin_lacks_is_named(install: Install) -> None:
    install("kind-d", "kind_d_plugin", "import a_package_that_nobody_has")
    with pytest.raises(MissingDependency, match=r"kind-d .* needs a_package_that_nobody_has"):
        plugins.plugin(plugins.LOADERS, "kind-d")


def test_an_object_that_its_module_lacks_is_named(install: Install) -> None:
    install("kind-e", "kind_e_plugin", "other = 1")
    with pytest.raises(MissingDependency, match="kind_e_plugin:load"):
        plugins.plugin(plugins.LOADERS, "kind-e")


@pytest.mark.parametrize("code", ["", "import a_package_that_nobody_has"])
@pytest.mark.usefixtures("no_adapters_yet")
def test_another_package_named_adapters_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    other = tmp_path / "adapters" / "__init__.py"
    other.parent.mkdir()
    other.write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependency, match="another package is imported as 'adapters'") as caught:
        plugins.plugin(plugins.LOADERS, "dino-lora")
    assert str(other) in str(caught.value)
