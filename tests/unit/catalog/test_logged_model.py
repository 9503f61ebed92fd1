"""The code that MLflow stores with each version: it imports one stable name of this project, which never moves."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import adapters.model
import registry.catalog.files.model
from registry import plugins

FLAVORS = {
    "dino-lora": (adapters.model, ("adapters.model", "load_model")),
    "files": (registry.catalog.files.model, ("registry.flavors", "load_files")),
}
"""By flavor: the module that says how MLflow logs it, and what the stored code imports. Models logged in MLflow import
these names: never change one of them."""
ARTIFACT = "bundle"


def imported(code: Path) -> set[tuple[str, str]]:
    """The modules that a file imports, each with a name; `*` where it imports the whole module."""
    nodes = list(ast.walk(ast.parse(code.read_text("utf-8"))))
    whole = {(alias.name, "*") for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names = {
        (node.module or "", alias.name) for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    return whole | names


@pytest.mark.parametrize("flavor", FLAVORS)
def test_the_stored_code_imports_only_the_stable_name(flavor: str) -> None:
    module, stable = FLAVORS[flavor]
    others = {("__future__", "annotations"), ("typing", "Any"), ("mlflow", "*"), ("pandas", "*")}
    assert imported(module.CODE) - others == {stable}


@pytest.mark.parametrize("flavor", FLAVORS)
def test_the_stable_function_takes_a_folder_and_predicts(flavor: str) -> None:
    _, (module, name) = FLAVORS[flavor]
    function = getattr(importlib.import_module(module), name)
    assert list(inspect.signature(function).parameters) == ["folder"]
    assert f'{name}(context.artifacts["{ARTIFACT}"])' in FLAVORS[flavor][0].CODE.read_text("utf-8")


@pytest.mark.parametrize("flavor", FLAVORS)
def test_the_entry_point_names_the_module_of_the_flavor(flavor: str) -> None:
    module: ModuleType = plugins.plugin(plugins.MODELS, flavor)
    assert module is FLAVORS[flavor][0]
