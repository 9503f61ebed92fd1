"""The public names, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import registry
from registry import Registry, errors

PUBLIC = [
    "CopyOptions", "CreateOptions", "Live", "LiveOptions", "MeasureOptions", "PredictOptions", "PromoteOptions",
    "Registry", "ReleaseNotes", "RestoreOptions", "RollbackOptions", "Settings", "SidecarOptions", "TestOptions",
    "UloraError", "VerifyOptions", "VersionName",
]  # fmt: skip
HEAVY = [
    "torch",
    "transformers",
    "peft",
    "mlflow",
    "boto3",
    "botocore",
    "pydantic",
    "requests",
    "numpy",
    "click",
    "yaml",
]


def loaded_after(code: str) -> set[str]:
    """The top-level modules that a fresh Python has loaded after some code."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_the_public_names_are_these() -> None:
    assert registry.__all__ == PUBLIC == sorted(PUBLIC) == dir(registry)


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_is_a_class_of_this_package(name: str) -> None:
    found = getattr(registry, name)
    assert isinstance(found, type)
    assert (found.__name__, found.__module__.partition(".")[0]) == (name, "registry")


def test_no_other_name_is_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Regsitry'"):
        _ = registry.Regsitry  # type: ignore[attr-defined]


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_after("import registry") & set(HEAVY)


def test_what_rolls_back_loads_neither_mlflow_nor_torch() -> None:
    loaded = loaded_after(
        "from registry import Registry, RollbackOptions\n"
        "try: Registry('m', store='s3://bucket/p').rollback()\n"
        "except Exception as error: assert type(error).__name__ == 'StoreDenied', error"
    )
    assert "boto3" in loaded
    assert not loaded & {"torch", "transformers", "peft", "mlflow", "numpy", "requests"}


def test_completion_shows_what_people_do_and_no_parts() -> None:
    shown = [name for name in dir(Registry("m", store="s3://bucket/p")) if not name.startswith("_")]
    assert {"create", "measure", "promote", "rollback", "status", "history", "follow", "load"} <= set(shown)
    assert not {"store", "blobs", "bindings", "catalog", "channel", "wiring"} & set(shown)


def test_every_error_has_a_documented_exit_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.UloraError)]
    assert {kind.exit_code for kind in kinds} == {1, 2, 3, 4, 5, 6, 7, 8}
    assert errors.__doc__
    missing = [kind.__name__ for kind in kinds if f"{kind.__name__}" not in errors.__doc__.split()]
    assert missing == []
