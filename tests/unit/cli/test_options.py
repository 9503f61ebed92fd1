"""How a command's options become one object."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from registry import cli
from registry.channels.channel import RollbackOptions
from registry.cli.options import options_as
from registry.errors import BadInput


@dataclass(frozen=True)
class _Colours:
    front: str
    back: str = "white"


def called(*decorators: Callable[[Any], Any], **arguments: object) -> dict[str, Any]:
    """What a command with these decorators gets."""
    got: dict[str, Any] = {}

    def command(**found: object) -> None:
        got.update(found)

    for decorate in decorators:
        command = decorate(command)
    command(**arguments)
    return got


def test_fields_are_collected_and_other_options_are_left() -> None:
    assert called(options_as(_Colours), front="red", dry_run=True) == {"options": _Colours("red"), "dry_run": True}


def test_a_field_that_is_no_option_keeps_its_default() -> None:
    assert called(options_as(_Colours, "colours"), front="red")["colours"].back == "white"


def test_a_class_is_imported_by_its_name_when_the_command_runs() -> None:
    collect = options_as("registry.channels.channel:RollbackOptions")
    assert called(collect, to="v1.0.0") == {"options": RollbackOptions(to="v1.0.0")}
    with pytest.raises(BadInput):
        called(collect, to="v1.0.0", leave="v1.0.0")


def test_every_class_that_is_named_as_text_exists() -> None:
    sources = [path.read_text("utf-8") for path in (Path(cli.__file__).parent).glob("*.py")]
    named = {text for source in sources for text in re.findall(r'options_as\(\s*"([^"]+)"', source)}
    assert len(named) >= 5
    for text in named:
        module, _, name = text.partition(":")
        assert dataclasses.is_dataclass(getattr(importlib.import_module(module), name)), text


def test_an_object_may_have_the_name_of_one_of_its_fields() -> None:
    assert called(options_as(_Colours, "front"), front="red") == {"front": _Colours("red")}


def test_several_classes_are_collected_one_after_the_other() -> None:
    @dataclass(frozen=True)
    class Painting:
        title: str
        colours: _Colours

    got = called(options_as(Painting), options_as(_Colours, "colours"), title="Sea", front="blue")
    assert got == {"options": Painting("Sea", _Colours("blue"))}
