"""Read YAML that people write: the part of it that JSON can say, in bounded time and memory.

YAML 1.1 has surprises: `1:59:59` is a number in base 60 (a long one takes seconds), `010` is 8, `no` is false, a date
is no text, and a few aliases expand to gigabytes. Here a scalar without quotes is null, true, false, a decimal number,
or else text. Anchors, aliases and tags are refused; a merge key is a key like any other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator

MAX_DEPTH = 20
MAX_NODES = 20_000
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?((0|[1-9][0-9]{0,17})(\.[0-9]{1,40})?|\.[0-9]{1,40})([eE][-+]?[0-9]{1,4})?")
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}


def _integer(value: object) -> object:
    if type(value) is not int:
        raise ValueError("Input should be 1")
    return value


FormatNumber = Annotated[Literal[1], BeforeValidator(_integer)]
"""The field `format` of a file: 1. For Python `true` and 1.0 are equal to it; here they are not."""


class BadYaml(ValueError):
    """A text that is not YAML, or not of the part of it that is read.

    Attributes:
        line: where, counted from 1; None if it is not known.
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


@dataclass(frozen=True)
class StrictYaml:
    """A YAML text that was read.

    Attributes:
        value: its content: dicts with text as keys, lists, text, numbers, booleans and None.
    """

    value: Any
    _root: yaml.Node

    @classmethod
    def read(cls, data: bytes) -> StrictYaml:
        """Read one document; the caller has bounded its size.

        Raises:
            BadYaml: it is not UTF-8 or not YAML, is deeper than MAX_DEPTH or has more than MAX_NODES parts, uses
                anchors, aliases or tags, or repeats a key.
        """
        try:
            loader = _Loader(data.decode("utf-8"))
            root = loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else None
            raise BadYaml(str(error.problem), line) from error
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise BadYaml(f"it can't be read: {error}") from error
        if root is None:
            raise BadYaml("it is empty")
        return cls(_value(root), root)

    def line_of(self, place: tuple[int | str, ...]) -> int:
        """The line, counted from 1, of the deepest part of `place` that is in the text."""
        node = self._root
        for part in place:
            inner = _child(node, part)
            if inner is None:
                break
            node = inner
        return int(node.start_mark.line) + 1


class _Loader(yaml.BaseLoader):
    """Composes nodes within bounds; every scalar is text."""

    _depth = 0
    _nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._nodes += 1
        if problem := self._problem():
            raise BadYaml(problem, self.get_mark().line + 1)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _problem(self) -> str:
        """Why the next node is refused; empty if it is not."""
        if self._depth >= MAX_DEPTH:
            return f"more than {MAX_DEPTH} levels deep"
        if self._nodes > MAX_NODES:
            return f"more than {MAX_NODES} parts"
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            return "anchors and aliases are not allowed"
        return "tags, such as !!set, are not allowed" if getattr(event, "tag", None) is not None else ""


def _value(node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _mapping(node)
    if isinstance(node, yaml.SequenceNode):
        return [_value(each) for each in node.value]
    is_plain = isinstance(node, yaml.ScalarNode) and node.style is None
    return _scalar(str(node.value)) if is_plain else node.value


def _mapping(node: yaml.MappingNode) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.value in found:
            raise BadYaml(f"key {str(key.value)[:80]!r} is repeated or is not text", int(key.start_mark.line) + 1)
        found[key.value] = _value(value)
    return found


def _scalar(text: str) -> Any:
    """What a scalar without quotes means."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _child(node: yaml.Node, part: int | str) -> yaml.Node | None:
    children: dict[int | str, yaml.Node] = {}
    if isinstance(node, yaml.SequenceNode):
        children = dict(enumerate(node.value))
    if isinstance(node, yaml.MappingNode):
        children = {key.value: value for key, value in node.value}
    return children.get(part)
